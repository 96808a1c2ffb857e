/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's block status says of an answer that it is the last one, and compares that in strict mode: two images
 * with the same clusters are not the same to it when the last run of one is in two pieces on the host.
 */
#ifndef QCOW2_OPS_LAST_RUN_H
#define QCOW2_OPS_LAST_RUN_H

#include "ops/mapper.h"

/** The run that ends the disk; and one that ends a shorter lowest layer, when nothing allocates it. */
typedef struct Qcow2LastRuns {
    Qcow2Range of_disk, of_base;
} Qcow2LastRuns;

bool qcow2_find_last_runs(Qcow2State *state, const Qcow2Mapper *mapper, Qcow2LastRuns *ret, GError **error);

/** qcow2_last_runs_mismatch: where the first answer starts that is a last one on one side only; or
 * UINT64_MAX. */
uint64_t qcow2_last_runs_mismatch(const Qcow2LastRuns *a, const Qcow2LastRuns *b);

#endif
