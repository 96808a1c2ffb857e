/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/pool.h"
#include "util/progress.h"

typedef struct Seen {
    gint inside;
    unsigned n_calls;
    uint64_t done_bytes, total_bytes;
} Seen;

static void on_progress(uint64_t done_bytes, uint64_t total_bytes, void *data)
{
    Seen *seen = data;

    g_assert_true(g_atomic_int_compare_and_exchange(&seen->inside, 0, 1));
    g_assert_cmpuint(done_bytes, >=, seen->done_bytes);
    g_assert_cmpuint(done_bytes, <=, total_bytes);
    seen->n_calls++;
    seen->done_bytes = done_bytes;
    seen->total_bytes = total_bytes;
    g_atomic_int_set(&seen->inside, 0);
}

static bool advance_some(size_t index, void *data, GError **error)
{
    (void) index;
    g_usleep(10);
    return qcow2_progress_advance(data, 10, error);
}

static void test_reports(void)
{
    Seen seen = { 0 };
    g_autoptr(Qcow2Progress) progress = qcow2_progress_new(on_progress, &seen);
    gint64 start = g_get_monotonic_time();

    qcow2_progress_expect(progress, 40000);
    qcow2_progress_expect(progress, 70000);
    g_assert_true(qcow2_parallel_for(4, 10000, advance_some, progress, NULL));
    /* The last 10000 turned out to be no work. */
    qcow2_progress_finish(progress);

    gint64 tenths = (g_get_monotonic_time() - start) / (G_USEC_PER_SEC / 10);
    g_assert_cmpuint(seen.done_bytes, ==, 100000);
    g_assert_cmpuint(seen.total_bytes, ==, 100000);
    g_assert_cmpuint(seen.n_calls, <=, 3 + (unsigned) tenths);
}

static void test_null(void)
{
    qcow2_progress_expect(NULL, 1);
    g_assert_true(qcow2_progress_advance(NULL, 1, NULL));
    g_assert_true(qcow2_progress_check(NULL, NULL));
    qcow2_progress_finish(NULL);
    qcow2_progress_free(NULL);
}

static bool advance_64k(size_t index, void *data, GError **error)
{
    (void) index;
    return qcow2_progress_advance(data, 65536, error);
}

/* 4 MiB at 16 MiB/s take a quarter of a second, with any number of threads. */
static void test_rate(void)
{
    for (unsigned n_threads = 1; n_threads <= 4; n_threads += 3) {
        g_autoptr(Qcow2Progress) progress = qcow2_progress_new(NULL, NULL);
        gint64 start = g_get_monotonic_time();

        qcow2_progress_set_rate(progress, 16 << 20);
        g_assert_true(qcow2_parallel_for(n_threads, 64, advance_64k, progress, NULL));
        gint64 usec = g_get_monotonic_time() - start;
        g_assert_cmpint(usec, >=, G_USEC_PER_SEC / 4 - 2000);
        g_assert_cmpint(usec, <, G_USEC_PER_SEC * 3);
    }
}

static void *remove_limit(void *data)
{
    g_usleep(G_USEC_PER_SEC / 10);
    qcow2_progress_set_rate(data, 0);
    return NULL;
}

static void *cancel(void *data)
{
    g_usleep(G_USEC_PER_SEC / 10);
    qcow2_progress_cancel(data);
    return NULL;
}

static void test_wakes_up(void)
{
    g_autoptr(Qcow2Progress) progress = qcow2_progress_new(NULL, NULL);
    g_autoptr(GError) error = NULL;
    gint64 start = g_get_monotonic_time();

    qcow2_progress_set_rate(progress, 1);
    GThread *thread = g_thread_new("remove-limit", remove_limit, progress);
    g_assert_true(qcow2_progress_advance(progress, 1 << 20, &error));
    g_thread_join(thread);

    qcow2_progress_set_rate(progress, 1);
    thread = g_thread_new("cancel", cancel, progress);
    g_assert_false(qcow2_progress_advance(progress, G_MAXUINT64, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_CANCELLED);
    g_thread_join(thread);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 5 * G_USEC_PER_SEC);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/progress/reports are in order, one at a time, and not too many", test_reports);
    g_test_add_func("/progress/no progress is fine", test_null);
    g_test_add_func("/progress/the rate limit holds for all threads together", test_rate);
    g_test_add_func("/progress/a sleeper notices a new limit and a cancellation", test_wakes_up);
    return g_test_run();
}
