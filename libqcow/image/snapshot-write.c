/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/snapshot-write.h"

#include "util/error.h"

#define MAX_TABLE_BYTES (UINT64_C(64) << 20)   /* QEMU's limit */

static void unref_bytes(gpointer bytes)
{
    g_bytes_unref(bytes);
}

GPtrArray *qcow2_snapshot_entries(const Qcow2Image *image)
{
    GPtrArray *entries = g_ptr_array_new_with_free_func(unref_bytes);

    for (guint i = 0; i < image->snapshots->len; i++) {
        g_ptr_array_add(entries, g_bytes_ref(g_array_index(image->snapshots, Qcow2SnapshotEntry, i).raw));
    }
    return entries;
}

static uint64_t table_len(const GPtrArray *entries)
{
    uint64_t len = 0;

    for (guint i = 0; i < entries->len; i++) {
        len += qcow2_align_up(g_bytes_get_size(g_ptr_array_index(entries, i)), 8);
    }
    return len;
}

bool qcow2_batch_set_snapshots(Qcow2Batch *batch, const Qcow2Image *image, GPtrArray *entries, GError **error)
{
    Qcow2Header *header = qcow2_batch_header(batch);
    g_autoptr(GPtrArray) old = qcow2_snapshot_entries(image);
    g_autoptr(GByteArray) table = g_byte_array_new();
    static const uint8_t padding[8];

    if (entries->len > QCOW2_MAX_SNAPSHOTS || table_len(entries) > MAX_TABLE_BYTES) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "the image has %u snapshots in a table of %" PRIu64 " bytes; no more"
                          " fit",
                          old->len, table_len(old));
    }
    for (guint i = 0; i < entries->len; i++) {
        GBytes *entry = g_ptr_array_index(entries, i);
        gsize len = g_bytes_get_size(entry);
        g_byte_array_append(table, g_bytes_get_data(entry, NULL), (guint)len);
        g_byte_array_append(table, padding, (guint)(qcow2_align_up(len, 8) - len));
    }
    if (!qcow2_batch_add(batch, header->snapshots_offset, table_len(old), -1, error)
        || !qcow2_batch_take_for(batch, table->len, &header->snapshots_offset, error)) {
        return false;
    }
    header->n_snapshots = entries->len;
    return qcow2_batch_write(batch, header->snapshots_offset, table->data, table->len, error);
}
