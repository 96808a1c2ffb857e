/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/bitmap-move.h"

#include "image/bitmaps.h"
#include "util/error.h"

/* Without the bit that vouches for them, bitmaps may be gone, and their clusters be somebody else's. */
static bool has_bitmaps(const Qcow2Image *image)
{
    return image->header.has_bitmaps && (image->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS);
}

static uint64_t table_len(const Qcow2BitmapEntry *entry)
{
    return entry->table_entries * UINT64_C(8);
}

/* ---- Where they are ---------------------------------------------------------------------------- */

static uint64_t *read_table(Qcow2Image *image, const Qcow2BitmapEntry *entry, GError **error)
{
    g_autofree uint64_t *table = g_try_malloc(table_len(entry));

    if (!table) {
        qcow2_fail_memory(error, table_len(entry), "the table of a bitmap");
        return NULL;
    }
    if (!qcow2_io_read(image->file, entry->table_offset, table, table_len(entry), error)) {
        g_prefix_error(error, "table of bitmap '%s': ", entry->name);
        return NULL;
    }
    return g_steal_pointer(&table);
}

static bool is_sane(const Qcow2Layout *layout, uint64_t raw, uint64_t file_size)
{
    uint64_t offset = raw & QCOW2_BITMAP_TABLE_OFFSET;

    return !(raw & QCOW2_BITMAP_TABLE_RESERVED) && !(offset != 0 && (raw & QCOW2_BITMAP_TABLE_ONES))
        && qcow2_is_cluster_aligned(layout, offset) && offset < file_size;
}

/* The table, if all of it is right; one of a bitmap in use, which nobody believes, need not be. */
static bool read_sane_table(Qcow2Image *image, const Qcow2BitmapEntry *entry, uint64_t **ret_table,
                            GError **error)
{
    g_autofree uint64_t *table = read_table(image, entry, error);
    uint64_t file_size;

    *ret_table = NULL;
    if (!table || !qcow2_io_get_size(image->file, &file_size, error)) {
        return false;
    }
    for (uint32_t i = 0; i < entry->table_entries; i++) {
        uint64_t raw = GUINT64_FROM_BE(table[i]);
        if (!is_sane(&image->header.layout, raw, file_size)) {
            return (entry->flags & QCOW2_BITMAP_IN_USE)
                || qcow2_corrupt(error, "table of bitmap '%s': entry %" PRIu32 " is 0x%016" PRIx64
                                 "; run qcow-check -r all", entry->name, i, raw);
        }
    }
    *ret_table = g_steal_pointer(&table);
    return true;
}

static bool locate_bitmap(Qcow2Image *image, const Qcow2BitmapEntry *entry, GArray *places, GArray *bits,
                          GError **error)
{
    Qcow2BitmapPlace place = { 0 };
    g_autofree uint64_t *table = NULL;

    if (!read_sane_table(image, entry, &table, error)) {
        return false;
    }
    if (table) {
        place.table_offset = entry->table_offset;
        place.table_len = table_len(entry);
    }
    for (uint32_t i = 0; table && i < entry->table_entries; i++) {
        uint64_t offset = GUINT64_FROM_BE(table[i]) & QCOW2_BITMAP_TABLE_OFFSET;
        if (offset != 0) {
            g_array_append_val(bits, offset);
            place.bits_end = MAX(place.bits_end, offset + image->header.layout.cluster_size);
        }
    }
    g_array_append_val(places, place);
    return true;
}

bool qcow2_image_locate_bitmaps(Qcow2Image *image, GArray *ret_places, GArray *ret_bits, GError **error)
{
    g_autoptr(GArray) entries = has_bitmaps(image) ? qcow2_image_read_bitmaps(image, error)
                                                   : qcow2_bitmap_directory_new();

    for (guint i = 0; entries && i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        if (!locate_bitmap(image, entry, ret_places, ret_bits, error)) {
            return false;
        }
    }
    return entries != NULL;
}

/* ---- Moving ------------------------------------------------------------------------------------ */

static bool move_cluster(Qcow2Batch *batch, Qcow2Image *image, uint64_t from, uint64_t *ret_to,
                         uint8_t *buffer, GError **error)
{
    uint64_t cluster_size = image->header.layout.cluster_size;

    *ret_to = qcow2_batch_take(batch, 1, error);
    return *ret_to != 0
        && qcow2_io_read(image->file, from, buffer, cluster_size, error)
        && qcow2_batch_write(batch, *ret_to, buffer, cluster_size, error)
        && qcow2_batch_add(batch, from, cluster_size, -1, error);
}

static bool move_bits(Qcow2Batch *batch, Qcow2Image *image, uint64_t *table, uint32_t n, uint64_t limit,
                      GError **error)
{
    g_autofree uint8_t *buffer = g_try_malloc(image->header.layout.cluster_size);

    if (!buffer) {
        return qcow2_fail_memory(error, image->header.layout.cluster_size, "a cluster of bits");
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t from = GUINT64_FROM_BE(table[i]) & QCOW2_BITMAP_TABLE_OFFSET, to;
        if (from < limit || from == 0) {
            continue;
        }
        if (!move_cluster(batch, image, from, &to, buffer, error)) {
            return false;
        }
        table[i] = GUINT64_TO_BE(to);
    }
    return true;
}

/* @offset: of the table, replaced when it moves. Its own place, the larger one, is taken first. */
static bool move_bitmap(Qcow2Batch *batch, Qcow2Image *image, const Qcow2BitmapEntry *entry,
                        const Qcow2BitmapPlace *place, uint64_t limit, uint64_t *offset, GError **error)
{
    uint64_t len = place->table_len;
    g_autofree uint64_t *table = NULL;

    if (len == 0 || MAX(place->table_offset + len, place->bits_end) <= limit) {
        return true;
    }
    table = read_table(image, entry, error);
    return table
        && qcow2_batch_take_for(batch, len, offset, error)
        && move_bits(batch, image, table, entry->table_entries, limit, error)
        && qcow2_batch_write(batch, *offset, table, len, error)
        && qcow2_batch_add(batch, place->table_offset, len, -1, error);
}

/* What else is in the directory, which may be more than is known here, stays as it is. */
static bool move_directory(Qcow2Batch *batch, Qcow2Image *image, const GArray *entries,
                           const uint64_t *offsets, uint64_t place, GError **error)
{
    const Qcow2Header *header = &image->header;
    uint64_t len = header->bitmap_directory_size;
    g_autofree uint8_t *bytes = g_try_malloc(len);
    uint8_t ext[QCOW2_BITMAPS_EXT_LEN];

    if (!bytes) {
        return qcow2_fail_memory(error, len, "the bitmap directory");
    }
    if (!qcow2_io_read(image->file, header->bitmap_directory_offset, bytes, len, error)
        || !qcow2_bitmap_directory_set_tables(bytes, len, offsets, entries->len, error)) {
        return false;
    }
    qcow2_bitmaps_ext_encode(entries->len, place, len, ext);
    qcow2_batch_set_ext(batch, QCOW2_EXT_BITMAPS, ext, sizeof(ext));
    return qcow2_batch_write(batch, place, bytes, len, error)
        && qcow2_batch_add(batch, header->bitmap_directory_offset, len, -1, error);
}

static bool is_behind(const Qcow2Image *image, const GArray *places, uint64_t limit)
{
    bool behind = image->header.bitmap_directory_offset + image->header.bitmap_directory_size > limit;

    for (guint i = 0; i < places->len; i++) {
        const Qcow2BitmapPlace *place = &g_array_index(places, Qcow2BitmapPlace, i);
        behind = behind || MAX(place->table_offset + place->table_len, place->bits_end) > limit;
    }
    return behind;
}

static bool move_all(Qcow2Batch *batch, Qcow2Image *image, const GArray *entries, const GArray *places,
                     uint64_t limit, GError **error)
{
    g_autofree uint64_t *offsets = g_new(uint64_t, entries->len);
    uint64_t directory;

    if (!qcow2_batch_take_for(batch, image->header.bitmap_directory_size, &directory, error)) {
        return false;
    }
    for (guint i = 0; i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        offsets[i] = entry->table_offset;
        if (!move_bitmap(batch, image, entry, &g_array_index(places, Qcow2BitmapPlace, i), limit, &offsets[i],
                         error)) {
            return false;
        }
    }
    return move_directory(batch, image, entries, offsets, directory, error);
}

bool qcow2_batch_move_bitmaps(Qcow2Batch *batch, Qcow2Image *image, uint64_t limit, GError **error)
{
    g_autoptr(GArray) places = g_array_new(FALSE, FALSE, sizeof(Qcow2BitmapPlace));
    g_autoptr(GArray) bits = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_autoptr(GArray) entries = NULL;

    if (!has_bitmaps(image)) {
        return true;
    }
    entries = qcow2_image_read_bitmaps(image, error);
    if (!entries || !qcow2_image_locate_bitmaps(image, places, bits, error)) {
        return false;
    }
    return !is_behind(image, places, limit) || move_all(batch, image, entries, places, limit, error);
}
