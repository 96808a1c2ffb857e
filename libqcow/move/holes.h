/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Zeros that a layer holds as data, found before it is moved, so that they get no place in the target. */
#ifndef QCOW2_MOVE_HOLES_H
#define QCOW2_MOVE_HOLES_H

#include "image/reader-pool.h"
#include "state/state.h"
#include "util/zeros.h"

typedef struct Qcow2HoleRules {
    Qcow2State *state;
    Qcow2SparseRule sparse;
    unsigned n_threads;
    Qcow2ReaderPool *readers;
} Qcow2HoleRules;

/** qcow2_is_cheap_to_read: data in a local file, which can be read a second time from memory. */
bool qcow2_is_cheap_to_read(const Qcow2State *state, const Qcow2Extent *extent);

/**
 * qcow2_find_holes:
 * @ret: emptied, then gets @extents with what holds zeros as extents of their own, of kind ZERO
 *
 * Looks at data that is cheap to read; the rest stays as it is.
 */
bool qcow2_find_holes(const Qcow2HoleRules *rules, const GArray *extents, GArray *ret, GError **error);

#endif
