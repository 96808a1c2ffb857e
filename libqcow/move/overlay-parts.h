/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the overlay sink share. Internal to move/. */
#ifndef QCOW2_MOVE_OVERLAY_PARTS_H
#define QCOW2_MOVE_OVERLAY_PARTS_H

#include "move/cluster-runs.h"
#include "move/overlay.h"

/* Whether extents of the source can be shared. */
typedef enum { SHARING_UNKNOWN, SHARING_WORKS, SHARING_FAILS } Sharing;

struct Qcow2Overlay {
    Qcow2State *state;
    Qcow2OverlayOptions options;
    Qcow2Progress *progress;
    Qcow2NewImage *image;
    Qcow2RunRules rules;
    bool has_streams;
    Qcow2ReaderPool *readers;
    Qcow2Mover *mover;            /* made with the first window, when the target is known */
    GArray *runs;                 /* Qcow2ClusterRun: waiting */
    GArray *streams;              /* Qcow2Stream: of the waiting runs, in order */
    uint64_t next_cluster;        /* with map_gaps: behind the last run */
    uint64_t done_bytes;          /* expected, and below resume_end */
    Sharing sharing;
    uint64_t written_back;        /* host offset up to which streams are on their way to the disk */
    Qcow2OverlayStats stats;
};

/** qcow2_overlay_take: host clusters for guest clusters; returns the host offset of the first. */
uint64_t qcow2_overlay_take(Qcow2Overlay *overlay, uint64_t first_cluster, uint64_t n_clusters);

/* Entries of the run's clusters. */
bool qcow2_overlay_map_data(Qcow2Overlay *overlay, Qcow2Io *io, const Qcow2ClusterRun *run,
                            uint64_t host_offset, GError **error);
bool qcow2_overlay_map_zero(Qcow2Overlay *overlay, Qcow2Io *io, const Qcow2ClusterRun *run, GError **error);

#endif
