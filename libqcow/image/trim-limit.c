/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far down metadata can go. Everything that moves is placed for a trial, in the order in which a batch
 * takes clusters: tables need some in a row. It is an estimate; only the commit of a batch knows whether it
 * fits.
 */
#include "image/trim-job.h"

#include "util/error.h"

typedef struct Run {
    uint64_t first, n;
} Run;

/* What is free before the limit, and what wants to be there. */
typedef struct Room {
    const Qcow2TrimJob *trim;
    GArray *runs;             /* Run */
    guint first_run;          /* those before it are used up */
    bool *touched;            /* refcount blocks in which counts change */
    uint64_t n_singles;       /* clusters that need not be in a row */
} Room;

/* ---- What moves -------------------------------------------------------------------------------- */

guint qcow2_trim_find(const Qcow2TrimJob *trim, uint64_t cluster)
{
    guint low = 0, high = trim->movable->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (g_array_index(trim->movable, Qcow2Movable, middle).cluster < cluster) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool qcow2_trim_ends_behind(const Qcow2TrimJob *trim, uint64_t end_bytes)
{
    return end_bytes > trim->limit << trim->layout->cluster_bits;
}

bool qcow2_trim_view_moves(const Qcow2TrimJob *trim, const Qcow2TrimTables *tables)
{
    uint64_t l1_end = tables->view.l1_entries ? tables->view.l1_offset + tables->view.l1_entries * 8 : 0;

    return qcow2_trim_ends_behind(trim, MAX(l1_end, tables->tables_end));
}

/* Clusters of a run before the limit. */
static uint64_t n_before(const Qcow2TrimJob *trim, uint64_t host_offset, uint64_t len_bytes)
{
    uint64_t first = host_offset >> trim->layout->cluster_bits;
    uint64_t n = qcow2_div_round_up(len_bytes, trim->layout->cluster_size);

    return first < trim->limit ? MIN(n, trim->limit - first) : 0;
}

/* Where a block is; 0: nowhere. */
static uint64_t block_cluster(const Qcow2TrimJob *trim, uint64_t index)
{
    const Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);
    bool exists = index < qcow2_counts_cache_n_blocks(counts);

    return exists ? qcow2_counts_cache_block(counts, index) >> trim->layout->cluster_bits : 0;
}

static bool block_is_before(const Qcow2TrimJob *trim, uint64_t index)
{
    uint64_t cluster = block_cluster(trim, index);

    return cluster != 0 && cluster < trim->limit;
}

/* Blocks behind the limit that count nothing before it: they are empty when the rest has moved. */
static uint64_t n_vanishing(const Qcow2TrimJob *trim)
{
    uint64_t per_block = BIT(trim->layout->refblock_bits), first = qcow2_div_round_up(trim->limit, per_block);
    uint64_t end = qcow2_counts_cache_n_blocks(qcow2_batch_counts(trim->batch)), n = 0;

    for (uint64_t i = first; i < end; i++) {
        n += block_cluster(trim, i) >= trim->limit;
    }
    return n;
}

/* ---- Placing ----------------------------------------------------------------------------------- */

/* A block that changes moves, which changes the one that counts it. */
static void touch_block(Room *room, uint64_t index)
{
    const Qcow2TrimJob *trim = room->trim;

    while (!room->touched[index]) {
        room->touched[index] = true;
        if (!block_is_before(trim, index)) {
            return;
        }
        room->n_singles++;
        index = block_cluster(trim, index) >> trim->layout->refblock_bits;
    }
}

static void touch(Room *room, uint64_t first, uint64_t n)
{
    unsigned bits = room->trim->layout->refblock_bits;

    for (uint64_t i = first >> bits; n > 0 && i <= (first + n - 1) >> bits; i++) {
        touch_block(room, i);
    }
}

static void use_up(Room *room, guint index, uint64_t n)
{
    Run *run = &g_array_index(room->runs, Run, index);

    touch(room, run->first, n);
    run->first += n;
    run->n -= n;
}

static bool place_run(Room *room, uint64_t n)
{
    for (guint i = room->first_run; n > 0 && i < room->runs->len; i++) {
        if (g_array_index(room->runs, Run, i).n >= n) {
            use_up(room, i, n);
            return true;
        }
    }
    return n == 0;
}

static bool place_singles(Room *room)
{
    while (room->n_singles > 0 && room->first_run < room->runs->len) {
        uint64_t n = MIN(room->n_singles, g_array_index(room->runs, Run, room->first_run).n);
        room->n_singles -= n;
        use_up(room, room->first_run, n);
        room->first_run += g_array_index(room->runs, Run, room->first_run).n == 0;
    }
    return room->n_singles == 0;
}

/* A table that is written anew, wherever it was. */
static bool replace(Room *room, uint64_t host_offset, uint64_t len_bytes)
{
    const Qcow2TrimJob *trim = room->trim;
    uint64_t n = qcow2_div_round_up(len_bytes, trim->layout->cluster_size);
    uint64_t before = n_before(trim, host_offset, len_bytes);

    room->n_singles -= n - before;
    touch(room, host_offset >> trim->layout->cluster_bits, before);
    return place_run(room, n);
}

static bool replace_l1_tables(Room *room)
{
    const Qcow2TrimJob *trim = room->trim;
    uint64_t table_end = trim->image->header.snapshots_offset + trim->snapshot_table_len;
    const Qcow2TrimTables *active = &g_array_index(trim->views, Qcow2TrimTables, 0);
    bool any = trim->views->len > 1 && qcow2_trim_ends_behind(trim, table_end);

    for (guint i = 0; i < trim->by_size->len; i++) {
        const Qcow2TrimTables *tables = trim->by_size->pdata[i];
        if (!qcow2_trim_view_moves(trim, tables)) {
            continue;
        }
        any = any || tables != active;
        if (!replace(room, tables->view.l1_offset, tables->view.l1_entries * 8)) {
            return false;
        }
    }
    return !any || replace(room, trim->image->header.snapshots_offset, trim->snapshot_table_len);
}

static bool bitmap_moves(const Qcow2TrimJob *trim, const Qcow2BitmapPlace *place)
{
    return qcow2_trim_ends_behind(trim, MAX(place->table_offset + place->table_len, place->bits_end));
}

static bool replace_bitmap_tables(Room *room)
{
    const Qcow2TrimJob *trim = room->trim;
    const Qcow2Header *header = &trim->image->header;
    uint64_t offset = header->bitmap_directory_offset, len = header->bitmap_directory_size;
    bool any = trim->bitmaps->len > 0 && qcow2_trim_ends_behind(trim, offset + len);

    for (guint i = 0; i < trim->bitmaps->len; i++) {
        any = any || bitmap_moves(trim, &g_array_index(trim->bitmaps, Qcow2BitmapPlace, i));
    }
    if (any && !replace(room, offset, len)) {
        return false;
    }
    for (guint i = 0; i < trim->bitmaps->len; i++) {
        const Qcow2BitmapPlace *place = &g_array_index(trim->bitmaps, Qcow2BitmapPlace, i);
        if (bitmap_moves(trim, place) && !replace(room, place->table_offset, place->table_len)) {
            return false;
        }
    }
    return true;
}

/* The refcount table comes last, and is as long as what is left to count needs. */
static bool place_all(Room *room)
{
    const Qcow2TrimJob *trim = room->trim;
    const Qcow2Header *header = &trim->image->header;
    unsigned block_bits = trim->layout->refblock_bits, bits = trim->layout->cluster_bits;
    uint64_t n_blocks = qcow2_div_round_up(trim->limit, BIT(block_bits)), old = header->reftable_clusters;
    uint64_t n_before_limit = n_before(trim, header->reftable_offset, old << bits);

    room->n_singles = trim->movable->len - qcow2_trim_find(trim, trim->limit) - n_vanishing(trim)
                    - (old - n_before_limit);
    touch(room, header->reftable_offset >> bits, n_before_limit);
    if (trim->limit & (BIT(block_bits) - 1)) {
        touch_block(room, trim->limit >> block_bits);
    }
    return replace_l1_tables(room) && replace_bitmap_tables(room) && place_singles(room)
        && place_run(room, qcow2_div_round_up(n_blocks * 8, trim->layout->cluster_size))
        && place_singles(room);
}

/* ---- The limit --------------------------------------------------------------------------------- */

/* Is there room before the limit for all that moves then? */
static bool has_room(const Qcow2TrimJob *trim, const GArray *free_runs)
{
    uint64_t counts_end = qcow2_counts_cache_end(qcow2_batch_counts(trim->batch));
    g_autofree bool *touched = g_new0(bool, (counts_end >> trim->layout->refblock_bits) + 1);
    g_autoptr(GArray) runs = g_array_copy((GArray *)free_runs);
    Room room = { .trim = trim, .runs = runs, .touched = touched };

    while (runs->len > 0) {
        Run *last = &g_array_index(runs, Run, runs->len - 1);
        if (last->first < trim->limit) {
            last->n = MIN(last->n, trim->limit - last->first);
            break;
        }
        g_array_set_size(runs, runs->len - 1);
    }
    return place_all(&room);
}

static GArray *find_free_runs(const Qcow2TrimJob *trim, GError **error)
{
    g_autoptr(GArray) runs = g_array_new(FALSE, FALSE, sizeof(Run));
    uint64_t count;

    for (uint64_t i = 0; i < trim->end; i++) {
        Run *last = runs->len > 0 ? &g_array_index(runs, Run, runs->len - 1) : NULL;
        if (!qcow2_counts_cache_get(qcow2_batch_counts(trim->batch), i, &count, error)) {
            return NULL;
        }
        if (count == 0 && last && last->first + last->n == i) {
            last->n++;
        } else if (count == 0) {
            Run run = { i, 1 };
            g_array_append_val(runs, run);
        }
    }
    return g_steal_pointer(&runs);
}

/*
 * From the end of the file down to the last cluster in use that stays. Who refers to a cluster must be known:
 * where its count says more, something else does, too.
 */
static bool find_last_fixed(Qcow2TrimJob *trim, uint64_t *ret_end, GError **error)
{
    Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);
    guint left = trim->movable->len;
    uint64_t count;

    trim->end = 0;
    for (*ret_end = qcow2_counts_cache_end(counts); *ret_end > 0; --*ret_end) {
        uint64_t cluster = *ret_end - 1;
        if (!qcow2_counts_cache_get(counts, cluster, &count, error)) {
            return false;
        }
        if (count == 0) {
            continue;
        }
        trim->end = MAX(trim->end, *ret_end);
        while (left > 0 && g_array_index(trim->movable, Qcow2Movable, left - 1).cluster > cluster) {
            left--;
        }
        const Qcow2Movable *movable = left > 0 ? &g_array_index(trim->movable, Qcow2Movable, left - 1) : NULL;
        if (!movable || movable->cluster != cluster || movable->n_users != count) {
            return true;
        }
    }
    return true;
}

bool qcow2_trim_find_limit(Qcow2TrimJob *trim, GError **error)
{
    uint64_t low;

    if (!find_last_fixed(trim, &low, error)) {
        return false;
    }
    g_autoptr(GArray) runs = find_free_runs(trim, error);
    uint64_t high = trim->end;
    trim->limit = low;
    if (!runs || has_room(trim, runs)) {
        return runs != NULL;
    }
    while (low + 1 < high) {
        trim->limit = low + (high - low) / 2;
        *(has_room(trim, runs) ? &high : &low) = trim->limit;
    }
    trim->limit = high;
    return true;
}
