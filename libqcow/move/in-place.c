/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/in-place.h"

#include "format/l2.h"
#include "format/refcount.h"
#include "move/in-place-job.h"
#include "move/streams.h"
#include "util/error.h"
#include "util/progress.h"

typedef Qcow2InPlaceJob InPlace;

uint64_t qcow2_in_place_unit(const Qcow2Image *image)
{
    /* Whole clusters: what a subcluster does not say must not be lost with the old cluster. */
    return image->header.layout.cluster_size;
}

/* ---- Runs -------------------------------------------------------------------------------------- */

static bool set_zero(InPlace *self, const Qcow2ClusterRun *run, GError **error)
{
    bool extended = self->rules.layout->extended_l2;
    uint64_t raw = extended ? 0 : L2E_ZERO;
    uint64_t bitmap = extended ? (uint64_t)UINT32_MAX << 32 : 0;

    self->stats.zero_clusters += run->n_clusters;
    if (self->planning) {
        return true;
    }
    if (self->zeros_are_nothing) {
        return qcow2_editor_drop(self->editor, run->first_cluster, run->first_cluster + run->n_clusters,
                                 error);
    }
    for (uint64_t i = 0; i < run->n_clusters; i++) {
        uint64_t old_raw, old_bitmap;
        if (!qcow2_editor_get(self->editor, run->first_cluster + i, &old_raw, &old_bitmap, error)) {
            return false;
        }
        if ((old_raw != raw || old_bitmap != bitmap)
            && !qcow2_editor_set(self->editor, run->first_cluster + i, 1, raw, bitmap, 0, error)) {
            return false;
        }
    }
    return true;
}

static bool write_stream(InPlace *self, uint64_t cluster, const Qcow2Stream *stream, GError **error)
{
    Qcow2ClusterRun plain = { .first_cluster = cluster, .n_clusters = 1, .data_mask = UINT32_MAX };
    uint64_t host_offset, raw;

    if (stream->compressed) {
        host_offset = qcow2_stream_packer_take(&self->packer, self->batch, stream->len_bytes, error);
        if (host_offset == 0) {
            return false;
        }
        if (!qcow2_l2_encode_compressed(self->rules.layout, host_offset, stream->len_bytes, &raw)) {
            return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                              "a compressed cluster at 0x%" PRIx64 " is past what an entry can"
                              " name",
                              host_offset);
        }
        self->stats.compressed_clusters++;
        if (self->sharing) {
            qcow2_placed_add(self->options.placed, cluster, 1, raw);
        }
        if (!qcow2_editor_set(self->editor, cluster, 1, raw, 0, 0, error)) {
            return false;
        }
    } else {
        self->stats.data_clusters++;
        if (!qcow2_in_place_take(self, &plain, error) || !qcow2_in_place_set(self, &plain, error)) {
            return false;
        }
        host_offset = plain.host_offset;
    }
    return qcow2_batch_write(self->batch, host_offset, stream->bytes, stream->len_bytes, error)
        && qcow2_progress_advance(self->progress, stream->guest_end - stream->guest_start, error);
}

static bool make_streams(InPlace *self, const Qcow2ClusterRun *run, const GArray *extents, GError **error)
{
    uint64_t cluster_size = self->rules.layout->cluster_size;
    g_autoptr(GArray) streams = g_array_new(FALSE, TRUE, sizeof(Qcow2Stream));
    Qcow2StreamRules rules = {
        self->to, cluster_size, self->rules.compression, self->options.n_threads, self->readers,
    };

    for (uint64_t start = run->guest_start; start < run->guest_end; start += cluster_size) {
        Qcow2Stream stream = {
            .guest_start = start,
            .guest_end = MIN(start + cluster_size, run->guest_end),
            .extents = extents,
            .first_extent = run->first_extent,
            .pass_through = run->pass_through,
        };
        g_array_append_val(streams, stream);
    }
    bool ok = qcow2_streams_make(&rules, streams, error);
    for (guint i = 0; ok && i < streams->len; i++) {
        ok = write_stream(self, run->first_cluster + i, &g_array_index(streams, Qcow2Stream, i), error);
    }
    qcow2_streams_clear(streams);
    return ok;
}

/* ---- What another state got already ------------------------------------------------------------ */

/* Streams packed together count together: there may be no room for one reference more. */
static bool can_refer_again(InPlace *self, uint64_t raw, bool *ret_can, GError **error)
{
    uint64_t max = qcow2_refcount_max(self->rules.layout);
    Qcow2L2Entry entry;

    *ret_can = true;
    if (!(raw & L2E_COMPRESSED)) {
        return true;
    }
    if (!qcow2_l2_decode(self->rules.layout, raw, 0, &entry, error)) {
        return false;
    }
    unsigned bits = self->rules.layout->cluster_bits;
    uint64_t last = (entry.host_offset + entry.stream_len - 1) >> bits;
    for (uint64_t i = entry.host_offset >> bits; *ret_can && i <= last; i++) {
        uint64_t count;
        if (!qcow2_counts_cache_get(qcow2_batch_counts(self->batch), i, &count, error)) {
            return false;
        }
        /* Taking the cluster may not be counted yet. */
        *ret_can = count + 1 < max;
    }
    return true;
}

/* One reference more to what is in the batch. */
static bool refer_again(InPlace *self, const Qcow2ClusterRun *run, uint64_t raw, GError **error)
{
    uint64_t cluster_size = self->rules.layout->cluster_size;
    uint64_t host_offset = raw & L2E_HOST_OFFSET, len = run->n_clusters * cluster_size;
    Qcow2L2Entry entry;

    if (self->planning) {
        return true;
    }
    if (raw & L2E_COMPRESSED) {
        if (!qcow2_l2_decode(self->rules.layout, raw, 0, &entry, error)) {
            return false;
        }
        host_offset = entry.host_offset;
        len = entry.stream_len;
    }
    return qcow2_batch_add(self->batch, host_offset, len, 1, error)
        && qcow2_editor_set(self->editor, run->first_cluster, run->n_clusters, raw,
                            raw & L2E_COMPRESSED ? 0 : qcow2_in_place_bitmap(self, run), cluster_size, error)
        && qcow2_progress_advance(self->progress, run->guest_end - run->guest_start, error);
}

/* The clusters of @run that are treated alike, from its first on. */
static Qcow2ClusterRun cut_run(const InPlace *self, const Qcow2ClusterRun *run, uint64_t n_clusters)
{
    Qcow2ClusterRun part = *run;

    part.n_clusters = n_clusters;
    part.guest_end = MIN(run->guest_end,
                         run->guest_start + (n_clusters << self->rules.layout->cluster_bits));
    return part;
}

/* The subclusters of a cluster, or with bit 0 all of it, that get their bytes from elsewhere. */
static uint32_t moved_mask(const InPlace *self, const Qcow2ClusterRun *run, const GArray *extents,
                           uint64_t cluster)
{
    const Qcow2Layout *layout = self->rules.layout;
    uint64_t unit = layout->extended_l2 ? layout->subcluster_size : layout->cluster_size;
    uint64_t start = cluster << layout->cluster_bits, end = start + layout->cluster_size;
    uint32_t mask = 0;

    for (guint i = run->first_extent; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        uint64_t from = MAX(extent->guest_offset, start), to = MIN(qcow2_extent_end(extent), end);
        if (extent->guest_offset >= end) {
            break;
        }
        for (; from < to && !qcow2_in_place_is_there(self, extent);
             from = qcow2_align_down(from, unit) + unit) {
            mask |= UINT32_C(1) << (from - start) / unit;
        }
    }
    return layout->extended_l2 ? mask & run->data_mask : mask;
}

/*
 * A data file has one place for each cluster. Until the batch is committed nobody reads the place of a
 * cluster, or of a subcluster, that the image does not map; of any other, a crash would leave a mixture.
 */
static bool check_places(InPlace *self, const Qcow2ClusterRun *run, const GArray *extents, GError **error)
{
    const Qcow2Layout *layout = self->rules.layout;

    for (uint64_t i = 0; i < run->n_clusters; i++) {
        uint64_t raw, bitmap, cluster = run->first_cluster + i;
        Qcow2L2Entry entry;
        if (!qcow2_editor_get(self->editor, cluster, &raw, &bitmap, error)
            || !qcow2_l2_decode(layout, raw, bitmap, &entry, error)) {
            return false;
        }
        uint32_t mapped = layout->extended_l2 ? (uint32_t)bitmap : 1;
        if (entry.kind == QCOW2_CLUSTER_DATA && (mapped & moved_mask(self, run, extents, cluster)) != 0) {
            return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                              "the cluster at guest offset 0x%" PRIx64 " is in the external data file"
                              " already, where it could only be overwritten: a crash would leave a mixture;"
                              " copy the image into one without a data file first",
                              cluster << layout->cluster_bits);
        }
    }
    return true;
}

/* A plan's; streams are given a place with the tables. */
static void count_data(InPlace *self, const Qcow2ClusterRun *run, const GArray *extents)
{
    if (run->kind != QCOW2_RUN_STREAM) {
        self->stats.data_clusters += run->n_clusters;
        return;
    }
    self->stats.compressed_clusters += run->n_clusters;
    self->stats.bytes_streamed += run->pass_through
                                ? g_array_index(extents, Qcow2Extent, run->first_extent).stream_len
                                : run->n_clusters << self->rules.layout->cluster_bits;
}

static bool apply_data(InPlace *self, const Qcow2ClusterRun *run, const GArray *extents, GError **error)
{
    bool is_stream = run->kind == QCOW2_RUN_STREAM;

    if (self->rules.layout->has_data_file && !self->options.before && !self->options.overwrite_data
        && !check_places(self, run, extents, error)) {
        return false;
    }
    if (self->planning) {
        count_data(self, run, extents);
        if (self->sharing) {
            /* Any place will do, in the same order. */
            uint64_t place = (run->first_cluster + 1) << self->rules.layout->cluster_bits;
            qcow2_placed_add(self->options.placed, run->first_cluster, run->n_clusters, place);
        }
        return true;
    }
    if (!is_stream) {
        return qcow2_in_place_add_data(self, run, extents, error);
    }
    /* What is shared is remembered in guest order. */
    return (!self->sharing || qcow2_in_place_finish_data(self, error))
        && make_streams(self, run, extents, error);
}

static bool apply_shared_data(InPlace *self, const Qcow2ClusterRun *run, const GArray *extents,
                              GError **error)
{
    Qcow2ClusterRun rest = *run;

    while (rest.n_clusters > 0) {
        uint64_t raw, n = qcow2_placed_find(self->options.placed, rest.first_cluster, rest.n_clusters, &raw);
        Qcow2ClusterRun part = cut_run(self, &rest, n);
        bool again = raw != 0;
        if ((again && !can_refer_again(self, raw, &again, error))
            || !(again ? refer_again(self, &part, raw, error) : apply_data(self, &part, extents, error))) {
            return false;
        }
        rest.first_cluster += n;
        rest.n_clusters -= n;
        rest.guest_start = part.guest_end;
    }
    return true;
}

static bool apply_run(InPlace *self, const Qcow2ClusterRun *run, const GArray *extents, GError **error)
{
    if (run->kind == QCOW2_RUN_ZERO) {
        return set_zero(self, run, error);
    }
    self->sharing = qcow2_in_place_is_shared(self, run, extents);
    return self->sharing ? apply_shared_data(self, run, extents, error)
                         : apply_data(self, run, extents, error);
}

/* ---- Windows ----------------------------------------------------------------------------------- */

static bool apply_extents(InPlace *self, const GArray *extents, GError **error)
{
    Qcow2RunCursor cursor = { 0 };
    Qcow2ClusterRun run;

    while (qcow2_next_run(&self->rules, extents, &cursor, &run)) {
        if (!apply_run(self, &run, extents, error)) {
            return false;
        }
        self->stats.bytes += run.guest_end - run.guest_start;
    }
    return true;
}

/* The parts of @extents below @limit. */
static void cut_extents(const GArray *extents, uint64_t limit, GArray *ret)
{
    g_array_set_size(ret, 0);
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (extent->guest_offset < limit) {
            Qcow2Extent part = qcow2_extent_slice(extent, extent->guest_offset, limit);
            g_array_append_val(ret, part);
        }
    }
}

static bool resolve_and_apply(InPlace *self, const Qcow2Range *ranges, size_t n_ranges, GError **error)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));

    return qcow2_state_resolve(self->to, ranges, n_ranges, QCOW2_NO_STOP, extents, error)
        && apply_extents(self, extents, error);
}

static bool apply_window(InPlace *self, const GArray *extents, GArray *ranges, GError **error)
{
    if (!self->options.before) {
        return apply_extents(self, extents, error);
    }
    if (!qcow2_in_place_overwrite(self, extents, ranges, error)) {
        return false;
    }
    return ranges->len == 0
        || resolve_and_apply(self, (const Qcow2Range *)(const void *)ranges->data, ranges->len, error);
}

static bool apply_choice(InPlace *self, Qcow2Choice *choice, uint64_t limit, GError **error)
{
    g_autoptr(GArray) part = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    const GArray *extents = NULL;

    do {
        if (!qcow2_progress_check(self->progress, error) || !qcow2_choice_next(choice, &extents, error)) {
            return false;
        }
        if (extents) {
            cut_extents(extents, limit, part);
            if (!apply_window(self, part, ranges, error)) {
                return false;
            }
        }
    } while (extents);
    return true;
}

/* ---- A disk that grows ------------------------------------------------------------------------- */

static int compare_ranges(const void *a, const void *b)
{
    const Qcow2Range *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

/* Whether the layers below that the chain has are those that the image has for everybody. */
static bool knows_below(const InPlace *self)
{
    const Qcow2Layer *layer = self->options.own ? qcow2_chain_layer(self->options.own, 0) : NULL;

    return layer && !layer->place->no_backing && !layer->place->backing && !layer->below_was_given;
}

/* What needs entries: data, and what would show below; whole clusters. Each byte of a raw data file does. */
static bool find_grown(InPlace *self, const Qcow2Range *range, GArray *ret_ranges, GError **error)
{
    bool raw_data = self->image->header.autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
    g_autoptr(GArray) parts = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    bool exists = false;

    g_array_set_size(ret_ranges, 0);
    if (raw_data || self->options.map_zeros || !knows_below(self)) {
        g_array_append_val(ret_ranges, *range);
        return true;
    }
    if (!qcow2_state_find_data(self->to, range, parts, error)
        || !qcow2_chain_open_below(self->options.own, 0, &exists, error)) {
        return false;
    }
    if (exists) {
        Qcow2State below = qcow2_state_below(self->options.own, 1);
        g_autoptr(GArray) shown = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
        if (!qcow2_state_find_data(&below, range, shown, error)) {
            return false;
        }
        g_array_append_vals(parts, shown->data, shown->len);
        g_array_sort(parts, compare_ranges);
    }
    for (guint i = 0; i < parts->len; i++) {
        const Qcow2Range *part = &g_array_index(parts, Qcow2Range, i);
        qcow2_ranges_push(ret_ranges, part->start, part->end);
    }
    qcow2_ranges_align(ret_ranges, self->rules.layout->cluster_size, range->end);
    return true;
}

/* Leftovers of a time when the disk was larger. */
static bool drop_leftovers(InPlace *self, uint64_t start, uint64_t end, GError **error)
{
    unsigned bits = self->rules.layout->cluster_bits;

    return self->planning || start >= end
        || qcow2_editor_drop(self->editor, start >> bits, qcow2_align_up(end, BIT(bits)) >> bits, error);
}

static bool grow_window(InPlace *self, const Qcow2Range *window, GArray *ranges, GError **error)
{
    uint64_t from = window->start;

    if (!find_grown(self, window, ranges, error)) {
        return false;
    }
    for (guint i = 0; i < ranges->len; i++) {
        const Qcow2Range *range = &g_array_index(ranges, Qcow2Range, i);
        if (!drop_leftovers(self, from, range->start, error)) {
            return false;
        }
        from = range->end;
    }
    return drop_leftovers(self, from, window->end, error)
        && (ranges->len == 0
            || resolve_and_apply(self, (const Qcow2Range *)(const void *)ranges->data, ranges->len, error));
}

/*
 * From the cluster in which the image ended on, entries left over from a larger time and the layers below
 * would show: all of it is set to what the state says.
 */
static bool apply_growth(InPlace *self, uint64_t from, GError **error)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));

    while (from < self->to->size) {
        Qcow2Range window = { from, MIN(from + qcow2_state_window(self->to), self->to->size) };
        if (!qcow2_progress_check(self->progress, error)
            || !grow_window(self, &window, ranges, error)) {
            return false;
        }
        from = window.end;
    }
    return true;
}

/* ---- The whole --------------------------------------------------------------------------------- */

static bool run_in_place(InPlace *self, const Qcow2View *view, Qcow2Choice *choice, GError **error)
{
    bool grows = self->to->size > view->size;
    uint64_t growth = grows ? qcow2_align_down(view->size, qcow2_in_place_unit(self->image)) : UINT64_MAX;

    return apply_choice(self, choice, growth, error)
        && (!grows || apply_growth(self, growth, error))
        && qcow2_in_place_finish_data(self, error)
        && qcow2_mover_drain(self->mover, error)
        && (!self->last_differs || qcow2_in_place_last_cluster(self, error));
}

static void clear_in_place(InPlace *self)
{
    qcow2_in_place_clear_data(self);
    g_clear_pointer(&self->mover, qcow2_mover_free);
    g_clear_pointer(&self->readers, qcow2_reader_pool_free);
    g_clear_pointer(&self->editor, qcow2_editor_free);
}

/*
 * What is there may only be overwritten by an operation that can start again. A raw file is there as a whole.
 */
static bool check_target(const InPlace *self, GError **error)
{
    return !(self->image->header.autoclear & QCOW2_AUTOCLEAR_RAW_DATA) || self->options.before
        || self->options.overwrite_data
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "the image keeps its data in a raw external data file, which could only be overwritten:"
                      " a crash would leave a mixture; copy the image into one without a data file first");
}

static void set_rules(InPlace *self)
{
    const Qcow2Header *header = &self->image->header;
    bool has_below = qcow2_batch_header(self->batch)->backing_name;

    self->rules = (Qcow2RunRules) {
        .state = self->to,
        .layout = &header->layout,
        .compression = header->compression,
        .compress = self->options.compress && !header->layout.has_data_file,
        .unpack = header->layout.has_data_file,
        /* A raw data file has to hold the zeros, too. */
        .zeros_need_data = (header->layout.version < 3 && has_below) || self->options.map_zeros
                        || (header->autoclear & QCOW2_AUTOCLEAR_RAW_DATA),
    };
    self->zeros_are_nothing = !has_below;
}

static bool start(InPlace *self, const Qcow2View *view, GError **error)
{
    const Qcow2MoverOptions mover_options = {
        .n_threads = self->options.n_threads,
        .no_reflink = self->options.no_reflink,
        .keep_space = self->options.map_zeros,
    };
    uint64_t size = self->options.before ? MAX(view->size, self->to->size) : self->to->size;

    set_rules(self);
    if (self->options.before) {
        self->options.own = self->options.before;
    }
    qcow2_in_place_start_data(self);
    self->copied_flag = self->options.view ? 0 : L2E_COPIED;
    self->limit = view->size > self->to->size
                ? qcow2_align_down(self->to->size, self->rules.layout->cluster_size) : UINT64_MAX;
    /* What would be written is not encrypted. */
    if (!qcow2_image_check_readable(self->image, error) || !check_target(self, error)) {
        return false;
    }
    self->editor = qcow2_editor_new(self->batch, self->image, view, size, error);
    self->mover = qcow2_mover_new(self->to, self->image->data, &mover_options, self->progress);
    self->readers = qcow2_reader_pool_new();
    return self->editor != NULL;
}

/* Data in another file must be there before anything refers to it. */
static bool finish(InPlace *self, Qcow2InPlaceResult *ret, GError **error)
{
    Qcow2Header *header = qcow2_batch_header(self->batch);

    if (!qcow2_editor_finish(self->editor, &ret->l1_offset, &ret->l1_entries, error)
        || (self->image->data != self->image->file && !qcow2_io_flush(self->image->data, error))) {
        return false;
    }
    self->stats.moved = qcow2_mover_get_stats(self->mover);
    ret->stats = self->stats;
    if (!self->options.view) {
        header->size = self->options.before ? MAX(header->size, self->to->size) : self->to->size;
        header->l1_offset = ret->l1_offset;
        header->l1_entries = ret->l1_entries;
    }
    return true;
}

bool qcow2_in_place_apply(Qcow2Batch *batch, Qcow2Image *image, Qcow2State *to, Qcow2Choice *choice,
                          const Qcow2InPlaceOptions *options, Qcow2InPlaceResult *ret,
                          Qcow2Progress *progress, GError **error)
{
    Qcow2View view = options->view ? *options->view : qcow2_image_active_view(image);
    InPlace self = { .batch = batch, .image = image, .to = to, .options = *options, .progress = progress };
    bool ok = start(&self, &view, error) && run_in_place(&self, &view, choice, error)
           && finish(&self, ret, error);

    clear_in_place(&self);
    return ok;
}

bool qcow2_in_place_plan(Qcow2Batch *batch, Qcow2Image *image, Qcow2State *to, Qcow2Choice *choice,
                         const Qcow2InPlaceOptions *options, Qcow2InPlaceStats *ret_stats, GError **error)
{
    Qcow2View view = options->view ? *options->view : qcow2_image_active_view(image);
    InPlace self = { .batch = batch, .image = image, .to = to, .options = *options, .planning = true };
    bool ok = start(&self, &view, error) && run_in_place(&self, &view, choice, error);

    qcow2_choice_rewind(choice);
    *ret_stats = self.stats;
    clear_in_place(&self);
    return ok;
}
