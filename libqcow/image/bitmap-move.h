/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the clusters of dirty bitmaps are in the file, and other places for them. */
#ifndef QCOW2_IMAGE_BITMAP_MOVE_H
#define QCOW2_IMAGE_BITMAP_MOVE_H

#include "image/batch.h"

/** What one bitmap has in the file; host bytes. */
typedef struct Qcow2BitmapPlace {
    uint64_t table_offset, table_len;
    uint64_t bits_end;        /* where the last of its clusters of bits ends; 0: it has none */
} Qcow2BitmapPlace;

/**
 * qcow2_image_locate_bitmaps:
 * @ret_places: gets a Qcow2BitmapPlace for each bitmap; for one in use whose table is not right, an empty one
 * @ret_bits: gets the host offset of each cluster of bits, as uint64_t
 *
 * Errors: QCOW2_ERROR_CORRUPT for a table that is not right.
 */
bool qcow2_image_locate_bitmaps(Qcow2Image *image, GArray *ret_places, GArray *ret_bits, GError **error);

/**
 * qcow2_batch_move_bitmaps: everything of bitmaps that stands at host offset @limit or behind it gets a new
 * place in the batch. What they say stays the same.
 */
bool qcow2_batch_move_bitmaps(Qcow2Batch *batch, Qcow2Image *image, uint64_t limit, GError **error);

#endif
