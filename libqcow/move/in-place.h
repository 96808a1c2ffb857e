/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sink for the mover: an existing image, whose active layer becomes what the source state is. Data goes
 * into new clusters, tables are new ones, and one batch makes all of it real: until then the image is as it
 * was.
 */
#ifndef QCOW2_MOVE_IN_PLACE_H
#define QCOW2_MOVE_IN_PLACE_H

#include "image/batch.h"
#include "move/mover.h"
#include "state/choice.h"

typedef struct Qcow2InPlaceOptions {
    unsigned n_threads;
    bool no_reflink;
} Qcow2InPlaceOptions;

typedef struct Qcow2InPlaceStats {
    uint64_t bytes, data_clusters, zero_clusters, compressed_clusters;
    Qcow2MoverStats moved;
} Qcow2InPlaceStats;

/** qcow2_in_place_unit: ranges are whole units of this many bytes. */
uint64_t qcow2_in_place_unit(const Qcow2Image *image);

/**
 * qcow2_in_place_apply:
 * @batch: of @image; its header gets the new L1 table and size
 * @to: what the active layer shall read as; the choice resolves through it
 * @choice: whole units; where the image must change
 */
bool qcow2_in_place_apply(Qcow2Batch *batch, Qcow2Image *image, Qcow2State *to, Qcow2Choice *choice,
                          const Qcow2InPlaceOptions *options, Qcow2InPlaceStats *ret_stats,
                          Qcow2Progress *progress, GError **error);

#endif
