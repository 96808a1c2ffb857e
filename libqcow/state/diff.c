/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "state/diff.h"

#include <string.h>

#include "state/table-diff.h"
#include "util/bits.h"
#include "util/error.h"

struct Qcow2Diff {
    Qcow2State *a, *b;
    unsigned stop_a, stop_b;      /* the first layer of each that both share, with all below it */
    bool same_below;              /* what is below layer 0 of both is the same */
    bool same_tables; /* both are looked up through L1 tables of one image, over the same layers */
    uint64_t smaller, larger;     /* sizes */
    Qcow2State *larger_state;
    Qcow2Range straddle;          /* the part of the smaller state's last cluster that is past its end */
    bool straddle_known, straddle_is_zero;
    Qcow2TableDiff tables;        /* with same_tables */
    struct Qcow2Diff *below;      /* the same tables over other layers: what differs is found down there */
    Qcow2State below_a, below_b;
    GArray *sure;                 /* Qcow2Range: of one window, with data of its own in each state */
    GArray *candidates;           /* Qcow2Range: of one window, to be looked at */
    GArray *undecided;            /* Qcow2Range: zero in one, in the other whatever the shared layers say */
    GArray *extents_a, *extents_b;
};

/* ---- What two chains share --------------------------------------------------------------------- */

/* Two images may have one inode and yet each its own data file: names can be given, or be relative. */
static bool has_same_data(const Qcow2Layer *a, const Qcow2Layer *b)
{
    const Qcow2IoIdentity *x = &a->data_identity, *y = &b->data_identity;

    if (a->image->kind == QCOW2_IMAGE_RAW || !a->image->header.layout.has_data_file) {
        return true;
    }
    return a->has_data_identity && b->has_data_identity && x->known && y->known && x->device == y->device
        && x->inode == y->inode;
}

static bool is_same_file(const Qcow2Layer *a, const Qcow2Layer *b)
{
    return a == b || (a->identity.known && b->identity.known && a->identity.device == b->identity.device
                      && a->identity.inode == b->identity.inode && a->image->kind == b->image->kind
                      && a->image->raw_offset == b->image->raw_offset && a->image->size == b->image->size
                      && (a->image == b->image || has_same_data(a, b)));
}

/* So that they can be compared. Where one cannot be opened, whoever looks its layer up fails. */
static void open_data_files(Qcow2Chain *chain)
{
    for (unsigned i = 0; i < qcow2_chain_n_layers(chain); i++) {
        (void)qcow2_chain_open_data(chain, i, NULL);
    }
}

/* A layer can be shared only where both states look at its active tables. */
static unsigned first_shareable(const Qcow2State *state)
{
    return state->kind == QCOW2_STATE_SNAPSHOT ? 1 : state->first_layer;
}

static bool has_tables(const Qcow2State *state)
{
    return state->kind == QCOW2_STATE_ACTIVE || state->kind == QCOW2_STATE_SNAPSHOT;
}

/* What both look up in the same way first can only differ where the layers below do. */
static bool has_same_top(const Qcow2Diff *diff)
{
    const Qcow2State *a = diff->a, *b = diff->b;

    return !diff->same_below && has_tables(a) && has_tables(b) && a->size == b->size
        && is_same_file(qcow2_chain_layer(a->chain, 0), qcow2_chain_layer(b->chain, 0))
        && a->view.l1_offset == b->view.l1_offset && a->view.l1_entries == b->view.l1_entries;
}

static bool find_shared_layers(Qcow2Diff *diff, GError **error)
{
    Qcow2Chain *a = diff->a->chain, *b = diff->b->chain;
    unsigned first_a = first_shareable(diff->a), first_b = first_shareable(diff->b);

    if (diff->a->kind == QCOW2_STATE_EMPTY || diff->b->kind == QCOW2_STATE_EMPTY) {
        diff->stop_a = diff->stop_b = QCOW2_NO_STOP;
        return true;
    }
    if (a == b) {
        /* The layers below need not even be opened to know that they are the same. */
        diff->stop_a = diff->stop_b = MAX(first_a, first_b);
        diff->same_below = true;
        return true;
    }
    if (!qcow2_chain_open_all(a, error) || !qcow2_chain_open_all(b, error)) {
        return false;
    }
    open_data_files(a);
    open_data_files(b);
    unsigned n_a = qcow2_chain_n_layers(a), n_b = qcow2_chain_n_layers(b), shared = 0;
    while (shared < n_a - MIN(n_a, first_a) && shared < n_b - MIN(n_b, first_b)
           && is_same_file(qcow2_chain_layer(a, n_a - 1 - shared), qcow2_chain_layer(b, n_b - 1 - shared))) {
        shared++;
    }
    diff->same_below = n_a == n_b && shared + 1 >= n_a;
    if (has_same_top(diff)) {
        /* One chain may have it a second time, further down; it counts where it is the top of both. */
        shared = MIN(shared, MIN(n_a, n_b) - 1);
    }
    diff->stop_a = shared ? n_a - shared : QCOW2_NO_STOP;
    diff->stop_b = shared ? n_b - shared : QCOW2_NO_STOP;
    return true;
}

/* ---- Life -------------------------------------------------------------------------------------- */

static void find_straddle(Qcow2Diff *diff)
{
    uint64_t unit = 1;

    diff->smaller = MIN(diff->a->size, diff->b->size);
    diff->larger = MAX(diff->a->size, diff->b->size);
    diff->larger_state = diff->a->size > diff->b->size ? diff->a : diff->b;
    const Qcow2Image *image = qcow2_chain_image(diff->larger_state->chain, 0);
    if (image->kind == QCOW2_IMAGE_QCOW2) {
        unit = image->header.layout.cluster_size;
    }
    diff->straddle.start = diff->smaller;
    diff->straddle.end = MIN(qcow2_align_up(diff->smaller, unit), diff->larger);
}

static bool look_below(Qcow2Diff *diff, GError **error)
{
    if (!has_same_top(diff)) {
        return true;
    }
    diff->below_a = qcow2_state_below(diff->a->chain, 1);
    diff->below_b = qcow2_state_below(diff->b->chain, 1);
    diff->below = qcow2_diff_new(&diff->below_a, &diff->below_b, error);
    return diff->below != NULL;
}

Qcow2Diff *qcow2_diff_new(Qcow2State *a, Qcow2State *b, GError **error)
{
    g_autoptr(Qcow2Diff) diff = g_new0(Qcow2Diff, 1);

    diff->a = a;
    diff->b = b;
    diff->sure = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    diff->candidates = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    diff->undecided = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    diff->extents_a = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    diff->extents_b = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    qcow2_states_share_size(a, b);
    if (!find_shared_layers(diff, error)) {
        return NULL;
    }
    diff->same_tables = diff->same_below && has_tables(a) && has_tables(b)
                     && is_same_file(qcow2_chain_layer(a->chain, 0), qcow2_chain_layer(b->chain, 0));
    find_straddle(diff);
    diff->tables = (Qcow2TableDiff) {
        .image = qcow2_chain_image(a->chain, 0), .a = &a->view, .b = &b->view, .limit = diff->smaller,
    };
    return look_below(diff, error) ? g_steal_pointer(&diff) : NULL;
}

void qcow2_diff_free(Qcow2Diff *diff)
{
    if (!diff) {
        return;
    }
    g_clear_pointer(&diff->below, qcow2_diff_free);
    qcow2_table_diff_clear(&diff->tables);
    g_array_unref(diff->sure);
    g_array_unref(diff->candidates);
    g_array_unref(diff->undecided);
    g_array_unref(diff->extents_a);
    g_array_unref(diff->extents_b);
    g_free(diff);
}

/* ---- Bytes, where descriptors cannot tell ------------------------------------------------------ */

bool qcow2_state_range_is_zero(Qcow2State *state, Qcow2Range range, bool *ret_zero, GError **error)
{
    uint8_t buffer[4096];

    *ret_zero = true;
    for (uint64_t offset = range.start; *ret_zero && offset < range.end;) {
        size_t len = MIN(sizeof(buffer), range.end - offset);
        if (!qcow2_state_read(state, offset, buffer, len, error)) {
            return false;
        }
        *ret_zero = buffer[0] == 0 && memcmp(buffer, buffer + 1, len - 1) == 0;
        offset += len;
    }
    return true;
}

/* Adds a differing range, less the part past the smaller state's end that holds zeros only. */
static bool push_differing(Qcow2Diff *diff, uint64_t start, uint64_t end, GArray *ranges, GError **error)
{
    Qcow2Range straddle = diff->straddle;

    if (start >= straddle.end || end <= straddle.start) {
        qcow2_ranges_push(ranges, start, end);
        return true;
    }
    if (!diff->straddle_known) {
        if (!qcow2_state_range_is_zero(diff->larger_state, straddle, &diff->straddle_is_zero, error)) {
            return false;
        }
        diff->straddle_known = true;
    }
    if (!diff->straddle_is_zero) {
        qcow2_ranges_push(ranges, start, end);
        return true;
    }
    qcow2_ranges_push(ranges, start, straddle.start);
    qcow2_ranges_push(ranges, MAX(start, straddle.end), end);
    return true;
}

/* ---- Comparing descriptors --------------------------------------------------------------------- */

static bool falls_through(const Qcow2Extent *extent, unsigned stop)
{
    return extent->kind == QCOW2_EXTENT_UNALLOCATED && extent->layer >= stop;
}

static bool is_zero(const Qcow2Extent *extent, unsigned stop)
{
    return extent->kind == QCOW2_EXTENT_ZERO
           || (extent->kind == QCOW2_EXTENT_UNALLOCATED && extent->layer < stop);
}

static bool same_bytes_on_host(const Qcow2Diff *diff, const Qcow2Extent *x, const Qcow2Extent *y)
{
    return x->kind == y->kind && x->host_offset == y->host_offset
           && (x->kind == QCOW2_EXTENT_DATA
               || (x->kind == QCOW2_EXTENT_COMPRESSED && x->stream_len == y->stream_len))
           && is_same_file(qcow2_chain_layer(diff->a->chain, x->layer),
                           qcow2_chain_layer(diff->b->chain, y->layer));
}

static bool compare_pieces(Qcow2Diff *diff, const Qcow2Extent *x, const Qcow2Extent *y, GArray *ranges,
                           GError **error)
{
    bool through_a = falls_through(x, diff->stop_a), through_b = falls_through(y, diff->stop_b);
    bool zero_a = is_zero(x, diff->stop_a), zero_b = is_zero(y, diff->stop_b);

    if ((through_a && through_b) || (zero_a && zero_b) || same_bytes_on_host(diff, x, y)) {
        return true;
    }
    if ((through_a && zero_b) || (zero_a && through_b)) {
        qcow2_ranges_push(diff->undecided, x->guest_offset, qcow2_extent_end(x));
        return true;
    }
    return push_differing(diff, x->guest_offset, qcow2_extent_end(x), ranges, error);
}

/* Both lists cover the same ranges; their pieces are cut at each other's borders. */
static bool compare_extents(Qcow2Diff *diff, GArray *ranges, GError **error)
{
    guint i = 0, j = 0;
    uint64_t offset = 0;

    while (i < diff->extents_a->len && j < diff->extents_b->len) {
        const Qcow2Extent *x = &g_array_index(diff->extents_a, Qcow2Extent, i);
        const Qcow2Extent *y = &g_array_index(diff->extents_b, Qcow2Extent, j);
        uint64_t start = MAX(offset, MAX(x->guest_offset, y->guest_offset));
        uint64_t end = MIN(qcow2_extent_end(x), qcow2_extent_end(y));
        Qcow2Extent piece_a = qcow2_extent_slice(x, start, end), piece_b = qcow2_extent_slice(y, start, end);
        if (!compare_pieces(diff, &piece_a, &piece_b, ranges, error)) {
            return false;
        }
        offset = end;
        i += end == qcow2_extent_end(x);
        j += end == qcow2_extent_end(y);
    }
    return true;
}

/* ---- Windows ----------------------------------------------------------------------------------- */

static int compare_range(const void *a, const void *b)
{
    const Qcow2Range *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

/* Both are sorted; what is in one lies between what is in the other. */
static void append_sorted(GArray *ranges, const GArray *more)
{
    bool one_is_empty = ranges->len == 0 || more->len == 0;

    g_array_append_vals(ranges, more->data, more->len);
    if (!one_is_empty) {
        g_array_sort(ranges, compare_range);
        qcow2_ranges_align(ranges, 1, UINT64_MAX);
    }
}

static const Qcow2Range *items(const GArray *ranges)
{
    return (const Qcow2Range *)(const void *)ranges->data;
}

/* One state reads zeros there; the other what the shared layers hold: equal when these hold zeros too. */
static bool decide_undecided(Qcow2Diff *diff, GArray *ranges, GError **error)
{
    Qcow2State below = qcow2_state_below(diff->a->chain, diff->stop_a);

    if (diff->undecided->len == 0) {
        return true;
    }
    if (!qcow2_state_resolve(&below, items(diff->undecided), diff->undecided->len, QCOW2_NO_STOP,
                             diff->extents_a, error)) {
        return false;
    }
    /* Collected apart: they lie between the ranges found so far, and ranges are only ever pushed in order. */
    g_autoptr(GArray) decided = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    for (guint i = 0; i < diff->extents_a->len; i++) {
        const Qcow2Extent *extent = &g_array_index(diff->extents_a, Qcow2Extent, i);
        if (!is_zero(extent, QCOW2_NO_STOP)
            && !push_differing(diff, extent->guest_offset, qcow2_extent_end(extent), decided, error)) {
            return false;
        }
    }
    append_sorted(ranges, decided);
    return true;
}

static bool find_candidates_below(Qcow2Diff *diff, Qcow2Range window, GError **error)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));

    while (window.start < window.end) {
        if (!qcow2_diff_next(diff->below, window.start, window.end, ranges, &window.start, error)) {
            return false;
        }
        g_array_append_vals(diff->candidates, ranges->data, ranges->len);
    }
    return true;
}

/* What has to be looked at: with tables of one image, only entries that differ and what is past an end. */
static bool find_candidates(Qcow2Diff *diff, Qcow2Range window, GError **error)
{
    g_array_set_size(diff->sure, 0);
    g_array_set_size(diff->candidates, 0);
    if (diff->below) {
        return find_candidates_below(diff, window, error);
    }
    if (!diff->same_tables) {
        qcow2_ranges_push(diff->candidates, window.start, window.end);
        return true;
    }
    Qcow2Range both = { window.start, MIN(window.end, diff->smaller) };
    if (both.start < both.end
        && !qcow2_table_diff_get(&diff->tables, both, diff->sure, diff->candidates, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(diff->a->chain, 0));
        return false;
    }
    qcow2_ranges_push(diff->candidates, MAX(window.start, both.end), window.end);
    return true;
}

/* Where the next window must begin at the latest: what comes before has the same tables in both states. */
static bool skip_equal_tables(Qcow2Diff *diff, uint64_t *from, uint64_t limit, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(diff->a->chain, 0);
    uint64_t both_end = MIN(limit, diff->smaller), window = qcow2_image_window(image), next;

    if (!diff->same_tables || image->kind == QCOW2_IMAGE_RAW || *from >= both_end) {
        return true;
    }
    if (!qcow2_image_skip_equal(image, &diff->a->view, &diff->b->view, *from, both_end, &next, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(diff->a->chain, 0));
        return false;
    }
    *from = next == limit ? limit : MAX(*from, qcow2_align_down(next, window));
    return true;
}

static bool compare_candidates(Qcow2Diff *diff, GArray *ranges, GError **error)
{
    const Qcow2Range *candidates = items(diff->candidates);
    guint n = diff->candidates->len;

    return qcow2_state_resolve(diff->a, candidates, n, diff->stop_a, diff->extents_a, error)
        && qcow2_state_resolve(diff->b, candidates, n, diff->stop_b, diff->extents_b, error)
        && compare_extents(diff, ranges, error)
        && decide_undecided(diff, ranges, error);
}

static bool add_sure(Qcow2Diff *diff, GArray *ranges, GError **error)
{
    g_autoptr(GArray) added = g_array_sized_new(FALSE, FALSE, sizeof(Qcow2Range), diff->sure->len);

    for (guint i = 0; i < diff->sure->len; i++) {
        if (!push_differing(diff, items(diff->sure)[i].start, items(diff->sure)[i].end, added, error)) {
            return false;
        }
    }
    append_sorted(ranges, added);
    return true;
}

bool qcow2_diff_next(Qcow2Diff *diff, uint64_t from, uint64_t limit, GArray *ret_ranges, uint64_t *ret_end,
                     GError **error)
{
    g_array_set_size(ret_ranges, 0);
    g_array_set_size(diff->undecided, 0);
    if (!skip_equal_tables(diff, &from, limit, error)) {
        return false;
    }
    uint64_t window = MIN(qcow2_state_window(diff->a), qcow2_state_window(diff->b));
    Qcow2Range range = { from, MIN(limit, qcow2_align_down(from, window) + window) };
    *ret_end = range.end;
    if (range.start >= range.end) {
        return true;
    }
    if (!find_candidates(diff, range, error)) {
        return false;
    }
    return (diff->candidates->len == 0 || compare_candidates(diff, ret_ranges, error))
        && add_sure(diff, ret_ranges, error);
}
