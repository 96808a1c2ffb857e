/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of qcow2_export_delta(). Internal to ops/. */
#ifndef QCOW2_OPS_EXPORT_H
#define QCOW2_OPS_EXPORT_H

#include "move/overlay.h"
#include "state/choice.h"
#include "state/witness.h"

/** One export while it runs. */
typedef struct Qcow2Export {
    Qcow2State *from, *to;
    const Qcow2ExportOptions *options;
    const char *output;
    Qcow2Progress *progress;
    Qcow2Witness *witness;
    Qcow2ExportResult result;
} Qcow2Export;

/** qcow2_export_header: the header of the delta; @to_pipe promises a digest at its end. */
bool qcow2_export_header(const Qcow2Export *job, bool to_pipe, Qcow2Header *ret, GError **error);

/** qcow2_export_choice: what the delta carries, in units of @unit bytes. */
Qcow2Choice *qcow2_export_choice(const Qcow2Export *job, uint64_t unit, bool aligned, GError **error);

/**
 * qcow2_refuse_layer: replacing or patching a file that the image is made of would change its other states,
 * and all that stands on that layer.
 */
bool qcow2_refuse_layer(const Qcow2Chain *source, const char *path, GError **error);

/** Each does the whole work but for the witness's beginning. */
bool qcow2_export_to_file(Qcow2Export *job, GError **error);
bool qcow2_export_to_pipe(Qcow2Export *job, GError **error);
bool qcow2_export_to_raw(Qcow2Export *job, GError **error);

/** qcow2_export_fill: chooses and writes: all between the header and the flush. */
bool qcow2_export_fill(Qcow2Export *job, Qcow2Header *header, Qcow2Io *io, GError **error);

/* Shared by file and pipe. */
Qcow2Overlay *qcow2_export_count(Qcow2Export *job, Qcow2Header *header, Qcow2Choice *choice, GError **error);
bool qcow2_export_write(Qcow2Export *job, Qcow2Overlay *overlay, Qcow2Choice *choice, Qcow2Io *io,
                        GError **error);
void qcow2_export_take_stats(Qcow2Export *job, const Qcow2Overlay *overlay, uint64_t file_len);

static inline bool qcow2_export_source_in_use(const Qcow2Export *job)
{
    return job->from->chain->options.force_share;
}

#endif
