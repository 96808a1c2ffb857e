/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/free-space.h"

#include "util/error.h"

#define MAX_OFFSET BIT(56)

typedef struct FreeRun {
    uint64_t first, n;
} FreeRun;

struct Qcow2FreeSpace {
    GArray *runs;             /* FreeRun, in host order */
    uint64_t end, limit;
};

static void push_free(GArray *runs, uint64_t cluster)
{
    FreeRun *last = runs->len ? &g_array_index(runs, FreeRun, runs->len - 1) : NULL;

    if (last && last->first + last->n == cluster) {
        last->n++;
    } else {
        FreeRun run = { cluster, 1 };
        g_array_append_val(runs, run);
    }
}

/* Clusters of the last blocks that nobody uses; also moves the end behind the last one that is used. */
static bool scan(Qcow2FreeSpace *space, Qcow2CountsCache *counts, uint64_t first, uint64_t end,
                 GError **error)
{
    uint64_t used_end = 0;

    for (uint64_t cluster = first; cluster < end; cluster++) {
        uint64_t count;
        if (!qcow2_counts_cache_get(counts, cluster, &count, error)) {
            return false;
        }
        if (count == 0) {
            push_free(space->runs, cluster);
        } else {
            used_end = cluster + 1;
        }
    }
    space->end = MAX(space->end, used_end);
    return true;
}

void qcow2_free_space_keep_below(Qcow2FreeSpace *space, uint64_t limit)
{
    while (space->runs->len > 0) {
        FreeRun *last = &g_array_index(space->runs, FreeRun, space->runs->len - 1);
        if (last->first + last->n <= limit) {
            return;
        }
        if (last->first < limit) {
            last->n = limit - last->first;
            return;
        }
        g_array_set_size(space->runs, space->runs->len - 1);
    }
}

Qcow2FreeSpace *qcow2_free_space_new(Qcow2Image *image, Qcow2CountsCache *counts, unsigned n_blocks,
                                     GError **error)
{
    g_autoptr(Qcow2FreeSpace) space = g_new0(Qcow2FreeSpace, 1);
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t per_block = BIT(layout->refblock_bits), counts_end = qcow2_counts_cache_end(counts), size;

    space->runs = g_array_new(FALSE, FALSE, sizeof(FreeRun));
    if (!qcow2_io_get_size(image->file, &size, error)) {
        return NULL;
    }
    /* Blocks past the end of the file may count preallocated clusters: these are always looked at. */
    uint64_t wanted = counts_end - MIN(counts_end, (uint64_t)n_blocks * per_block);
    if (qcow2_io_can_grow(image->file)) {
        space->limit = MAX_OFFSET >> layout->cluster_bits;
        space->end = qcow2_div_round_up(size, layout->cluster_size);
        wanted = MIN(wanted, qcow2_align_down(space->end, per_block));
    } else {
        /* Its size says nothing about what is in use; a part of a last cluster can be, and is not taken. */
        space->limit = size >> layout->cluster_bits;
        wanted = 0;
    }
    if (!scan(space, counts, wanted, counts_end, error)) {
        return NULL;
    }
    /* The last run may reach past the end: what is there is taken from the end instead. */
    qcow2_free_space_keep_below(space, space->end);
    return g_steal_pointer(&space);
}

void qcow2_free_space_free(Qcow2FreeSpace *space)
{
    if (space) {
        g_array_unref(space->runs);
        g_free(space);
    }
}

uint64_t qcow2_free_space_take_end(Qcow2FreeSpace *space, uint64_t n)
{
    uint64_t first = space->end;

    space->end += n;
    return first;
}

/* What an interrupted change left at the end of the file is a beginning, too. */
static uint64_t take_last_run(Qcow2FreeSpace *space, uint64_t n)
{
    guint n_runs = space->runs->len;
    const FreeRun *last = n_runs > 0 ? &g_array_index(space->runs, FreeRun, n_runs - 1) : NULL;

    if (!last || last->first + last->n != space->end) {
        return qcow2_free_space_take_end(space, n);
    }
    uint64_t first = last->first;
    space->end = first + n;
    g_array_set_size(space->runs, n_runs - 1);
    return first;
}

uint64_t qcow2_free_space_take(Qcow2FreeSpace *space, uint64_t n)
{
    for (guint i = 0; i < space->runs->len; i++) {
        FreeRun *run = &g_array_index(space->runs, FreeRun, i);
        if (run->n >= n) {
            uint64_t first = run->first;
            run->first += n;
            run->n -= n;
            if (run->n == 0) {
                g_array_remove_index(space->runs, i);
            }
            return first;
        }
    }
    return take_last_run(space, n);
}

bool qcow2_free_space_has(const Qcow2FreeSpace *space, uint64_t cluster)
{
    guint first = 0, end = space->runs->len;

    while (first < end) {
        guint middle = first + (end - first) / 2;
        const FreeRun *run = &g_array_index(space->runs, FreeRun, middle);
        if (cluster < run->first) {
            end = middle;
        } else if (cluster >= run->first + run->n) {
            first = middle + 1;
        } else {
            return true;
        }
    }
    return false;
}

uint64_t qcow2_free_space_end(const Qcow2FreeSpace *space)
{
    return space->end;
}

uint64_t qcow2_free_space_limit(const Qcow2FreeSpace *space)
{
    return space->limit;
}

bool qcow2_free_space_take_at(Qcow2FreeSpace *space, uint64_t first, uint64_t n)
{
    for (guint i = 0; i < space->runs->len; i++) {
        FreeRun *run = &g_array_index(space->runs, FreeRun, i);
        if (first < run->first || first + n > run->first + run->n) {
            continue;
        }
        FreeRun behind = { first + n, run->first + run->n - (first + n) };
        run->n = first - run->first;
        if (behind.n > 0) {
            g_array_insert_val(space->runs, i + 1, behind);
        }
        if (g_array_index(space->runs, FreeRun, i).n == 0) {
            g_array_remove_index(space->runs, i);
        }
        return true;
    }
    return false;
}
