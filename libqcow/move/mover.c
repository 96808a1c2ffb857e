/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/mover.h"

#include "io/backends.h"
#include "io/trial.h"
#include "move/writeback.h"
#include "util/bits.h"
#include "util/error.h"
#include "util/pool.h"
#include "util/progress.h"

#define BUFFER_SIZE    (UINT64_C(128) << 10)   /* larger ones fall out of the processor's cache */
#define TASK_SIZE      (UINT64_C(4) << 20)
#define BATCH_SIZE     (UINT64_C(64) << 20)
#define CHUNK_SIZE     (UINT64_C(8) << 20)    /* write-back of a chunk starts while the next one is copied */
#define BATCH_JOBS     16384u
#define READ_SAMPLES   16u
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
    Qcow2Writeback *writeback;
    gint cannot_clone, cannot_copy;   /* atomic: found out once, by whichever thread is first */
    Qcow2Io *can_share_with;      /* atomic; for a target on trial: the last source it could share with */
    GMutex lock;                  /* stats */
    Qcow2MoverStats stats;
};

static bool has_threads(const Qcow2MoverOptions *options)
{
    return (options->n_threads ? options->n_threads : qcow2_default_threads()) > 1;
}

Qcow2Mover *qcow2_mover_new(Qcow2State *source, Qcow2Io *target, const Qcow2MoverOptions *options,
                            Qcow2Progress *progress)
{
    Qcow2Mover *mover = g_new0(Qcow2Mover, 1);

    mover->source = source;
    mover->target = target;
    mover->options = *options;
    mover->progress = progress;
    mover->readers = qcow2_reader_pool_new();
    mover->writeback = qcow2_writeback_new(target, has_threads(options));
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
    qcow2_writeback_free(mover->writeback);
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
        switch (qcow2_io_clone_from(mover->target, run->target_offset, run->source, run->source_offset, len,
                                    error)) {
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

    if (g_atomic_int_get(&mover->cannot_clone) || extent->kind != QCOW2_EXTENT_DATA
        || extent->len_bytes < CLONE_UNIT || (extent->host_offset | target_offset) % CLONE_UNIT != 0
        || !qcow2_image_check_readable(image, NULL)) {
        return false;
    }
    return qcow2_io_clone_from(mover->target, target_offset, image->data, extent->host_offset, CLONE_UNIT,
                               NULL)
           == QCOW2_COPY_DONE;
}

static bool copy_by_kernel(Qcow2Mover *mover, Run *run, GError **error)
{
    while (!g_atomic_int_get(&mover->cannot_copy) && run->len_bytes > 0) {
        uint64_t len = MIN(run->len_bytes, TASK_SIZE);
        switch (qcow2_io_copy_from(mover->target, run->target_offset, run->source, run->source_offset, len,
                                   error)) {
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

static bool zero_target(Qcow2Mover *mover, uint64_t offset, uint64_t len_bytes, GError **error)
{
    bool may_unmap = !mover->options.keep_space;

    if (!mover->options.target_is_zero
        && !qcow2_io_zero(mover->target, offset, len_bytes, may_unmap, error)) {
        g_prefix_error(error, "'%s': ", mover->target->name);
        return false;
    }
    return qcow2_progress_advance(mover->progress, len_bytes, error);
}

static bool write_target(Qcow2Mover *mover, uint64_t offset, const void *buffer, size_t len_bytes,
                         GError **error)
{
    if (!qcow2_io_write_named(mover->target, offset, buffer, len_bytes, error)) {
        return false;
    }
    count(mover, len_bytes, 0);
    return qcow2_progress_advance(mover->progress, len_bytes, error);
}

/* With holes for zeros, at borders of blocks as the guest sees them. */
static bool write_sparse(Qcow2Mover *mover, uint64_t guest_offset, uint64_t offset, const uint8_t *buffer,
                         size_t len_bytes, GError **error)
{
    bool zero;

    for (size_t done = 0, len; done < len_bytes; done += len) {
        len = qcow2_sparse_piece(&mover->options.sparse, guest_offset + done, buffer + done, len_bytes - done,
                                 &zero);
        bool ok = zero ? zero_target(mover, offset + done, len, error)
                       : write_target(mover, offset + done, buffer + done, len, error);
        if (!ok) {
            return false;
        }
    }
    return true;
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
        ok = qcow2_state_read_extent(mover->source, reader, extent, extent->guest_offset + at, buffer, len,
                                     error)
             && write_sparse(mover, extent->guest_offset + at, task->job->target_offset + at, buffer, len,
                             error);
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

    if (!qcow2_image_check_readable(image, error) || !clone_run(mover, &run, error)
        || !copy_by_kernel(mover, &run, error)) {
        g_prefix_error(error, "'%s' to '%s': ", qcow2_chain_layer_name(mover->source->chain, extent->layer),
                       mover->target->name);
        return false;
    }
    return run.len_bytes == 0
           || copy_by_buffer(mover, task, task->skip + task->len_bytes - run.len_bytes, error);
}

/* What could be shared costs nothing; found out once, as when it is done. */
static bool would_share(Qcow2Mover *mover, const Task *task)
{
    const Qcow2Extent *extent = &task->job->extent;
    uint64_t offsets = (extent->host_offset + task->skip) | (task->job->target_offset + task->skip);

    if (extent->kind != QCOW2_EXTENT_DATA || g_atomic_int_get(&mover->cannot_clone)
        || offsets % CLONE_UNIT != 0 || task->len_bytes < CLONE_UNIT) {
        return false;
    }
    Qcow2Io *source = qcow2_chain_image(mover->source->chain, extent->layer)->data;
    if (g_atomic_pointer_get(&mover->can_share_with) == source) {
        return true;
    }
    bool can = qcow2_io_file_may_share(mover->target, source);
    g_atomic_pointer_set(&mover->can_share_with, can ? source : NULL);
    g_atomic_int_set(&mover->cannot_clone, !can);
    return can;
}

/* Into a place on trial: no byte is read or written. */
static bool note_task(Qcow2Mover *mover, const Task *task, GError **error)
{
    bool is_shared = would_share(mover, task);
    uint64_t cloned = is_shared ? qcow2_align_down(task->len_bytes, CLONE_UNIT) : 0;
    uint64_t offset = task->job->target_offset + task->skip, copied = task->len_bytes - cloned;

    if (!qcow2_trial_note_moved(mover->target, offset, cloned, true, error)
        || !qcow2_trial_note_moved(mover->target, offset + cloned, copied, false, error)) {
        return false;
    }
    count(mover, copied, cloned);
    return qcow2_progress_advance(mover->progress, task->len_bytes, error);
}

static bool do_task(size_t index, void *data, GError **error)
{
    Qcow2Mover *mover = data;
    const Task *task = &g_array_index(mover->tasks, Task, index);
    const Qcow2Extent *extent = &task->job->extent;
    bool has_data = extent->kind == QCOW2_EXTENT_DATA || extent->kind == QCOW2_EXTENT_COMPRESSED;

    if (has_data && qcow2_io_is_trial(mover->target)) {
        return note_task(mover, task, error);
    }
    switch ((Qcow2ExtentKind)extent->kind) {
    case QCOW2_EXTENT_DATA:
        return move_data(mover, task, error);
    case QCOW2_EXTENT_COMPRESSED:
        return copy_by_buffer(mover, task, task->skip, error);
    case QCOW2_EXTENT_ZERO:
    case QCOW2_EXTENT_UNALLOCATED:
        break;
    }
    return zero_target(mover, task->job->target_offset + task->skip, task->len_bytes, error);
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
    return (mover->queued_bytes < BATCH_SIZE && mover->jobs->len < BATCH_JOBS)
           || qcow2_mover_drain(mover, error);
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

/* ---- A batch ----------------------------------------------------------------------------------- */

/* Where bytes of a job are. */
typedef struct SourceRange {
    uint64_t start, end;
    unsigned layer;
} SourceRange;

static int compare_source(const void *a, const void *b)
{
    const SourceRange *x = a, *y = b;

    if (x->layer != y->layer) {
        return x->layer < y->layer ? -1 : 1;
    }
    return x->start < y->start ? -1 : x->start > y->start;
}

/* In the order of the source, neighbours joined. */
static GArray *source_ranges(const Qcow2Mover *mover)
{
    GArray *ranges = g_array_sized_new(FALSE, FALSE, sizeof(SourceRange), mover->jobs->len);
    guint kept = 0;

    for (guint i = 0; i < mover->jobs->len; i++) {
        const Qcow2Extent *extent = &g_array_index(mover->jobs, Job, i).extent;
        SourceRange range = { extent->host_offset, extent->host_offset + extent->len_bytes, extent->layer };
        if (extent->kind == QCOW2_EXTENT_DATA) {
            g_array_append_val(ranges, range);
        }
    }
    g_array_sort(ranges, compare_source);
    for (guint i = 0; i < ranges->len; i++) {
        SourceRange range = g_array_index(ranges, SourceRange, i);
        SourceRange *last = kept ? &g_array_index(ranges, SourceRange, kept - 1) : NULL;
        if (last && last->layer == range.layer && range.start <= last->end) {
            last->end = MAX(last->end, range.end);
        } else {
            g_array_index(ranges, SourceRange, kept++) = range;
        }
    }
    g_array_set_size(ranges, kept);
    return ranges;
}

static bool start_reading_range(Qcow2Mover *mover, const GArray *ranges, guint index)
{
    const SourceRange *range = &g_array_index(ranges, SourceRange, index);

    return qcow2_io_start_reading(qcow2_chain_image(mover->source->chain, range->layer)->data, range->start,
                                  range->end - range->start);
}

/*
 * Starts reading what one thread will copy piece by piece, in the order of the source: the guest wrote in an
 * order of its own, so that neighbours there are not neighbours in the target. When some samples are in
 * memory all is taken to be there, as it is after a recent write: looking costs time as well.
 */
static void start_reading(Qcow2Mover *mover)
{
    g_autoptr(GArray) ranges = source_ranges(mover);
    bool is_cached = true;

    for (guint i = 0; is_cached && ranges->len > 0 && i < READ_SAMPLES; i++) {
        is_cached = !start_reading_range(mover, ranges, (guint)((uint64_t)i * ranges->len / READ_SAMPLES));
    }
    for (guint i = 0; !is_cached && i < ranges->len; i++) {
        start_reading_range(mover, ranges, i);
    }
}

/*
 * Whether the kernel does all of the batch. One thread does that as fast as several: they would wait for each
 * other, since the kernel lets only one write to a file, or share extents with it.
 */
static bool is_kernels_work(const Qcow2Mover *mover)
{
    bool can_clone = !g_atomic_int_get(&mover->cannot_clone), has_cloned = mover->stats.bytes_cloned > 0;

    if (can_clone ? !has_cloned : g_atomic_int_get(&mover->cannot_copy)) {
        return false;
    }
    for (guint i = 0; i < mover->jobs->len; i++) {
        if (g_array_index(mover->jobs, Job, i).extent.kind == QCOW2_EXTENT_COMPRESSED) {
            return false;
        }
    }
    return true;
}

static const Task *task_at(const Qcow2Mover *mover, guint index)
{
    return &g_array_index(mover->tasks, Task, index);
}

/* Of tasks that are done. */
static void start_writeback(Qcow2Mover *mover, guint first, guint end)
{
    Qcow2Range written = { UINT64_MAX, 0 };

    for (guint i = first; i < end; i++) {
        const Task *task = task_at(mover, i);
        uint64_t start = task->job->target_offset + task->skip;
        written.start = MIN(written.start, start);
        written.end = MAX(written.end, start + task->len_bytes);
    }
    if (written.start < written.end) {
        qcow2_writeback_start(mover->writeback, written.start, written.end);
    }
}

/* Some MiB at a time, so that little is left to be written back when the flush comes. */
static bool copy_by_one_thread(Qcow2Mover *mover, guint next, GError **error)
{
    guint first = next;
    uint64_t len_bytes = 0;

    if (g_atomic_int_get(&mover->cannot_clone)) {
        start_reading(mover);
    }
    for (; next < mover->tasks->len; next++) {
        if (len_bytes >= CHUNK_SIZE) {
            start_writeback(mover, first, next);
            first = next;
            len_bytes = 0;
        }
        if (!do_task(next, mover, error)) {
            return false;
        }
        len_bytes += task_at(mover, next)->len_bytes;
    }
    start_writeback(mover, first, next);
    return true;
}

static bool do_later_task(size_t index, void *data, GError **error)
{
    return do_task(index + 1, data, error);
}

static bool do_tasks(Qcow2Mover *mover, GError **error)
{
    /* The first one shows in which ways these places can be copied. */
    if (!do_task(0, mover, error)) {
        return false;
    }
    if (is_kernels_work(mover)) {
        return copy_by_one_thread(mover, 1, error);
    }
    if (!qcow2_parallel_for(mover->options.n_threads, mover->tasks->len - 1, do_later_task, mover, error)) {
        return false;
    }
    start_writeback(mover, 0, mover->tasks->len);
    return true;
}

bool qcow2_mover_drain(Qcow2Mover *mover, GError **error)
{
    if (mover->jobs->len == 0) {
        return true;
    }
    cut_into_tasks(mover);
    if (!do_tasks(mover, error)) {
        return false;
    }
    g_array_set_size(mover->jobs, 0);
    mover->queued_bytes = 0;
    return true;
}
