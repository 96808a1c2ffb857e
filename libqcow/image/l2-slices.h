/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of L2 tables that some guest ranges need, read in host order. Internal to image/. */
#ifndef QCOW2_IMAGE_L2_SLICES_H
#define QCOW2_IMAGE_L2_SLICES_H

#include "image/map.h"

/** A run of entries of one L2 table: what lies far from the entries that are needed is left out. */
typedef struct Qcow2L2Slice {
    uint64_t guest_start;     /* of the first entry */
    uint64_t n_entries;
    uint64_t host_offset;     /* of the first entry, in the file */
    const uint8_t *raw;       /* the entries as they stand in the file; NULL: the table is not allocated */
} Qcow2L2Slice;

typedef struct Qcow2L2Slices {
    GArray *slices;           /* Qcow2L2Slice, in guest order, at least one for each table that is touched */
    uint8_t *buffer;
    size_t buffer_room;
} Qcow2L2Slices;

void qcow2_l2_slices_clear(Qcow2L2Slices *slices);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2L2Slices, qcow2_l2_slices_clear)

/**
 * qcow2_l2_slices_load:
 * @ranges: sorted; entries of one table that are close to each other come in one slice
 * @ret: zeroed by the caller, or loaded before: its memory is used again; cleared by the caller even when
 *       this fails
 */
bool qcow2_l2_slices_load(Qcow2Image *image, const Qcow2View *view, const Qcow2Range *ranges, size_t n_ranges,
                          Qcow2L2Slices *ret, GError **error);

/** qcow2_l1_read: entries [first, first + n) of a view's L1 table, offsets only; zeros past its end. */
bool qcow2_l1_read(Qcow2Image *image, const Qcow2View *view, uint64_t first, size_t n, uint64_t *ret_offsets,
                   GError **error);

#endif
