/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/editor.h"

#include "format/l2.h"
#include "image/tables.h"
#include "util/error.h"

struct Qcow2Editor {
    Qcow2Batch *batch;
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2View view;           /* as it was */
    uint64_t disk_size;
    uint64_t *l1;             /* as on disk */
    uint64_t n_l1;
    uint64_t index;           /* of the table in memory; UINT64_MAX: none */
    uint8_t *table;
    bool changed;             /* the table in memory differs from the file's */
    GHashTable *own;          /* L1 indexes whose table is new already: written again in place */
};

Qcow2Editor *qcow2_editor_new(Qcow2Batch *batch, Qcow2Image *image, const Qcow2View *view, uint64_t disk_size,
                              GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    g_autoptr(Qcow2Editor) editor = g_new0(Qcow2Editor, 1);

    editor->batch = batch;
    editor->image = image;
    editor->layout = layout;
    editor->view = *view;
    editor->disk_size = disk_size;
    editor->n_l1 = MAX(view->l1_entries, qcow2_l1_entries(layout, disk_size));
    editor->index = UINT64_MAX;
    editor->own = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    if (editor->n_l1 > QCOW2_MAX_L1_BYTES / 8) {
        qcow2_fail(error, QCOW2_ERROR_INVALID,
                   "a disk of %" PRIu64 " bytes needs an L1 table of %" PRIu64 " entries; the"
                   " limit is %" PRIu64,
                   disk_size, editor->n_l1, QCOW2_MAX_L1_BYTES / 8);
        return NULL;
    }
    editor->l1 = g_try_new0(uint64_t, editor->n_l1);
    editor->table = g_try_malloc(layout->cluster_size);
    if ((!editor->l1 && editor->n_l1 > 0) || !editor->table) {
        qcow2_fail_memory(error, editor->n_l1 * 8, "the L1 table");
        return NULL;
    }
    if (!qcow2_io_read(image->file, view->l1_offset, editor->l1, view->l1_entries * 8, error)) {
        g_prefix_error(error, "L1 table: ");
        return NULL;
    }
    return g_steal_pointer(&editor);
}

void qcow2_editor_free(Qcow2Editor *editor)
{
    if (!editor) {
        return;
    }
    g_clear_pointer(&editor->own, g_hash_table_unref);
    g_free(editor->l1);
    g_free(editor->table);
    g_free(editor);
}

static uint64_t table_offset(const Qcow2Editor *editor, uint64_t index)
{
    return GUINT64_FROM_BE(editor->l1[index]) & L1E_OFFSET;
}

/* A table that is not new yet gets a new place; the old one is released. */
static bool write_table(Qcow2Editor *editor, GError **error)
{
    uint64_t index = editor->index, cluster_size = editor->layout->cluster_size;
    uint64_t offset = table_offset(editor, index);

    if (!editor->changed) {
        return true;
    }
    editor->changed = false;
    if (!g_hash_table_contains(editor->own, &index)) {
        uint64_t fresh = qcow2_batch_take(editor->batch, 1, error);
        if (fresh == 0 || (offset != 0 && !qcow2_batch_add(editor->batch, offset, cluster_size, -1, error))) {
            return false;
        }
        offset = fresh;
        editor->l1[index] = GUINT64_TO_BE(offset | L2E_COPIED);
        g_hash_table_add(editor->own, g_memdup2(&index, sizeof(index)));
    }
    return qcow2_batch_write(editor->batch, offset, editor->table, cluster_size, error);
}

static bool open_table(Qcow2Editor *editor, uint64_t index, GError **error)
{
    if (editor->index == index) {
        return true;
    }
    if (editor->index != UINT64_MAX && !write_table(editor, error)) {
        return false;
    }
    uint64_t offset = table_offset(editor, index);
    if (!qcow2_is_cluster_aligned(editor->layout, offset)) {
        return qcow2_corrupt(error,
                             "L1 entry %" PRIu64 ": L2 table offset 0x%" PRIx64
                             " is not a multiple of the cluster"
                             " size; run qcow-check",
                             index, offset);
    }
    editor->index = UINT64_MAX;
    memset(editor->table, 0, editor->layout->cluster_size);
    if (offset != 0
        && !qcow2_io_read(editor->image->file, offset, editor->table, editor->layout->cluster_size, error)) {
        g_prefix_error(error, "L2 table: ");
        return false;
    }
    editor->index = index;
    return true;
}

/* Releases what an entry refers to. */
static bool release(Qcow2Editor *editor, uint64_t raw, GError **error)
{
    Qcow2L2Entry entry;

    if (editor->layout->has_data_file || raw == 0) {
        return true;
    }
    if (raw & L2E_COMPRESSED) {
        return qcow2_l2_decode(editor->layout, raw, 0, &entry, error)
            && qcow2_batch_add(editor->batch, entry.host_offset, entry.stream_len, -1, error);
    }
    uint64_t offset = raw & L2E_HOST_OFFSET;
    return offset == 0 || qcow2_batch_add(editor->batch, offset, editor->layout->cluster_size, -1, error);
}

static uint8_t *entry_at(Qcow2Editor *editor, uint64_t cluster)
{
    return editor->table + (cluster & (BIT(editor->layout->l2_bits) - 1)) * editor->layout->l2_entry_size;
}

bool qcow2_editor_set(Qcow2Editor *editor, uint64_t first_cluster, uint64_t n_clusters, uint64_t raw,
                      uint64_t bitmap, uint64_t step, GError **error)
{
    for (uint64_t i = 0; i < n_clusters; i++) {
        uint64_t cluster = first_cluster + i;
        if (!open_table(editor, cluster >> editor->layout->l2_bits, error)) {
            return false;
        }
        uint8_t *entry = entry_at(editor, cluster);
        if (!release(editor, qcow2_load_be64(entry), error)) {
            return false;
        }
        qcow2_store_be64(entry, raw + i * step);
        if (editor->layout->extended_l2) {
            qcow2_store_be64(entry + 8, bitmap);
        }
        editor->changed = true;
    }
    return true;
}

bool qcow2_editor_get(Qcow2Editor *editor, uint64_t cluster, uint64_t *ret_raw, uint64_t *ret_bitmap,
                      GError **error)
{
    uint64_t index = cluster >> editor->layout->l2_bits;

    *ret_raw = *ret_bitmap = 0;
    if (editor->l1[index] == 0 && editor->index != index) {
        return true;
    }
    if (!open_table(editor, index, error)) {
        return false;
    }
    *ret_raw = qcow2_load_be64(entry_at(editor, cluster));
    *ret_bitmap = editor->layout->extended_l2 ? qcow2_load_be64(entry_at(editor, cluster) + 8) : 0;
    return true;
}

static bool release_reference(const Qcow2Reference *reference, void *data, GError **error)
{
    const Qcow2Editor *editor = data;

    return qcow2_batch_add(editor->batch, reference->host_offset, reference->len_bytes, -1, error);
}

/* A table that goes whole leaves nothing but an empty entry in the L1 table. */
static bool drop_table(Qcow2Editor *editor, uint64_t index, GError **error)
{
    uint64_t offset = table_offset(editor, index), cluster_size = editor->layout->cluster_size;

    if (!open_table(editor, index, error)
        || !qcow2_each_reference(editor->layout, editor->table, release_reference, editor, error)) {
        return false;
    }
    /* One that is new itself must be counted before its count can go. */
    if (g_hash_table_remove(editor->own, &index) && !qcow2_batch_count_taken(editor->batch, error)) {
        return false;
    }
    editor->index = UINT64_MAX;
    editor->changed = false;
    editor->l1[index] = 0;
    return offset == 0 || qcow2_batch_add(editor->batch, offset, cluster_size, -1, error);
}

bool qcow2_editor_drop(Qcow2Editor *editor, uint64_t first, uint64_t end, GError **error)
{
    const Qcow2Layout *layout = editor->layout;

    while (first < end) {
        uint64_t index = first >> layout->l2_bits;
        uint64_t table_end = MIN(end, (index + 1) << layout->l2_bits);
        uint64_t raw, bitmap;
        if (table_offset(editor, index) == 0 && editor->index != index) {
            first = table_end;
            continue;
        }
        if (table_end - first == BIT(layout->l2_bits)) {
            if (!drop_table(editor, index, error)) {
                return false;
            }
            first = table_end;
            continue;
        }
        for (; first < table_end; first++) {
            if (!qcow2_editor_get(editor, first, &raw, &bitmap, error)
                || ((raw | bitmap) != 0 && !qcow2_editor_set(editor, first, 1, 0, 0, 0, error))) {
                return false;
            }
        }
    }
    return true;
}

/*
 * Everything past the end of a disk that becomes smaller goes: a later growth must not bring its bytes back,
 * and remains of a VM state that the active layer may have there are of no use.
 */
static bool cut_tables(Qcow2Editor *editor, GError **error)
{
    const Qcow2Layout *layout = editor->layout;
    uint64_t end = qcow2_div_round_up(editor->disk_size, layout->cluster_size);

    if (editor->disk_size >= editor->view.size) {
        return true;
    }
    if (!qcow2_editor_drop(editor, end, editor->n_l1 << layout->l2_bits, error)) {
        return false;
    }
    editor->n_l1 = qcow2_l1_entries(layout, editor->disk_size);
    return true;
}

bool qcow2_editor_finish(Qcow2Editor *editor, uint64_t *ret_l1_offset, uint32_t *ret_l1_entries,
                         GError **error)
{
    const Qcow2View *view = &editor->view;

    if (!cut_tables(editor, error) || (editor->index != UINT64_MAX && !write_table(editor, error))) {
        return false;
    }
    uint64_t len = editor->n_l1 * 8;
    editor->index = UINT64_MAX;
    *ret_l1_entries = (uint32_t)editor->n_l1;
    return qcow2_batch_add(editor->batch, view->l1_offset, view->l1_entries * 8, -1, error)
        && qcow2_batch_take_for(editor->batch, len, ret_l1_offset, error)
        && qcow2_batch_write(editor->batch, *ret_l1_offset, editor->l1, len, error);
}
