/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/bitmap-write.h"

#include "image/bitmaps.h"
#include "util/error.h"

bool qcow2_image_check_bitmaps(Qcow2Image *image, GError **error)
{
    if (image->kind != QCOW2_IMAGE_QCOW2 || !image->header.has_bitmaps) {
        return true;
    }
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);
    g_autoptr(Qcow2BitmapEdit) edit = batch ? qcow2_bitmap_edit_new(batch, image, error) : NULL;
    return edit != NULL;
}

bool qcow2_image_bitmap_unit(Qcow2Image *image, uint64_t *ret_unit, GError **error)
{
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(image, error);
    unsigned finest = QCOW2_MAX_GRANULARITY_BITS + 1;

    *ret_unit = 0;
    if (!entries) {
        return false;
    }
    for (guint i = 0; i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        bool tracks = (entry->flags & QCOW2_BITMAP_AUTO) && !(entry->flags & QCOW2_BITMAP_IN_USE);
        if (tracks && entry->granularity_bits < finest) {
            finest = entry->granularity_bits;
            *ret_unit = BIT(finest);
        }
    }
    return true;
}

bool qcow2_batch_mark_bitmaps(Qcow2Batch *batch, Qcow2Image *image, const GArray *ranges, GError **error)
{
    if (!qcow2_batch_header(batch)->has_bitmaps) {
        return true;
    }
    g_autoptr(Qcow2BitmapEdit) edit = qcow2_bitmap_edit_new(batch, image, error);
    return edit && qcow2_bitmap_edit_mark(edit, ranges, error) && qcow2_bitmap_edit_finish(edit, error);
}

/* ---- Merging ----------------------------------------------------------------------------------- */

static bool merge_one(Qcow2BitmapEdit *edit, Qcow2Image *source, const Qcow2BitmapEntry *entry,
                      GError **error)
{
    const Qcow2BitmapEntry *old = qcow2_bitmap_edit_find(edit, entry->name);

    if (entry->flags & QCOW2_BITMAP_IN_USE) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "it is inconsistent and cannot be merged; qcow-bitmap --remove deletes it");
    }
    if (old && (old->flags & QCOW2_BITMAP_IN_USE)) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "the one that it would be merged into is inconsistent; qcow-bitmap --remove"
                          " deletes it");
    }
    if (!old
        && !qcow2_bitmap_edit_add(edit, entry->name, entry->granularity_bits,
                                  entry->flags & QCOW2_BITMAP_AUTO, error)) {
        return false;
    }
    g_autoptr(Qcow2BitmapBits) bits = qcow2_bitmap_bits_open(source, NULL, entry, source->size, error);
    return bits && qcow2_bitmap_edit_merge(edit, entry->name, bits, error);
}

bool qcow2_batch_merge_bitmaps(Qcow2Batch *batch, Qcow2Image *image, Qcow2Image *source, GError **error)
{
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(source, error);
    g_autoptr(Qcow2BitmapEdit) edit = NULL;

    if (!entries || entries->len == 0) {
        return entries != NULL;
    }
    edit = qcow2_bitmap_edit_new(batch, image, error);
    for (guint i = 0; edit && i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        if (!merge_one(edit, source, entry, error)) {
            g_prefix_error(error, "bitmap '%s': ", entry->name);
            return false;
        }
    }
    return edit && qcow2_bitmap_edit_finish(edit, error);
}
