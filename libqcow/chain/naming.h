/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image records as the name of the image below it. */
#ifndef QCOW2_CHAIN_NAMING_H
#define QCOW2_CHAIN_NAMING_H

#include "chain/chain.h"

/**
 * qcow2_chain_backing_name:
 * @above, @below: layers, the lower one anywhere under the upper one
 *
 * The name of @below as @above would record it: as the chain records it now where that means the same in
 * another folder, else a path relative to the folder of @above. Free with g_free().
 */
char *qcow2_chain_backing_name(const Qcow2Chain *chain, unsigned above, unsigned below);

/**
 * qcow2_chain_format_name: "qcow2" or "raw", to be recorded.
 * @given: what the user says that it is; or NULL
 *
 * Errors: QCOW2_ERROR_INVALID when it is something else; QCOW2_ERROR_UNSUPPORTED for a raw layer whose format
 * was guessed and not said: a guest could make it anything.
 */
const char *qcow2_chain_format_name(const Qcow2Chain *chain, unsigned index, const char *given,
                                    GError **error);

/**
 * qcow2_peek_backing: what the header of the file at @path names as its backing file, without locks, and
 * whatever else it says; NULL when it names none, or cannot be read.
 * @ret_incompatible: the header's feature bits
 */
Qcow2Place *qcow2_peek_backing(const char *path, uint64_t *ret_incompatible);

#endif
