/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/free-space.h"

#include "util/error.h"

#define MAX_OFFSET BIT(56)

typedef struct FreeRun {
    uint64_t first, n;
} FreeRun;

struct Qcow2FreeSpace {
    GArray *runs;             /* FreeRun, in host order */
    guint first_run;          /* the first of them that is not taken whole */
    uint64_t start;           /* what is before was not looked at */
    uint64_t end, limit;
};

static FreeRun *run_at(const Qcow2FreeSpace *space, guint i)
{
    return &g_array_index(space->runs, FreeRun, i);
}

/*
 * A run that is used up. Takes go through the runs from the beginning: to move all others down for each of
 * them took longer than all else where there are some ten thousand.
 */
static void drop_run(Qcow2FreeSpace *space, guint i)
{
    if (i == space->first_run) {
        space->first_run++;
    } else {
        g_array_remove_index(space->runs, i);
    }
}

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
    while (space->runs->len > space->first_run) {
        FreeRun *last = run_at(space, space->runs->len - 1);
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
    space->start = wanted;
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
    const FreeRun *last = n_runs > space->first_run ? run_at(space, n_runs - 1) : NULL;

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
    for (guint i = space->first_run; i < space->runs->len; i++) {
        FreeRun *run = run_at(space, i);
        if (run->n >= n) {
            uint64_t first = run->first;
            run->first += n;
            run->n -= n;
            if (run->n == 0) {
                drop_run(space, i);
            }
            return first;
        }
    }
    return take_last_run(space, n);
}

/* A run with any cluster of [first, end). */
static bool find_run(const Qcow2FreeSpace *space, uint64_t first, uint64_t end, guint *ret)
{
    guint low = space->first_run, high = space->runs->len;

    while (low < high) {
        *ret = low + (high - low) / 2;
        const FreeRun *run = run_at(space, *ret);
        if (end <= run->first) {
            high = *ret;
        } else if (first >= run->first + run->n) {
            low = *ret + 1;
        } else {
            return true;
        }
    }
    return false;
}

bool qcow2_free_space_find(const Qcow2FreeSpace *space, uint64_t first, uint64_t end, uint64_t *ret_cluster)
{
    guint i;

    if (find_run(space, first, end, &i)) {
        *ret_cluster = MAX(first, run_at(space, i)->first);
        return true;
    }
    *ret_cluster = MAX(first, space->end);
    return end > space->end;
}

bool qcow2_free_space_has(const Qcow2FreeSpace *space, uint64_t cluster)
{
    guint i;

    return find_run(space, cluster, cluster + 1, &i);
}

bool qcow2_free_space_is_empty(const Qcow2FreeSpace *space)
{
    return space->runs->len == space->first_run;
}

uint64_t qcow2_free_space_start(const Qcow2FreeSpace *space)
{
    return space->start;
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
    guint i;

    if (!find_run(space, first, first + n, &i)) {
        return false;
    }
    FreeRun *run = run_at(space, i), behind = { first + n, run->first + run->n - (first + n) };
    if (first < run->first || first + n > run->first + run->n) {
        return false;
    }
    run->n = first - run->first;
    bool is_used_up = run->n == 0;
    if (behind.n > 0) {
        g_array_insert_val(space->runs, i + 1, behind);
    }
    if (is_used_up) {
        drop_run(space, i);
    }
    return true;
}
