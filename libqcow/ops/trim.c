/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trim: clusters that read the same without them leave the image, those of its snapshots too.
 *
 *   step                                                   a crash afterwards leaves
 *   1  new tables without them, new counts; flush          the image as it was, its file perhaps longer
 *   2  one header write; flush                             the image as it shall be
 *   3  metadata moves into free space, the file is cut;    the same
 *      with shrink, free space in the file is given back
 */
#include <string.h>

#include "format/l2.h"
#include "image/resize.h"
#include "image/rewrite-tables.h"
#include "image/snapshot-write.h"
#include "ops/rehearse.h"
#include "ops/shrink.h"
#include "state/same-bytes.h"
#include "util/error.h"
#include "util/progress.h"

/* Guest bytes that are looked at between two looks at the progress. */
#define WINDOW (UINT64_C(64) << 20)

typedef struct Trim {
    Qcow2Chain *chain;
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2Batch *batch;
    bool has_below, rehearsing;
    uint64_t n_empty_tables;      /* which go as a whole */
    uint64_t used_before;         /* clusters of the file */
    uint64_t n_in_data_file;      /* clusters of a data file that are given up */
    guint snapshot;               /* of the states at hand: */
    Qcow2State *state, *below, *empty;
    Qcow2Progress *progress;
    Qcow2TrimResult result;
} Trim;

static void clear_states(Trim *self)
{
    g_clear_pointer(&self->state, qcow2_state_free);
    g_clear_pointer(&self->below, qcow2_state_free);
    g_clear_pointer(&self->empty, qcow2_state_free);
}

/* The state that the table at hand belongs to, and what it would read as without it. */
static bool open_states(Trim *self, guint snapshot, GError **error)
{
    if (self->state && self->snapshot == snapshot) {
        return true;
    }
    clear_states(self);
    self->snapshot = snapshot;
    self->state = qcow2_state_open_at(self->chain, snapshot, error);
    self->below = self->state ? qcow2_state_open(self->chain, "@backing", error) : NULL;
    self->empty = self->below ? qcow2_state_open(self->chain, "@empty", error) : NULL;
    if (!self->empty) {
        return false;
    }
    self->below->size = self->empty->size = self->state->size;
    return true;
}

/* ---- One table --------------------------------------------------------------------------------- */

typedef enum { ANY_ENTRY, PLACED_ENTRY } Kind;

/* Zeros can have a place, too: QEMU keeps it for what is written there next. */
static bool has_place(const uint8_t *entry)
{
    /* Offset 0 is a place in a data file; the COPIED flag tells it from none. */
    return (qcow2_load_be64(entry) & (L2E_COMPRESSED | L2E_HOST_OFFSET | L2E_COPIED)) != 0;
}

static bool entry_is(const Trim *self, const uint8_t *entry, Kind kind)
{
    uint64_t bitmap = self->layout->extended_l2 ? qcow2_load_be64(entry + 8) : 0;

    return has_place(entry) || (kind == ANY_ENTRY && (qcow2_load_be64(entry) != 0 || bitmap != 0));
}

/* Guest ranges of the entries [first, end) that say something, before the end of the state. */
static GArray *find_entries(const Trim *self, const Qcow2RewrittenTable *table, uint64_t first, uint64_t end,
                            Kind kind)
{
    unsigned bits = self->layout->cluster_bits;
    /* Where the smallest of its states ends, the others may go on in the same cluster. */
    uint64_t limit = table->n_users > 1 ? qcow2_align_down(table->min_size, self->layout->cluster_size)
                                        : self->state->size;
    GArray *ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));

    for (uint64_t i = first; i < end; i++) {
        uint64_t start = table->guest_start + (i << bits);
        if (entry_is(self, table->bytes + i * self->layout->l2_entry_size, kind)) {
            qcow2_ranges_push(ranges, start, MIN(start + self->layout->cluster_size, limit));
        }
    }
    return ranges;
}

/* The units of @all that are not in @kept; both are sorted. */
static GArray *subtract(const Trim *self, const GArray *all, const GArray *kept)
{
    GArray *result = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    uint64_t unit = self->layout->cluster_size;
    guint j = 0;

    for (guint i = 0; i < all->len; i++) {
        const Qcow2Range *range = &g_array_index(all, Qcow2Range, i);
        uint64_t start = range->start;
        while (j < kept->len && g_array_index(kept, Qcow2Range, j).start < range->end) {
            const Qcow2Range *hole = &g_array_index(kept, Qcow2Range, j);
            qcow2_ranges_push(result, start, qcow2_align_down(hole->start, unit));
            start = MAX(start, qcow2_align_up(hole->end, unit));
            if (hole->end > range->end) {
                break;
            }
            j++;
        }
        if (start < range->end) {
            qcow2_ranges_push(result, start, range->end);
        }
    }
    return result;
}

/* Those of @ranges in which the state reads as @other does. */
static GArray *find_same(Trim *self, Qcow2State *other, const GArray *ranges, GError **error)
{
    g_autoptr(GArray) kept = g_array_copy((GArray *)ranges);

    return qcow2_drop_same_bytes(self->state, other, self->layout->cluster_size, self->image->n_threads, kept,
                                 self->progress, error)
         ? subtract(self, ranges, kept) : NULL;
}

static bool change_entries(Trim *self, Qcow2RewrittenTable *table, const GArray *ranges, bool to_zero,
                           bool *ret_changed, GError **error)
{
    unsigned bits = self->layout->cluster_bits;

    for (guint i = 0; i < ranges->len; i++) {
        const Qcow2Range *range = &g_array_index(ranges, Qcow2Range, i);
        uint64_t first = (range->start - table->guest_start) >> bits;
        uint64_t end = qcow2_div_round_up(range->end - table->guest_start, self->layout->cluster_size);
        for (uint64_t j = first; j < end; j++) {
            uint8_t *entry = table->bytes + j * self->layout->l2_entry_size;
            self->n_in_data_file += self->layout->has_data_file && has_place(entry);
            if (!qcow2_table_clear_entry(self->batch, table, j, error)) {
                return false;
            }
            if (to_zero && self->layout->extended_l2) {
                qcow2_store_be64(entry + 8, (uint64_t)UINT32_MAX << 32);
            } else if (to_zero) {
                qcow2_store_be64(entry, L2E_ZERO);
            }
        }
        self->result.clusters += end - first;
        self->result.bytes += range->end - range->start;
        *ret_changed = true;
    }
    return true;
}

static bool drop_same_as_below(Trim *self, Qcow2RewrittenTable *table, const GArray *ranges,
                               bool *ret_changed, GError **error)
{
    g_autoptr(GArray) same = ranges->len ? find_same(self, self->below, ranges, error) : NULL;

    return ranges->len == 0 || (same && change_entries(self, table, same, false, ret_changed, error));
}

/* Zeros over something else need an entry, but no cluster. */
static bool empty_zeros(Trim *self, Qcow2RewrittenTable *table, const GArray *ranges, bool *ret_changed,
                        GError **error)
{
    if (!self->has_below || self->layout->version < 3 || ranges->len == 0) {
        return true;
    }
    g_autoptr(GArray) same = find_same(self, self->empty, ranges, error);
    return same && change_entries(self, table, same, true, ret_changed, error);
}

static uint64_t count_bytes(const GArray *ranges)
{
    uint64_t n = 0;

    for (guint i = 0; i < ranges->len; i++) {
        n += g_array_index(ranges, Qcow2Range, i).end - g_array_index(ranges, Qcow2Range, i).start;
    }
    return n;
}

static bool trim_entries(Trim *self, Qcow2RewrittenTable *table, uint64_t first, uint64_t end,
                         bool *ret_changed, GError **error)
{
    g_autoptr(GArray) all = find_entries(self, table, first, end, ANY_ENTRY);

    if (!drop_same_as_below(self, table, all, ret_changed, error)) {
        return false;
    }
    g_autoptr(GArray) placed = find_entries(self, table, first, end, PLACED_ENTRY);
    return empty_zeros(self, table, placed, ret_changed, error)
        && qcow2_progress_advance(self->progress, count_bytes(all), error);
}

static bool trim_table(Qcow2RewrittenTable *table, bool *ret_changed, void *data, GError **error)
{
    Trim *self = data;
    uint64_t n = BIT(self->layout->l2_bits), step = MAX(1, WINDOW >> self->layout->cluster_bits);

    if (!open_states(self, table->snapshot, error)) {
        return false;
    }
    for (uint64_t first = 0; first < n; first += step) {
        if (!trim_entries(self, table, first, MIN(first + step, n), ret_changed, error)) {
            return false;
        }
    }
    if (qcow2_table_is_empty(self->layout, table->bytes)) {
        self->n_empty_tables++;
        *ret_changed = true;
    }
    return true;
}

/* ---- The image --------------------------------------------------------------------------------- */

/* Over other layers than the image names something else would read the same without. */
static bool check_backing(const Qcow2Chain *chain, GError **error)
{
    const Qcow2Layer *layer = qcow2_chain_layer(chain, 0);

    return (!layer->place->no_backing && !layer->place->backing && !layer->below_was_given)
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "an image is trimmed over the backing file that it names; leave \"backing\" out of the"
                      " image name");
}

static bool check_image(Qcow2Image *image, GError **error)
{
    if (image->kind != QCOW2_IMAGE_QCOW2) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "only qcow2 images are trimmed");
    }
    if (image->header.autoclear & QCOW2_AUTOCLEAR_RAW_DATA) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "its data file is a raw image, which has to hold everything");
    }
    return qcow2_image_check_readable(image, error) && qcow2_image_load_snapshots(image, error);
}

static bool count_used(Qcow2Batch *batch, uint64_t *ret_n, GError **error)
{
    Qcow2CountsCache *counts = qcow2_batch_counts(batch);
    uint64_t end = qcow2_counts_cache_end(counts), count;

    *ret_n = 0;
    for (uint64_t i = 0; i < end; i++) {
        if (!qcow2_counts_cache_get(counts, i, &count, error)) {
            return false;
        }
        *ret_n += count > 0;
    }
    return true;
}

/*
 * Tables without what went are no larger than before, and what they replace is free then: the file gets its
 * length back. Unless something else counts as a user of it, a leak: where more of it stays than is freed
 * nothing is written.
 */
static bool commit_gain(Trim *self, GError **error)
{
    uint64_t used;

    if (!qcow2_batch_fix_active_flags(self->batch, self->image, error)
        || !qcow2_batch_count_taken(self->batch, error) || !count_used(self->batch, &used, error)) {
        return false;
    }
    if (used > self->used_before) {
        self->result.clusters = self->result.bytes = self->n_empty_tables = self->n_in_data_file = 0;
        return true;
    }
    return self->rehearsing ? qcow2_batch_rehearse(self->batch, error)
                            : qcow2_batch_commit(self->batch, error);
}

static bool drop_clusters(Trim *self, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);

    self->batch = batch;
    if (!batch || !count_used(batch, &self->used_before, error)) {
        return false;
    }
    qcow2_progress_expect(self->progress, self->used_before << self->layout->cluster_bits);
    return qcow2_batch_rewrite_tables(batch, self->image, trim_table, self, self->progress, error)
        && (self->result.clusters + self->n_empty_tables == 0 || commit_gain(self, error));
}

/* ---- The room for it --------------------------------------------------------------------------- */

static bool rehearse(void *data, GError **error)
{
    const Trim *whole = data;
    Trim self = *whole;

    self.rehearsing = true;
    self.progress = NULL;
    bool ok = drop_clusters(&self, error);
    clear_states(&self);
    return ok;
}

/* A Qcow2NeedFunc. What shrinking needs is not looked for: it gives back what it can. */
static bool need(void *data, Qcow2NeedStep step, Qcow2Room *room, GError **error)
{
    Trim *self = data;
    const GArray *snapshots = self->image->snapshots;
    uint64_t size = self->image->size;

    if (step == QCOW2_NEED_BY_REHEARSAL) {
        return qcow2_rehearse(self->image, rehearse, self, room, error);
    }
    for (guint i = 0; i < snapshots->len; i++) {
        size = MAX(size, g_array_index(snapshots, Qcow2SnapshotEntry, i).info.disk_size);
    }
    return qcow2_need_in_image(room, self->image, 0, size, snapshots->len + 1, error);
}

/* ---- The work ---------------------------------------------------------------------------------- */

/* Without what is free in between, and what was for a while. */
static bool count_freed(Trim *self, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);
    uint64_t used;

    if (!batch || !count_used(batch, &used, error)) {
        return false;
    }
    self->result.bytes_freed = (self->used_before - MIN(used, self->used_before) + self->n_in_data_file)
                            << self->layout->cluster_bits;
    return true;
}

static bool run(Trim *self, const Qcow2TrimOptions *options, GError **error)
{
    Qcow2TrimResult *result = &self->result;
    Qcow2Image *image = self->image;

    if (!check_image(image, error) || !check_backing(self->chain, error)
        || !qcow2_chain_open_data(self->chain, 0, error)
        || !qcow2_chain_open_below(self->chain, 0, &self->has_below, error)
        || !qcow2_io_get_size(image->file, &result->file_size_before, error)) {
        return false;
    }
    bool ok = qcow2_check_room(need, self, error) && drop_clusters(self, error);
    clear_states(self);
    return ok
        && (result->clusters + self->n_empty_tables == 0
            || qcow2_image_trim_back(image, true, result->file_size_before, error))
        && (!options->shrink || qcow2_shrink(image, result, self->progress, error))
        && count_freed(self, error)
        && qcow2_io_get_size(image->file, &result->file_size, error);
}

bool qcow2_trim(Qcow2Chain *chain, const Qcow2TrimOptions *options, Qcow2TrimResult *ret_result,
                Qcow2Progress *progress, GError **error)
{
    Trim self = {
        .chain = chain,
        .image = qcow2_chain_image(chain, 0),
        .layout = &qcow2_chain_image(chain, 0)->header.layout,
        .progress = progress,
    };
    bool ok = run(&self, options, error);

    clear_states(&self);
    if (ok) {
        *ret_result = self.result;
        qcow2_progress_finish(progress);
    }
    return ok || qcow2_fail_unchanged(error, qcow2_chain_layer_name(chain, 0));
}
