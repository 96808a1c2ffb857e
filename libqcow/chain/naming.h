/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image records as the name of the image below it. */
#ifndef QCOW2_CHAIN_NAMING_H
#define QCOW2_CHAIN_NAMING_H

#include "chain/chain.h"

/**
 * qcow2_backing_name:
 * @image: a layer of any chain
 * @below: a layer of @chain, not its first
 *
 * The name of @below for the header of @image: it means that file, read as it is now, from the folder in
 * which @image was opened and from that of its real file. It is the text that the chain records where that
 * is so; else a path, relative where the name that @image has now is relative. Free with g_free().
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED when no name says how the layer was opened.
 */
char *qcow2_backing_name(const Qcow2Layer *image, const Qcow2Chain *chain, unsigned below, GError **error);

/** qcow2_chain_backing_name: the same for a layer @above of the same chain. */
char *qcow2_chain_backing_name(const Qcow2Chain *chain, unsigned above, unsigned below, GError **error);

/** qcow2_name_of_path: so that QEMU takes it for one: it sees a protocol before a colon. Free it. */
char *qcow2_name_of_path(const char *path);

/**
 * qcow2_place_is_layer: whether what opens @place reads what the chain reads from @index on: the same file or
 * export, in the same way, over the same layers.
 */
bool qcow2_place_is_layer(const Qcow2Place *place, const Qcow2Chain *chain, unsigned index);

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
 * qcow2_peek_names:
 * @ret_backing, @ret_data_file: what the header of the file at @path names, without locks, and whatever else
 *                               it says; NULL where it names none, or what is there is no image. Free them
 *                               with g_free()
 *
 * Errors: what may be an image cannot be read. What is not there, or has left meanwhile, is none.
 */
bool qcow2_peek_names(const char *path, Qcow2Peek *ret, char **ret_backing, char **ret_data_file,
                      GError **error);

/**
 * qcow2_peek_backing: the backing file as a place; NULL when there is none, the image cannot be read, or the
 * name is not understood.
 */
Qcow2Place *qcow2_peek_backing(const char *path, Qcow2Peek *ret);

#endif
