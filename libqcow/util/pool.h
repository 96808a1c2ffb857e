/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Work on all processors. */
#ifndef QCOW2_UTIL_POOL_H
#define QCOW2_UTIL_POOL_H

#include "libqcow2.h"

/** qcow2_default_threads: the processors this process may use, at most 16, at least 1. */
unsigned qcow2_default_threads(void);

/** Qcow2TaskFunc: does item @index; false with an error stops the others at their next item. */
typedef bool (*Qcow2TaskFunc)(size_t index, void *data, GError **error);

/**
 * qcow2_parallel_for:
 * @n_threads: 0 for the default; never more than @n_items, and the caller's thread is one of them
 *
 * Calls @func for each index below @n_items, in rising order of start. With one thread or one item no
 * thread is made. The first error is returned; every started item has ended when this returns.
 */
bool qcow2_parallel_for(unsigned n_threads, size_t n_items, Qcow2TaskFunc func, void *data, GError **error);

#endif
