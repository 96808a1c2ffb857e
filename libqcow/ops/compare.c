/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does a guest read the same from two states? Each window of the disk takes three steps, each of which leaves
 * less to the next: descriptors that differ; of these, what is not a hole in both; of these, what holds other
 * bytes.
 */
#include <string.h>

#include "ops/last-run.h"
#include "ops/mapper.h"
#include "state/diff.h"
#include "state/same-bytes.h"
#include "util/bits.h"
#include "util/error.h"
#include "util/progress.h"

#define SECTOR_SIZE UINT64_C(512)
#define PIECE_SIZE  (UINT64_C(64) << 10)

/*
 * Bytes compared at a time: few at first, since images that differ often do so early, then enough for all
 * processors.
 */
#define FIRST_SLICE_BYTES (UINT64_C(1) << 20)
#define SLICE_BYTES       (UINT64_C(32) << 20)

typedef struct Comparison {
    Qcow2State *a, *b;
    bool strict;
    uint64_t strict_end; /* where QEMU's last runs differ, see last-run.h */
    Qcow2Diff *diff;
    Qcow2Mapper *mapper_a, *mapper_b;
    Qcow2Progress *progress;
    uint64_t at;                      /* guest offset up to which it was told */
    Qcow2DiffFunc func;
    void *data;
    Qcow2DiffExtent held;             /* not given out yet: the next may continue it; of no length at first */
    uint64_t slice_bytes;
    bool stopped;
    bool found;                       /* there is a verdict */
    Qcow2CompareResult *result;
    GArray *ranges, *slice;           /* Qcow2Range */
    GArray *statuses_a, *statuses_b;  /* Qcow2MapExtent */
    GArray *extents;                  /* Qcow2Extent */
} Comparison;

static void comparison_clear(Comparison *self)
{
    g_clear_pointer(&self->diff, qcow2_diff_free);
    g_clear_pointer(&self->mapper_a, qcow2_mapper_free);
    g_clear_pointer(&self->mapper_b, qcow2_mapper_free);
    g_clear_pointer(&self->ranges, g_array_unref);
    g_clear_pointer(&self->slice, g_array_unref);
    g_clear_pointer(&self->statuses_a, g_array_unref);
    g_clear_pointer(&self->statuses_b, g_array_unref);
    g_clear_pointer(&self->extents, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Comparison, comparison_clear)

static bool comparison_open(Comparison *self, GError **error)
{
    self->result->stage = QCOW2_COMPARE_OPENING;
    self->diff = qcow2_diff_new(self->a, self->b, error);
    if (!self->diff) {
        return false;
    }
    self->mapper_a = qcow2_mapper_new(self->a, error);
    self->mapper_b = self->mapper_a ? qcow2_mapper_new(self->b, error) : NULL;
    self->ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    self->slice = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    self->statuses_a = g_array_new(FALSE, FALSE, sizeof(Qcow2MapExtent));
    self->statuses_b = g_array_new(FALSE, FALSE, sizeof(Qcow2MapExtent));
    self->extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    return self->mapper_b != NULL;
}

static const Qcow2Range *items(const GArray *ranges)
{
    return (const Qcow2Range *)(const void *)ranges->data;
}

static void set_verdict(Comparison *self, Qcow2CompareVerdict verdict, uint64_t offset)
{
    if (!self->found) {
        self->found = true;
        self->result->verdict = verdict;
        self->result->offset = offset;
    }
}

/* ---- What is said about a range ---------------------------------------------------------------- */

/* Calls @func for the parts of two maps of the same ranges; it returns false to end that. */
typedef bool (*PartFunc)(const Qcow2MapExtent *a, const Qcow2MapExtent *b, uint64_t start, uint64_t end,
                         void *data);

static void for_each_part(const GArray *map_a, const GArray *map_b, PartFunc func, void *data)
{
    guint i = 0, j = 0;

    while (i < map_a->len && j < map_b->len) {
        const Qcow2MapExtent *a = &g_array_index(map_a, Qcow2MapExtent, i);
        const Qcow2MapExtent *b = &g_array_index(map_b, Qcow2MapExtent, j);
        uint64_t end_a = a->start + a->length, end_b = b->start + b->length;
        if (!func(a, b, MAX(a->start, b->start), MIN(end_a, end_b), data)) {
            return;
        }
        i += end_a <= end_b;
        j += end_b <= end_a;
    }
}

static bool map_both(Comparison *self, const Qcow2Range *ranges, size_t n_ranges, GError **error)
{
    return qcow2_mapper_map(self->mapper_a, ranges, n_ranges, self->statuses_a, error)
        && qcow2_mapper_map(self->mapper_b, ranges, n_ranges, self->statuses_b, error);
}

/* What strict mode compares of a range: what QEMU's block status says but for the places on the host. */
typedef struct Status {
    bool allocated, data, zero, has_offset;
} Status;

static Status status_of(const Qcow2State *state, const Qcow2MapExtent *extent)
{
    /* Zeros past the end of a short layer count as allocated, although a map does not call them present. */
    bool past_short_layer = !extent->present && state->kind != QCOW2_STATE_EMPTY
                         && extent->depth + 1 < qcow2_chain_n_layers(state->chain);

    return (Status) {
        .allocated = extent->present || past_short_layer,
        .data = extent->data,
        .zero = extent->zero,
        .has_offset = extent->has_offset && !past_short_layer,
    };
}

typedef struct StatusSearch {
    const Comparison *comparison;
    uint64_t offset;                  /* of the first mismatch */
} StatusSearch;

static bool check_status(const Qcow2MapExtent *a, const Qcow2MapExtent *b, uint64_t start, uint64_t end,
                         void *data)
{
    StatusSearch *search = data;
    Status status_a = status_of(search->comparison->a, a);
    Status status_b = status_of(search->comparison->b, b);

    if (start < end && memcmp(&status_a, &status_b, sizeof(Status)) != 0) {
        search->offset = start;
        return false;
    }
    return true;
}

/* Where the first mismatch of allocation is; @end when there is none. */
static bool find_status_mismatch(Comparison *self, uint64_t start, uint64_t end, uint64_t *ret_offset,
                                 GError **error)
{
    StatusSearch search = { self, end };
    uint64_t step = MIN(qcow2_mapper_step(self->mapper_a), qcow2_mapper_step(self->mapper_b));

    while (start < end && search.offset == end) {
        Qcow2Range range = { start, MIN(start + step, end) };
        if (!map_both(self, &range, 1, error)) {
            return false;
        }
        for_each_part(self->statuses_a, self->statuses_b, check_status, &search);
        start = range.end;
    }
    *ret_offset = MIN(search.offset, self->strict_end);
    return true;
}

static bool keep_unless_zero(const Qcow2MapExtent *a, const Qcow2MapExtent *b, uint64_t start, uint64_t end,
                             void *data)
{
    if (!a->zero || !b->zero) {
        qcow2_ranges_push(data, start, end);
    }
    return true;
}

/* Takes out of the ranges what is a hole of the files under both: preallocated, and never written. */
static bool drop_holes(Comparison *self, GError **error)
{
    if (self->ranges->len == 0
        || (!qcow2_mapper_finds_holes(self->mapper_a) && !qcow2_mapper_finds_holes(self->mapper_b))) {
        return true;
    }
    if (!map_both(self, items(self->ranges), self->ranges->len, error)) {
        return false;
    }
    g_array_set_size(self->ranges, 0);
    for_each_part(self->statuses_a, self->statuses_b, keep_unless_zero, self->ranges);
    return true;
}

/* ---- What is given out ------------------------------------------------------------------------- */

static void give_held(Comparison *self)
{
    if (self->held.length > 0 && !self->stopped) {
        self->stopped = !self->func(&self->held, self->data);
    }
    self->held.length = 0;
}

static void give(Comparison *self, const Qcow2Extent *extent)
{
    bool compressed = extent->kind == QCOW2_EXTENT_COMPRESSED;
    Qcow2DiffExtent next = {
        .start = extent->guest_offset,
        .length = extent->len_bytes,
        .data = compressed || extent->kind == QCOW2_EXTENT_DATA,
        .compressed = compressed,
    };
    Qcow2DiffExtent *held = &self->held;

    next.zero = !next.data;
    if (held->length > 0 && held->start + held->length == next.start && held->data == next.data
        && held->compressed == next.compressed) {
        held->length += next.length;
        return;
    }
    give_held(self);
    *held = next;
}

/* Of what differs, what b holds there. */
static bool give_slice(Comparison *self, GError **error)
{
    if (!qcow2_state_resolve(self->b, items(self->slice), self->slice->len, QCOW2_NO_STOP, self->extents,
                             error)) {
        return false;
    }
    for (guint i = 0; i < self->extents->len && !self->stopped; i++) {
        give(self, &g_array_index(self->extents, Qcow2Extent, i));
    }
    return true;
}

/* ---- Bytes ------------------------------------------------------------------------------------- */

typedef struct Sector {
    uint64_t start, difference;
    uint8_t a[SECTOR_SIZE], b[SECTOR_SIZE];
} Sector;

static bool read_sector(Qcow2State *state, uint64_t start, uint8_t *bytes, GError **error)
{
    uint64_t len = start < state->size ? MIN(SECTOR_SIZE, state->size - start) : 0;

    memset(bytes, 0, SECTOR_SIZE);
    return len == 0 || qcow2_state_read(state, start, bytes, len, error);
}

static bool find_difference(const Qcow2MapExtent *a, const Qcow2MapExtent *b, uint64_t start, uint64_t end,
                            void *data)
{
    Sector *sector = data;
    size_t at = start - sector->start;

    (void)a;
    (void)b;
    sector->difference = start;
    return memcmp(sector->a + at, sector->b + at, end - start) == 0;
}

/*
 * The offset that is told for the first sector that differs: qemu-img counts sectors from where an extent
 * starts, and where a raw file ends one may start anywhere.
 */
static bool first_offset(Comparison *self, Qcow2Range differing, uint64_t *ret_offset, GError **error)
{
    Sector sector = { .start = differing.start };
    Qcow2Range range = { sector.start,
                         MIN(differing.end, qcow2_align_down(sector.start, SECTOR_SIZE) + SECTOR_SIZE) };

    if (!read_sector(self->a, sector.start, sector.a, error)
        || !read_sector(self->b, sector.start, sector.b, error) || !map_both(self, &range, 1, error)) {
        return false;
    }
    for_each_part(self->statuses_a, self->statuses_b, find_difference, &sector);
    *ret_offset = sector.difference;
    return true;
}

/* Leaves of the slice what differs. */
static bool drop_same(Comparison *self, GError **error)
{
    return qcow2_drop_same_bytes(self->a, self->b, SECTOR_SIZE, self->a->chain->options.n_threads,
                                 self->slice, self->progress, error);
}

/* Where a slice cannot be read, a difference before that place is what a reader from the start would find. */
static bool drop_same_before_failure(Comparison *self, const GArray *ranges, GError **error)
{
    for (guint i = 0; i < ranges->len; i++) {
        for (uint64_t at = items(ranges)[i].start; at < items(ranges)[i].end; at += PIECE_SIZE) {
            g_array_set_size(self->slice, 0);
            qcow2_ranges_push(self->slice, at, MIN(items(ranges)[i].end, at + PIECE_SIZE));
            if (!drop_same(self, error)) {
                return false;
            }
            if (self->slice->len > 0) {
                return true;
            }
        }
    }
    return true;
}

static bool compare_slice(Comparison *self, GError **error)
{
    g_autoptr(GArray) whole = g_array_copy(self->slice);
    g_autoptr(GError) cause = NULL;
    bool lists_all = self->func || self->found;
    uint64_t offset;

    for (guint i = 0; i < self->slice->len; i++) {
        self->result->bytes_read += items(self->slice)[i].end - items(self->slice)[i].start;
    }
    if (!drop_same(self, &cause) && (lists_all || !drop_same_before_failure(self, whole, NULL))) {
        g_propagate_error(error, g_steal_pointer(&cause));
        return false;
    }
    if (self->slice->len == 0) {
        return true;
    }
    if (!self->found) {
        if (!first_offset(self, items(self->slice)[0], &offset, error)) {
            return false;
        }
        set_verdict(self, QCOW2_COMPARE_CONTENT, offset);
    }
    self->stopped = !self->func;
    return self->stopped || give_slice(self, error);
}

static bool advance_to(Comparison *self, uint64_t offset, GError **error)
{
    uint64_t n = offset - self->at;

    self->at = offset;
    return qcow2_progress_advance(self->progress, n, error);
}

/* Compares the bytes of the ranges from @start to @end, a slice at a time, until something says stop. */
static bool compare_ranges(Comparison *self, uint64_t start, uint64_t end, GError **error)
{
    uint64_t bytes = 0;
    guint i = 0;

    self->result->stage = QCOW2_COMPARE_DATA;
    while (i < self->ranges->len && !self->stopped) {
        Qcow2Range range = { MAX(items(self->ranges)[i].start, start), MIN(items(self->ranges)[i].end, end) };
        uint64_t slice_end =
            MIN(range.end, qcow2_align_down(range.start, self->slice_bytes) + self->slice_bytes);
        if (range.start < range.end) {
            qcow2_ranges_push(self->slice, range.start, slice_end);
            bytes += slice_end - range.start;
            start = slice_end;
        }
        i += slice_end == range.end || range.start >= range.end;
        if (bytes >= self->slice_bytes || i == self->ranges->len) {
            if (!compare_slice(self, error) || !advance_to(self, start, error)) {
                return false;
            }
            g_array_set_size(self->slice, 0);
            self->slice_bytes = MIN(2 * self->slice_bytes, SLICE_BYTES);
            bytes = 0;
        }
    }
    return true;
}

/* ---- Windows ----------------------------------------------------------------------------------- */

static bool compare_window(Comparison *self, uint64_t start, uint64_t limit, uint64_t *ret_end,
                           GError **error)
{
    uint64_t mismatch;

    self->result->stage = QCOW2_COMPARE_METADATA;
    if (!qcow2_diff_next(self->diff, start, limit, self->ranges, ret_end, error)
        || !drop_holes(self, error)) {
        return false;
    }
    mismatch = *ret_end;
    if (self->strict && !self->found && !find_status_mismatch(self, start, *ret_end, &mismatch, error)) {
        return false;
    }
    /* Contents that differ before a mismatch of allocation come first. */
    if (!compare_ranges(self, start, mismatch, error)) {
        return false;
    }
    if (mismatch < *ret_end && !self->stopped) {
        set_verdict(self, QCOW2_COMPARE_STATUS, mismatch);
        self->stopped = !self->func;
    }
    return compare_ranges(self, mismatch, *ret_end, error);
}

static bool compare_last_runs(Comparison *self, GError **error)
{
    Qcow2LastRuns runs_a, runs_b;

    self->result->stage = QCOW2_COMPARE_METADATA;
    if (!qcow2_find_last_runs(self->a, self->mapper_a, &runs_a, error)
        || !qcow2_find_last_runs(self->b, self->mapper_b, &runs_b, error)) {
        return false;
    }
    self->strict_end = qcow2_last_runs_mismatch(&runs_a, &runs_b);
    return true;
}

static bool compare_contents(Comparison *self, GError **error)
{
    uint64_t size = MAX(self->a->size, self->b->size);

    qcow2_progress_expect(self->progress, size);
    for (uint64_t start = 0; start < size && !self->stopped;) {
        uint64_t end;
        if (!compare_window(self, start, size, &end, error) || !advance_to(self, end, error)) {
            return false;
        }
        start = end;
    }
    if (self->func) {
        give_held(self);
    }
    qcow2_progress_finish(self->progress);
    return true;
}

bool qcow2_compare(Qcow2State *a, Qcow2State *b, const Qcow2CompareOptions *options, Qcow2DiffFunc func,
                   void *data, Qcow2CompareResult *ret_result, Qcow2Progress *progress, GError **error)
{
    g_auto(Comparison) self = {
        .a = a,
        .b = b,
        .strict = options && options->strict,
        .slice_bytes = FIRST_SLICE_BYTES,
        .progress = progress,
        .func = func,
        .data = data,
        .result = ret_result,
    };

    *ret_result = (Qcow2CompareResult) { .verdict = QCOW2_COMPARE_SAME };
    if (!comparison_open(&self, error)) {
        return false;
    }
    ret_result->sizes_differ = a->size != b->size;
    if (self.strict && ret_result->sizes_differ) {
        set_verdict(&self, QCOW2_COMPARE_SIZE, 0);
        return true;
    }
    return (!self.strict || compare_last_runs(&self, error)) && compare_contents(&self, error);
}
