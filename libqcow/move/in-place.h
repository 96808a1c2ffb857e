/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sink for the mover: an existing image, one of whose states becomes what the source state is. Data goes
 * into new clusters, tables are new ones, and one batch makes all of it real: until then the image is as it
 * was.
 */
#ifndef QCOW2_MOVE_IN_PLACE_H
#define QCOW2_MOVE_IN_PLACE_H

#include "image/batch.h"
#include "move/mover.h"
#include "move/placed.h"
#include "state/choice.h"

typedef struct Qcow2InPlaceOptions {
    unsigned n_threads;
    bool no_reflink;
    bool compress;
    const Qcow2View *view;    /* NULL: the active layer's, which gets the size of the state */
    Qcow2Placed *placed;      /* NULL, or: views share what they all get from the layers below */
    bool map_zeros;           /* what reads as zeros gets clusters of its own, and their space */
    bool overwrite_data;      /* a data file may hold a mixture until the operation has ended well */
    Qcow2Chain *own;          /* NULL, or the image over what it reads: a disk that grows gets entries only
                                 for what it holds there, and where something below would show */

    /*
     * For a merge into the image: clusters that nobody else refers to are overwritten where they are, since
     * an image above hides them. A larger image keeps its size and what it has past the state's end, which is
     * read through this chain, whose layer 0 it is, as that of @own. The choice need not be in whole units.
     */
    Qcow2Chain *before;
} Qcow2InPlaceOptions;

typedef struct Qcow2InPlaceStats {
    uint64_t bytes, data_clusters, zero_clusters, compressed_clusters;
    uint64_t bytes_overwritten;   /* of the bytes: in clusters that were there */
    uint64_t bytes_streamed;      /* a plan's: what is read for the compressed clusters */
    Qcow2MoverStats moved;
} Qcow2InPlaceStats;

/** Where the tables of the state are then. */
typedef struct Qcow2InPlaceResult {
    uint64_t l1_offset;
    uint32_t l1_entries;
    Qcow2InPlaceStats stats;
} Qcow2InPlaceResult;

/** qcow2_in_place_unit: ranges are whole units of this many bytes. */
uint64_t qcow2_in_place_unit(const Qcow2Image *image);

/**
 * qcow2_in_place_apply:
 * @batch: of @image; its header says what is below then. For the active layer it gets the new L1 table and
 *         size
 * @to: what shall be read; the choice resolves through it
 * @choice: whole units; where the image must change
 *
 * With @placed the active layer comes last: COPIED flags are only right for the last one.
 */
bool qcow2_in_place_apply(Qcow2Batch *batch, Qcow2Image *image, Qcow2State *to, Qcow2Choice *choice,
                          const Qcow2InPlaceOptions *options, Qcow2InPlaceResult *ret,
                          Qcow2Progress *progress, GError **error);

/**
 * qcow2_in_place_plan: the same without doing it: nothing is written, and the batch is as it was.
 * @ret_stats: what qcow2_in_place_apply() would count; streams that would be made are taken for data
 */
bool qcow2_in_place_plan(Qcow2Batch *batch, Qcow2Image *image, Qcow2State *to, Qcow2Choice *choice,
                         const Qcow2InPlaceOptions *options, Qcow2InPlaceStats *ret_stats, GError **error);

#endif
