/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ops/last-run.h"

#include "util/bits.h"

/* What QEMU's cache of L2 tables takes at most; when that is less than all tables, it reads them in parts. */
#define L2_CACHE_SIZE (UINT64_C(32) << 20)
#define L2_PART_SIZE  UINT64_C(4096)

/* Guest bytes that one part of an L2 table maps: no answer crosses its borders. */
static uint64_t part_coverage(const Qcow2Image *image, uint64_t size)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t all_tables = qcow2_align_up(
        qcow2_div_round_up(size, layout->cluster_size) * layout->l2_entry_size, layout->cluster_size);
    uint64_t part =
        all_tables > L2_CACHE_SIZE ? MIN(layout->cluster_size, L2_PART_SIZE) : layout->cluster_size;

    return part / layout->l2_entry_size * layout->cluster_size;
}

/* The extent of one layer that holds the byte before @end; what is before the window that is looked at is
 * cut. */
static bool last_extent(Qcow2State *state, unsigned layer, uint64_t end, Qcow2Extent *ret, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(state->chain, layer);
    bool is_snapshot = layer == 0 && state->kind == QCOW2_STATE_SNAPSHOT;
    Qcow2View view = is_snapshot ? state->view : qcow2_image_active_view(image);
    bool is_raw = image->kind == QCOW2_IMAGE_RAW;
    uint64_t window = is_raw ? qcow2_image_window(image) : part_coverage(image, view.size);
    Qcow2Range range = { qcow2_align_down(end - 1, window), end };
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));

    if (!qcow2_image_map(image, &view, &range, 1, layer, extents, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(state->chain, layer));
        return false;
    }
    *ret = g_array_index(extents, Qcow2Extent, extents->len - 1);
    return true;
}

/* Where the run of one layer starts that holds the byte before @end, and whether the layers below tell more.
 */
static bool layer_run(Qcow2State *state, unsigned layer, uint64_t end, uint64_t *ret_start,
                      bool *ret_falls_through, GError **error)
{
    bool is_raw = qcow2_chain_image(state->chain, layer)->kind == QCOW2_IMAGE_RAW;
    Qcow2Extent run, before;

    if (!last_extent(state, layer, end, &run, error)) {
        return false;
    }
    *ret_start = run.guest_offset;
    *ret_falls_through = run.kind == QCOW2_EXTENT_UNALLOCATED;
    /* The runs of a raw file know no windows. */
    while (is_raw && *ret_start > 0) {
        if (!last_extent(state, layer, *ret_start, &before, error)) {
            return false;
        }
        if (before.kind != run.kind || before.allocated != run.allocated) {
            break;
        }
        *ret_start = before.guest_offset;
    }
    return true;
}

static uint64_t layer_size(const Qcow2State *state, unsigned layer)
{
    bool is_snapshot = layer == 0 && state->kind == QCOW2_STATE_SNAPSHOT;
    return is_snapshot ? state->size : qcow2_chain_image(state->chain, layer)->size;
}

/* The run through all layers that ends at @end, and whether no layer allocates it. */
static bool find_run(Qcow2State *state, uint64_t end, Qcow2Range *ret, bool *ret_unallocated, GError **error)
{
    bool falls_through = end > 0;

    *ret = (Qcow2Range) { 0, end };
    for (unsigned i = state->first_layer; falls_through && i < qcow2_chain_n_layers(state->chain); i++) {
        uint64_t start = layer_size(state, i);
        if (start < end) {
            falls_through = false;      /* zeros from its end on */
        } else if (!layer_run(state, i, end, &start, &falls_through, error)) {
            return false;
        }
        ret->start = MAX(ret->start, start);
    }
    *ret_unallocated = falls_through;
    return true;
}

/* Also a hole of the file below data ends a run. */
static bool cut_at_hole(const Qcow2Mapper *mapper, Qcow2Range *run, GError **error)
{
    g_autoptr(GArray) parts = g_array_new(FALSE, FALSE, sizeof(Qcow2MapExtent));

    if (run->start >= run->end || !qcow2_mapper_finds_holes(mapper)) {
        return true;
    }
    if (!qcow2_mapper_map(mapper, run, 1, parts, error)) {
        return false;
    }
    run->start = g_array_index(parts, Qcow2MapExtent, parts->len - 1).start;
    return true;
}

bool qcow2_find_last_runs(Qcow2State *state, const Qcow2Mapper *mapper, Qcow2LastRuns *ret, GError **error)
{
    unsigned lowest = qcow2_chain_n_layers(state->chain) - 1;
    bool unallocated;

    *ret = (Qcow2LastRuns) { .of_disk = { 0, state->size } };
    if (state->kind == QCOW2_STATE_EMPTY) {
        return true;
    }
    if (!find_run(state, state->size, &ret->of_disk, &unallocated, error)
        || !cut_at_hole(mapper, &ret->of_disk, error)) {
        return false;
    }
    if (lowest <= state->first_layer || layer_size(state, lowest) >= state->size) {
        return true;
    }
    if (!find_run(state, layer_size(state, lowest), &ret->of_base, &unallocated, error)) {
        return false;
    }
    if (!unallocated) {
        ret->of_base.end = ret->of_base.start;
    }
    return true;
}

static bool is_in(Qcow2Range range, uint64_t offset)
{
    return range.start <= offset && offset < range.end;
}

uint64_t qcow2_last_runs_mismatch(const Qcow2LastRuns *a, const Qcow2LastRuns *b)
{
    const Qcow2Range runs[] = { a->of_disk, a->of_base, b->of_disk, b->of_base };
    uint64_t first = UINT64_MAX;

    for (size_t i = 0; i < 2 * G_N_ELEMENTS(runs); i++) {
        uint64_t offset = i % 2 ? runs[i / 2].end : runs[i / 2].start;
        bool in_a = is_in(a->of_disk, offset) || is_in(a->of_base, offset);
        bool in_b = is_in(b->of_disk, offset) || is_in(b->of_base, offset);
        if (in_a != in_b) {
            first = MIN(first, offset);
        }
    }
    return first;
}
