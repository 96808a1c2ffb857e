/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/bitmap-directory.h"

#include "util/error.h"

/* The fixed part, then extra data, name and padding to 8 bytes. */
enum {
    ENTRY_TABLE_OFFSET = 0,
    ENTRY_TABLE_ENTRIES = 8,
    ENTRY_FLAGS = 12,
    ENTRY_TYPE = 16,
    ENTRY_GRANULARITY_BITS = 17,
    ENTRY_NAME_LEN = 18,
    ENTRY_EXTRA_LEN = 20,
    ENTRY_FIXED = 24,
};

#define TYPE_DIRTY_TRACKING 1
#define KNOWN_FLAGS (QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO | QCOW2_BITMAP_EXTRA_DATA_COMPATIBLE)

static void bitmap_entry_clear(void *data)
{
    Qcow2BitmapEntry *entry = data;

    g_free(entry->name);
}

GArray *qcow2_bitmap_directory_new(void)
{
    GArray *entries = g_array_new(FALSE, TRUE, sizeof(Qcow2BitmapEntry));

    g_array_set_clear_func(entries, bitmap_entry_clear);
    return entries;
}

/* ---- Decoding ---------------------------------------------------------------------------------- */

static bool check_table(const Qcow2Header *header, const Qcow2BitmapEntry *entry, GError **error)
{
    uint64_t cluster_size = header->layout.cluster_size;
    uint64_t len_bits = (uint64_t) entry->table_entries * cluster_size;

    if (entry->table_offset == 0 || !qcow2_is_cluster_aligned(&header->layout, entry->table_offset)
        || !qcow2_range_fits(entry->table_offset, (uint64_t) entry->table_entries * 8)) {
        return qcow2_corrupt(error, "bitmap table offset 0x%" PRIx64
                             " is 0, not cluster aligned, or too large", entry->table_offset);
    }
    if (entry->table_entries == 0 || len_bits > QCOW2_MAX_BITMAP_BYTES) {
        return qcow2_corrupt(error, "bitmap table has %" PRIu32 " entries, not 1 to %" PRIu64,
                             entry->table_entries, QCOW2_MAX_BITMAP_BYTES / cluster_size);
    }

    /* A bitmap in use may have missed that the disk grew; whole sectors are what QEMU sees of a disk. */
    uint64_t covered = len_bits * 8 << entry->granularity_bits;
    if (!(entry->flags & QCOW2_BITMAP_IN_USE) && qcow2_align_down(header->size, 512) > covered) {
        return qcow2_corrupt(error, "bitmap table has %" PRIu32 " entries for %" PRIu64
                             " bytes, the disk has %" PRIu64, entry->table_entries, covered, header->size);
    }
    return true;
}

static bool check_entry(const Qcow2Header *header, const Qcow2BitmapEntry *entry, unsigned type,
                        GError **error)
{
    if (type != TYPE_DIRTY_TRACKING) {
        return qcow2_corrupt(error, "bitmap type is %u, not %u (dirty tracking)", type, TYPE_DIRTY_TRACKING);
    }
    if (entry->granularity_bits < QCOW2_MIN_GRANULARITY_BITS
        || entry->granularity_bits > QCOW2_MAX_GRANULARITY_BITS) {
        return qcow2_corrupt(error, "granularity_bits is %u, not %u to %u", entry->granularity_bits,
                             QCOW2_MIN_GRANULARITY_BITS, QCOW2_MAX_GRANULARITY_BITS);
    }
    if (entry->flags & ~KNOWN_FLAGS) {
        return qcow2_corrupt(error, "flags 0x%08" PRIx32 " set reserved bits", entry->flags);
    }
    return check_table(header, entry, error);
}

/* @offset: of the entry, advanced to the next one. @entries gets the entry also when it is refused. */
static bool decode_entry(const Qcow2Header *header, const uint8_t *bytes, size_t len_bytes, size_t *offset,
                         GArray *entries, GError **error)
{
    const uint8_t *start = bytes + *offset;
    size_t len_left = len_bytes - *offset;

    if (len_left < ENTRY_FIXED) {
        return qcow2_corrupt(error, "%zu bytes are left of the directory, %d are needed",
                             len_left, ENTRY_FIXED);
    }

    uint64_t len_name = qcow2_load_be16(start + ENTRY_NAME_LEN);
    uint64_t len_extra = qcow2_load_be32(start + ENTRY_EXTRA_LEN);
    uint64_t len_entry = qcow2_align_up(ENTRY_FIXED + len_extra + len_name, 8);
    if (len_entry > len_left) {
        return qcow2_corrupt(error, "%zu bytes are left of the directory, %" PRIu64 " are needed",
                             len_left, len_entry);
    }
    if (len_name > QCOW2_MAX_BITMAP_NAME) {
        return qcow2_corrupt(error, "name of %" PRIu64 " bytes, the limit is %u", len_name,
                             QCOW2_MAX_BITMAP_NAME);
    }

    Qcow2BitmapEntry entry = {
        .name = g_strndup((const char *) start + ENTRY_FIXED + len_extra, len_name),
        .table_offset = qcow2_load_be64(start + ENTRY_TABLE_OFFSET),
        .table_entries = qcow2_load_be32(start + ENTRY_TABLE_ENTRIES),
        .flags = qcow2_load_be32(start + ENTRY_FLAGS),
        .granularity_bits = start[ENTRY_GRANULARITY_BITS],
        .extra_data_len = (uint32_t) len_extra,
    };
    g_array_append_val(entries, entry);
    *offset += len_entry;
    return check_entry(header, &entry, start[ENTRY_TYPE], error);
}

GArray *qcow2_bitmap_directory_decode(const Qcow2Header *header, const uint8_t *bytes, size_t len_bytes,
                                      GError **error)
{
    g_autoptr(GArray) entries = qcow2_bitmap_directory_new();
    size_t offset = 0;

    while (offset < len_bytes && entries->len < header->n_bitmaps) {
        size_t entry_offset = offset;
        if (!decode_entry(header, bytes, len_bytes, &offset, entries, error)) {
            g_prefix_error(error, "bitmap directory at 0x%" PRIx64 ", entry at 0x%zx: ",
                           header->bitmap_directory_offset, entry_offset);
            return NULL;
        }
    }
    if (entries->len != header->n_bitmaps || offset != len_bytes) {
        qcow2_corrupt(error, "bitmap directory at 0x%" PRIx64 ": %u of %" PRIu32
                      " bitmaps fill %zu of %zu bytes",
                      header->bitmap_directory_offset, entries->len, header->n_bitmaps, offset, len_bytes);
        return NULL;
    }
    return g_steal_pointer(&entries);
}

/* ---- Encoding ---------------------------------------------------------------------------------- */

static void encode_entry(const Qcow2BitmapEntry *entry, GByteArray *bytes)
{
    static const uint8_t padding[8];
    uint8_t fixed[ENTRY_FIXED] = { 0 };
    size_t len_name = strlen(entry->name), len = ENTRY_FIXED + len_name;

    qcow2_store_be64(fixed + ENTRY_TABLE_OFFSET, entry->table_offset);
    qcow2_store_be32(fixed + ENTRY_TABLE_ENTRIES, entry->table_entries);
    qcow2_store_be32(fixed + ENTRY_FLAGS, entry->flags);
    fixed[ENTRY_TYPE] = TYPE_DIRTY_TRACKING;
    fixed[ENTRY_GRANULARITY_BITS] = (uint8_t)entry->granularity_bits;
    qcow2_store_be16(fixed + ENTRY_NAME_LEN, (uint16_t)len_name);
    g_byte_array_append(bytes, fixed, sizeof(fixed));
    g_byte_array_append(bytes, (const uint8_t *)entry->name, (guint)len_name);
    g_byte_array_append(bytes, padding, (guint)(qcow2_align_up(len, 8) - len));
}

GByteArray *qcow2_bitmap_directory_encode(const GArray *entries, GError **error)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    if (entries->len > QCOW2_MAX_BITMAPS) {
        qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "Maximum number of persistent bitmaps is already reached");
        return NULL;
    }
    for (guint i = 0; i < entries->len; i++) {
        encode_entry(&g_array_index(entries, Qcow2BitmapEntry, i), bytes);
    }
    if (bytes->len > QCOW2_MAX_BITMAP_DIRECTORY_BYTES) {
        qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "Not enough space in the bitmap directory");
        return NULL;
    }
    return g_steal_pointer(&bytes);
}

bool qcow2_bitmap_directory_set_tables(uint8_t *bytes, size_t len_bytes, const uint64_t *table_offsets,
                                       size_t n_bitmaps, GError **error)
{
    uint64_t at = 0;

    for (size_t i = 0; i < n_bitmaps; i++) {
        if (at + ENTRY_FIXED > len_bytes) {
            return qcow2_corrupt(error, "bitmap directory: entry %zu passes its end at 0x%zx", i, len_bytes);
        }
        uint8_t *entry = bytes + at;
        uint64_t len_name = qcow2_load_be16(entry + ENTRY_NAME_LEN);
        uint64_t len_extra = qcow2_load_be32(entry + ENTRY_EXTRA_LEN);

        qcow2_store_be64(entry + ENTRY_TABLE_OFFSET, table_offsets[i]);
        at += qcow2_align_up(ENTRY_FIXED + len_extra + len_name, 8);
    }
    return true;
}

void qcow2_bitmaps_ext_encode(uint32_t n_bitmaps, uint64_t directory_offset, uint64_t directory_size,
                              uint8_t ret[QCOW2_BITMAPS_EXT_LEN])
{
    qcow2_store_be32(ret, n_bitmaps);
    qcow2_store_be32(ret + 4, 0);
    qcow2_store_be64(ret + 8, directory_size);
    qcow2_store_be64(ret + 16, directory_offset);
}
