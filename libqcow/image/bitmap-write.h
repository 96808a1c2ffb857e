/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an operation that changes the active layer owes to an image's persistent bitmaps. */
#ifndef QCOW2_IMAGE_BITMAP_WRITE_H
#define QCOW2_IMAGE_BITMAP_WRITE_H

#include "image/bitmap-edit.h"

/**
 * qcow2_image_check_bitmaps: whether the bitmaps are such that an operation can keep them right. For the
 * beginning: what is refused here is refused before data is moved.
 *
 * Errors: QCOW2_ERROR_CORRUPT for bitmaps with which QEMU would not open the image.
 */
bool qcow2_image_check_bitmaps(Qcow2Image *image, GError **error);

/**
 * qcow2_image_bitmap_unit:
 * @ret_unit: bytes; the finest granularity of the bitmaps that are enabled: ranges to mark can be rounded to
 *            it. 0 when no bitmap is to be marked
 */
bool qcow2_image_bitmap_unit(Qcow2Image *image, uint64_t *ret_unit, GError **error);

/**
 * qcow2_batch_mark_bitmaps:
 * @batch: of @image; its header has the disk's new size
 * @ranges: Qcow2Range, sorted, guest bytes: where the guest may read something else after the batch
 *
 * Sets the ranges in all enabled bitmaps and brings all to the new size; an enabled one has what the disk
 * gains set. Bitmaps in use stay as they are: nobody believes them. The batch's header write makes it real
 * together with the change itself. Once, after the rest of the batch and before its commit.
 */
bool qcow2_batch_mark_bitmaps(Qcow2Batch *batch, Qcow2Image *image, const GArray *ranges, GError **error);

/**
 * qcow2_batch_merge_bitmaps:
 * @source: open for reading
 *
 * Adds what each bitmap of @source has dirty to the one of the same name. Where there is none it becomes a
 * new one, with the granularity and the enabled flag that it has in @source; one that is in use stays so. The
 * disk's size is that of the batch's header. May follow qcow2_batch_mark_bitmaps() in the same batch.
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED for a bitmap of @source that is in use: what it missed is not known.
 */
bool qcow2_batch_merge_bitmaps(Qcow2Batch *batch, Qcow2Image *image, Qcow2Image *source, GError **error);

#endif
