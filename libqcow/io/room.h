/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What several places together need of the file systems that they are on. */
#ifndef QCOW2_IO_ROOM_H
#define QCOW2_IO_ROOM_H

#include "io/io.h"

typedef struct Qcow2Room Qcow2Room;

Qcow2Room *qcow2_room_new(void);
void qcow2_room_free(Qcow2Room *room);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Room, qcow2_room_free)

/**
 * qcow2_room_need: @io will take @len_bytes more. Nothing is noted for what is no file of a file system, or
 * is on trial only.
 */
void qcow2_room_need(Qcow2Room *room, const Qcow2Io *io, uint64_t len_bytes);

/** qcow2_room_gain: @io will give @len_bytes back; nothing is noted where qcow2_room_need() notes nothing. */
void qcow2_room_gain(Qcow2Room *room, const Qcow2Io *io, uint64_t len_bytes);

/** qcow2_room_doubt: a place that cannot grow may be too small: a check without @error fails then. */
void qcow2_room_doubt(Qcow2Room *room);

/**
 * qcow2_room_check: whether all of it is there for sure; with @error: as far as is known.
 * Errors: QCOW2_ERROR_NO_SPACE, with the name of the file that needs most, and both sizes.
 */
bool qcow2_room_check(const Qcow2Room *room, GError **error);

/** qcow2_io_get_available: bytes that this process may still take of the place's file system. */
bool qcow2_io_get_available(const Qcow2Io *io, uint64_t *ret_bytes);

#endif
