/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shrinking a disk frees clusters, but the tables that say so were written behind them. They are written once
 * more, into what is free now, and the file is cut where its last cluster in use ends.
 */
#include "format/l2.h"
#include "image/resize.h"
#include "image/tables.h"
#include "util/error.h"

typedef struct Trim {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2Batch *batch;
    uint64_t *l1;             /* as on disk */
    uint64_t n_l1;
    uint64_t limit;           /* host clusters from here on hold metadata that can move, or nothing */
} Trim;

/* ---- What can move ----------------------------------------------------------------------------- */

static uint64_t table_cluster(const Trim *trim, uint64_t index)
{
    uint64_t raw = GUINT64_FROM_BE(trim->l1[index]);

    /* A table that a snapshot shares stays. */
    return raw & L2E_COPIED ? (raw & L1E_OFFSET) >> trim->layout->cluster_bits : 0;
}

static void add_run(GArray *clusters, const Trim *trim, uint64_t host_offset, uint64_t len_bytes)
{
    uint64_t first = host_offset >> trim->layout->cluster_bits;
    uint64_t n = qcow2_div_round_up(len_bytes, trim->layout->cluster_size);

    for (uint64_t i = 0; i < n; i++) {
        uint64_t cluster = first + i;
        g_array_append_val(clusters, cluster);
    }
}

static int compare_clusters(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* Host clusters of the active layer's tables and of the refcounts, sorted. */
static GArray *movable_clusters(const Trim *trim)
{
    const Qcow2Header *header = &trim->image->header;
    const Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);
    GArray *clusters = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    add_run(clusters, trim, header->l1_offset, trim->n_l1 * 8);
    add_run(clusters, trim, header->reftable_offset, header->reftable_clusters * trim->layout->cluster_size);
    for (uint64_t i = 0; i < qcow2_counts_cache_n_blocks(counts); i++) {
        add_run(clusters, trim, qcow2_counts_cache_block(counts, i), trim->layout->cluster_size);
    }
    for (uint64_t i = 0; i < trim->n_l1; i++) {
        uint64_t cluster = table_cluster(trim, i);
        if (cluster != 0) {
            g_array_append_val(clusters, cluster);
        }
    }
    g_array_sort(clusters, compare_clusters);
    return clusters;
}

/* Goes from the end of the file down to the last cluster in use that stays. */
static bool find_limit(Trim *trim, uint64_t *ret_n_behind, GError **error)
{
    g_autoptr(GArray) movable = movable_clusters(trim);
    Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);
    guint left = movable->len;

    *ret_n_behind = 0;
    for (trim->limit = qcow2_counts_cache_end(counts); trim->limit > 0; trim->limit--) {
        uint64_t cluster = trim->limit - 1, count;
        if (!qcow2_counts_cache_get(counts, cluster, &count, error)) {
            return false;
        }
        while (left > 0 && g_array_index(movable, uint64_t, left - 1) > cluster) {
            left--;
        }
        bool moves = left > 0 && g_array_index(movable, uint64_t, left - 1) == cluster;
        if (count > 0 && !moves) {
            return true;
        }
        *ret_n_behind += count > 0;
    }
    return true;
}

static bool is_behind(const Trim *trim, uint64_t host_offset)
{
    return host_offset >> trim->layout->cluster_bits >= trim->limit;
}

/* Refcount blocks behind the limit that count nothing before it: they are empty when the rest has moved. */
static uint64_t n_vanishing(const Trim *trim)
{
    const Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);
    uint64_t n = 0;

    for (uint64_t i = 0; i < qcow2_counts_cache_n_blocks(counts); i++) {
        n += is_behind(trim, qcow2_counts_cache_block(counts, i))
          && i << trim->layout->refblock_bits >= trim->limit;
    }
    return n;
}

/* Is there room before the limit for what is behind it? */
static bool has_room(Trim *trim, uint64_t n_behind, bool *ret_has_room, GError **error)
{
    uint64_t n_free = 0, needed = n_behind - n_vanishing(trim);

    for (uint64_t i = 0; i < trim->limit && n_free < needed; i++) {
        uint64_t count;
        if (!qcow2_counts_cache_get(qcow2_batch_counts(trim->batch), i, &count, error)) {
            return false;
        }
        n_free += count == 0;
    }
    *ret_has_room = n_behind > 0 && n_free >= needed;
    return true;
}

/* ---- Moving ------------------------------------------------------------------------------------ */

static bool move_table(Trim *trim, uint64_t index, uint8_t *buffer, GError **error)
{
    uint64_t cluster_size = trim->layout->cluster_size;
    uint64_t old = table_cluster(trim, index) << trim->layout->cluster_bits;
    uint64_t fresh = qcow2_batch_take(trim->batch, 1, error);

    trim->l1[index] = GUINT64_TO_BE(fresh | L2E_COPIED);
    return fresh != 0
        && qcow2_io_read(trim->image->file, old, buffer, cluster_size, error)
        && qcow2_batch_write(trim->batch, fresh, buffer, cluster_size, error)
        && qcow2_batch_add(trim->batch, old, cluster_size, -1, error);
}

static bool move_tables(Trim *trim, GError **error)
{
    Qcow2Header *header = qcow2_batch_header(trim->batch);
    uint64_t len = trim->n_l1 * 8, old_l1 = header->l1_offset;
    bool changed = is_behind(trim, old_l1);
    g_autofree uint8_t *buffer = g_try_malloc(trim->layout->cluster_size);

    if (!buffer) {
        return qcow2_fail_memory(error, trim->layout->cluster_size, "an L2 table");
    }
    for (uint64_t i = 0; i < trim->n_l1; i++) {
        if (table_cluster(trim, i) >= trim->limit) {
            changed = true;
            if (!move_table(trim, i, buffer, error)) {
                return false;
            }
        }
    }
    return !changed || len == 0
        || (qcow2_batch_add(trim->batch, old_l1, len, -1, error)
            && qcow2_batch_take_for(trim->batch, len, &header->l1_offset, error)
            && qcow2_batch_write(trim->batch, header->l1_offset, trim->l1, len, error));
}

/* The refcount table moves in every batch. */
static bool move_refcounts(Trim *trim, GError **error)
{
    Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);

    for (uint64_t i = 0; i < qcow2_counts_cache_n_blocks(counts); i++) {
        if (is_behind(trim, qcow2_counts_cache_block(counts, i))
            && !qcow2_counts_cache_touch(counts, i, error)) {
            return false;
        }
    }
    return true;
}

static bool load_l1(Trim *trim, GError **error)
{
    const Qcow2Header *header = &trim->image->header;

    trim->n_l1 = header->l1_entries;
    trim->l1 = g_try_malloc(trim->n_l1 * 8);
    if (!trim->l1 && trim->n_l1 > 0) {
        return qcow2_fail_memory(error, trim->n_l1 * 8, "the L1 table");
    }
    return qcow2_io_read(trim->image->file, header->l1_offset, trim->l1, trim->n_l1 * 8, error);
}

static bool trim_in_batch(Trim *trim, GError **error)
{
    uint64_t n_behind;
    bool move;

    if (!load_l1(trim, error) || !find_limit(trim, &n_behind, error)
        || !has_room(trim, n_behind, &move, error)) {
        return false;
    }
    if (move
        && (!move_tables(trim, error) || !move_refcounts(trim, error)
            || !qcow2_batch_commit(trim->batch, error))) {
        return false;
    }
    return qcow2_batch_cut_end(trim->batch, error);
}

bool qcow2_image_trim_end(Qcow2Image *image, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin_low(image, error);
    Trim trim = { .image = image, .layout = &image->header.layout, .batch = batch };
    bool ok = batch && trim_in_batch(&trim, error);

    g_free(trim.l1);
    return ok;
}
