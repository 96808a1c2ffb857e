/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An overlay from beginning to end: what was chosen is counted, laid out and written. */
#ifndef QCOW2_MOVE_FILL_H
#define QCOW2_MOVE_FILL_H

#include "move/journal.h"
#include "move/overlay.h"
#include "move/walk.h"

typedef struct Qcow2Fill {
    Qcow2Overlay *overlay;
    Qcow2Choice *choice;
    Qcow2Progress *progress;
    /* For a copy: */
    const Qcow2HoleRules *holes;          /* NULL: zeros in data are not looked for */
    unsigned n_threads;
    bool share_first;                     /* nor are they where extents can be shared */
    Qcow2Journal *journal;                /* NULL, or: gets a record now and then */
    const Qcow2JournalRecord *resume;     /* with a journal: where to go on */
    Qcow2Io *data;                        /* the overlay's data file, or NULL */
    uint64_t data_size;
    uint64_t resumed_bytes;               /* of the guest: what was there already */
} Qcow2Fill;

/** qcow2_fill_count: all windows of the choice; ends the counting. */
bool qcow2_fill_count(const Qcow2Fill *fill, GError **error);

/**
 * qcow2_fill_restore: with a journal, between the two others: what it vouches for is there, and all else of
 * an unfinished file is gone, with the space that it had. Nothing vouches for what cannot be gone on with.
 */
bool qcow2_fill_restore(Qcow2Fill *fill, Qcow2Io *io, GError **error);

/** qcow2_fill_write: all windows, and the end. */
bool qcow2_fill_write(Qcow2Fill *fill, Qcow2Io *io, uint64_t *ret_len, GError **error);

#endif
