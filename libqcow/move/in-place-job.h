/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the in-place sink share. Internal to move/. */
#ifndef QCOW2_MOVE_IN_PLACE_JOB_H
#define QCOW2_MOVE_IN_PLACE_JOB_H

#include "image/editor.h"
#include "move/cluster-runs.h"
#include "move/in-place.h"
#include "move/stream-packer.h"

typedef struct Qcow2InPlaceJob {
    Qcow2Batch *batch;
    Qcow2Image *image;
    Qcow2State *to;
    Qcow2InPlaceOptions options;
    Qcow2RunRules rules;
    Qcow2Editor *editor;
    Qcow2Mover *mover;            /* into the image's data clusters */
    Qcow2ReaderPool *readers;
    Qcow2StreamPacker packer;
    GArray *runs;                 /* Qcow2ClusterRun: data that waits for its place, in guest order */
    GArray *extents;              /* Qcow2Extent: what these are made of */
    bool shares;                  /* the image has shared extents with the source */
    Qcow2Progress *progress;
    bool zeros_are_nothing;       /* no layer below: a cluster that reads as zeros needs no entry */
    uint64_t copied_flag;         /* of new clusters: only the active layer's entries have it */
    bool sharing;                 /* the run at hand may be what another state has got, or will get */
    bool planning;                /* everything is decided and counted, nothing is done */
    uint64_t limit;               /* guest bytes: where whole clusters of the state end */
    bool last_differs;            /* in the cluster past that, which the image has more of */
    Qcow2InPlaceStats stats;
} Qcow2InPlaceJob;

/**
 * qcow2_in_place_overwrite:
 * @extents: of one window, as exact as the states differ
 * @ret_ranges: emptied, then gets what needs new entries, in whole clusters
 *
 * Moves what can go into clusters that are there and that nobody else refers to.
 *
 * Errors: QCOW2_ERROR_CORRUPT when a cluster's flag and count disagree about that.
 */
bool qcow2_in_place_overwrite(Qcow2InPlaceJob *job, const GArray *extents, GArray *ret_ranges,
                              GError **error);

/** qcow2_in_place_add_data: a run that gets new clusters, and is moved into them; in guest order. */
bool qcow2_in_place_add_data(Qcow2InPlaceJob *job, const Qcow2ClusterRun *run, const GArray *extents,
                             GError **error);

/** qcow2_in_place_finish_data: gives places to what waits, and queues the moves. */
bool qcow2_in_place_finish_data(Qcow2InPlaceJob *job, GError **error);

void qcow2_in_place_start_data(Qcow2InPlaceJob *job);
void qcow2_in_place_clear_data(Qcow2InPlaceJob *job);

/** qcow2_in_place_take, _set: clusters for a run, and their entries. */
bool qcow2_in_place_take(Qcow2InPlaceJob *job, Qcow2ClusterRun *run, GError **error);
bool qcow2_in_place_set(Qcow2InPlaceJob *job, const Qcow2ClusterRun *run, GError **error);

/** qcow2_in_place_bitmap: with extended L2, the second half of the entries. */
uint64_t qcow2_in_place_bitmap(const Qcow2InPlaceJob *job, const Qcow2ClusterRun *run);

/** qcow2_in_place_is_there: in a data file each byte has one place, which the image's own bytes have. */
bool qcow2_in_place_is_there(const Qcow2InPlaceJob *job, const Qcow2Extent *extent);

/** qcow2_in_place_is_shared: whole clusters from the layers below, the same in all states that get them. */
bool qcow2_in_place_is_shared(const Qcow2InPlaceJob *job, const Qcow2ClusterRun *run, const GArray *extents);

/** qcow2_in_place_last_cluster: the one in which the state ends, while the image goes on in it. */
bool qcow2_in_place_last_cluster(Qcow2InPlaceJob *job, GError **error);

#endif
