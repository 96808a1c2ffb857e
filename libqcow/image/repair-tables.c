/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * L1 and L2 tables that have to be otherwise: with entries that say the same without the bits they must not
 * have, or in a cluster of their own. All L1 tables that share an L2 table share its successor.
 */
#include <string.h>

#include "format/l2.h"
#include "image/repair-job.h"
#include "util/error.h"

/* What L1 tables may claim beyond the size of the file: more than that do not exist side by side. */
#define L1_SLACK (UINT64_C(64) << 20)

typedef struct Tables {
    Qcow2RepairJob *job;
    const Qcow2Layout *layout;
    GHashTable *unhealthy;    /* offsets of tables that the count found something wrong in */
    GHashTable *moved;        /* old offset -> new offset, of L2 tables */
    uint8_t *room;            /* for one L2 table */
    bool changed;
} Tables;

static void insert(GHashTable *table, uint64_t key, uint64_t value)
{
    g_hash_table_insert(table, g_memdup2(&key, sizeof(key)), g_memdup2(&value, sizeof(value)));
}

static bool is_inside(const Tables *tables, uint64_t offset, uint64_t len_bytes)
{
    return qcow2_check_is_inside(&tables->job->count, offset, len_bytes);
}

/* Some cluster of the structure has more than these references. */
static bool is_shared(const Tables *tables, uint64_t offset, uint64_t len_bytes, uint64_t weight)
{
    unsigned bits = tables->layout->cluster_bits;

    for (uint64_t at = offset >> bits; len_bytes > 0 && at <= (offset + len_bytes - 1) >> bits; at++) {
        if (qcow2_counts_get(tables->job->counts, at) > weight) {
            return true;
        }
    }
    return false;
}

/* ---- Entries of L2 tables ------------------------------------------------------------------------ */

/* A preallocated cluster where none can be; the guest reads zeros, or what is below, which need none. */
static bool is_impossible_zero(const Tables *tables, uint64_t raw, uint64_t bitmap)
{
    const Qcow2Layout *layout = tables->layout;
    bool holds_data = layout->extended_l2 ? (uint32_t)bitmap != 0 : !(raw & L2E_ZERO);
    uint64_t offset = raw & L2E_HOST_OFFSET;
    bool possible = qcow2_is_cluster_aligned(layout, offset)
                 && (layout->has_data_file || is_inside(tables, offset, layout->cluster_size));

    return !holds_data && !possible;
}

static void mend_entry(const Tables *tables, uint64_t *raw, uint64_t *bitmap)
{
    const Qcow2Layout *layout = tables->layout;

    if (*raw & L2E_COMPRESSED) {
        if (!layout->has_data_file) {
            *raw &= ~L2E_COPIED;
            *bitmap = 0;
        }
        return;
    }
    *raw &= ~L2E_RESERVED;
    if (layout->extended_l2) {
        *raw &= ~L2E_ZERO;    /* there is no such flag beside subclusters */
    }
    if (is_impossible_zero(tables, *raw, *bitmap)) {
        *raw = layout->extended_l2 ? 0 : L2E_ZERO;
    }
}

/* Returns whether anything changed. */
static bool mend_table(const Tables *tables, uint8_t *table)
{
    const Qcow2Layout *layout = tables->layout;
    bool changed = false;

    for (size_t i = 0; i < BIT(layout->l2_bits); i++) {
        uint8_t *at = table + i * layout->l2_entry_size;
        uint64_t raw = qcow2_load_be64(at), bitmap = layout->extended_l2 ? qcow2_load_be64(at + 8) : 0;
        uint64_t new_raw = raw, new_bitmap = bitmap;
        mend_entry(tables, &new_raw, &new_bitmap);
        if (new_raw != raw || new_bitmap != bitmap) {
            qcow2_store_be64(at, new_raw);
            if (layout->extended_l2) {
                qcow2_store_be64(at + 8, new_bitmap);
            }
            changed = true;
        }
    }
    return changed;
}

static bool mend_or_move(Tables *tables, const Qcow2TableRef *table, GError **error)
{
    Qcow2RepairJob *job = tables->job;
    size_t len = tables->layout->cluster_size;
    bool shared;

    if (table->offset == 0 || !qcow2_is_cluster_aligned(tables->layout, table->offset)
        || !is_inside(tables, table->offset, len)) {
        return true;
    }
    shared = is_shared(tables, table->offset, len, table->weight);
    if (!shared && !g_hash_table_contains(tables->unhealthy, &table->offset)) {
        return true;
    }
    if (!qcow2_io_read(job->file, table->offset, tables->room, len, error)) {
        g_prefix_error(error, "L2 table: ");
        return false;
    }
    if (!mend_table(tables, tables->room) && !shared) {
        return true;
    }
    uint64_t offset = qcow2_repair_take(job, 1, error);
    insert(tables->moved, table->offset, offset);
    tables->changed = true;
    return offset != 0 && qcow2_repair_write(job, offset, tables->room, len, error);
}

static bool mend_or_move_all(Qcow2CheckPass *pass, const Qcow2TableRef *list, size_t n, GError **error)
{
    for (size_t i = 0; i < n; i++) {
        if (!mend_or_move(pass->data, &list[i], error)) {
            return false;
        }
    }
    return true;
}

/* ---- L1 tables ----------------------------------------------------------------------------------- */

/* An offset of 0 says "no table", whatever stands beside it. */
static uint64_t mended_l1_entry(const Tables *tables, uint64_t raw)
{
    uint64_t offset = raw & L1E_OFFSET;
    const uint64_t *moved = g_hash_table_lookup(tables->moved, &offset);

    if (offset == 0) {
        return 0;
    }
    return (moved ? *moved : offset) | (raw & L2E_COPIED);
}

/* @offset: where the table is, and where it is afterwards. */
static bool mend_l1(Tables *tables, uint64_t *offset, uint64_t n_entries, GError **error)
{
    Qcow2RepairJob *job = tables->job;
    size_t len = n_entries * 8;

    if (n_entries == 0 || !is_inside(tables, *offset, len)) {
        return true;
    }
    g_autofree uint8_t *table = g_try_malloc(len);
    bool changed = is_shared(tables, *offset, len, 1);
    if (!table) {
        return qcow2_fail_memory(error, len, "an L1 table");
    }
    if (!qcow2_io_read(job->file, *offset, table, len, error)) {
        g_prefix_error(error, "L1 table: ");
        return false;
    }
    for (uint64_t i = 0; i < n_entries; i++) {
        uint64_t raw = qcow2_load_be64(table + i * 8), mended = mended_l1_entry(tables, raw);
        qcow2_store_be64(table + i * 8, mended);
        changed |= mended != raw;
    }
    if (!changed) {
        return true;
    }
    *offset = qcow2_repair_take_for(job, len, error);
    tables->changed = true;
    return *offset != 0 && qcow2_repair_write(job, *offset, table, len, error);
}

static bool replace_snapshot(Qcow2RepairJob *job, guint index, GBytes *raw, GError **error)
{
    Qcow2SnapshotEntry *entry = &g_array_index(job->snapshots, Qcow2SnapshotEntry, index), decoded;
    gsize len;
    const uint8_t *bytes = g_bytes_get_data(raw, &len);

    if (!qcow2_snapshot_entry_decode(&job->header, bytes, len, &decoded, error)) {
        return false;
    }
    qcow2_snapshot_entry_clear(entry);
    *entry = decoded;
    job->snapshots_changed = true;
    return true;
}

static bool mend_snapshot(Tables *tables, guint index, GError **error)
{
    Qcow2RepairJob *job = tables->job;
    const Qcow2SnapshotEntry *entry = &g_array_index(job->snapshots, Qcow2SnapshotEntry, index);
    uint64_t l1_offset = entry->l1_offset;
    g_autoptr(GBytes) raw = g_bytes_ref(entry->raw);

    if (qcow2_check_snapshot_is_sound(&job->count, entry)
        && !mend_l1(tables, &l1_offset, entry->l1_entries, error)) {
        return false;
    }
    if (tables->layout->version >= 3 && !entry->has_disk_size) {
        g_autoptr(GBytes) before = g_steal_pointer(&raw);
        raw = qcow2_snapshot_entry_completed(before, entry->info.disk_size);
    }
    if (l1_offset != entry->l1_offset) {
        g_autoptr(GBytes) before = g_steal_pointer(&raw);
        raw = qcow2_snapshot_entry_with_vm_state(before, l1_offset, entry->l1_entries,
                                                 entry->info.vm_state_size, error);
    }
    return raw && (raw == entry->raw || replace_snapshot(job, index, raw, error));
}

/* Tables that cannot all be in the file are not read one by one. */
static bool are_plausible(const Tables *tables)
{
    const Qcow2RepairJob *job = tables->job;
    uint64_t len = job->header.l1_entries * UINT64_C(8);

    for (guint i = 0; i < job->snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(job->snapshots, Qcow2SnapshotEntry, i);
        if (qcow2_check_snapshot_is_sound(&job->count, entry)) {
            len += entry->l1_entries * UINT64_C(8);
        }
    }
    return len <= job->old_size + L1_SLACK;
}

/* ---- The snapshot table -------------------------------------------------------------------------- */

static bool write_snapshots(Tables *tables, GError **error)
{
    static const uint8_t padding[8];
    Qcow2RepairJob *job = tables->job;
    g_autoptr(GByteArray) table = g_byte_array_new();

    for (guint i = 0; i < job->snapshots->len; i++) {
        gsize len;
        const uint8_t *raw = g_bytes_get_data(g_array_index(job->snapshots, Qcow2SnapshotEntry, i).raw, &len);
        g_byte_array_append(table, raw, (guint)len);
        g_byte_array_append(table, padding, (guint)(qcow2_align_up(len, 8) - len));
    }
    job->header.n_snapshots = job->snapshots->len;
    job->snapshots_changed = false;
    tables->changed = true;
    if (table->len == 0) {
        job->header.snapshots_offset = 0;
        job->changed = true;
        return true;
    }
    job->header.snapshots_offset = qcow2_repair_take_for(job, table->len, error);
    return job->header.snapshots_offset != 0
        && qcow2_repair_write(job, job->header.snapshots_offset, table->data, table->len, error);
}

static bool mend_snapshots(Tables *tables, GError **error)
{
    Qcow2RepairJob *job = tables->job;
    uint64_t offset = job->header.snapshots_offset, len = qcow2_check_snapshots_len(&job->count);

    for (guint i = 0; i < job->snapshots->len; i++) {
        if (!mend_snapshot(tables, i, error)) {
            return false;
        }
    }
    bool shared = len > 0 && is_inside(tables, offset, len) && is_shared(tables, offset, len, 1);
    return (!shared && !job->snapshots_changed) || write_snapshots(tables, error);
}

/* ---- All of it ----------------------------------------------------------------------------------- */

bool qcow2_repair_tables(Qcow2RepairJob *job, bool *ret_changed, GError **error)
{
    g_autoptr(GHashTable) unhealthy = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    g_autoptr(GHashTable) moved = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    g_autofree uint8_t *room = g_try_malloc(job->header.layout.cluster_size);
    Tables tables = { job, &job->header.layout, unhealthy, moved, room, false };

    *ret_changed = false;
    if (!room) {
        return qcow2_fail_memory(error, job->header.layout.cluster_size, "an L2 table");
    }
    if (!are_plausible(&tables)) {
        return !job->snapshots_changed
            || qcow2_corrupt(error, "the L1 tables of snapshots are larger together than the file");
    }
    for (guint i = 0; i < job->unhealthy->len; i++) {
        insert(unhealthy, g_array_index(job->unhealthy, Qcow2TableRef, i).offset, 0);
    }
    job->count.data = &tables;
    if (!qcow2_check_visit_tables(&job->count, mend_or_move_all, error)
        || !mend_l1(&tables, &job->header.l1_offset, job->header.l1_entries, error)
        || !mend_snapshots(&tables, error)) {
        return false;
    }
    *ret_changed = tables.changed;
    return true;
}
