/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * COPIED flags of the active layer, as the refcounts will be. In tables that only snapshots reach the flags
 * say nothing. A table that snapshots share stays theirs, and the active layer gets another.
 */
#include <string.h>

#include "format/l2.h"
#include "image/repair-job.h"
#include "util/error.h"

typedef struct Flags {
    Qcow2RepairJob *job;
    const Qcow2Layout *layout;
    Qcow2CheckPass pass;      /* judges flags by the counts of the job */
    GHashTable *moved;        /* old offset -> new offset, of L2 tables */
    uint8_t *room;            /* for one L2 table */
} Flags;

static void hand_on(const Qcow2Finding *finding, void *data)
{
    const Qcow2RepairJob *job = data;

    job->func(finding, job->data);
}

/* What the check looks at: the active layer alone, and the refcounts of the job instead of the file's. */
static bool judge(Flags *flags, GError **error)
{
    Qcow2RepairJob *job = flags->job;
    Qcow2CheckPass *pass = &flags->pass;

    if (!qcow2_check_begin(pass, error)) {
        return false;
    }
    pass->counts = qcow2_counts_new(0, QCOW2_COUNTS_CHUNK, SIZE_MAX);    /* not looked at */
    pass->wanted = job->counts;
    pass->wanted_end = pass->flags_end = pass->limit = job->next;
    return qcow2_check_note_single(pass, error)
        && qcow2_check_visit_tables(pass, qcow2_check_tables, error);
}

static bool wants_flag(const Flags *flags, uint64_t raw, bool is_l1, bool *ret, GError **error)
{
    uint64_t count = 1, cluster = (raw & L2E_HOST_OFFSET) >> flags->layout->cluster_bits;

    if (is_l1 || !flags->layout->has_data_file) {
        if (!qcow2_check_read_refcount(&flags->pass, cluster, &count, error)) {
            return false;
        }
    }
    *ret = count == 1;
    return true;
}

/* Entries without a cluster have no flag to judge; in a data file offset 0 is one when it has the flag. */
static bool has_cluster(uint64_t raw)
{
    return !(raw & L2E_COMPRESSED) && (raw & L2E_HOST_OFFSET) != 0;
}

static bool set_flags(const Flags *flags, uint8_t *table, bool *ret_changed, GError **error)
{
    *ret_changed = false;
    for (size_t i = 0; i < BIT(flags->layout->l2_bits); i++) {
        uint8_t *at = table + i * flags->layout->l2_entry_size;
        uint64_t raw = qcow2_load_be64(at);
        bool wanted;
        if (!has_cluster(raw)) {
            continue;
        }
        if (!wants_flag(flags, raw, false, &wanted, error)) {
            return false;
        }
        if (wanted != ((raw & L2E_COPIED) != 0)) {
            qcow2_store_be64(at, raw ^ L2E_COPIED);
            *ret_changed = true;
        }
    }
    return true;
}

static bool replace_table(Flags *flags, const Qcow2TableRef *table, GError **error)
{
    Qcow2RepairJob *job = flags->job;
    size_t len = flags->layout->cluster_size;
    bool changed;

    if (table->offset == 0 || !qcow2_is_cluster_aligned(flags->layout, table->offset)
        || !qcow2_check_is_inside(&flags->pass, table->offset, len)) {
        return true;
    }
    if (!qcow2_io_read(job->file, table->offset, flags->room, len, error)) {
        g_prefix_error(error, "L2 table: ");
        return false;
    }
    if (!set_flags(flags, flags->room, &changed, error)) {
        return false;
    }
    if (!changed) {
        return true;
    }
    uint64_t offset = qcow2_repair_take(job, 1, error);
    if (offset == 0 || !qcow2_repair_write(job, offset, flags->room, len, error)) {
        return false;
    }
    g_hash_table_insert(flags->moved, g_memdup2(&table->offset, sizeof(uint64_t)),
                        g_memdup2(&offset, sizeof(offset)));
    qcow2_repair_add(job, table->offset, len, -(int64_t)table->active);
    qcow2_repair_add(job, offset, len, table->active);
    return true;
}

static bool set_l1_entry(const Flags *flags, uint8_t *at, bool *changed, GError **error)
{
    uint64_t raw = qcow2_load_be64(at), offset = raw & L1E_OFFSET;
    const uint64_t *moved = g_hash_table_lookup(flags->moved, &offset);
    uint64_t mended = moved ? (raw & ~L1E_OFFSET) | *moved : raw;
    bool wanted;

    if (offset == 0) {
        return true;
    }
    if (!wants_flag(flags, mended, true, &wanted, error)) {
        return false;
    }
    mended = (mended & ~L2E_COPIED) | (wanted ? L2E_COPIED : 0);
    qcow2_store_be64(at, mended);
    *changed |= mended != raw;
    return true;
}

static bool replace_l1(Flags *flags, GError **error)
{
    Qcow2RepairJob *job = flags->job;
    size_t len = job->header.l1_entries * UINT64_C(8);
    g_autofree uint8_t *table = g_try_malloc(MAX(len, 1));
    bool changed = false;

    if (!table) {
        return qcow2_fail_memory(error, len, "the L1 table");
    }
    if (!qcow2_check_is_inside(&flags->pass, job->header.l1_offset, len)) {
        return true;
    }
    if (!qcow2_io_read(job->file, job->header.l1_offset, table, len, error)) {
        g_prefix_error(error, "L1 table: ");
        return false;
    }
    for (uint64_t i = 0; i < job->header.l1_entries; i++) {
        if (!set_l1_entry(flags, table + i * 8, &changed, error)) {
            return false;
        }
    }
    if (!changed) {
        return true;
    }
    uint64_t offset = qcow2_repair_take_for(job, len, error);
    if (offset == 0 || !qcow2_repair_write(job, offset, table, len, error)) {
        return false;
    }
    qcow2_repair_add(job, job->header.l1_offset, len, -1);
    qcow2_repair_add(job, offset, len, 1);
    job->header.l1_offset = offset;
    return true;
}

static bool replace_all(Flags *flags, GError **error)
{
    const Qcow2RepairJob *job = flags->job;

    for (guint i = 0; i < flags->pass.unhealthy->len; i++) {
        if (!replace_table(flags, &g_array_index(flags->pass.unhealthy, Qcow2TableRef, i), error)) {
            return false;
        }
    }
    flags->pass.wanted_end = job->next;
    return replace_l1(flags, error);
}

bool qcow2_repair_flags(Qcow2RepairJob *job, bool repairs, GError **error)
{
    g_autoptr(GHashTable) moved = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    g_autoptr(GArray) unhealthy = g_array_new(FALSE, FALSE, sizeof(Qcow2TableRef));
    g_autoptr(GArray) no_snapshots = g_array_new(FALSE, FALSE, sizeof(Qcow2SnapshotEntry));
    g_autofree uint8_t *room = g_try_malloc(job->header.layout.cluster_size);
    Qcow2CheckSource source = job->source;
    Flags flags = { .job = job, .layout = &job->header.layout, .moved = moved, .room = room };

    if (!room) {
        return qcow2_fail_memory(error, job->header.layout.cluster_size, "an L2 table");
    }
    source.header = &job->header;
    source.snapshots = no_snapshots;
    source.repair = repairs ? QCOW2_REPAIR_ALL : QCOW2_REPAIR_LEAKS;
    flags.pass = (Qcow2CheckPass) {
        .source = &source, .func = hand_on, .data = job, .progress = job->progress, .unhealthy = unhealthy,
    };
    bool ok = judge(&flags, error) && (!repairs || flags.pass.n_flags == 0 || replace_all(&flags, error));
    qcow2_check_end(&flags.pass);
    return ok;
}
