/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starts the write-back of what was written, beside who writes: the call takes processor time, and waits
 * while the disk has enough to do. It is a hint; what is not started yet is left to the flush.
 */
#ifndef QCOW2_MOVE_WRITEBACK_H
#define QCOW2_MOVE_WRITEBACK_H

#include "image/extent.h"
#include "io/io.h"

typedef struct Qcow2Writeback Qcow2Writeback;

/**
 * qcow2_writeback_new:
 * @target: gets a reference: a call can still be under way when the caller has no use for it any more
 * @own_thread: without it calls are made at once, by the caller
 */
Qcow2Writeback *qcow2_writeback_new(Qcow2Io *target, bool own_thread);

/** qcow2_writeback_free: waits for a call that has begun. */
void qcow2_writeback_free(Qcow2Writeback *writeback);

/** qcow2_writeback_start: all of [start, end) is written. Ranges that wait become one. */
void qcow2_writeback_start(Qcow2Writeback *writeback, uint64_t start, uint64_t end);

#endif
