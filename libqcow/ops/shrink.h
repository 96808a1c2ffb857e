/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Free space inside an image's file, given back to the file system. */
#ifndef QCOW2_OPS_SHRINK_H
#define QCOW2_OPS_SHRINK_H

#include "chain/chain.h"

/**
 * qcow2_shrink: punches holes where nothing is, after moving clusters from the end of the file into free ones
 * before it.
 */
bool qcow2_shrink(Qcow2Chain *chain, Qcow2TrimResult *result, Qcow2Progress *progress, GError **error);

/** qcow2_shrink_tables: tables at host offset @limit or behind it move into free clusters before it. */
bool qcow2_shrink_tables(Qcow2Chain *chain, uint64_t limit, Qcow2Progress *progress, GError **error);

#endif
