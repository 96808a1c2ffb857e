/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From guest ranges of a state to the layer that answers. */
#include "state/state.h"
#include "util/bits.h"
#include "util/error.h"

/* What is not answered yet, and what is. */
typedef struct Resolver {
    Qcow2State *state;
    GArray *pending;          /* Qcow2Range */
    GArray *extents;          /* Qcow2Extent; each layer's in guest order */
    unsigned n_answers;       /* layers that gave extents: with more than one they must be sorted */
} Resolver;

static void answer_pending(Resolver *resolver, uint64_t from, Qcow2ExtentKind kind, unsigned layer)
{
    bool any = false;

    for (guint i = 0; i < resolver->pending->len; i++) {
        const Qcow2Range *range = &g_array_index(resolver->pending, Qcow2Range, i);
        uint64_t start = MAX(range->start, from);
        if (start < range->end) {
            Qcow2Extent extent = {
                .guest_offset = start,
                .len_bytes = range->end - start,
                .kind = (uint8_t)kind,
                .layer = (uint16_t)MIN(layer, QCOW2_NO_LAYER),
            };
            qcow2_extents_push(resolver->extents, &extent);
            any = true;
        }
    }
    resolver->n_answers += any;
}

/* Past @end everything is zero, whatever lies below; the rest stays pending. */
static void cut_pending(Resolver *resolver, uint64_t end, unsigned layer)
{
    Qcow2Range *range = (Qcow2Range *)(void *)resolver->pending->data;
    guint n = resolver->pending->len;

    if (n == 0 || range[n - 1].end <= end) {
        return;
    }
    answer_pending(resolver, end, QCOW2_EXTENT_ZERO, layer);
    while (n > 0 && range[n - 1].start >= end) {
        n--;
    }
    if (n > 0) {
        range[n - 1].end = MIN(range[n - 1].end, end);
    }
    g_array_set_size(resolver->pending, n);
}

/* Keeps what the layer allocates, and makes the rest pending for the layer below. */
static void take_answers(Resolver *resolver, const GArray *found)
{
    bool any = false;

    g_array_set_size(resolver->pending, 0);
    for (guint i = 0; i < found->len; i++) {
        const Qcow2Extent *extent = &g_array_index(found, Qcow2Extent, i);
        if (extent->kind == QCOW2_EXTENT_UNALLOCATED) {
            qcow2_ranges_push(resolver->pending, extent->guest_offset, qcow2_extent_end(extent));
        } else {
            qcow2_extents_push(resolver->extents, extent);
            any = true;
        }
    }
    resolver->n_answers += any;
}

static bool ask_layer(Resolver *resolver, unsigned layer, GArray *found, GError **error)
{
    Qcow2State *state = resolver->state;
    Qcow2Image *image = qcow2_chain_image(state->chain, layer);
    bool own_view = layer == 0 && state->kind == QCOW2_STATE_SNAPSHOT;
    Qcow2View view = own_view ? state->view : qcow2_image_active_view(image);

    if (!own_view) {
        cut_pending(resolver, image->size, layer);
    }
    if (resolver->pending->len == 0) {
        return true;
    }
    g_array_set_size(found, 0);
    if (!qcow2_chain_open_data(state->chain, layer, error)) {
        return false;
    }
    if (!qcow2_image_map(image, &view, (const Qcow2Range *)(const void *)resolver->pending->data,
                         resolver->pending->len, layer, found, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(state->chain, layer));
        return false;
    }
    take_answers(resolver, found);
    return true;
}

/* Whether layer @layer exists; the layers above it do. */
static bool layer_exists(Qcow2Chain *chain, unsigned layer, bool *ret_exists, GError **error)
{
    if (layer == 0) {
        *ret_exists = true;
        return true;
    }
    return qcow2_chain_open_below(chain, layer - 1, ret_exists, error);
}

static bool ask_layers(Resolver *resolver, unsigned stop_layer, GError **error)
{
    Qcow2State *state = resolver->state;
    g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));

    for (unsigned layer = state->first_layer; resolver->pending->len > 0; layer++) {
        bool exists;
        if (layer > 0 && !qcow2_chain_has_below(state->chain, layer - 1)) {
            answer_pending(resolver, 0, QCOW2_EXTENT_UNALLOCATED, layer - 1);
            return true;
        }
        if (layer >= stop_layer) {
            answer_pending(resolver, 0, QCOW2_EXTENT_UNALLOCATED, stop_layer);
            return true;
        }
        if (!layer_exists(state->chain, layer, &exists, error) || !ask_layer(resolver, layer, found, error)) {
            return false;
        }
    }
    return true;
}

static int compare_guest_offset(const void *a, const void *b)
{
    const Qcow2Extent *x = a, *y = b;
    return x->guest_offset < y->guest_offset ? -1 : x->guest_offset > y->guest_offset;
}

static void sort_extents(GArray *extents)
{
    g_array_sort(extents, compare_guest_offset);

    /* Pieces of neighbouring ranges may continue each other now. */
    g_autofree Qcow2Extent *sorted = g_memdup2(extents->data, extents->len * sizeof(Qcow2Extent));
    guint n = extents->len;
    g_array_set_size(extents, 0);
    for (guint i = 0; i < n; i++) {
        qcow2_extents_push(extents, &sorted[i]);
    }
}

bool qcow2_state_resolve(Qcow2State *state, const Qcow2Range *ranges, size_t n_ranges, unsigned stop_layer,
                         GArray *extents, GError **error)
{
    g_autoptr(GArray) pending = g_array_sized_new(FALSE, FALSE, sizeof(Qcow2Range), (guint)n_ranges);
    Resolver resolver = { .state = state, .pending = pending, .extents = extents };

    g_array_set_size(extents, 0);
    g_array_append_vals(pending, ranges, (guint)n_ranges);
    cut_pending(&resolver, state->size, QCOW2_NO_LAYER);
    if (state->kind == QCOW2_STATE_EMPTY) {
        answer_pending(&resolver, 0, QCOW2_EXTENT_ZERO, QCOW2_NO_LAYER);
    } else if (!ask_layers(&resolver, stop_layer, error)) {
        return false;
    }
    if (resolver.n_answers > 1) {
        sort_extents(extents);
    }
    return true;
}

bool qcow2_state_find_data(Qcow2State *state, const Qcow2Range *range, GArray *ret_ranges, GError **error)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));

    if (!qcow2_state_resolve(state, range, 1, QCOW2_NO_STOP, extents, error)) {
        return false;
    }
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (extent->kind == QCOW2_EXTENT_DATA || extent->kind == QCOW2_EXTENT_COMPRESSED) {
            qcow2_ranges_push(ret_ranges, extent->guest_offset, qcow2_extent_end(extent));
        }
    }
    return true;
}
