/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image that goes on reading the same over other layers: what any of its states would lose, or see for the
 * first time, moves into it, and the same header write names the new layers.
 */
#ifndef QCOW2_OPS_KEEP_H
#define QCOW2_OPS_KEEP_H

#include "chain/chain.h"
#include "image/batch.h"
#include "move/in-place.h"
#include "ops/rehearse.h"

typedef struct Qcow2Keep {
    Qcow2Chain *chain;            /* layer 0: the image, open for writing; below it what it reads now */
    Qcow2Chain *below;            /* what it will be over; NULL: nothing */
    Qcow2Chain *below_past;       /* NULL, or what that reads as from @past_from on */
    uint64_t past_from;           /* guest offset */
    bool snapshots_only;          /* the active layer is not looked at */
    bool set_backing;             /* the header gets these names: */
    const char *backing_name, *backing_format;    /* NULL: none */
    GBytes *merge_note;           /* NULL, or to be recorded with them, see ops/merge.h */
    unsigned bitmaps_end;         /* bitmaps of layers [1, this) of @chain are merged into the image */
    bool compare_data;            /* look at bytes where metadata cannot tell */
    bool compress, no_reflink;
    bool on_trial;                /* the image is, to see what comes next: room for it is not looked for */
} Qcow2Keep;

/**
 * qcow2_keep_count: what qcow2_keep() would move, in whole clusters of the image.
 * @ret_changed: NULL, or gets the name of the first state that would read otherwise; free with g_free()
 */
bool qcow2_keep_count(const Qcow2Keep *keep, uint64_t *ret_bytes, char **ret_changed, GError **error);

/** qcow2_keep_need: what the file system has to give for it; see ops/rehearse.h. */
bool qcow2_keep_need(const Qcow2Keep *keep, Qcow2NeedStep step, Qcow2Room *room, GError **error);

/**
 * qcow2_keep: all or nothing, for the active layer and every snapshot.
 * Errors: QCOW2_ERROR_UNSUPPORTED for an image that cannot take what it would have to; QCOW2_ERROR_NO_SPACE,
 * before the first write where it can be known.
 */
bool qcow2_keep(const Qcow2Keep *keep, Qcow2MoveResult *ret_result, Qcow2Progress *progress, GError **error);

/**
 * qcow2_keep_placed: what the states of an image share that it is kept for; its snapshots are loaded.
 * Returns: NULL when there is one state, or narrow counts may not hold a reference for each.
 */
Qcow2Placed *qcow2_keep_placed(const Qcow2Image *image);

/** qcow2_move_result_add: what was moved by one part of an operation. */
void qcow2_move_result_add(Qcow2MoveResult *result, const Qcow2InPlaceStats *stats);

/** qcow2_batch_set_backing: the header that the batch writes names this; NULL @name: nothing. */
void qcow2_batch_set_backing(Qcow2Batch *batch, const char *name, const char *format);

#endif
