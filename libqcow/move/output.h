/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A new file appears under its name only when it is complete and flushed. */
#ifndef QCOW2_MOVE_OUTPUT_H
#define QCOW2_MOVE_OUTPUT_H

#include "io/io.h"

typedef struct Qcow2Output Qcow2Output;

/**
 * qcow2_output_new:
 * @path: where the file shall appear; a link is followed
 * @overwrite: an existing regular file may be replaced; otherwise it is an error
 *
 * Makes ".NAME.qcow-XXXXXX" in the same folder. Replacing keeps mode, owner, ACL and security label of the
 * old file, and refuses one that a VM has locked.
 *
 * Errors: QCOW2_ERROR_EXISTS, _IN_USE, _NOT_FOUND (the folder), _NO_SPACE, _IO.
 */
Qcow2Output *qcow2_output_new(const char *path, bool overwrite, Qcow2Cache cache, GError **error);

/**
 * qcow2_output_resume: an output that replaces what is there, and is called "PATH.qcow-part" until it is
 * published. It stays when it is not, and is opened again, with what is in it, when it is there.
 *
 * Errors: QCOW2_ERROR_IN_USE when another process goes on with it already.
 */
Qcow2Output *qcow2_output_resume(const char *path, Qcow2Cache cache, GError **error);

/** qcow2_output_was_there: the file was opened again, and not made just now. */
bool qcow2_output_was_there(const Qcow2Output *output);

/** qcow2_output_discard: nothing is in the file that could be gone on with: it does not stay either. */
void qcow2_output_discard(Qcow2Output *output);

/** qcow2_output_target: the name that the file gets, at the end of all links; owned by the output. */
const char *qcow2_output_target(const Qcow2Output *output);

/** qcow2_output_io: where to write; owned by the output. */
Qcow2Io *qcow2_output_io(Qcow2Output *output);

/** qcow2_output_trace: what is written from now on is told to the file @trace, if there is one. */
bool qcow2_output_trace(Qcow2Output *output, const char *trace, GError **error);

/** qcow2_flush_folder_of: after a change of the names in the folder of @path. */
bool qcow2_flush_folder_of(const char *path, GError **error);

/** qcow2_output_publish: flushes the file, renames it, flushes the folder (cache unsafe: renames only). */
bool qcow2_output_publish(Qcow2Output *output, GError **error);

/** qcow2_output_free: removes the temporary file unless it was published, or shall be resumed. */
void qcow2_output_free(Qcow2Output *output);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Output, qcow2_output_free)

#endif
