/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A shorter file: metadata that stands behind everything else is written once more, into clusters that are
 * free before it, and the file is cut where its last cluster in use ends. The file never grows meanwhile:
 * what finds no room stays where it is.
 */
#include "image/trim-job.h"

#include "format/l2.h"
#include "image/resize.h"
#include "image/snapshot-write.h"
#include "image/tables.h"
#include "util/error.h"
#include "util/zeros.h"

/* Of these the last one is no longer halfway. */
#define MOST_TRIES 4u

static void clear_trim(Qcow2TrimJob *trim)
{
    g_clear_pointer(&trim->batch, qcow2_batch_free);
    g_clear_pointer(&trim->by_size, g_ptr_array_unref);
    g_clear_pointer(&trim->views, g_array_unref);
    g_clear_pointer(&trim->bitmaps, g_array_unref);
    g_clear_pointer(&trim->movable, g_array_unref);
    g_clear_pointer(&trim->moved, g_hash_table_unref);
}

/* ---- What can move ----------------------------------------------------------------------------- */

static void add_run(Qcow2TrimJob *trim, uint64_t host_offset, uint64_t len_bytes)
{
    uint64_t n = qcow2_div_round_up(len_bytes, trim->layout->cluster_size);

    for (uint64_t i = 0; i < n; i++) {
        Qcow2Movable movable = { (host_offset >> trim->layout->cluster_bits) + i, 1 };
        g_array_append_val(trim->movable, movable);
    }
}

static int compare_movable(const void *a, const void *b)
{
    const Qcow2Movable *x = a, *y = b;
    return x->cluster < y->cluster ? -1 : x->cluster > y->cluster;
}

/* Several L1 tables can have the same L2 table. */
static void join_users(Qcow2TrimJob *trim)
{
    GArray *movable = trim->movable;
    guint n = 0;

    g_array_sort(movable, compare_movable);
    for (guint i = 0; i < movable->len; i++) {
        Qcow2Movable *next = &g_array_index(movable, Qcow2Movable, i);
        if (n > 0 && g_array_index(movable, Qcow2Movable, n - 1).cluster == next->cluster) {
            g_array_index(movable, Qcow2Movable, n - 1).n_users += next->n_users;
        } else {
            g_array_index(movable, Qcow2Movable, n++) = *next;
        }
    }
    g_array_set_size(movable, n);
    trim->n_joined = n;
}

static bool add_view(Qcow2TrimJob *trim, const Qcow2View *view, GError **error)
{
    g_autofree uint64_t *l1 = qcow2_image_read_l1(trim->image, view, error);
    Qcow2TrimTables tables = { .view = *view };

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

static bool add_snapshots(Qcow2TrimJob *trim, GError **error)
{
    const GArray *snapshots = trim->image->snapshots;

    for (guint i = 0; i < snapshots->len; i++) {
        Qcow2View view;
        if (!qcow2_image_snapshot_view(trim->image, &g_array_index(snapshots, Qcow2SnapshotEntry, i), &view,
                                       error)
            || !add_view(trim, &view, error)) {
            return false;
        }
        trim->snapshot_table_len += qcow2_align_up(
            g_bytes_get_size(g_array_index(snapshots, Qcow2SnapshotEntry, i).raw), 8);
    }
    add_run(trim, trim->image->header.snapshots_offset, trim->snapshot_table_len);
    return true;
}

static bool add_bitmaps(Qcow2TrimJob *trim, GError **error)
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

static void add_refcounts(Qcow2TrimJob *trim)
{
    const Qcow2Header *header = &trim->image->header;
    const Qcow2CountsCache *counts = qcow2_batch_counts(trim->batch);

    add_run(trim, header->reftable_offset, header->reftable_clusters * trim->layout->cluster_size);
    for (uint64_t i = 0; i < qcow2_counts_cache_n_blocks(counts); i++) {
        uint64_t offset = qcow2_counts_cache_block(counts, i);
        add_run(trim, offset, offset ? trim->layout->cluster_size : 0);
    }
}

static int compare_sizes(const void *a, const void *b)
{
    const Qcow2TrimTables *x = *(void *const *)a, *y = *(void *const *)b;
    return x->view.l1_entries > y->view.l1_entries ? -1 : x->view.l1_entries < y->view.l1_entries;
}

static bool find_movable(Qcow2TrimJob *trim, bool with_snapshots, GError **error)
{
    Qcow2View view = qcow2_image_active_view(trim->image);

    if (!add_view(trim, &view, error) || (with_snapshots && !add_snapshots(trim, error))
        || !add_bitmaps(trim, error)) {
        return false;
    }
    add_refcounts(trim);
    join_users(trim);
    for (guint i = 0; i < trim->views->len; i++) {
        g_ptr_array_add(trim->by_size, &g_array_index(trim->views, Qcow2TrimTables, i));
    }
    g_ptr_array_sort(trim->by_size, compare_sizes);
    return true;
}

/* ---- Moving ------------------------------------------------------------------------------------ */

static bool move_table(Qcow2TrimJob *trim, uint64_t old, uint64_t *ret_fresh, uint8_t *buffer, GError **error)
{
    uint64_t cluster_size = trim->layout->cluster_size;
    guint index = qcow2_trim_find(trim, old >> trim->layout->cluster_bits);
    uint64_t n_users = g_array_index(trim->movable, Qcow2Movable, index).n_users;

    *ret_fresh = qcow2_batch_take(trim->batch, 1, error);
    if (n_users > 1) {
        g_hash_table_insert(trim->moved, g_memdup2(&old, sizeof(old)), g_memdup2(ret_fresh, sizeof(old)));
    }
    return *ret_fresh != 0
        && qcow2_io_read(trim->image->file, old, buffer, cluster_size, error)
        && qcow2_batch_write(trim->batch, *ret_fresh, buffer, cluster_size, error)
        && qcow2_batch_add(trim->batch, *ret_fresh, cluster_size, (int)n_users - 1, error);
}

static bool move_view(Qcow2TrimJob *trim, const Qcow2TrimTables *tables, uint8_t *buffer, GError **error)
{
    const Qcow2View *view = &tables->view;
    g_autofree uint64_t *l1 = qcow2_image_read_l1(trim->image, view, error);

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

/* L1 tables first, the longest one of them at that: they can need several clusters in a row. */
static bool place_l1_tables(Qcow2TrimJob *trim, GError **error)
{
    for (guint i = 0; i < trim->by_size->len; i++) {
        Qcow2TrimTables *tables = trim->by_size->pdata[i];
        tables->place = tables->view.l1_offset;
        if (qcow2_trim_view_moves(trim, tables)
            && !qcow2_batch_take_for(trim->batch, tables->view.l1_entries * 8, &tables->place, error)) {
            return false;
        }
    }
    qcow2_batch_header(trim->batch)->l1_offset = g_array_index(trim->views, Qcow2TrimTables, 0).place;
    return true;
}

static bool move_tables(Qcow2TrimJob *trim, GError **error)
{
    g_autofree uint8_t *buffer = g_try_malloc(trim->layout->cluster_size);

    if (!buffer) {
        return qcow2_fail_memory(error, trim->layout->cluster_size, "an L2 table");
    }
    for (guint i = 0; i < trim->views->len; i++) {
        const Qcow2TrimTables *tables = &g_array_index(trim->views, Qcow2TrimTables, i);
        if (qcow2_trim_view_moves(trim, tables) && !move_view(trim, tables, buffer, error)) {
            return false;
        }
    }
    return true;
}

static bool move_snapshot_table(Qcow2TrimJob *trim, GError **error)
{
    const GArray *snapshots = trim->image->snapshots;
    uint64_t table_end = trim->image->header.snapshots_offset + trim->snapshot_table_len;
    bool moves = qcow2_trim_ends_behind(trim, table_end);
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(trim->image);

    for (guint i = 1; i < trim->views->len; i++) {
        const Qcow2TrimTables *tables = &g_array_index(trim->views, Qcow2TrimTables, i);
        const Qcow2SnapshotEntry *entry = &g_array_index(snapshots, Qcow2SnapshotEntry, i - 1);
        if (!qcow2_trim_view_moves(trim, tables)) {
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
static bool move_refcounts(Qcow2TrimJob *trim, GError **error)
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

static bool move_behind(Qcow2TrimJob *trim, bool *ret_moved, GError **error)
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

/* Halfway to @goal, and there in the end. */
static uint64_t approach(uint64_t limit, uint64_t goal)
{
    return goal - limit <= 2 ? goal : limit + (goal - limit) / 2;
}

static bool begin_again(Qcow2TrimJob *trim, GError **error)
{
    g_hash_table_remove_all(trim->moved);
    qcow2_batch_free(trim->batch);
    trim->batch = qcow2_batch_begin_low(trim->image, error);
    return trim->batch != NULL;
}

/*
 * What does not fit in full may do so in part. Where the file was as long as @old_size before its last batch,
 * there is room for what that wrote: the tables that it replaced were there.
 */
static bool move_what_fits(Qcow2TrimJob *trim, uint64_t old_size, bool *ret_moved, GError **error)
{
    uint64_t old_end = qcow2_div_round_up(old_size, trim->layout->cluster_size);
    unsigned n_tries = 0;

    *ret_moved = false;
    while (trim->limit < trim->end) {
        if (!move_behind(trim, ret_moved, error)) {
            return false;
        }
        if (*ret_moved) {
            return true;
        }
        bool to_old_end = trim->limit < old_end && old_end < trim->end;
        uint64_t goal = to_old_end ? old_end : trim->end;
        trim->limit = ++n_tries % MOST_TRIES == 0 ? goal : approach(trim->limit, goal);
        if (!begin_again(trim, error)) {
            return false;
        }
    }
    return true;
}

static bool move_metadata(Qcow2Image *image, bool with_snapshots, uint64_t old_size, bool *ret_moved,
                          GError **error)
{
    Qcow2TrimJob trim = {
        .image = image,
        .layout = &image->header.layout,
        .batch = qcow2_batch_begin_low(image, error),
        .views = g_array_new(FALSE, FALSE, sizeof(Qcow2TrimTables)),
        .by_size = g_ptr_array_new(),
        .bitmaps = g_array_new(FALSE, FALSE, sizeof(Qcow2BitmapPlace)),
        .movable = g_array_new(FALSE, FALSE, sizeof(Qcow2Movable)),
        .moved = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free),
    };
    *ret_moved = false;
    bool ok = trim.batch && qcow2_image_load_snapshots(image, error)
           && find_movable(&trim, with_snapshots, error) && qcow2_trim_find_limit(&trim, error)
           && move_what_fits(&trim, old_size, ret_moved, error);

    clear_trim(&trim);
    return ok;
}

static bool cut(Qcow2Image *image, uint64_t *ret_size, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);

    return batch && qcow2_batch_cut_end(batch, error) && qcow2_io_get_size(image->file, ret_size, error);
}

/* QEMU ends a file with the last byte that it wrote, a batch with the last cluster. */
static bool cut_last_cluster(Qcow2Image *image, uint64_t size, uint64_t old_size, GError **error)
{
    uint64_t cluster_size = image->header.layout.cluster_size;

    if (size <= old_size || size != qcow2_align_up(old_size, cluster_size)) {
        return true;
    }
    uint64_t len = size - old_size;
    g_autofree uint8_t *tail = g_try_malloc(len);
    if (!tail) {
        return qcow2_fail_memory(error, len, "the last cluster");
    }
    if (!qcow2_io_read(image->file, old_size, tail, len, error)) {
        return false;
    }
    return !qcow2_is_zero(tail, len) || qcow2_io_truncate(image->file, old_size, error);
}

bool qcow2_image_trim_back(Qcow2Image *image, bool with_snapshots, uint64_t old_size, GError **error)
{
    uint64_t size, before;
    bool moved;

    if (!cut(image, &size, error)) {
        return false;
    }
    /* What moved has left room where it was named: more may fit now. */
    do {
        before = size;
        if (!move_metadata(image, with_snapshots, old_size, &moved, error)
            || (moved && !cut(image, &size, error))) {
            return false;
        }
    } while (size < before);
    return cut_last_cluster(image, size, old_size, error);
}

bool qcow2_image_trim_end(Qcow2Image *image, bool with_snapshots, GError **error)
{
    return qcow2_image_trim_back(image, with_snapshots, 0, error);
}
