/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A place on trial: it takes everything that is written and shows it to who reads, and the place below stays
 * as it is. An operation that runs on it tells what it would do, and whether there is room for that.
 */
#ifndef QCOW2_IO_TRIAL_H
#define QCOW2_IO_TRIAL_H

#include "io/io.h"

/** What was done so far; bytes. */
typedef struct Qcow2TrialSums {
    uint64_t growth;          /* of the place's length */
    uint64_t needed;          /* to be allocated on the host */
    uint64_t freed;           /* as qcow2_trial_note_freed() was told */
    uint64_t written;         /* without what was moved */
    bool has_available;
    uint64_t available;       /* free on the host's file system */
    const Qcow2Io *below;     /* the place itself; borrowed */
    bool scratch_failed;      /* what could not be kept says nothing about the place itself */
} Qcow2TrialSums;

/**
 * qcow2_io_trial_new: writable, whatever @below is. What is written is kept in an unlinked file in $TMPDIR;
 * what would be copied or cloned from another place is only counted, and must not be read again.
 */
Qcow2Io *qcow2_io_trial_new(Qcow2Io *below, GError **error);

/** qcow2_io_trial_get: false for any other place. */
bool qcow2_io_trial_get(Qcow2Io *io, Qcow2TrialSums *ret);

bool qcow2_io_is_trial(const Qcow2Io *io);

/**
 * qcow2_trial_note_moved: data that would be moved to this place; it must not be read from there again.
 * @is_shared: with extents that are there already, which needs no space
 */
bool qcow2_trial_note_moved(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool is_shared, GError **error);

/** qcow2_trial_note_freed: clusters of an image in @io become free; nothing happens when it is no trial. */
void qcow2_trial_note_freed(Qcow2Io *io, uint64_t len_bytes);

/** qcow2_io_scratch_new: an empty, unlinked file in $TMPDIR. */
Qcow2Io *qcow2_io_scratch_new(GError **error);

#endif
