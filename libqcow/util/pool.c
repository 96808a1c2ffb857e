/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/pool.h"

#include <sched.h>

#define MAX_THREADS 16

unsigned qcow2_default_threads(void)
{
    cpu_set_t mine;
    /* GLib opens files in /sys to know; a set too small for this machine is an error. */
    unsigned n =
        sched_getaffinity(0, sizeof(mine), &mine) == 0 ? (unsigned) CPU_COUNT(&mine) : g_get_num_processors();

    return CLAMP(n, 1, MAX_THREADS);
}

/* One call of qcow2_parallel_for(). */
typedef struct Job {
    Qcow2TaskFunc func;
    void *data;
    size_t n_items;

    GMutex mutex;
    size_t next;             /* first item that nobody has started */
    bool failed;
    size_t failed_index;     /* lowest item that failed; valid when @failed */
    GError *error;
} Job;

static bool take_item(Job *job, size_t *ret_index)
{
    g_mutex_lock(&job->mutex);
    bool taken = !job->failed && job->next < job->n_items;
    if (taken) {
        *ret_index = job->next++;
    }
    g_mutex_unlock(&job->mutex);
    return taken;
}

/*
 * Of several errors the one of the lowest item stays. All items below it have been started, and end,
 * so it is the error that a single thread would have met, whatever the timing.
 */
static void keep_error(Job *job, size_t index, GError *item_error)
{
    g_mutex_lock(&job->mutex);
    if (!job->failed || index < job->failed_index) {
        job->failed = true;
        job->failed_index = index;
        GError *previous = job->error;
        job->error = item_error;
        item_error = previous;
    }
    g_mutex_unlock(&job->mutex);
    g_clear_error(&item_error);
}

static void *work(void *data)
{
    Job *job = data;
    size_t index;

    while (take_item(job, &index)) {
        GError *error = NULL;
        if (!job->func(index, job->data, &error)) {
            keep_error(job, index, error);
        }
    }
    return NULL;
}

bool qcow2_parallel_for(unsigned n_threads, size_t n_items, Qcow2TaskFunc func, void *data, GError **error)
{
    Job job = { .func = func, .data = data, .n_items = n_items };
    g_autoptr(GPtrArray) threads = g_ptr_array_new();

    n_threads = n_threads ? n_threads : qcow2_default_threads();
    g_mutex_init(&job.mutex);
    for (size_t i = 1; i < MIN(n_threads, n_items); i++) {
        GThread *thread = g_thread_try_new("qcow2-worker", work, &job, NULL);
        if (!thread) {
            break;      /* the system gives no more: fewer threads do the same work */
        }
        g_ptr_array_add(threads, thread);
    }
    work(&job);
    for (size_t i = 0; i < threads->len; i++) {
        g_thread_join(threads->pdata[i]);
    }
    g_mutex_clear(&job.mutex);
    if (job.failed) {
        g_propagate_error(error, job.error);
    }
    return !job.failed;
}
