/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/writeback.h"

struct Qcow2Writeback {
    Qcow2Io *target;
    bool own_thread;
    GThread *thread;          /* from the first range on; NULL when the system gives none */
    GMutex lock;
    GCond changed;
    Qcow2Range waiting;       /* empty: nothing is */
    bool ends;
};

Qcow2Writeback *qcow2_writeback_new(Qcow2Io *target, bool own_thread)
{
    Qcow2Writeback *writeback = g_new0(Qcow2Writeback, 1);

    writeback->target = qcow2_io_ref(target);
    writeback->own_thread = own_thread;
    g_mutex_init(&writeback->lock);
    g_cond_init(&writeback->changed);
    return writeback;
}

void qcow2_writeback_free(Qcow2Writeback *writeback)
{
    if (!writeback) {
        return;
    }
    if (writeback->thread) {
        g_mutex_lock(&writeback->lock);
        writeback->ends = true;
        g_cond_signal(&writeback->changed);
        g_mutex_unlock(&writeback->lock);
        g_thread_join(writeback->thread);
    }
    g_mutex_clear(&writeback->lock);
    g_cond_clear(&writeback->changed);
    qcow2_io_unref(writeback->target);
    g_free(writeback);
}

static void start_range(const Qcow2Writeback *writeback, const Qcow2Range *range)
{
    qcow2_io_start_writeback(writeback->target, range->start, range->end - range->start);
}

static void *run(void *data)
{
    Qcow2Writeback *writeback = data;

    g_mutex_lock(&writeback->lock);
    while (!writeback->ends) {
        Qcow2Range range = writeback->waiting;
        if (range.start == range.end) {
            g_cond_wait(&writeback->changed, &writeback->lock);
            continue;
        }
        writeback->waiting = (Qcow2Range) { 0, 0 };
        g_mutex_unlock(&writeback->lock);
        start_range(writeback, &range);
        g_mutex_lock(&writeback->lock);
    }
    g_mutex_unlock(&writeback->lock);
    return NULL;
}

static void add_waiting(Qcow2Writeback *writeback, const Qcow2Range *range)
{
    Qcow2Range *waiting = &writeback->waiting;

    g_mutex_lock(&writeback->lock);
    if (waiting->start == waiting->end) {
        *waiting = *range;
    } else {
        waiting->start = MIN(waiting->start, range->start);
        waiting->end = MAX(waiting->end, range->end);
    }
    g_cond_signal(&writeback->changed);
    g_mutex_unlock(&writeback->lock);
}

void qcow2_writeback_start(Qcow2Writeback *writeback, uint64_t start, uint64_t end)
{
    Qcow2Range range = { start, end };

    if (start == end) {
        return;
    }
    if (writeback->own_thread && !writeback->thread) {
        writeback->thread = g_thread_try_new("qcow2-writeback", run, writeback, NULL);
        writeback->own_thread = writeback->thread != NULL;
    }
    if (writeback->thread) {
        add_waiting(writeback, &range);
    } else {
        start_range(writeback, &range);
    }
}
