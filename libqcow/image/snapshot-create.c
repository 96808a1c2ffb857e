/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking and renaming a snapshot.
 *
 * The snapshot keeps the L1 table and the L2 tables that the active layer has now; nothing in them is
 * written. The active layer gets a new L1 table, and a new L2 table wherever a COPIED flag must go, since
 * every cluster is shared from now on.
 */
#include <stdlib.h>
#include <string.h>

#include "format/l2.h"
#include "image/snapshot-edit.h"
#include "image/snapshot-write.h"
#include "image/tables.h"
#include "util/error.h"

typedef struct Creation {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2Batch *batch;
    uint64_t *l1;             /* the new one, as on disk */
    uint8_t *table;           /* room for one */
} Creation;

/* In place only what is proven unshared: the flag and the count must agree before either is believed. */
static bool share_reference(const Qcow2Reference *reference, void *data, GError **error)
{
    Creation *creation = data;
    unsigned bits = creation->layout->cluster_bits;
    uint64_t first = reference->host_offset >> bits, left = reference->copied ? reference->n_entries : 0;

    while (left > 0) {
        bool is_one;
        uint64_t n;
        if (!qcow2_counts_cache_run(qcow2_batch_counts(creation->batch), first, left, &is_one, &n, error)) {
            return false;
        }
        if (!is_one) {
            return qcow2_corrupt(error,
                                 "the cluster at 0x%" PRIx64
                                 " is marked as used once, but its refcount is not 1; run"
                                 " qcow-check -r all",
                                 first << bits);
        }
        first += n;
        left -= n;
    }
    return qcow2_batch_add(creation->batch, reference->host_offset, reference->len_bytes, 1, error);
}

/* First all counts: what cannot be is found before anything is written. */
static bool count_table(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data,
                        GError **error)
{
    Creation *creation = data;

    (void)l1_index;
    if (!qcow2_each_reference(creation->layout, raw, share_reference, creation, error)) {
        return false;
    }
    return qcow2_table_has_copied(creation->layout, raw)
        || qcow2_batch_add(creation->batch, host_offset, creation->layout->cluster_size, 1, error);
}

static bool share_table(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data,
                        GError **error)
{
    Creation *creation = data;
    size_t cluster_size = creation->layout->cluster_size;

    if (!qcow2_table_has_copied(creation->layout, raw)) {
        /* Both may look through the same table. */
        creation->l1[l1_index] = GUINT64_TO_BE(host_offset);
        return true;
    }
    uint64_t offset = qcow2_batch_take(creation->batch, 1, error);
    if (offset == 0) {
        return false;
    }
    memcpy(creation->table, raw, cluster_size);
    qcow2_table_set_copied(creation->layout, creation->table, 0, BIT(creation->layout->l2_bits), false);
    creation->l1[l1_index] = GUINT64_TO_BE(offset | L2E_COPIED);
    return qcow2_batch_write(creation->batch, offset, creation->table, cluster_size, error);
}

static bool share_tables(Creation *creation, GError **error)
{
    Qcow2Header *header = qcow2_batch_header(creation->batch);
    Qcow2View view = { header->l1_offset, header->l1_entries, header->size };
    uint64_t len = view.l1_entries * 8;
    g_autofree uint64_t *l1 = g_try_malloc0(len);
    g_autofree uint8_t *table = g_try_malloc(creation->layout->cluster_size);

    if ((!l1 && len > 0) || !table) {
        return qcow2_fail_memory(error, len, "the L1 table");
    }
    creation->l1 = l1;
    creation->table = table;
    return qcow2_each_table(creation->image, &view, count_table, creation, error)
        && qcow2_each_table(creation->image, &view, share_table, creation, error)
        && qcow2_batch_take_for(creation->batch, len, &header->l1_offset, error)
        && qcow2_batch_write(creation->batch, header->l1_offset, l1, len, error);
}

/* The next number that no snapshot has as its id, as QEMU chooses it. */
static char *next_id(const GArray *snapshots)
{
    unsigned long max = 0;

    for (guint i = 0; i < snapshots->len; i++) {
        max = MAX(max, strtoul(g_array_index(snapshots, Qcow2SnapshotEntry, i).id, NULL, 10));
    }
    return g_strdup_printf("%lu", max + 1);
}

static GBytes *new_entry(const Qcow2Image *image, const Qcow2Header *header, const Qcow2Snapshot *given)
{
    g_autofree char *id = next_id(image->snapshots);
    Qcow2Snapshot info = *given;

    info.id = id;
    info.disk_size = qcow2_align_down(header->size, QCOW2_SECTOR_SIZE);
    return qcow2_snapshot_entry_encode(&info, header->l1_offset, header->l1_entries);
}

bool qcow2_batch_add_snapshot(Qcow2Batch *batch, Qcow2Image *image, const Qcow2Snapshot *info, GError **error)
{
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(image);
    Creation creation = { .image = image, .layout = &image->header.layout, .batch = batch };

    g_ptr_array_add(entries, new_entry(image, qcow2_batch_header(batch), info));
    return qcow2_batch_count_taken(batch, error)
        && share_tables(&creation, error)
        && qcow2_batch_set_snapshots(batch, image, entries, error);
}

bool qcow2_image_create_snapshot(Qcow2Image *image, const char *name, int64_t now_usec, GError **error)
{
    const Qcow2Snapshot info = {
        .name = name,
        .date_sec = (uint32_t)(now_usec / G_USEC_PER_SEC),
        .date_nsec = (uint32_t)(now_usec % G_USEC_PER_SEC * 1000),
    };

    if (image->header.layout.has_data_file) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "an image with an external data file cannot have internal"
                          " snapshots");
    }
    g_autoptr(Qcow2Batch) batch =
        qcow2_image_load_snapshots(image, error) ? qcow2_batch_begin(image, error) : NULL;
    return batch && qcow2_batch_add_snapshot(batch, image, &info, error) && qcow2_batch_commit(batch, error);
}

bool qcow2_image_rename_snapshot(Qcow2Image *image, guint index, const char *name, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);

    if (!batch) {
        return false;
    }
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(image);
    GBytes *renamed = qcow2_snapshot_entry_renamed(g_ptr_array_index(entries, index), name);
    g_bytes_unref(g_ptr_array_index(entries, index));
    g_ptr_array_index(entries, index) = renamed;
    return qcow2_batch_set_snapshots(batch, image, entries, error) && qcow2_batch_commit(batch, error);
}
