/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Proof that what was read from an image that others may write to was one moment's truth: nothing read is
 * believed before the end check.
 *
 * A snapshot's tables and data are never written again while the snapshot exists, so that it is enough to
 * prove that it existed all the time, and that the layers below it did not change.
 */
#ifndef QCOW2_STATE_WITNESS_H
#define QCOW2_STATE_WITNESS_H

#include "state/state.h"

typedef struct Qcow2Witness Qcow2Witness;

/**
 * qcow2_witness_begin:
 * @states: of one chain, opened before
 *
 * Reads header, snapshot table and the states' L1 tables, and compares them with what the states were opened
 * from.
 *
 * Errors: QCOW2_ERROR_CHANGED; QCOW2_ERROR_IN_USE for @active of an image that a VM writes to.
 */
Qcow2Witness *qcow2_witness_begin(Qcow2State *const *states, size_t n_states, GError **error);
void qcow2_witness_free(Qcow2Witness *witness);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Witness, qcow2_witness_free)

/** qcow2_witness_end: after the last read returned. Errors: QCOW2_ERROR_CHANGED, saying what changed. */
bool qcow2_witness_end(Qcow2Witness *witness, GError **error);

/**
 * qcow2_witness_explain: after a read failed or showed an impossible value: when the end check finds a
 * change, that is the reason, and replaces @error.
 */
void qcow2_witness_explain(Qcow2Witness *witness, GError **error);

#endif
