/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a new image goes: a file that gets its name when it is whole, or a block device or NBD export, which
 * is written in place.
 */
#ifndef QCOW2_MOVE_TARGET_H
#define QCOW2_MOVE_TARGET_H

#include "chain/place.h"
#include "io/io.h"
#include "move/output.h"

typedef struct Qcow2Target Qcow2Target;

/**
 * qcow2_target_new: a regular file that is there already is replaced in the end, as qcow2_output_new() says;
 * a device is locked as QEMU locks it.
 *
 * Errors: as qcow2_output_new(), qcow2_io_file_open() and qcow2_io_nbd_open().
 */
Qcow2Target *qcow2_target_new(const Qcow2Place *place, Qcow2Cache cache, GError **error);

/**
 * qcow2_target_resume: for a regular file alone: what is written stays when it is not published, and is there
 * again the next time; see qcow2_output_resume().
 */
Qcow2Target *qcow2_target_resume(const Qcow2Place *place, Qcow2Cache cache, GError **error);

/** qcow2_target_existing: what is there already, also a regular file, is written in place. */
Qcow2Target *qcow2_target_existing(const Qcow2Place *place, Qcow2Cache cache, GError **error);

/** qcow2_target_is_new: what is not written to a new file reads as zeros. */
bool qcow2_target_is_new(const Qcow2Target *target);

/** qcow2_target_output: NULL for what is written in place. */
Qcow2Output *qcow2_target_output(Qcow2Target *target);

/** qcow2_target_io: where to write; owned by the target. A file is empty, anything else is as it was. */
Qcow2Io *qcow2_target_io(Qcow2Target *target);

/** qcow2_target_trace: as qcow2_output_trace(). */
bool qcow2_target_trace(Qcow2Target *target, const char *trace, GError **error);

/** qcow2_target_publish: flushes; a file gets its name. */
bool qcow2_target_publish(Qcow2Target *target, GError **error);

/** qcow2_target_free: a file that was not published is removed. */
void qcow2_target_free(Qcow2Target *target);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Target, qcow2_target_free)

#endif
