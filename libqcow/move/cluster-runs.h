/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Extents of a state as runs of target clusters that are written the same way. */
#ifndef QCOW2_MOVE_CLUSTER_RUNS_H
#define QCOW2_MOVE_CLUSTER_RUNS_H

#include "format/layout.h"
#include "state/state.h"

typedef enum {
    QCOW2_RUN_ZERO,           /* entries only */
    QCOW2_RUN_DATA,           /* host clusters, one for each */
    QCOW2_RUN_STREAM,         /* a compressed stream each, or a host cluster where that is not smaller */
} Qcow2RunKind;

typedef struct Qcow2ClusterRun {
    Qcow2RunKind kind;
    uint64_t first_cluster, n_clusters;   /* guest clusters of the target */
    uint64_t guest_start, guest_end;      /* the carried bytes in them */
    guint first_extent;                   /* the one that holds guest_start */
    uint32_t data_mask, zero_mask;        /* extended L2: subclusters, alike in all clusters of the run */
    bool pass_through;                    /* STREAM: one extent, whose stream fits as it is */
    uint64_t host_offset;                 /* DATA: of the first cluster, once it is placed */
} Qcow2ClusterRun;

/** What decides how clusters are written. */
typedef struct Qcow2RunRules {
    Qcow2State *state;
    const Qcow2Layout *layout;            /* of the target */
    Qcow2Compression compression;         /* of the target */
    bool compress;
    bool zeros_need_data;                 /* version 2 cannot say "zeros" where something lies below */
    bool unpack;                          /* streams of the source are not kept */
    bool read_first;                      /* what is dear to read is read before it gets a place: a STREAM */
} Qcow2RunRules;

/** Where the next run starts; zeroed to begin with. */
typedef struct Qcow2RunCursor {
    guint extent;
    uint64_t offset;
} Qcow2RunCursor;

/** qcow2_slice_of_run: the part of @extent that the run carries. */
Qcow2Extent qcow2_slice_of_run(const Qcow2ClusterRun *run, const Qcow2Extent *extent);

/** qcow2_gap_run: clusters [start, end), which hold nothing of what is carried; false when there are none. */
bool qcow2_gap_run(const Qcow2Layout *layout, uint64_t start, uint64_t end, Qcow2ClusterRun *ret);

/** qcow2_next_run: false when @extents is used up. */
bool qcow2_next_run(const Qcow2RunRules *rules, const GArray *extents, Qcow2RunCursor *cursor,
                    Qcow2ClusterRun *ret);

#endif
