/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing from front to back, for pipes: gaps become zeros, and a digest is kept of all that was written. */
#ifndef QCOW2_MOVE_IN_ORDER_H
#define QCOW2_MOVE_IN_ORDER_H

#include "io/io.h"

/** qcow2_io_in_order_new: takes a reference of @below, which is written from offset 0 on. */
Qcow2Io *qcow2_io_in_order_new(Qcow2Io *below);

/** qcow2_io_in_order_finish: fills up to @end with zeros; gives the SHA-256 of all bytes, 32 of them. */
bool qcow2_io_in_order_finish(Qcow2Io *io, uint64_t end, uint8_t ret_digest[32], GError **error);

#endif
