/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A header that replaces another one with a single write of the first sector: all fields, the extensions that
 * are roots, and where the backing name is. What needs a place past the sector gets one that the old header
 * does not use, so that it can be written before.
 */
#ifndef QCOW2_FORMAT_HEADER_SWITCH_H
#define QCOW2_FORMAT_HEADER_SWITCH_H

#include "format/header.h"

#define QCOW2_HEADER_SECTOR 512u

/**
 * qcow2_header_switch:
 * @old: the cluster that holds the header, as it is on disk
 * @header: as it shall be; header_length, backing_offset and backing_len are computed, and its feature name
 *          table is cut where there is no room for all of it
 * @ret: the cluster as it shall be; of @len_bytes, as @old
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED when extensions or backing name have no such place.
 */
bool qcow2_header_switch(const uint8_t *old, Qcow2Header *header, uint8_t *ret, size_t len_bytes,
                         GError **error);

/**
 * qcow2_header_patch_roots: stores the fields that are roots, all of them in the first sector; everything
 * else there stays as it is.
 */
void qcow2_header_patch_roots(const Qcow2Header *header, uint8_t sector[QCOW2_HEADER_SECTOR]);

#endif
