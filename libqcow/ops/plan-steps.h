/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The steps of a plan: what a commit and a pull would count, by what the two operations themselves would do.
 * They are done on trial, which moves no data and writes no file: that tells what metadata is written, and
 * the second of two steps finds the layers as the first one leaves them. Internal to ops/plan*.c.
 */
#ifndef QCOW2_OPS_PLAN_STEPS_H
#define QCOW2_OPS_PLAN_STEPS_H

#include "chain/chain.h"

/** A file of a chain that takes what is above and below it. A step leaves here what the next one finds. */
typedef struct Qcow2PlanFile {
    Qcow2Chain *chain;            /* as it is; borrowed */
    /* Layers: the one above the group that goes, the file's, the lowest one of the group. */
    unsigned above, target, last;
    Qcow2Chain *now;              /* as the steps so far leave it, on trial; NULL: before the first one */
    bool pulled;                  /* of the group nothing is below the file any more */
} Qcow2PlanFile;

void qcow2_plan_file_clear(Qcow2PlanFile *file);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2PlanFile, qcow2_plan_file_clear)

/** qcow2_plan_commit: the layers from the one above the group on into the file. */
bool qcow2_plan_commit(Qcow2PlanFile *file, Qcow2PlanStep *ret_step, GError **error);

/** qcow2_plan_pull: what is below the file and goes into the file. */
bool qcow2_plan_pull(Qcow2PlanFile *file, Qcow2PlanStep *ret_step, GError **error);

#endif
