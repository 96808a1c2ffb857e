/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/mover.h"

#include "util/bits.h"
#include "util/error.h"
#include "util/pool.h"
#include "util/progress.h"

#define BUFFER_SIZE    (UINT64_C(128) << 10)   /* larger ones fall out of the processor's cache */
#define TASK_SIZE      (UINT64_C(4) << 20)
#define BATCH_SIZE     (UINT64_C(64) << 20)    /* write-back of a batch starts while the next one is copied */
#define BATCH_JOBS     16384u
#define CLONE_UNIT     UINT64_C(4096)          /* the block size of the file systems that share extents */
#define CLONE_IN_USE   (UINT64_C(16) << 20)
#define CLONE_MAX      (UINT64_C(1) << 30)

/* A run that is contiguous in its source and in the target. */
typedef struct Job {
    Qcow2Extent extent;
    uint64_t target_offset;
} Job;

/* A part of a job, for one thread at a time. */
typedef struct Task {
    const Job *job;
    uint64_t skip;
    uint64_t len_bytes;
} Task;

struct Qcow2Mover {
    Qcow2State *source;
    Qcow2Io *target;
    Qcow2MoverOptions options;
    Qcow2Progress *progress;
    Qcow2ReaderPool *readers;
    GArray *jobs;                 /* Job */
    GArray *tasks;                /* Task */
    uint64_t queued_bytes;
    gint cannot_clone, cannot_copy;   /* atomic: found out once, by whichever thread is first */
    GMutex lock;                  /* stats */
    Qcow2MoverStats stats;
};

Qcow2Mover *qcow2_mover_new(Qcow2State *source, Qcow2Io *target, const Qcow2MoverOptions *options,
                            Qcow2Progress *progress)
{
    Qcow2Mover *mover = g_new0(Qcow2Mover, 1);

    mover->source = source;
    mover->target = target;
    mover->options = *options;
    mover->progress = progress;
    mover->readers = qcow2_reader_pool_new();
    mover->jobs = g_array_new(FALSE, FALSE, sizeof(Job));
    mover->tasks = g_array_new(FALSE, FALSE, sizeof(Task));
    /* On file systems that can share extents the kernel's own copy shares them too. */
    mover->cannot_clone = mover->cannot_copy = options->no_reflink;
    g_mutex_init(&mover->lock);
    return mover;
}

void qcow2_mover_free(Qcow2Mover *mover)
{
    if (!mover) {
        return;
    }
    qcow2_reader_pool_free(mover->readers);
    g_array_unref(mover->jobs);
    g_array_unref(mover->tasks);
    g_mutex_clear(&mover->lock);
    g_free(mover);
}

Qcow2MoverStats qcow2_mover_get_stats(const Qcow2Mover *mover)
{
    return mover->stats;
}

static void count(Qcow2Mover *mover, uint64_t copied, uint64_t cloned)
{
    g_mutex_lock(&mover->lock);
    mover->stats.bytes_copied += copied;
    mover->stats.bytes_cloned += cloned;
    g_mutex_unlock(&mover->lock);
}

/* ---- One run of data --------------------------------------------------------------------------- */

typedef struct Run {
    Qcow2Io *source;
    uint64_t source_offset, target_offset, len_bytes;
} Run;

static void advance(Run *run, uint64_t len_bytes)
{
    run->source_offset += len_bytes;
    run->target_offset += len_bytes;
    run->len_bytes -= len_bytes;
}

/* Shares what it can; the rest of @run is left to the next way. */
static bool clone_run(Qcow2Mover *mover, Run *run, GError **error)
{
    uint64_t max = mover->options.source_in_use ? CLONE_IN_USE : CLONE_MAX;

    while (!g_atomic_int_get(&mover->cannot_clone) && run->len_bytes >= CLONE_UNIT
           && (run->source_offset | run->target_offset) % CLONE_UNIT == 0) {
        uint64_t len = MIN(qcow2_align_down(run->len_bytes, CLONE_UNIT), max);
        switch (qcow2_io_clone_from(mover->target, run->target_offset, run->source, run->source_offset, len, error)) {
        case QCOW2_COPY_DONE:
            break;
        case QCOW2_COPY_IMPOSSIBLE:
            g_atomic_int_set(&mover->cannot_clone, 1);
            return true;
        case QCOW2_COPY_FAILED:
            return false;
        }
        count(mover, 0, len);
        advance(run, len);
        if (!qcow2_progress_advance(mover->progress, len, error)) {
            return false;
        }
    }
    return true;
}

bool qcow2_mover_can_share(Qcow2Mover *mover, const Qcow2Extent *extent, uint64_t target_offset)
{
    Qcow2Image *image = qcow2_chain_image(mover->source->chain, extent->layer);

    if (g_atomic_int_get(&mover->cannot_clone) || extent->kind != QCOW2_EXTENT_DATA || extent->len_bytes < CLONE_UNIT
        || (extent->host_offset | target_offset) % CLONE_UNIT != 0 || !qcow2_image_check_readable(image, NULL)) {
        return false;
    }
    return qcow2_io_clone_from(mover->target, target_offset, image->data, extent->host_offset, CLONE_UNIT, NULL)
        == QCOW2_COPY_DONE;
}

static bool copy_by_kernel(Qcow2Mover *mover, Run *run, GError **error)
{
    while (!g_atomic_int_get(&mover->cannot_copy) && run->len_bytes > 0) {
        uint64_t len = MIN(run->len_bytes, TASK_SIZE);
        switch (qcow2_io_copy_from(mover->target, run->target_offset, run->source, run->source_offset, len, error)) {
        case QCOW2_COPY_DONE:
            break;
        case QCOW2_COPY_IMPOSSIBLE:
            g_atomic_int_set(&mover->cannot_copy, 1);
            return true;
        case QCOW2_COPY_FAILED:
            return false;
        }
        count(mover, len, 0);
        advance(run, len);
        if (!qcow2_progress_advance(mover->progress, len, error)) {
            return false;
        }
    }
    return true;
}

static bool write_target(Qcow2Mover *mover, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    if (!qcow2_io_write_named(mover->target, offset, buffer, len_bytes, error)) {
        return false;
    }
    count(mover, len_bytes, 0);
    return qcow2_progress_advance(mover->progress, len_bytes, error);
}

/* Any kind of extent, in pieces, through a buffer. */
static bool copy_by_buffer(Qcow2Mover *mover, const Task *task, uint64_t skip, GError **error)
{
    const Qcow2Extent *extent = &task->job->extent;
    Qcow2Reader *reader = qcow2_reader_pool_take(mover->readers);
    uint64_t end = task->skip + task->len_bytes;
    g_autofree uint8_t *buffer = g_try_malloc(MIN(BUFFER_SIZE, task->len_bytes));
    bool ok = buffer || qcow2_fail_memory(error, BUFFER_SIZE, "a copy buffer");

    for (uint64_t at = skip; ok && at < end;) {
        size_t len = MIN(BUFFER_SIZE, end - at);
        ok = qcow2_state_read_extent(mover->source, reader, extent, extent->guest_offset + at, buffer, len, error)
          && write_target(mover, task->job->target_offset + at, buffer, len, error);
        at += len;
    }
    qcow2_reader_pool_give(mover->readers, reader);
    return ok;
}

static bool move_data(Qcow2Mover *mover, const Task *task, GError **error)
{
    const Qcow2Extent *extent = &task->job->extent;
    Qcow2Image *image = qcow2_chain_image(mover->source->chain, extent->layer);
    Run run = {
        .source = image->data,
        .source_offset = extent->host_offset + task->skip,
        .target_offset = task->job->target_offset + task->skip,
        .len_bytes = task->len_bytes,
    };

    if (!qcow2_image_check_readable(image, error) || !clone_run(mover, &run, error) || !copy_by_kernel(mover, &run, error)) {
        g_prefix_error(error, "'%s' to '%s': ", qcow2_chain_layer_name(mover->source->chain, extent->layer),
                       mover->target->name);
        return false;
    }
    return run.len_bytes == 0 || copy_by_buffer(mover, task, task->skip + task->len_bytes - run.len_bytes, error);
}

static bool do_task(size_t index, void *data, GError **error)
{
    Qcow2Mover *mover = data;
    const Task *task = &g_array_index(mover->tasks, Task, index);
    const Qcow2Extent *extent = &task->job->extent;

    switch ((Qcow2ExtentKind)extent->kind) {
    case QCOW2_EXTENT_DATA:
        return move_data(mover, task, error);
    case QCOW2_EXTENT_COMPRESSED:
        return copy_by_buffer(mover, task, task->skip, error);
    case QCOW2_EXTENT_ZERO:
    case QCOW2_EXTENT_UNALLOCATED:
        break;
    }
    if (!qcow2_io_zero(mover->target, task->job->target_offset + task->skip, task->len_bytes, true, error)) {
        g_prefix_error(error, "'%s': ", mover->target->name);
        return false;
    }
    return qcow2_progress_advance(mover->progress, task->len_bytes, error);
}

/* ---- The queue --------------------------------------------------------------------------------- */

static bool join_last(Qcow2Mover *mover, const Qcow2Extent *extent, uint64_t target_offset)
{
    if (mover->jobs->len == 0 || extent->kind != QCOW2_EXTENT_DATA) {
        return false;
    }
    Job *last = &g_array_index(mover->jobs, Job, mover->jobs->len - 1);
    if (last->extent.kind != QCOW2_EXTENT_DATA || last->extent.layer != extent->layer
        || last->extent.host_offset + last->extent.len_bytes != extent->host_offset
        || last->target_offset + last->extent.len_bytes != target_offset) {
        return false;
    }
    last->extent.len_bytes += extent->len_bytes;
    return true;
}

bool qcow2_mover_add(Qcow2Mover *mover, const Qcow2Extent *extent, uint64_t target_offset, GError **error)
{
    if (!join_last(mover, extent, target_offset)) {
        Job job = { *extent, target_offset };
        g_array_append_val(mover->jobs, job);
    }
    mover->queued_bytes += extent->len_bytes;
    return (mover->queued_bytes < BATCH_SIZE && mover->jobs->len < BATCH_JOBS) || qcow2_mover_drain(mover, error);
}

/* Sharing takes the same time for any length, so that a run is only cut when it will be copied. */
static void cut_into_tasks(Qcow2Mover *mover)
{
    g_array_set_size(mover->tasks, 0);
    for (guint i = 0; i < mover->jobs->len; i++) {
        const Job *job = &g_array_index(mover->jobs, Job, i);
        bool whole = job->extent.kind != QCOW2_EXTENT_DATA || !g_atomic_int_get(&mover->cannot_clone);
        uint64_t step = whole ? job->extent.len_bytes : TASK_SIZE;
        for (uint64_t skip = 0; skip < job->extent.len_bytes; skip += step) {
            Task task = { job, skip, MIN(step, job->extent.len_bytes - skip) };
            g_array_append_val(mover->tasks, task);
        }
    }
}

static void start_writeback(Qcow2Mover *mover)
{
    uint64_t start = UINT64_MAX, end = 0;

    for (guint i = 0; i < mover->jobs->len; i++) {
        const Job *job = &g_array_index(mover->jobs, Job, i);
        start = MIN(start, job->target_offset);
        end = MAX(end, job->target_offset + job->extent.len_bytes);
    }
    qcow2_io_start_writeback(mover->target, start, end - start);
}

bool qcow2_mover_drain(Qcow2Mover *mover, GError **error)
{
    if (mover->jobs->len == 0) {
        return true;
    }
    cut_into_tasks(mover);
    if (!qcow2_parallel_for(mover->options.n_threads, mover->tasks->len, do_task, mover, error)) {
        return false;
    }
    start_writeback(mover);
    g_array_set_size(mover->jobs, 0);
    mover->queued_bytes = 0;
    return true;
}
