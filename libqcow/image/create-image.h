/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A new, empty image in a place that nobody reads yet. */
#ifndef QCOW2_IMAGE_CREATE_IMAGE_H
#define QCOW2_IMAGE_CREATE_IMAGE_H

#include "image/create-options.h"
#include "io/io.h"

/**
 * qcow2_create_image:
 * @io: gets the image
 * @data: gets its data; NULL without a data file
 * @options: checked; size in whole sectors
 *
 * Nothing is flushed. What was in @io before does not show.
 *
 * Errors: QCOW2_ERROR_INVALID for a size that these clusters cannot map; QCOW2_ERROR_NO_SPACE; what @io
 * reports.
 */
bool qcow2_create_image(Qcow2Io *io, Qcow2Io *data, const Qcow2CreateOptions *options,
                        Qcow2Progress *progress, GError **error);

/** qcow2_create_raw_image: zeros, and nothing else. */
bool qcow2_create_raw_image(Qcow2Io *io, const Qcow2CreateOptions *options, Qcow2Progress *progress,
                            GError **error);

#endif
