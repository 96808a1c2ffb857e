/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where two states read differently, as ranges to mark in bitmaps. */
#ifndef QCOW2_OPS_CHANGES_H
#define QCOW2_OPS_CHANGES_H

#include "state/choice.h"
#include "state/state.h"

/**
 * qcow2_find_changes:
 * @unit: bytes, a power of two; ranges are grown to whole units, which keeps them few
 * @ret: Qcow2Range, in order; past the end of the smaller state too
 */
bool qcow2_find_changes(Qcow2State *from, Qcow2State *to, uint64_t unit, GArray *ret,
                        Qcow2Progress *progress, GError **error);

/** qcow2_list_choice: the same of what a choice carries; it is walked through, and at its start again. */
bool qcow2_list_choice(Qcow2Choice *choice, uint64_t unit, GArray *ret, GError **error);

#endif
