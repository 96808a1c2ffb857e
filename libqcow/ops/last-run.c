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

/* The extent of one layer that ends at @end; its parts before the window that is looked at do not count. */
static bool last_extent(Qcow2State *state, unsigned layer, uint64_t end, Qcow2Extent *ret, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(state->chain, layer);
    bool is_snapshot = layer == 0 && state->kind == QCOW2_STATE_SNAPSHOT;
    Qcow2View view = is_snapshot ? state->view : qcow2_image_active_view(image);
    uint64_t window =
        image->kind == QCOW2_IMAGE_RAW ? qcow2_image_window(image) : part_coverage(image, view.size);
    Qcow2Range range = { qcow2_align_down(end - 1, window), end };
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));

    if (!qcow2_image_map(image, &view, &range, 1, layer, extents, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(state->chain, layer));
        return false;
    }
    *ret = g_array_index(extents, Qcow2Extent, extents->len - 1);
    return true;
}

/* Where the run of one layer starts that ends the disk, and whether the layers below tell more. */
static bool layer_run(Qcow2State *state, unsigned layer, uint64_t *ret_start, bool *ret_falls_through,
                      GError **error)
{
    bool is_raw = qcow2_chain_image(state->chain, layer)->kind == QCOW2_IMAGE_RAW;
    Qcow2Extent run, before;

    if (!last_extent(state, layer, state->size, &run, error)) {
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

bool qcow2_last_run(Qcow2State *state, uint64_t *ret_start, GError **error)
{
    bool falls_through = state->kind != QCOW2_STATE_EMPTY && state->size > 0;

    *ret_start = 0;
    for (unsigned i = state->first_layer; falls_through && i < qcow2_chain_n_layers(state->chain); i++) {
        bool is_snapshot = i == 0 && state->kind == QCOW2_STATE_SNAPSHOT;
        uint64_t layer_size = is_snapshot ? state->size : qcow2_chain_image(state->chain, i)->size;
        uint64_t start = layer_size;
        if (layer_size < state->size) {
            falls_through = false;      /* zeros from its end on */
        } else if (!layer_run(state, i, &start, &falls_through, error)) {
            return false;
        }
        *ret_start = MAX(*ret_start, start);
    }
    return true;
}
