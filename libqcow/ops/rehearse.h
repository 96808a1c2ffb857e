/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Missing space is found before the first write: an operation says what it needs, first from sizes alone,
 * then from tables, and last by a rehearsal of all that it does on places on trial, which is exact. Where the
 * cheap answer is enough, no other is asked for.
 */
#ifndef QCOW2_OPS_REHEARSE_H
#define QCOW2_OPS_REHEARSE_H

#include "image/batch.h"
#include "io/room.h"

typedef enum {
    QCOW2_NEED_BY_SIZE,       /* at most this much; nothing is read */
    QCOW2_NEED_BY_TABLES,     /* at most this much, from metadata alone */
    QCOW2_NEED_BY_REHEARSAL,  /* exactly this much */
} Qcow2NeedStep;

/** Adds to @room what an operation needs. */
typedef bool (*Qcow2NeedFunc)(void *data, Qcow2NeedStep step, Qcow2Room *room, GError **error);

/** qcow2_check_room: Errors: QCOW2_ERROR_NO_SPACE; what @func reports. */
bool qcow2_check_room(Qcow2NeedFunc func, void *data, GError **error);

/**
 * qcow2_need_in_image: what @image takes at most when @data_bytes are moved into @n_states of its states,
 * none of which is larger than @size.
 */
bool qcow2_need_in_image(Qcow2Room *room, Qcow2Image *image, uint64_t data_bytes, uint64_t size,
                         uint64_t n_states, GError **error);

/** All that the operation does to the image, but qcow2_batch_rehearse() for qcow2_batch_commit(). */
typedef bool (*Qcow2RehearseFunc)(void *data, GError **error);

/**
 * qcow2_rehearse: runs @func with @image on trial, and adds what was needed to @room. Without the
 * room that a rehearsal takes itself, in $TMPDIR, nothing is added: it is not known then.
 */
bool qcow2_rehearse(Qcow2Image *image, Qcow2RehearseFunc func, void *data, Qcow2Room *room, GError **error);

/** All that the operation does to the image; it may commit what it does. */
typedef bool (*Qcow2RehearseAloneFunc)(Qcow2Image *image, void *data, GError **error);

/** qcow2_rehearse_alone: the same with an image of its own, without the layers below, in several steps. */
bool qcow2_rehearse_alone(Qcow2Image *image, Qcow2RehearseAloneFunc func, void *data, Qcow2Room *room,
                          GError **error);

#endif
