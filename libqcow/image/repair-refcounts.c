/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcount blocks and the refcount table, as the counted references want them. A block whose counts are right
 * stays, if nothing but the table refers to it; every other one is made anew, and so is the table then. The
 * place of a block is counted too: that may change another block, which moves, until nothing changes.
 */
#include <string.h>

#include "format/refcount.h"
#include "image/repair-job.h"
#include "util/error.h"
#include "util/progress.h"

typedef enum { BLOCK_NONE, BLOCK_KEPT, BLOCK_NEW } BlockState;

typedef struct Blocks {
    Qcow2RepairJob *job;
    const Qcow2Layout *layout;
    uint64_t *table;          /* entries as they will be */
    uint64_t *before;         /* blocks of the file that can be believed, 0 elsewhere */
    uint8_t *state;           /* BlockState of each */
    uint8_t *queued;
    size_t n;                 /* entries there is room for: as many as a table can have */
    GQueue queue;             /* indices of blocks to look at */
    uint64_t table_offset, table_clusters;
    bool table_kept;
    uint8_t *in_file, *wanted;    /* room for a block each */
} Blocks;

static uint64_t block_len(const Blocks *blocks)
{
    return BIT(blocks->layout->refblock_bits);
}

static void look_at(Blocks *blocks, size_t index)
{
    if (index < blocks->n && !blocks->queued[index]) {
        blocks->queued[index] = 1;
        g_queue_push_tail(&blocks->queue, GSIZE_TO_POINTER(index));
    }
}

/* Counts clusters that a structure gets or gives up; the blocks that count them are to be looked at. */
static void recount(Blocks *blocks, uint64_t offset, uint64_t len_bytes, int64_t delta)
{
    uint64_t first = offset >> blocks->layout->cluster_bits;
    uint64_t last = (offset + len_bytes - 1) >> blocks->layout->cluster_bits;

    if (len_bytes == 0) {
        return;
    }
    qcow2_repair_add(blocks->job, offset, len_bytes, delta);
    first >>= blocks->layout->refblock_bits;
    last >>= blocks->layout->refblock_bits;
    for (uint64_t i = first; i <= last; i++) {
        look_at(blocks, i);
    }
}

static void give_table_up(Blocks *blocks)
{
    if (blocks->table_kept) {
        blocks->table_kept = false;
        recount(blocks, blocks->table_offset, blocks->table_clusters * blocks->layout->cluster_size, -1);
        blocks->table_clusters = 0;
    }
}

/* ---- What stays ---------------------------------------------------------------------------------- */

static bool is_free(const Blocks *blocks, uint64_t offset, uint64_t len_bytes)
{
    const Qcow2Counts *counts = blocks->job->counts;
    uint64_t first = offset >> blocks->layout->cluster_bits, n = len_bytes >> blocks->layout->cluster_bits;

    for (uint64_t cluster = first; cluster < first + n; cluster++) {
        if (qcow2_counts_get(counts, cluster) != 0) {
            return false;
        }
    }
    return true;
}

static bool is_in_file(const Blocks *blocks, uint64_t offset, uint64_t len_bytes)
{
    uint64_t end = qcow2_align_up(blocks->job->old_size, 512);

    return qcow2_range_fits(offset, len_bytes) && offset + len_bytes <= end;
}

/* Blocks that can be believed to be blocks, and the table: with nothing else in their clusters. */
static bool keep_what_can_be_kept(Blocks *blocks, GError **error)
{
    const Qcow2Header *header = &blocks->job->header;
    uint64_t cluster_size = blocks->layout->cluster_size;
    uint64_t len = header->reftable_clusters * cluster_size;
    size_t n = MIN(len / 8, blocks->n);
    bool same_width = header->layout.refcount_order == blocks->job->image->header.layout.refcount_order;
    bool sound = same_width;

    if (!qcow2_io_read(blocks->job->file, header->reftable_offset, blocks->table, n * 8, error)) {
        g_prefix_error(error, "refcount table: ");
        return false;
    }
    blocks->table_kept = len > 0 && is_in_file(blocks, header->reftable_offset, len)
                      && is_free(blocks, header->reftable_offset, len);
    if (blocks->table_kept) {
        blocks->table_offset = header->reftable_offset;
        blocks->table_clusters = header->reftable_clusters;
        recount(blocks, header->reftable_offset, len, 1);
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t raw = GUINT64_FROM_BE(blocks->table[i]);
        uint64_t cluster = qcow2_check_refblock_cluster(blocks->layout, raw);
        bool kept = same_width && cluster != UINT64_MAX && cluster != 0
                 && is_in_file(blocks, raw, cluster_size) && is_free(blocks, raw, cluster_size);
        blocks->table[i] = kept ? raw : 0;
        blocks->state[i] = kept ? BLOCK_KEPT : BLOCK_NONE;
        blocks->before[i] = blocks->table[i];
        sound &= kept || raw == 0;
        if (kept) {
            recount(blocks, raw, cluster_size, 1);
        }
    }
    if (!sound) {
        give_table_up(blocks);
    }
    return true;
}

/* ---- What changes -------------------------------------------------------------------------------- */

static bool is_unused(const Blocks *blocks, size_t index)
{
    uint64_t at = index * block_len(blocks);
    uint64_t end = MIN(at + block_len(blocks), qcow2_counts_end(blocks->job->counts));

    while (at < end) {
        uint64_t step = MIN(end, qcow2_align_down(at, QCOW2_COUNTS_CHUNK) + QCOW2_COUNTS_CHUNK) - at;
        if (!qcow2_counts_is_zero(blocks->job->counts, at, step)) {
            return false;
        }
        at += step;
    }
    return true;
}

/* The block with the counts of the job, into blocks->wanted. */
static void encode_counts(Blocks *blocks, size_t index)
{
    const Qcow2Counts *counts = blocks->job->counts;
    uint64_t first = index * block_len(blocks), n = block_len(blocks);
    uint64_t chunk = QCOW2_COUNTS_CHUNK, chunk_bytes = (chunk << blocks->layout->refcount_order) / 8;

    for (uint64_t at = 0; at < n && n >= chunk; at += chunk) {
        uint8_t *room = blocks->wanted + at / chunk * chunk_bytes;
        if (first + at < qcow2_counts_end(counts)) {
            qcow2_counts_encode(counts, blocks->layout, first + at, chunk, room);
        } else {
            memset(room, 0, chunk_bytes);
        }
    }
    for (uint64_t i = 0; i < n && n < chunk; i++) {
        bool counted = first + i < qcow2_counts_end(counts);
        uint64_t count = counted ? qcow2_counts_get(counts, first + i) : 0;
        qcow2_refcount_set(blocks->layout, blocks->wanted, i, count);
    }
}

/*
 * The block as it should be, into blocks->wanted. What it says about clusters past the end is kept: entries
 * that point there are not repaired, and their flags agree with it.
 */
static bool encode(Blocks *blocks, size_t index, GError **error)
{
    const Qcow2Layout *layout = blocks->layout;
    uint64_t first = index * block_len(blocks), next = blocks->job->next;

    encode_counts(blocks, index);
    if (blocks->before[index] == 0) {
        return true;
    }
    if (!qcow2_io_read(blocks->job->file, blocks->before[index], blocks->in_file, layout->cluster_size,
                       error)) {
        g_prefix_error(error, "refcount block: ");
        return false;
    }
    for (uint64_t i = next - MIN(first, next); i < block_len(blocks); i++) {
        qcow2_refcount_set(layout, blocks->wanted, i, qcow2_refcount_get(layout, blocks->in_file, i));
    }
    return true;
}

static bool is_right(Blocks *blocks, size_t index, bool *ret, GError **error)
{
    if (!encode(blocks, index, error)) {
        return false;
    }
    *ret = memcmp(blocks->in_file, blocks->wanted, blocks->layout->cluster_size) == 0;
    return true;
}

static bool place_block(Blocks *blocks, size_t index, GError **error)
{
    uint64_t offset = qcow2_repair_take(blocks->job, 1, error);

    if (offset == 0) {
        return false;
    }
    blocks->table[index] = offset;
    blocks->state[index] = BLOCK_NEW;
    recount(blocks, offset, blocks->layout->cluster_size, 1);
    return true;
}

static bool judge_block(Blocks *blocks, size_t index, GError **error)
{
    bool right = true;

    if (blocks->state[index] == BLOCK_NEW) {
        return true;    /* written at the end */
    }
    if (blocks->state[index] == BLOCK_KEPT) {
        if (!is_right(blocks, index, &right, error)) {
            return false;
        }
        if (right) {
            return true;
        }
        give_table_up(blocks);
        blocks->state[index] = BLOCK_NONE;
        recount(blocks, blocks->table[index], blocks->layout->cluster_size, -1);
        blocks->table[index] = 0;
    }
    if (is_unused(blocks, index)) {
        return true;
    }
    give_table_up(blocks);
    return place_block(blocks, index, error);
}

static bool judge_queued(Blocks *blocks, GError **error)
{
    while (!g_queue_is_empty(&blocks->queue)) {
        size_t index = GPOINTER_TO_SIZE(g_queue_pop_head(&blocks->queue));
        blocks->queued[index] = 0;
        if (!judge_block(blocks, index, error) || !qcow2_progress_check(blocks->job->progress, error)) {
            return false;
        }
    }
    return true;
}

/* Clusters that the table needs for its last entry. */
static uint64_t table_clusters(const Blocks *blocks)
{
    size_t n = blocks->n;

    while (n > 0 && blocks->table[n - 1] == 0) {
        n--;
    }
    return qcow2_div_round_up(n * 8, blocks->layout->cluster_size);
}

static bool settle(Blocks *blocks, GError **error)
{
    uint64_t cluster_size = blocks->layout->cluster_size, needed;

    if (!judge_queued(blocks, error)) {
        return false;
    }
    while (!blocks->table_kept && (needed = table_clusters(blocks)) > blocks->table_clusters) {
        recount(blocks, blocks->table_offset, blocks->table_clusters * cluster_size, -1);
        blocks->table_clusters = needed;
        blocks->table_offset = qcow2_repair_take(blocks->job, needed, error);
        if (blocks->table_offset == 0) {
            return false;
        }
        recount(blocks, blocks->table_offset, needed * cluster_size, 1);
        if (!judge_queued(blocks, error)) {
            return false;
        }
    }
    return true;
}

/* ---- Writing ------------------------------------------------------------------------------------- */

static bool write_all(Blocks *blocks, GError **error)
{
    Qcow2RepairJob *job = blocks->job;
    uint64_t len = blocks->table_clusters * blocks->layout->cluster_size;

    for (size_t i = 0; i < blocks->n; i++) {
        if (blocks->state[i] == BLOCK_NEW) {
            if (!encode(blocks, i, error)
                || !qcow2_repair_write(job, blocks->table[i], blocks->wanted, blocks->layout->cluster_size,
                                       error)) {
                return false;
            }
        }
    }
    if (blocks->table_kept) {
        return true;
    }
    g_autofree uint64_t *table = g_try_malloc0(len);
    if (!table) {
        return qcow2_fail_memory(error, len, "the refcount table");
    }
    for (size_t i = 0; i < MIN(len / 8, blocks->n); i++) {
        table[i] = GUINT64_TO_BE(blocks->table[i]);
    }
    job->header.reftable_offset = blocks->table_offset;
    job->header.reftable_clusters = (uint32_t)blocks->table_clusters;
    return qcow2_repair_write(job, blocks->table_offset, table, len, error);
}

/* Entries that the table has now, or can get. */
static size_t max_entries(const Qcow2RepairJob *job)
{
    const Qcow2Layout *layout = &job->header.layout;
    uint64_t now = job->header.reftable_clusters * layout->cluster_size / 8;
    uint64_t needed = qcow2_div_round_up(qcow2_counts_end(job->counts), BIT(layout->refblock_bits));

    return MIN(MAX(now, needed), QCOW2_MAX_REFTABLE_BYTES / 8);
}

bool qcow2_repair_refcounts(Qcow2RepairJob *job, GError **error)
{
    const Qcow2Layout *layout = &job->header.layout;
    size_t n = max_entries(job);
    g_autofree uint64_t *table = g_new0(uint64_t, 2 * n);
    g_autofree uint8_t *states = g_malloc0(2 * n), *room = g_try_malloc(2 * layout->cluster_size + 16);
    Blocks blocks = {
        .job = job, .layout = layout,
        .table = table, .before = table + n, .state = states, .queued = states + n, .n = n,
        .in_file = room, .wanted = room + layout->cluster_size,
    };
    uint64_t n_needed = qcow2_div_round_up(job->next, block_len(&blocks));

    if (!room) {
        return qcow2_fail_memory(error, 2 * layout->cluster_size, "refcounts");
    }
    if (n_needed > n) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "a refcount table of %" PRIu64 " bytes would be"
                          " needed; the limit is %" PRIu64, n_needed * 8, QCOW2_MAX_REFTABLE_BYTES);
    }
    g_queue_init(&blocks.queue);
    bool ok = keep_what_can_be_kept(&blocks, error);
    for (size_t i = 0; ok && i < n_needed; i++) {
        look_at(&blocks, i);
    }
    ok = ok && settle(&blocks, error) && write_all(&blocks, error);
    g_queue_clear(&blocks.queue);
    return ok;
}
