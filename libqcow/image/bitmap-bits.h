/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bits of one persistent bitmap, a cluster of them at a time. Within a metadata batch they can be
 * changed: a cluster of bits that changes becomes a new one, and so does the table.
 * Spec: "Bitmap table", "Bitmap data".
 */
#ifndef QCOW2_IMAGE_BITMAP_BITS_H
#define QCOW2_IMAGE_BITMAP_BITS_H

#include "format/bitmap-directory.h"
#include "image/batch.h"

typedef struct Qcow2BitmapBits Qcow2BitmapBits;

/**
 * qcow2_bitmap_table_len: entries of the table that a bitmap of a disk of this size has.
 * Errors: QCOW2_ERROR_INVALID when it would be larger than QEMU allows.
 */
bool qcow2_bitmap_table_len(const Qcow2Layout *layout, uint64_t disk_size, unsigned granularity_bits,
                            uint32_t *ret_entries, GError **error);

/**
 * qcow2_bitmap_bits_open:
 * @batch: NULL when the bits are only read
 * @disk_size: bytes; the size of the disk that the bitmap is of, whole sectors
 *
 * Reads the table, and checks it. An @entry without a table (offset 0) is a bitmap that is new and clear.
 *
 * Errors: QCOW2_ERROR_CORRUPT for a table that QEMU does not load.
 */
Qcow2BitmapBits *qcow2_bitmap_bits_open(Qcow2Image *image, Qcow2Batch *batch, const Qcow2BitmapEntry *entry,
                                        uint64_t disk_size, GError **error);
void qcow2_bitmap_bits_free(Qcow2BitmapBits *bits);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2BitmapBits, qcow2_bitmap_bits_free)

/**
 * qcow2_bitmap_bits_check_counts: that its clusters and the table of @entry belong to the bitmap alone: what
 * a change frees must not be another's. Errors: QCOW2_ERROR_CORRUPT.
 */
bool qcow2_bitmap_bits_check_counts(Qcow2BitmapBits *bits, const Qcow2BitmapEntry *entry, GError **error);

/**
 * qcow2_bitmap_bits_next:
 * @from: guest offset
 * @ret: dirty bytes from there on, cut at the end of the disk, of which more may follow at once; start and
 *       end are alike when there are none
 */
bool qcow2_bitmap_bits_next(Qcow2BitmapBits *bits, uint64_t from, Qcow2Range *ret, GError **error);

/** qcow2_bitmap_bits_set: every bit that a guest range touches, up to the end of the disk. */
bool qcow2_bitmap_bits_set(Qcow2BitmapBits *bits, Qcow2Range range, GError **error);

/** qcow2_bitmap_bits_clear: all of them. */
bool qcow2_bitmap_bits_clear(Qcow2BitmapBits *bits, GError **error);

/** qcow2_bitmap_bits_resize: for a disk of another size; what it gains is clear. */
bool qcow2_bitmap_bits_resize(Qcow2BitmapBits *bits, uint64_t disk_size, GError **error);

/** qcow2_bitmap_bits_store: writes what changed; @entry then names the new table; the old one is freed. */
bool qcow2_bitmap_bits_store(Qcow2BitmapBits *bits, Qcow2BitmapEntry *entry, GError **error);

/** qcow2_bitmap_bits_drop: frees the table of @entry and all that it names. */
bool qcow2_bitmap_bits_drop(Qcow2BitmapBits *bits, Qcow2BitmapEntry *entry, GError **error);

#endif
