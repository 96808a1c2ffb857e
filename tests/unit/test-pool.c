/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/error.h"
#include "util/pool.h"
#include "util/progress.h"

#include <signal.h>

typedef struct Work {
    gint started;
    gint finished;
    gint seen[1000];
    size_t last_start;
    size_t fail_from;         /* this item and all later ones fail */
    Qcow2Progress *progress;
    GThread *caller;
    gint by_caller;
} Work;

static bool do_item(size_t index, void *data, GError **error)
{
    Work *work = data;

    g_atomic_int_inc(&work->started);
    g_atomic_int_inc(&work->seen[index]);
    if (g_thread_self() == work->caller) {
        g_atomic_int_inc(&work->by_caller);
    }
    if (index >= work->fail_from) {
        if (index == work->fail_from) {
            g_usleep(20000);       /* the others have failed by now */
        }
        g_atomic_int_inc(&work->finished);
        return qcow2_corrupt(error, "item %zu", index);
    }
    bool ok = qcow2_progress_check(work->progress, error);
    g_atomic_int_inc(&work->finished);
    return ok;
}

static void test_all_items_once(void)
{
    for (unsigned n_threads = 0; n_threads < 6; n_threads++) {
        Work work = { .fail_from = SIZE_MAX };
        g_autoptr(GError) error = NULL;

        g_assert_true(qcow2_parallel_for(n_threads, 1000, do_item, &work, &error));
        g_assert_no_error(error);
        for (size_t i = 0; i < 1000; i++) {
            g_assert_cmpint(work.seen[i], ==, 1);
        }
    }
}

static void test_one_thread_is_the_caller(void)
{
    Work work = { .fail_from = SIZE_MAX, .caller = g_thread_self() };

    g_assert_true(qcow2_parallel_for(8, 0, do_item, &work, NULL));
    g_assert_true(qcow2_parallel_for(1, 10, do_item, &work, NULL));
    g_assert_true(qcow2_parallel_for(8, 1, do_item, &work, NULL));
    g_assert_cmpint(work.by_caller, ==, 11);
}

/* Items 7, 8, … all fail, 7 as the last of them; the answer is that of a single thread. */
static void test_first_error(void)
{
    for (unsigned n_threads = 1; n_threads < 6; n_threads++) {
        Work work = { .fail_from = 7 };
        g_autoptr(GError) error = NULL;

        g_assert_false(qcow2_parallel_for(n_threads, 1000, do_item, &work, &error));
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_CORRUPT);
        g_assert_cmpstr(error->message, ==, "item 7");
        g_assert_cmpint(work.started, ==, work.finished);
        g_assert_cmpint(work.started, <=, 7 + (int) n_threads);
    }
}

static void test_error_unwanted(void)
{
    Work work = { .fail_from = 3 };

    g_assert_false(qcow2_parallel_for(4, 100, do_item, &work, NULL));
}

static bool cancel_at_ten(size_t index, void *data, GError **error)
{
    Qcow2Progress *progress = data;

    if (index == 10) {
        raise(SIGUSR1);
    }
    return qcow2_progress_advance(progress, 1, error);
}

static Qcow2Progress *signal_progress;

static void on_signal(int signum)
{
    (void) signum;
    qcow2_progress_cancel(signal_progress);
}

static void test_cancel(void)
{
    g_autoptr(Qcow2Progress) progress = qcow2_progress_new(NULL, NULL);
    g_autoptr(GError) error = NULL;
    struct sigaction action = { .sa_handler = on_signal };
    struct sigaction previous;

    signal_progress = progress;
    sigaction(SIGUSR1, &action, &previous);
    g_assert_false(qcow2_parallel_for(4, G_MAXINT, cancel_at_ten, progress, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_CANCELLED);
    sigaction(SIGUSR1, &previous, NULL);
}

static void test_default_threads(void)
{
    g_assert_cmpuint(qcow2_default_threads(), >=, 1);
    g_assert_cmpuint(qcow2_default_threads(), <=, 16);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pool/each item is done once", test_all_items_once);
    g_test_add_func("/pool/one thread or one item makes no thread", test_one_thread_is_the_caller);
    g_test_add_func("/pool/the lowest item's error is returned, and all started items end", test_first_error);
    g_test_add_func("/pool/an error may be ignored", test_error_unwanted);
    g_test_add_func("/pool/a signal handler cancels", test_cancel);
    g_test_add_func("/pool/the default is between 1 and 16", test_default_threads);
    return g_test_run();
}
