/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Readers for worker threads: each takes one for a task and gives it back. */
#ifndef QCOW2_IMAGE_READER_POOL_H
#define QCOW2_IMAGE_READER_POOL_H

#include "image/reader.h"

typedef struct Qcow2ReaderPool Qcow2ReaderPool;
Qcow2ReaderPool *qcow2_reader_pool_new(void);
void qcow2_reader_pool_free(Qcow2ReaderPool *pool);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2ReaderPool, qcow2_reader_pool_free)

Qcow2Reader *qcow2_reader_pool_take(Qcow2ReaderPool *pool);
void qcow2_reader_pool_give(Qcow2ReaderPool *pool, Qcow2Reader *reader);

#endif
