/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/placed.h"

/* 24 bytes each. */
#define MAX_RUNS (UINT64_C(4) << 20)

typedef struct Run {
    uint64_t first, n, raw;
} Run;

struct Qcow2Placed {
    uint64_t cluster_size;
    GPtrArray *states;        /* GArray of Run in rising order, one for each state */
    uint64_t n_runs;
};

Qcow2Placed *qcow2_placed_new(uint64_t cluster_size)
{
    Qcow2Placed *placed = g_new0(Qcow2Placed, 1);

    placed->cluster_size = cluster_size;
    placed->states = g_ptr_array_new_with_free_func((GDestroyNotify)g_array_unref);
    qcow2_placed_next_state(placed);
    return placed;
}

void qcow2_placed_free(Qcow2Placed *placed)
{
    if (placed) {
        g_ptr_array_unref(placed->states);
        g_free(placed);
    }
}

static GArray *last_state(const Qcow2Placed *placed)
{
    return placed->states->len ? g_ptr_array_index(placed->states, placed->states->len - 1) : NULL;
}

void qcow2_placed_next_state(Qcow2Placed *placed)
{
    const GArray *last = last_state(placed);

    if (!last || last->len > 0) {
        g_ptr_array_add(placed->states, g_array_new(FALSE, FALSE, sizeof(Run)));
    }
}

void qcow2_placed_add(Qcow2Placed *placed, uint64_t first_cluster, uint64_t n_clusters, uint64_t raw)
{
    GArray *runs = last_state(placed);
    Run *last = runs->len ? &g_array_index(runs, Run, runs->len - 1) : NULL;
    Run run = { first_cluster, n_clusters, raw };

    if (last && last->first + last->n == first_cluster && last->raw + last->n * placed->cluster_size == raw) {
        last->n += n_clusters;
    } else if (placed->n_runs < MAX_RUNS) {
        g_array_append_val(runs, run);
        placed->n_runs++;
    }
}

/* The first run that ends after @cluster. */
static const Run *find_run(const GArray *runs, uint64_t cluster)
{
    guint low = 0, high = runs->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        const Run *run = &g_array_index(runs, Run, middle);
        if (run->first + run->n <= cluster) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < runs->len ? &g_array_index(runs, Run, low) : NULL;
}

uint64_t qcow2_placed_find(const Qcow2Placed *placed, uint64_t cluster, uint64_t n_clusters,
                           uint64_t *ret_raw)
{
    *ret_raw = 0;
    for (guint i = 0; i < placed->states->len; i++) {
        const Run *run = find_run(g_ptr_array_index(placed->states, i), cluster);
        if (run && run->first <= cluster) {
            *ret_raw = run->raw + (cluster - run->first) * placed->cluster_size;
            return MIN(n_clusters, run->first + run->n - cluster);
        }
        if (run) {
            n_clusters = MIN(n_clusters, run->first - cluster);
        }
    }
    return n_clusters;
}
