/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/placement.h"

void qcow2_placement_init(Qcow2Placement *placement, GArray *runs, const GArray *extents)
{
    *placement = (Qcow2Placement) {
        .runs = runs,
        .extents = extents,
        .order = g_array_new(FALSE, FALSE, sizeof(guint)),
    };
    for (guint i = 0; i < runs->len; i++) {
        const Qcow2ClusterRun *run = &g_array_index(runs, Qcow2ClusterRun, i);
        if (run->kind == QCOW2_RUN_DATA) {
            g_array_append_val(placement->order, i);
            placement->n_clusters += run->n_clusters;
        }
    }
}

void qcow2_placement_clear(Qcow2Placement *placement)
{
    g_clear_pointer(&placement->order, g_array_unref);
}

static Qcow2ClusterRun *run_at(const Qcow2Placement *placement, guint index)
{
    return &g_array_index(placement->runs, Qcow2ClusterRun, g_array_index(placement->order, guint, index));
}

const Qcow2ClusterRun *qcow2_placement_run(const Qcow2Placement *placement, guint index)
{
    return run_at(placement, index);
}

static void assign(Qcow2Placement *placement, uint64_t host_offset, unsigned cluster_bits)
{
    for (guint i = 0; i < placement->order->len; i++) {
        Qcow2ClusterRun *run = run_at(placement, i);
        run->host_offset = host_offset;
        host_offset += run->n_clusters << cluster_bits;
    }
}

static int compare_index(const void *a, const void *b)
{
    guint x = *(const guint *)a, y = *(const guint *)b;
    return x < y ? -1 : x > y;
}

void qcow2_placement_by_guest(Qcow2Placement *placement, uint64_t host_offset, unsigned cluster_bits)
{
    g_array_sort(placement->order, compare_index);
    assign(placement, host_offset, cluster_bits);
}

void qcow2_placement_as_guest(Qcow2Placement *placement, unsigned cluster_bits)
{
    for (guint i = 0; i < placement->order->len; i++) {
        Qcow2ClusterRun *run = run_at(placement, i);
        run->host_offset = run->first_cluster << cluster_bits;
    }
}

/* ---- By source --------------------------------------------------------------------------------- */

bool qcow2_run_first_data(const Qcow2ClusterRun *run, const GArray *extents, Qcow2Extent *ret)
{
    for (guint i = run->first_extent; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (extent->guest_offset >= run->guest_end) {
            break;
        }
        if (extent->kind == QCOW2_EXTENT_DATA) {
            *ret = qcow2_extent_slice(extent, run->guest_start, run->guest_end);
            return true;
        }
    }
    return false;
}

/* What a run is sorted by. */
typedef struct Key {
    uint64_t host_offset;
    guint layer;
    guint index;
} Key;

static int compare_key(const void *a, const void *b)
{
    const Key *x = a, *y = b;

    if (x->layer != y->layer) {
        return x->layer < y->layer ? -1 : 1;
    }
    if (x->host_offset != y->host_offset) {
        return x->host_offset < y->host_offset ? -1 : 1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

void qcow2_placement_by_source(Qcow2Placement *placement, uint64_t host_offset, unsigned cluster_bits)
{
    guint n = placement->order->len;
    g_autofree Key *keys = g_new(Key, n);

    for (guint i = 0; i < n; i++) {
        Qcow2Extent extent;
        bool has_data = qcow2_run_first_data(run_at(placement, i), placement->extents, &extent);
        keys[i] = (Key) {
            .host_offset = has_data ? extent.host_offset : 0,
            .layer = has_data ? extent.layer : QCOW2_NO_LAYER,
            .index = g_array_index(placement->order, guint, i),
        };
    }
    qsort(keys, n, sizeof(Key), compare_key);
    for (guint i = 0; i < n; i++) {
        g_array_index(placement->order, guint, i) = keys[i].index;
    }
    assign(placement, host_offset, cluster_bits);
}
