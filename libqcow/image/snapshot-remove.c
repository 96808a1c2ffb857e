/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deleting and applying a snapshot: references go, and where a cluster of the active layer is used once from
 * then on, its COPIED flag must come with the count. Tables in which a flag changes are written anew.
 */
#include <string.h>

#include "format/l2.h"
#include "image/bitmap-write.h"
#include "image/snapshot-edit.h"
#include "image/snapshot-write.h"
#include "image/tables.h"
#include "util/error.h"

/* ---- Flags that follow the counts -------------------------------------------------------------- */

typedef struct Flags {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2Batch *batch;
    uint64_t *l1;             /* as on disk; entries are replaced */
    bool l1_changed;
    uint8_t *table;           /* room for one */
    bool table_changed;
} Flags;

/* Compressed clusters never have the flag. */
static bool fix_reference(const Qcow2Reference *reference, void *data, GError **error)
{
    Flags *flags = data;
    uint64_t first = reference->host_offset >> flags->layout->cluster_bits;

    for (uint64_t done = 0; !reference->compressed && done < reference->n_entries;) {
        bool is_one;
        uint64_t n;
        if (!qcow2_counts_cache_run(qcow2_batch_counts(flags->batch), first + done,
                                    reference->n_entries - done, &is_one, &n, error)) {
            return false;
        }
        if (is_one != reference->copied) {
            qcow2_table_set_copied(flags->layout, flags->table, reference->first_entry + done, n, is_one);
            flags->table_changed = true;
        }
        done += n;
    }
    return true;
}

static bool fix_table(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data, GError **error)
{
    Flags *flags = data;
    size_t cluster_size = flags->layout->cluster_size;
    uint64_t count;

    flags->table_changed = false;
    memcpy(flags->table, raw, cluster_size);
    if (!qcow2_each_reference(flags->layout, raw, fix_reference, flags, error)) {
        return false;
    }
    uint64_t offset = host_offset;
    if (flags->table_changed) {
        offset = qcow2_batch_take(flags->batch, 1, error);
        if (offset == 0 || !qcow2_batch_add(flags->batch, host_offset, cluster_size, -1, error)
            || !qcow2_batch_write(flags->batch, offset, flags->table, cluster_size, error)) {
            return false;
        }
        count = 1;    /* what a batch takes is counted when it commits */
    } else if (!qcow2_counts_cache_get(qcow2_batch_counts(flags->batch),
                                       offset >> flags->layout->cluster_bits, &count, error)) {
        return false;
    }
    uint64_t entry = GUINT64_TO_BE(offset | (count == 1 ? L2E_COPIED : 0));
    flags->l1_changed |= entry != flags->l1[l1_index];
    flags->l1[l1_index] = entry;
    return true;
}

bool qcow2_batch_fix_active_flags(Qcow2Batch *batch, Qcow2Image *image, GError **error)
{
    Qcow2Header *header = qcow2_batch_header(batch);
    Qcow2View view = { header->l1_offset, header->l1_entries, image->size };
    uint64_t len = view.l1_entries * 8;
    g_autofree uint64_t *l1 = g_try_malloc(len);
    g_autofree uint8_t *table = g_try_malloc(header->layout.cluster_size);
    Flags flags = {
        .image = image, .layout = &image->header.layout, .batch = batch, .l1 = l1, .table = table
    };

    if ((!l1 && len > 0) || !table) {
        return qcow2_fail_memory(error, len, "the L1 table");
    }
    if (!qcow2_batch_count_taken(batch, error)
        || !qcow2_io_read(image->file, view.l1_offset, l1, len, error)
        || !qcow2_each_table(image, &view, fix_table, &flags, error)) {
        return false;
    }
    return !flags.l1_changed
        || (qcow2_batch_add(batch, view.l1_offset, len, -1, error)
            && qcow2_batch_take_for(batch, len, &header->l1_offset, error)
            && qcow2_batch_write(batch, header->l1_offset, l1, len, error));
}

/* ---- Deleting ---------------------------------------------------------------------------------- */

/* The whole L1 table of a snapshot, with what it maps past the disk's end. */
static bool view_of(const Qcow2Image *image, guint index, Qcow2View *ret, GError **error)
{
    const Qcow2SnapshotEntry *entry = &g_array_index(image->snapshots, Qcow2SnapshotEntry, index);

    if (!qcow2_image_snapshot_view(image, entry, ret, error)) {
        g_prefix_error(error, "snapshot '%s': ", entry->name);
        return false;
    }
    return true;
}

bool qcow2_image_delete_snapshot(Qcow2Image *image, guint index, GError **error)
{
    Qcow2View view;
    g_autoptr(Qcow2Batch) batch =
        view_of(image, index, &view, error) ? qcow2_batch_begin(image, error) : NULL;

    if (!batch) {
        return false;
    }
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(image);
    g_ptr_array_remove_index(entries, index);
    return qcow2_batch_add_view(batch, image, &view, -1, error)
        && qcow2_batch_add(batch, view.l1_offset, view.l1_entries * 8, -1, error)
        && qcow2_batch_fix_active_flags(batch, image, error)
        && qcow2_batch_set_snapshots(batch, image, entries, error)
        && qcow2_batch_commit(batch, error);
}

/* ---- Applying ---------------------------------------------------------------------------------- */

typedef struct Clearing {
    Qcow2Image *image;
    Qcow2Batch *batch;
    uint64_t *l1;
    uint64_t l1_entries;
    uint8_t *table;
    bool any;
} Clearing;

/* Only snapshots reach a table with such flags, and to them they mean nothing: they are cleared in place. */
static bool clear_table(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data,
                        GError **error)
{
    Clearing *clearing = data;
    const Qcow2Layout *layout = &clearing->image->header.layout;

    if (l1_index < clearing->l1_entries) {
        clearing->l1[l1_index] = GUINT64_TO_BE(host_offset);
    }
    if (!qcow2_table_has_copied(layout, raw)) {
        return true;
    }
    memcpy(clearing->table, raw, layout->cluster_size);
    qcow2_table_set_copied(layout, clearing->table, 0, BIT(layout->l2_bits), false);
    clearing->any = true;
    return qcow2_io_write(clearing->image->file, host_offset, clearing->table, layout->cluster_size, error);
}

/* The new active L1 table names the snapshot's L2 tables, without flags: both look through them. */
static bool adopt_tables(Clearing *clearing, const Qcow2View *view, GError **error)
{
    Qcow2Header *header = qcow2_batch_header(clearing->batch);
    uint64_t needed = qcow2_l1_entries(&header->layout, view->size);
    uint64_t n = MAX(view->l1_entries, needed);
    g_autofree uint64_t *l1 = g_try_malloc0(n * 8);
    g_autofree uint8_t *table = g_try_malloc(header->layout.cluster_size);

    if ((!l1 && n > 0) || !table) {
        return qcow2_fail_memory(error, n * 8, "the L1 table");
    }
    clearing->l1 = l1;
    clearing->l1_entries = n;
    clearing->table = table;
    if (!qcow2_each_table(clearing->image, view, clear_table, clearing, error)
        || (clearing->any && !qcow2_io_flush(clearing->image->file, error))
        || !qcow2_batch_take_for(clearing->batch, n * 8, &header->l1_offset, error)
        || !qcow2_batch_write(clearing->batch, header->l1_offset, l1, n * 8, error)) {
        return false;
    }
    header->l1_entries = (uint32_t)n;
    header->size = view->size;
    return true;
}

bool qcow2_image_apply_snapshot(Qcow2Image *image, guint index, const GArray *changes, GError **error)
{
    Qcow2View view, active = qcow2_image_active_view(image);
    /* Flags of the snapshot's tables are changed before the batch ends: bitmaps are looked at before. */
    bool possible = qcow2_image_check_bitmaps(image, error) && view_of(image, index, &view, error);
    g_autoptr(Qcow2Batch) batch = possible ? qcow2_batch_begin(image, error) : NULL;
    Clearing clearing = { .image = image, .batch = batch };

    /* The references that go first: what both use then never counts more than it will. */
    return batch
        && qcow2_batch_add_view(batch, image, &active, -1, error)
        && qcow2_batch_add(batch, active.l1_offset, active.l1_entries * 8, -1, error)
        && qcow2_batch_add_view(batch, image, &view, 1, error)
        && adopt_tables(&clearing, &view, error)
        && qcow2_batch_mark_bitmaps(batch, image, changes, error)
        && qcow2_batch_commit(batch, error);
}
