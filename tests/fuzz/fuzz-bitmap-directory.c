/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Decodes a bitmap directory. Before it stand the cluster bits and the number of bitmaps, a byte each. */
#include "format/bitmap-directory.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;

    if (size < 2 || data[0] < QCOW2_MIN_CLUSTER_BITS || data[0] > QCOW2_MAX_CLUSTER_BITS) {
        return 0;
    }
    Qcow2Header header = {
        .layout = qcow2_layout(3, data[0], false, 4, false), .size = 10 << 20,
        .has_bitmaps = true, .n_bitmaps = data[1], .bitmap_directory_size = size - 2,
    };
    g_autoptr(GArray) entries = qcow2_bitmap_directory_decode(&header, data + 2, size - 2, &error);

    if (!entries) {
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_CORRUPT);
        return 0;
    }
    g_assert_cmpuint(entries->len, ==, header.n_bitmaps);
    for (guint i = 0; i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        g_assert_cmpuint(strlen(entry->name), <=, 1023);
        g_assert_true(entry->granularity_bits >= 9 && entry->granularity_bits <= 31);
        g_assert_cmpuint(entry->table_entries * header.layout.cluster_size, <=, UINT64_C(512) << 20);
    }
    return 0;
}
