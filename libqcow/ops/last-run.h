/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef QCOW2_OPS_LAST_RUN_H
#define QCOW2_OPS_LAST_RUN_H

#include "state/state.h"

/**
 * qcow2_last_run:
 * @ret_start: where the last run of the disk starts that QEMU's block status gives in one answer
 *
 * QEMU says of the last answer that it is one, and compares that in strict mode: so two images with the same
 * clusters are not the same to it when the last run of one is in two pieces on the host.
 */
bool qcow2_last_run(Qcow2State *state, uint64_t *ret_start, GError **error);

#endif
