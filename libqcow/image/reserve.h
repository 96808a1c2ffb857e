/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Space for data that is not there yet: holes, blocks set aside by the file system, or written zeros. */
#ifndef QCOW2_IMAGE_RESERVE_H
#define QCOW2_IMAGE_RESERVE_H

#include "image/create-options.h"
#include "io/io.h"

/**
 * qcow2_reserve:
 * @start, @end: bytes of @io
 * @mode: OFF and METADATA leave holes, FALLOC sets blocks aside, FULL writes zeros
 *
 * Makes a range read as zeros, and the place at least @end bytes long.
 */
bool qcow2_reserve(Qcow2Io *io, uint64_t start, uint64_t end, Qcow2Preallocation mode,
                   Qcow2Progress *progress, GError **error);

#endif
