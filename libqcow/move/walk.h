/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All that was chosen, given to a sink: window by window, or in slices of some MiB where the data is looked
 * at for zeros first, or where the way so far shall be noted.
 */
#ifndef QCOW2_MOVE_WALK_H
#define QCOW2_MOVE_WALK_H

#include "move/holes.h"
#include "state/choice.h"

typedef struct Qcow2Sink {
    /** Takes extents, valid for the call. */
    bool (*put)(const GArray *extents, void *data, GError **error);
    /** Whether these extents can be shared, so that there is no need to look at their bytes; or NULL. */
    bool (*can_share)(const GArray *extents, void *data);
    /** Called when all up to a guest offset was put; or NULL. */
    bool (*note)(uint64_t guest_end, void *data, GError **error);
    void *data;
} Qcow2Sink;

typedef struct Qcow2Walk {
    Qcow2Choice *choice;          /* from where it is */
    const Qcow2HoleRules *holes;  /* NULL: zeros in data are not looked for */
    uint64_t start;               /* of the guest: what is below was put before */
    unsigned n_threads;
    Qcow2Progress *progress;
} Qcow2Walk;

bool qcow2_walk(const Qcow2Walk *walk, const Qcow2Sink *sink, GError **error);

#endif
