/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The persistent bitmaps of an image while a metadata batch changes them. Tables and clusters of bits that
 * change are new ones, and the directory too; the bitmaps extension names it, so that the one header write of
 * the batch switches to all of it together with whatever else the batch changes. No bitmap is ever in use.
 *
 * An edit begins with the bitmaps as the batch has them, an earlier edit included, and ends with
 * qcow2_bitmap_edit_finish(). The batch's header has its final size before: bitmaps follow it.
 */
#ifndef QCOW2_IMAGE_BITMAP_EDIT_H
#define QCOW2_IMAGE_BITMAP_EDIT_H

#include "image/bitmap-bits.h"

typedef struct Qcow2BitmapEdit Qcow2BitmapEdit;

/**
 * qcow2_bitmap_edit_new:
 *
 * Where the disk changes its size in the batch, bitmaps change theirs: what an enabled one gains is dirty,
 * since the disk may have been larger before, when the bitmap was younger. Those in use are left alone.
 *
 * Errors: QCOW2_ERROR_CORRUPT for bitmaps with which QEMU would not open the image; nothing is written then.
 */
Qcow2BitmapEdit *qcow2_bitmap_edit_new(Qcow2Batch *batch, Qcow2Image *image, GError **error);
void qcow2_bitmap_edit_free(Qcow2BitmapEdit *edit);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2BitmapEdit, qcow2_bitmap_edit_free)

/** qcow2_bitmap_edit_size: of the disk that the bitmaps are of, bytes. */
uint64_t qcow2_bitmap_edit_size(const Qcow2BitmapEdit *edit);

/** qcow2_bitmap_edit_find: NULL when there is none; borrowed, and valid until one is added or removed. */
const Qcow2BitmapEntry *qcow2_bitmap_edit_find(const Qcow2BitmapEdit *edit, const char *name);

/**
 * qcow2_bitmap_edit_add: a clear one.
 * Errors: QCOW2_ERROR_EXISTS; QCOW2_ERROR_INVALID, QCOW2_ERROR_UNSUPPORTED for what QEMU would not keep.
 */
bool qcow2_bitmap_edit_add(Qcow2BitmapEdit *edit, const char *name, unsigned granularity_bits, bool enabled,
                           GError **error);

/* Errors of what follows: QCOW2_ERROR_NOT_FOUND; _UNSUPPORTED for one in use, which can only be removed. */

bool qcow2_bitmap_edit_remove(Qcow2BitmapEdit *edit, const char *name, GError **error);
bool qcow2_bitmap_edit_clear(Qcow2BitmapEdit *edit, const char *name, GError **error);
bool qcow2_bitmap_edit_enable(Qcow2BitmapEdit *edit, const char *name, bool enabled, GError **error);

/** qcow2_bitmap_edit_check: whether @name is there and not in use. */
bool qcow2_bitmap_edit_check(const Qcow2BitmapEdit *edit, const char *name, GError **error);

/** qcow2_bitmap_edit_set: @ranges: Qcow2Range, sorted; guest bytes */
bool qcow2_bitmap_edit_set(Qcow2BitmapEdit *edit, const char *name, const GArray *ranges, GError **error);

/** qcow2_bitmap_edit_merge: what is dirty in @source, cut at the end of the disk, is dirty in @name too. */
bool qcow2_bitmap_edit_merge(Qcow2BitmapEdit *edit, const char *name, Qcow2BitmapBits *source,
                             GError **error);

/** qcow2_bitmap_edit_mark: sets ranges in every bitmap that is enabled and not in use. */
bool qcow2_bitmap_edit_mark(Qcow2BitmapEdit *edit, const GArray *ranges, GError **error);

/** qcow2_bitmap_edit_read: the bits of a bitmap as they are in the edit, for merging. */
Qcow2BitmapBits *qcow2_bitmap_edit_read(Qcow2BitmapEdit *edit, const char *name, GError **error);

/** qcow2_bitmap_edit_is_changed: whether there is anything to write. */
bool qcow2_bitmap_edit_is_changed(const Qcow2BitmapEdit *edit);

/** qcow2_bitmap_edit_finish: writes the directory, if anything changed. */
bool qcow2_bitmap_edit_finish(Qcow2BitmapEdit *edit, GError **error);

#endif
