/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A place whose bytes are what guests read from some states, one after the other; in salvage mode also where
 * a state cannot be read.
 */
#ifndef QCOW2_STATE_JOINED_H
#define QCOW2_STATE_JOINED_H

#include "state/state.h"

typedef struct Qcow2JoinedPart {
    Qcow2State *state;        /* borrowed; all its layers are opened */
    uint64_t start;           /* of the state; zeros are read past its end */
    uint64_t len_bytes;
} Qcow2JoinedPart;

typedef struct Qcow2JoinedOptions {
    bool salvage;             /* what cannot be read reads as zeros, with a warning */
    Qcow2WarnFunc warn;       /* may be NULL; called by one thread at a time */
    void *warn_data;
} Qcow2JoinedOptions;

/** qcow2_joined_new: read only; may be read from any thread. */
Qcow2Io *qcow2_joined_new(const Qcow2JoinedPart *parts, size_t n_parts, const Qcow2JoinedOptions *options,
                          GError **error);

/** qcow2_joined_salvaged: bytes that could not be read so far; a place that is read twice counts once. */
uint64_t qcow2_joined_salvaged(Qcow2Io *io);

/** qcow2_joined_open: the same as a raw image of its own. */
Qcow2Chain *qcow2_joined_open(Qcow2Io *io, const Qcow2OpenOptions *model, GError **error);

#endif
