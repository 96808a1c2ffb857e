/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/reader-pool.h"

struct Qcow2ReaderPool {
    GMutex lock;
    GPtrArray *idle;
};

static void free_reader(gpointer reader)
{
    qcow2_reader_free(reader);
}

Qcow2ReaderPool *qcow2_reader_pool_new(void)
{
    Qcow2ReaderPool *pool = g_new0(Qcow2ReaderPool, 1);

    g_mutex_init(&pool->lock);
    pool->idle = g_ptr_array_new_with_free_func(free_reader);
    return pool;
}

void qcow2_reader_pool_free(Qcow2ReaderPool *pool)
{
    if (!pool) {
        return;
    }
    g_ptr_array_unref(pool->idle);
    g_mutex_clear(&pool->lock);
    g_free(pool);
}

Qcow2Reader *qcow2_reader_pool_take(Qcow2ReaderPool *pool)
{
    Qcow2Reader *reader = NULL;

    g_mutex_lock(&pool->lock);
    if (pool->idle->len > 0) {
        reader = g_ptr_array_steal_index_fast(pool->idle, pool->idle->len - 1);
    }
    g_mutex_unlock(&pool->lock);
    return reader ? reader : qcow2_reader_new();
}

void qcow2_reader_pool_give(Qcow2ReaderPool *pool, Qcow2Reader *reader)
{
    g_mutex_lock(&pool->lock);
    g_ptr_array_add(pool->idle, reader);
    g_mutex_unlock(&pool->lock);
}
