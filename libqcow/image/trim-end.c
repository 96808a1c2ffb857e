/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A shorter file: metadata that stands behind everything else is written once more, into clusters that are
 * free before it, and the file is cut where its last cluster in use ends. The file never grows meanwhile:
 * what finds no room stays where it is.
 */
#include "format/l2.h"
#include "image/bitmap-move.h"
#include "image/resize.h"
#include "image/snapshot-write.h"
#include "image/tables.h"
#include "util/error.h"

/* The tables of the active layer, or of a snapshot. */
typedef struct Tables {
    Qcow2View view;
    uint64_t tables_end;      /* where the last of its L2 tables ends, host bytes */
    uint64_t place;           /* of the L1 table as it will be */
} Tables;

/* Metadata that can move. */
typedef struct Movable {
    uint64_t cluster, n_users;
} Movable;

typedef struct Trim {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2Batch *batch;
    GArray *views;            /* Tables; the active layer's, then those of the snapshots that may move */
    GArray *bitmaps;          /* Qcow2BitmapPlace */
    GArray *movable;          /* Movable, in host order when all are found */
    guint n_joined;           /* of these, when they were joined last */
    GHashTable *moved;        /* host offset of an L2 table -> that of the new one */
    uint64_t end;             /* host clusters: where the last one in use ends */
    uint64_t limit;           /* what ends behind this moves */
} Trim;

static void clear_trim(Trim *trim)
{
    g_clear_pointer(&trim->batch, qcow2_batch_free);
    g_clear_pointer(&trim->views, g_array_unref);
    g_clear_pointer(&trim->bitmaps, g_array_unref);
    g_clear_pointer(&trim->movable, g_array_unref);
    g_clear_pointer(&trim->moved, g_hash_table_unref);
}

/* ---- What can move ----------------------------------------------------------------------------- */

static void add_run(Trim *trim, uint64_t host_offset, uint64_t len_bytes)
{
    uint64_t n = qcow2_div_round_up(len_bytes, trim->layout->cluster_size);

    for (uint64_t i = 0; i < n; i++) {
        Movable movable = { (host_offset >> trim->layout->cluster_bits) + i, 1 };
        g_array_append_val(trim->movable, movable);
    }
}

static int compare_movable(const void *a, const void *b)
{
    const Movable *x = a, *y = b;
    return x->cluster < y->cluster ? -1 : x->cluster > y->cluster;
}

/* Several L1 tables can have the same L2 table. */
static void join_users(Trim *trim)
{
    GArray *movable = trim->movable;
    guint n = 0;

    g_array_sort(movable, compare_movable);
    for (guint i = 0; i < movable->len; i++) {
        Movable *next = &g_array_index(movable, Movable, i);
        if (n > 0 && g_array_index(movable, Movable, n - 1).cluster == next->cluster) {
            g_array_index(movable, Movable, n - 1).n_users += next->n_users;
        } else {
            g_array_index(movable, Movable, n++) = *next;
        }
    }
    g_array_set_size(movable, n);
    trim->n_joined = n;
}

static uint64_t *read_l1(const Trim *trim, const Qcow2View *view, GError **error)
{
    g_autofree uint64_t *l1 = g_try_malloc(MAX(view->l1_entries, 1) * 8);

    if (!l1) {
        qcow2_fail_memory(error, view->l1_entries * 8, "the L1 table");
        return NULL;
    }
    if (!qcow2_io_read(trim->image->file, view->l1_offset, l1, view->l1_entries * 8, error)) {
        g_prefix_error(error, "L1 table: ");
        return NULL;
    }
    return g_steal_pointer(&l1);
}

static bool add_view(Trim *trim, const Qcow2View *view, GError **error)
{
    g_autofree uint64_t *l1 = read_l1(trim, view, error);
    Tables tables = { .view = *view };

    for (uint64_t i = 0; l1 && i < view->l1_entries; i++) {
        uint64_t offset = GUINT64_FROM_BE(l1[i]) & L1E_OFFSET;
        if (!qcow2_is_cluster_aligned(trim->layout, offset)) {
            return qcow2_corrupt(error, "L1 table: entry %" PRIu64 " is 0x%016" PRIx64
                                 "; run qcow-check -r all", i, GUINT64_FROM_BE(l1[i]));
        }
        if (offset != 0) {
            add_run(trim, offset, trim->layout->cluster_size);
            tables.tables_end = MAX(tables.tables_end, offset + trim->layout->cluster_size);
        }
    }
    add_run(trim, view->l1_offset, view->l1_entries * 8);
    g_array_append_val(trim->views, tables);
    /* Thousands of snapshots that share their tables take no more memory than a few. */
    if (trim->movable->len / 2 > trim->n_joined) {
        join_users(trim);
    }
    return l1 != NULL;
}

static uint64_t snapshot_table_len(const Trim *trim)
{
    const GArray *snapshots = trim->image->snapshots;
    uint64_t len = 0;

    for (guint i = 0; i < snapshots->len; i++) {
        len += qcow2_align_up(g_bytes_get_size(g_array_index(snapshots, Qcow2SnapshotEntry, i).raw), 8);
    }
    return len;
}

static bool add_snapshots(Trim *trim, GError **error)
{
    const GArray *snapshots = trim->image->snapshots;

    for (guint i = 0; i < snapshots->len; i++) {
        Qcow2View view;
        if (!qcow2_image_snapshot_view(trim->image, &g_array_index(snapshots, Qcow2SnapshotEntry, i), &view,
                                       error)
            || !add_view(trim, &view, error)) {
            return false;
        }
    }
    add_run(trim, trim->image->header.snapshots_offset, snapshot_table_len(trim));
    return true;
}

static bool add_bitmaps(Trim *trim, GError **error)
{
    g_autoptr(GArray) bits = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    if (!qcow2_image_locate_bitmaps(trim->image, trim->bitmaps, bits, error)) {
        return false;
    }
    for (guint i = 0; i < bits->len; i++) {
        add_run(trim, g_array_index(bits, uint64_t, i), trim->layout->cluster_size);
    }
    for (guint i = 0; i < trim->bitmaps->len; i++) {
        const Qcow2BitmapPlace *place = &g_array_index(trim->bitmaps, Qcow2BitmapPlace, i);
        add_run(trim, place->table_offset, place->table_len);
    }
    if (trim->bitmaps->len > 0) {
        add_run(trim, trim->image->header.bitmap_directory_offset,
                trim->image->header.bitmap_directory_size);
    }
    return true;
}

static void add_refcounts(Trim *trim)
{
    const Qcow2Header *header = &trim->image->header;
    const Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);

    add_run(trim, header->reftable_offset, header->reftable_clusters * trim->layout->cluster_size);
    for (uint64_t i = 0; i < qcow2_counts_cache_n_blocks(counts); i++) {
        uint64_t offset = qcow2_counts_cache_block(counts, i);
        add_run(trim, offset, offset ? trim->layout->cluster_size : 0);
    }
}

static bool find_movable(Trim *trim, bool with_snapshots, GError **error)
{
    Qcow2View view = qcow2_image_active_view(trim->image);

    if (!add_view(trim, &view, error) || (with_snapshots && !add_snapshots(trim, error))
        || !add_bitmaps(trim, error)) {
        return false;
    }
    add_refcounts(trim);
    join_users(trim);
    return true;
}

/* ---- How far down ------------------------------------------------------------------------------ */

/* The first movable cluster at or behind this one, as an index. */
static guint find(const Trim *trim, uint64_t cluster)
{
    guint low = 0, high = trim->movable->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (g_array_index(trim->movable, Movable, middle).cluster < cluster) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/*
 * From the end of the file down to the last cluster in use that stays. Who refers to a cluster must be known:
 * where its count says more, something else does, too.
 */
static bool find_last_fixed(Trim *trim, uint64_t *ret_end, GError **error)
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
        while (left > 0 && g_array_index(trim->movable, Movable, left - 1).cluster > cluster) {
            left--;
        }
        const Movable *movable = left > 0 ? &g_array_index(trim->movable, Movable, left - 1) : NULL;
        if (!movable || movable->cluster != cluster || movable->n_users != count) {
            return true;
        }
    }
    return true;
}

static bool ends_behind(const Trim *trim, uint64_t end_bytes)
{
    return end_bytes > trim->limit << trim->layout->cluster_bits;
}

static bool view_moves(const Trim *trim, const Tables *tables)
{
    uint64_t l1_end = tables->view.l1_entries ? tables->view.l1_offset + tables->view.l1_entries * 8 : 0;

    return ends_behind(trim, MAX(l1_end, tables->tables_end));
}

/* Clusters of a run before the limit. */
static uint64_t n_before(const Trim *trim, uint64_t host_offset, uint64_t len_bytes)
{
    uint64_t first = host_offset >> trim->layout->cluster_bits;
    uint64_t n = qcow2_div_round_up(len_bytes, trim->layout->cluster_size);

    return first < trim->limit ? MIN(n, trim->limit - first) : 0;
}

/* Clusters before the limit of a table that is written anew when it names something behind the limit. */
static uint64_t count_l1_tables(const Trim *trim)
{
    uint64_t n = 0;

    for (guint i = 0; i < trim->views->len; i++) {
        const Tables *tables = &g_array_index(trim->views, Tables, i);
        if (view_moves(trim, tables)) {
            n += n_before(trim, tables->view.l1_offset, tables->view.l1_entries * 8);
        }
    }
    return n;
}

static uint64_t count_bitmap_tables(const Trim *trim)
{
    const Qcow2Header *header = &trim->image->header;
    bool any = false;
    uint64_t n = 0;

    for (guint i = 0; i < trim->bitmaps->len; i++) {
        const Qcow2BitmapPlace *place = &g_array_index(trim->bitmaps, Qcow2BitmapPlace, i);
        if (ends_behind(trim, MAX(place->table_offset + place->table_len, place->bits_end))) {
            n += n_before(trim, place->table_offset, place->table_len);
            any = true;
        }
    }
    return n + (any ? n_before(trim, header->bitmap_directory_offset, header->bitmap_directory_size) : 0);
}

static uint64_t count_parents(const Trim *trim)
{
    const Qcow2Header *header = &trim->image->header;
    uint64_t reftable_len = header->reftable_clusters * trim->layout->cluster_size;
    bool has_snapshots = trim->views->len > 1;

    return count_l1_tables(trim) + count_bitmap_tables(trim)
           + n_before(trim, header->reftable_offset, reftable_len)
           + (has_snapshots ? n_before(trim, header->snapshots_offset, snapshot_table_len(trim)) : 0);
}

/* Where a block is; 0: nowhere. */
static uint64_t block_cluster(const Trim *trim, uint64_t index)
{
    const Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);
    bool exists = index < qcow2_counts_cache_n_blocks(counts);

    return exists ? qcow2_counts_cache_block(counts, index) >> trim->layout->cluster_bits : 0;
}

static bool block_is_before(const Trim *trim, uint64_t index)
{
    uint64_t cluster = block_cluster(trim, index);

    return cluster != 0 && cluster < trim->limit;
}

/* Blocks behind the limit that count nothing before it: they are empty when the rest has moved. */
static uint64_t n_vanishing(const Trim *trim)
{
    uint64_t per_block = BIT(trim->layout->refblock_bits), first = qcow2_div_round_up(trim->limit, per_block);
    uint64_t end = qcow2_counts_cache_n_blocks(qcow2_batch_counts(trim->batch)), n = 0;

    for (uint64_t i = first; i < end; i++) {
        n += block_cluster(trim, i) >= trim->limit;
    }
    return n;
}

/* Is there room before the limit for all that moves then? A block that counts a cluster anew moves, too. */
static bool has_room(const Trim *trim, bool *ret_has_room, GError **error)
{
    uint64_t n_behind = trim->movable->len - find(trim, trim->limit);
    uint64_t last_block = trim->limit >> trim->layout->refblock_bits, n_free = 0, counted = UINT64_MAX;
    uint64_t needed = n_behind - n_vanishing(trim) + count_parents(trim) + block_is_before(trim, last_block);

    for (uint64_t i = 0; i < trim->limit && n_free < needed; i++) {
        uint64_t block = i >> trim->layout->refblock_bits, count;
        if (!qcow2_counts_cache_get(qcow2_batch_counts(trim->batch), i, &count, error)) {
            return false;
        }
        n_free += count == 0;
        if (count == 0 && block != counted) {
            counted = block;
            needed += block != last_block && block_is_before(trim, block);
        }
    }
    *ret_has_room = n_free >= needed;
    return true;
}

/* The lowest limit for which there is room. */
static bool find_limit(Trim *trim, GError **error)
{
    uint64_t low, high;
    bool fits;

    if (!find_last_fixed(trim, &low, error)) {
        return false;
    }
    high = trim->end;
    trim->limit = low;
    if (!has_room(trim, &fits, error)) {
        return false;
    }
    if (fits) {
        return true;
    }
    while (low + 1 < high) {
        trim->limit = low + (high - low) / 2;
        if (!has_room(trim, &fits, error)) {
            return false;
        }
        *(fits ? &high : &low) = trim->limit;
    }
    trim->limit = high;
    return true;
}

/* ---- Moving ------------------------------------------------------------------------------------ */

static bool move_table(Trim *trim, uint64_t old, uint64_t *ret_fresh, uint8_t *buffer, GError **error)
{
    uint64_t cluster_size = trim->layout->cluster_size;
    guint index = find(trim, old >> trim->layout->cluster_bits);
    uint64_t n_users = g_array_index(trim->movable, Movable, index).n_users;

    *ret_fresh = qcow2_batch_take(trim->batch, 1, error);
    if (n_users > 1) {
        g_hash_table_insert(trim->moved, g_memdup2(&old, sizeof(old)), g_memdup2(ret_fresh, sizeof(old)));
    }
    return *ret_fresh != 0
        && qcow2_io_read(trim->image->file, old, buffer, cluster_size, error)
        && qcow2_batch_write(trim->batch, *ret_fresh, buffer, cluster_size, error)
        && qcow2_batch_add(trim->batch, *ret_fresh, cluster_size, (int)n_users - 1, error);
}

static bool move_view(Trim *trim, const Tables *tables, uint8_t *buffer, GError **error)
{
    const Qcow2View *view = &tables->view;
    g_autofree uint64_t *l1 = read_l1(trim, view, error);

    for (uint64_t i = 0; l1 && i < view->l1_entries; i++) {
        uint64_t raw = GUINT64_FROM_BE(l1[i]), old = raw & L1E_OFFSET, fresh;
        if (old >> trim->layout->cluster_bits < trim->limit || old == 0) {
            continue;
        }
        const uint64_t *known = g_hash_table_lookup(trim->moved, &old);
        fresh = known ? *known : 0;
        if ((!known && !move_table(trim, old, &fresh, buffer, error))
            || !qcow2_batch_add(trim->batch, old, trim->layout->cluster_size, -1, error)) {
            return false;
        }
        l1[i] = GUINT64_TO_BE(raw - old + fresh);
    }
    return l1
        && qcow2_batch_write(trim->batch, tables->place, l1, view->l1_entries * 8, error)
        && qcow2_batch_add(trim->batch, view->l1_offset, view->l1_entries * 8, -1, error);
}

/* L1 tables first: they can need several clusters in a row. */
static bool place_l1_tables(Trim *trim, GError **error)
{
    for (guint i = 0; i < trim->views->len; i++) {
        Tables *tables = &g_array_index(trim->views, Tables, i);
        tables->place = tables->view.l1_offset;
        if (view_moves(trim, tables)
            && !qcow2_batch_take_for(trim->batch, tables->view.l1_entries * 8, &tables->place, error)) {
            return false;
        }
    }
    qcow2_batch_header(trim->batch)->l1_offset = g_array_index(trim->views, Tables, 0).place;
    return true;
}

static bool move_tables(Trim *trim, GError **error)
{
    g_autofree uint8_t *buffer = g_try_malloc(trim->layout->cluster_size);

    if (!buffer) {
        return qcow2_fail_memory(error, trim->layout->cluster_size, "an L2 table");
    }
    for (guint i = 0; i < trim->views->len; i++) {
        const Tables *tables = &g_array_index(trim->views, Tables, i);
        if (view_moves(trim, tables) && !move_view(trim, tables, buffer, error)) {
            return false;
        }
    }
    return true;
}

static bool move_snapshot_table(Trim *trim, GError **error)
{
    const GArray *snapshots = trim->image->snapshots;
    bool moves = ends_behind(trim, trim->image->header.snapshots_offset + snapshot_table_len(trim));
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(trim->image);

    for (guint i = 1; i < trim->views->len; i++) {
        const Tables *tables = &g_array_index(trim->views, Tables, i);
        const Qcow2SnapshotEntry *entry = &g_array_index(snapshots, Qcow2SnapshotEntry, i - 1);
        if (!view_moves(trim, tables)) {
            continue;
        }
        GBytes *moved = qcow2_snapshot_entry_with_vm_state(entry->raw, tables->place, entry->l1_entries,
                                                           entry->info.vm_state_size, error);
        if (!moved) {
            return false;
        }
        g_bytes_unref(entries->pdata[i - 1]);
        entries->pdata[i - 1] = moved;
        moves = true;
    }
    return trim->views->len == 1 || !moves
        || qcow2_batch_set_snapshots(trim->batch, trim->image, entries, error);
}

/* The refcount table moves in every batch. */
static bool move_refcounts(Trim *trim, GError **error)
{
    Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);

    for (uint64_t i = 0; i < qcow2_counts_cache_n_blocks(counts); i++) {
        uint64_t offset = qcow2_counts_cache_block(counts, i);
        if (offset >> trim->layout->cluster_bits >= trim->limit
            && !qcow2_counts_cache_touch(counts, i, error)) {
            return false;
        }
    }
    return true;
}

static bool move_behind(Trim *trim, bool *ret_moved, GError **error)
{
    uint64_t limit_bytes = trim->limit << trim->layout->cluster_bits;

    qcow2_batch_keep_below(trim->batch, trim->limit);
    return place_l1_tables(trim, error)
        && move_snapshot_table(trim, error)
        && qcow2_batch_move_bitmaps(trim->batch, trim->image, limit_bytes, error)
        && move_tables(trim, error)
        && move_refcounts(trim, error)
        && qcow2_batch_commit_in_file(trim->batch, ret_moved, error);
}

/* ---- The whole --------------------------------------------------------------------------------- */

static bool move_metadata(Qcow2Image *image, bool with_snapshots, bool *ret_moved, GError **error)
{
    Trim trim = {
        .image = image,
        .layout = &image->header.layout,
        .batch = qcow2_batch_begin_low(image, error),
        .views = g_array_new(FALSE, FALSE, sizeof(Tables)),
        .bitmaps = g_array_new(FALSE, FALSE, sizeof(Qcow2BitmapPlace)),
        .movable = g_array_new(FALSE, FALSE, sizeof(Movable)),
        .moved = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free),
    };
    *ret_moved = false;
    bool ok = trim.batch && qcow2_image_load_snapshots(image, error)
           && find_movable(&trim, with_snapshots, error) && find_limit(&trim, error)
           && (trim.limit >= trim.end || move_behind(&trim, ret_moved, error));

    clear_trim(&trim);
    return ok;
}

static bool cut(Qcow2Image *image, uint64_t *ret_size, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);

    return batch && qcow2_batch_cut_end(batch, error) && qcow2_io_get_size(image->file, ret_size, error);
}

bool qcow2_image_trim_end(Qcow2Image *image, bool with_snapshots, GError **error)
{
    uint64_t size, before;
    bool moved;

    if (!cut(image, &size, error)) {
        return false;
    }
    /* What moved has left room where it was named: more may fit now. */
    do {
        before = size;
        if (!move_metadata(image, with_snapshots, &moved, error) || (moved && !cut(image, &size, error))) {
            return false;
        }
    } while (size < before);
    return true;
}
