/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where in the target the data of some runs goes. */
#ifndef QCOW2_MOVE_PLACEMENT_H
#define QCOW2_MOVE_PLACEMENT_H

#include "move/cluster-runs.h"

/**
 * The runs of data in the order in which their clusters lie in the target.
 *
 * Guest order is best for whoever reads the target later. Where extents are shared the bytes stay where they
 * are, and in the order of the source neighbours are shared in one call: a guest that writes here and there
 * gives a snapshot clusters that lie side by side in the file and nowhere else.
 */
typedef struct Qcow2Placement {
    GArray *runs;             /* Qcow2ClusterRun: all of them; placing sets their host_offset */
    const GArray *extents;    /* Qcow2Extent: what the runs are made of */
    GArray *order;            /* guint: index of a run */
    uint64_t n_clusters;
} Qcow2Placement;

void qcow2_placement_init(Qcow2Placement *placement, GArray *runs, const GArray *extents);
void qcow2_placement_clear(Qcow2Placement *placement);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2Placement, qcow2_placement_clear)

/** qcow2_placement_by_guest, _by_source: places the runs from @host_offset on. */
void qcow2_placement_by_guest(Qcow2Placement *placement, uint64_t host_offset, unsigned cluster_bits);
void qcow2_placement_by_source(Qcow2Placement *placement, uint64_t host_offset, unsigned cluster_bits);

/** qcow2_placement_as_guest: where the guest has them, as in a data file. */
void qcow2_placement_as_guest(Qcow2Placement *placement, unsigned cluster_bits);

/** qcow2_placement_run: the one at @index, in the order of the target. */
const Qcow2ClusterRun *qcow2_placement_run(const Qcow2Placement *placement, guint index);

/** qcow2_run_first_data: the part of a run that a layer's data gives first; false when none does. */
bool qcow2_run_first_data(const Qcow2ClusterRun *run, const GArray *extents, Qcow2Extent *ret);

#endif
