/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/progress.h"

#include "util/error.h"

#define REPORT_INTERVAL_USEC (G_USEC_PER_SEC / 10)
/* A signal handler cannot wake a sleeper, so sleepers look up this often. */
#define SLEEP_SLICE_USEC     (G_USEC_PER_SEC / 20)
/* Of the time in which nothing was moved, so much counts for what is moved then. */
#define RATE_CREDIT_USEC     (G_USEC_PER_SEC / 4)

struct Qcow2Progress {
    Qcow2ProgressFunc func;
    void *data;
    gint cancelled;                /* atomic; the only field that a signal handler touches */

    GMutex mutex;                  /* guards the fields below */
    uint64_t done_bytes, total_bytes;
    uint64_t bytes_per_second;     /* 0: no limit */
    unsigned rate_changes;         /* sleepers start over when this moves */
    gint64 rate_free_at;           /* monotonic time at which what was moved so far is paid for */
    gint64 next_report_at;

    GMutex report_mutex;           /* held while @func runs; taken before @mutex */
};

Qcow2Progress *qcow2_progress_new(Qcow2ProgressFunc func, void *data)
{
    Qcow2Progress *progress = g_new0(Qcow2Progress, 1);

    progress->func = func;
    progress->data = data;
    g_mutex_init(&progress->mutex);
    g_mutex_init(&progress->report_mutex);
    return progress;
}

void qcow2_progress_free(Qcow2Progress *progress)
{
    if (progress) {
        g_mutex_clear(&progress->mutex);
        g_mutex_clear(&progress->report_mutex);
        g_free(progress);
    }
}

void qcow2_progress_cancel(Qcow2Progress *progress)
{
    g_atomic_int_set(&progress->cancelled, 1);
}

void qcow2_progress_set_rate(Qcow2Progress *progress, uint64_t bytes_per_second)
{
    g_mutex_lock(&progress->mutex);
    progress->bytes_per_second = bytes_per_second;
    progress->rate_changes++;
    progress->rate_free_at = g_get_monotonic_time();
    g_mutex_unlock(&progress->mutex);
}

/* The numbers are read under the report mutex, so that no later call shows less than an earlier one. */
static void report_locked(Qcow2Progress *progress)
{
    g_mutex_lock(&progress->mutex);
    uint64_t done_bytes = progress->done_bytes;
    uint64_t total_bytes = progress->total_bytes;
    progress->next_report_at = g_get_monotonic_time() + REPORT_INTERVAL_USEC;
    g_mutex_unlock(&progress->mutex);

    progress->func(done_bytes, total_bytes, progress->data);
}

/* Who finds another thread reporting has nothing to add. */
static void report_if_due(Qcow2Progress *progress, bool due)
{
    if (due && progress->func && g_mutex_trylock(&progress->report_mutex)) {
        report_locked(progress);
        g_mutex_unlock(&progress->report_mutex);
    }
}

void qcow2_progress_expect(Qcow2Progress *progress, uint64_t bytes)
{
    if (progress) {
        g_mutex_lock(&progress->mutex);
        progress->total_bytes += bytes;
        g_mutex_unlock(&progress->mutex);
    }
}

/* Adds the time that @bytes take at the limit; the caller holds the mutex and may go on at the result. */
static gint64 charge_rate(Qcow2Progress *progress, uint64_t bytes, gint64 now)
{
    if (progress->bytes_per_second == 0) {
        return now;
    }
    double cost_usec = (double) bytes / (double) progress->bytes_per_second * G_USEC_PER_SEC;
    /* The work itself took time, too. */
    progress->rate_free_at = MAX(progress->rate_free_at, now - RATE_CREDIT_USEC)
                           + (gint64) MIN(cost_usec, 1e15);
    return progress->rate_free_at;
}

static bool rate_is(Qcow2Progress *progress, unsigned rate_changes)
{
    g_mutex_lock(&progress->mutex);
    bool same = progress->rate_changes == rate_changes;
    g_mutex_unlock(&progress->mutex);
    return same;
}

static void sleep_until(Qcow2Progress *progress, gint64 wake_at, unsigned rate_changes)
{
    for (gint64 now = g_get_monotonic_time(); now < wake_at; now = g_get_monotonic_time()) {
        if (!qcow2_progress_check(progress, NULL) || !rate_is(progress, rate_changes)) {
            return;
        }
        g_usleep((gulong) MIN(wake_at - now, SLEEP_SLICE_USEC));
    }
}

bool qcow2_progress_advance(Qcow2Progress *progress, uint64_t bytes, GError **error)
{
    if (!progress) {
        return true;
    }
    gint64 now = g_get_monotonic_time();

    g_mutex_lock(&progress->mutex);
    progress->done_bytes += bytes;
    gint64 wake_at = charge_rate(progress, bytes, now);
    unsigned rate_changes = progress->rate_changes;
    bool due = now >= progress->next_report_at;
    g_mutex_unlock(&progress->mutex);

    report_if_due(progress, due);
    sleep_until(progress, wake_at, rate_changes);
    return qcow2_progress_check(progress, error);
}

bool qcow2_progress_check(Qcow2Progress *progress, GError **error)
{
    if (progress && g_atomic_int_get(&progress->cancelled)) {
        return qcow2_fail(error, QCOW2_ERROR_CANCELLED, "cancelled");
    }
    return true;
}

void qcow2_progress_finish(Qcow2Progress *progress)
{
    if (progress && progress->func) {
        g_mutex_lock(&progress->report_mutex);
        g_mutex_lock(&progress->mutex);
        progress->total_bytes = progress->done_bytes;
        g_mutex_unlock(&progress->mutex);
        report_locked(progress);
        g_mutex_unlock(&progress->report_mutex);
    }
}
