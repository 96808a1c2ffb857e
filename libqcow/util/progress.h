/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How far an operation is. All functions accept NULL for @progress and may be called from any thread. */
#ifndef QCOW2_UTIL_PROGRESS_H
#define QCOW2_UTIL_PROGRESS_H

#include "libqcow2.h"

/** qcow2_progress_expect: @bytes more will have to be done. */
void qcow2_progress_expect(Qcow2Progress *progress, uint64_t bytes);

/**
 * qcow2_progress_advance: @bytes more are done. Sleeps as long as the rate limit asks.
 * Returns: false with QCOW2_ERROR_CANCELLED once the operation was cancelled.
 */
bool qcow2_progress_advance(Qcow2Progress *progress, uint64_t bytes, GError **error);

/** qcow2_progress_check: only the test for cancellation. */
bool qcow2_progress_check(Qcow2Progress *progress, GError **error);

/**
 * qcow2_progress_finish: of an operation that succeeded. Reports the end, whatever the rhythm of reports;
 * what was expected and turned out to be no work counts no more.
 */
void qcow2_progress_finish(Qcow2Progress *progress);

#endif
