/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Telling by their bytes which ranges two states really differ in. */
#ifndef QCOW2_STATE_SAME_BYTES_H
#define QCOW2_STATE_SAME_BYTES_H

#include "state/state.h"

/**
 * qcow2_drop_same_bytes:
 * @unit: a power of two; whole units are kept or dropped, parts of them only at the ends of a range
 * @ranges: of one window; those in which both states hold the same bytes are taken out
 * @progress: NULL, or what can cancel it; nothing is reported to it
 *
 * Reads both states in parallel. Past its end a state reads as zeros.
 */
bool qcow2_drop_same_bytes(Qcow2State *a, Qcow2State *b, uint64_t unit, unsigned n_threads, GArray *ranges,
                           Qcow2Progress *progress, GError **error);

#endif
