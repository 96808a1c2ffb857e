/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which layer provides each guest range: looked up in parallel, given out in order. */
#include "ops/mapper.h"
#include "util/bits.h"
#include "util/pool.h"
#include "util/progress.h"

#define BATCH_STEPS 16u

/* Steps of the mapper that are looked up together. */
typedef struct Batch {
    const Qcow2Mapper *mapper;
    Qcow2Range range;
    GArray *found[BATCH_STEPS];      /* of Qcow2MapExtent */
} Batch;

static void batch_clear(Batch *batch)
{
    for (unsigned i = 0; i < BATCH_STEPS; i++) {
        g_clear_pointer(&batch->found[i], g_array_unref);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Batch, batch_clear)

static bool map_step(size_t index, void *data, GError **error)
{
    Batch *batch = data;
    uint64_t step = qcow2_mapper_step(batch->mapper);
    uint64_t start = batch->range.start + index * step;
    Qcow2Range range = { start, MIN(start + step, batch->range.end) };

    if (!batch->found[index]) {
        batch->found[index] = g_array_new(FALSE, FALSE, sizeof(Qcow2MapExtent));
    }
    return qcow2_mapper_map(batch->mapper, &range, 1, batch->found[index], error);
}

/* What is given out next: the last extent so far, which the next one may continue. */
typedef struct Giver {
    Qcow2MapFunc func;
    void *data;
    Qcow2MapExtent held;      /* of no length at first */
    bool stopped;
} Giver;

static void give_held(Giver *giver)
{
    if (giver->held.length > 0 && !giver->stopped) {
        giver->stopped = !giver->func(&giver->held, giver->data);
    }
}

static void give(Giver *giver, const Qcow2MapExtent *extent)
{
    if (giver->held.length > 0 && qcow2_map_continues(&giver->held, extent)) {
        giver->held.length += extent->length;
        return;
    }
    give_held(giver);
    giver->held = *extent;
}

static bool map_batch(Batch *batch, unsigned n_threads, Giver *giver, GError **error)
{
    size_t n = qcow2_div_round_up(batch->range.end - batch->range.start, qcow2_mapper_step(batch->mapper));

    if (!qcow2_parallel_for(n_threads, n, map_step, batch, error)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        for (guint k = 0; k < batch->found[i]->len && !giver->stopped; k++) {
            give(giver, &g_array_index(batch->found[i], Qcow2MapExtent, k));
        }
    }
    return true;
}

bool qcow2_state_map(Qcow2State *state, uint64_t start, uint64_t length, Qcow2MapFunc func, void *data,
                     Qcow2Progress *progress, GError **error)
{
    g_autoptr(Qcow2Mapper) mapper = qcow2_mapper_new(state, error);
    g_auto(Batch) batch = { .mapper = mapper };
    Giver giver = { .func = func, .data = data };
    uint64_t end = start < state->size ? start + MIN(length, state->size - start) : start;

    if (!mapper) {
        return false;
    }
    qcow2_progress_expect(progress, end - start);
    while (start < end && !giver.stopped) {
        batch.range.start = start;
        batch.range.end = start + MIN(end - start, BATCH_STEPS * qcow2_mapper_step(mapper));
        if (!map_batch(&batch, state->chain->options.n_threads, &giver, error)
            || !qcow2_progress_advance(progress, batch.range.end - start, error)) {
            return false;
        }
        start = batch.range.end;
    }
    give_held(&giver);
    qcow2_progress_finish(progress);
    return true;
}
