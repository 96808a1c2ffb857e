/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/bitmaps.h"

#include "util/error.h"

GArray *qcow2_image_read_bitmaps(Qcow2Image *image, GError **error)
{
    return image->kind == QCOW2_IMAGE_RAW ? qcow2_bitmap_directory_new()
                                          : qcow2_read_bitmap_directory(image->file, &image->header, error);
}

GArray *qcow2_read_bitmap_directory(Qcow2Io *file, const Qcow2Header *header, GError **error)
{
    uint64_t file_size;

    if (!header->has_bitmaps) {
        return qcow2_bitmap_directory_new();
    }
    if (!qcow2_io_get_size(file, &file_size, error)) {
        return NULL;
    }
    if (!qcow2_range_fits(header->bitmap_directory_offset, header->bitmap_directory_size)
        || header->bitmap_directory_offset + header->bitmap_directory_size > file_size) {
        qcow2_corrupt(error,
                      "the bitmap directory of %" PRIu64 " bytes at 0x%" PRIx64
                      " reaches past the end of the file"
                      " at 0x%" PRIx64,
                      header->bitmap_directory_size, header->bitmap_directory_offset, file_size);
        return NULL;
    }
    g_autofree uint8_t *bytes = g_try_malloc(header->bitmap_directory_size);
    if (!bytes && header->bitmap_directory_size > 0) {
        qcow2_fail_memory(error, header->bitmap_directory_size, "the bitmap directory");
        return NULL;
    }
    if (!qcow2_io_read(file, header->bitmap_directory_offset, bytes, header->bitmap_directory_size, error)) {
        g_prefix_error(error, "bitmap directory: ");
        return NULL;
    }
    return qcow2_bitmap_directory_decode(header, bytes, header->bitmap_directory_size, error);
}

bool qcow2_image_has_stale_bitmaps(const Qcow2Image *image)
{
    const Qcow2Header *header = &image->header;

    return image->kind != QCOW2_IMAGE_RAW && !(header->autoclear & QCOW2_AUTOCLEAR_BITMAPS)
        && qcow2_header_find_ext(header, QCOW2_EXT_BITMAPS);
}

/* Sums the set bits of one cluster of bits; the last bit may stand for less than the granularity. */
static uint64_t count_bytes(const Qcow2Image *image, const Qcow2BitmapEntry *entry, const uint8_t *bits,
                            uint64_t first_bit, uint64_t n_bits)
{
    uint64_t granularity = BIT(entry->granularity_bits);
    uint64_t n_set = 0;

    for (uint64_t i = 0; i < n_bits / 8; i++) {
        n_set += (uint64_t)__builtin_popcount(bits[i]);
    }
    for (uint64_t i = n_bits & ~UINT64_C(7); i < n_bits; i++) {
        n_set += bits[i / 8] >> (i % 8) & 1;
    }

    uint64_t dirty = n_set * granularity;
    uint64_t end = (first_bit + n_bits) * granularity;
    bool last_is_set = n_bits > 0 && (bits[(n_bits - 1) / 8] >> ((n_bits - 1) % 8) & 1);
    return dirty - (last_is_set && end > image->size ? end - image->size : 0);
}

bool qcow2_image_count_bitmap(Qcow2Image *image, const Qcow2BitmapEntry *entry, uint64_t *ret_bytes,
                              GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t bits_per_cluster = layout->cluster_size * 8;
    uint64_t n_bits = qcow2_div_round_up(image->size, BIT(entry->granularity_bits));
    uint64_t n_clusters = qcow2_div_round_up(n_bits, bits_per_cluster);
    g_autofree uint8_t *bits = g_try_malloc(layout->cluster_size);

    *ret_bytes = 0;
    if (!bits) {
        return qcow2_fail_memory(error, layout->cluster_size, "a cluster of bits");
    }
    for (uint64_t i = 0; i < MIN(n_clusters, entry->table_entries); i++) {
        uint64_t raw;
        if (!qcow2_io_read(image->file, entry->table_offset + i * 8, &raw, 8, error)) {
            return false;
        }
        raw = GUINT64_FROM_BE(raw);
        uint64_t offset = raw & QCOW2_BITMAP_TABLE_OFFSET;
        uint64_t first_bit = i * bits_per_cluster;
        if (offset == 0 && !(raw & QCOW2_BITMAP_TABLE_ONES)) {
            continue;
        }
        memset(bits, 0xff, layout->cluster_size);
        if (offset != 0 && !qcow2_io_read(image->file, offset, bits, layout->cluster_size, error)) {
            return false;
        }
        *ret_bytes += count_bytes(image, entry, bits, first_bit, MIN(bits_per_cluster, n_bits - first_bit));
    }
    return true;
}
