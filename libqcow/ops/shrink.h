/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Free space inside an image's file, given back to the file system. */
#ifndef QCOW2_OPS_SHRINK_H
#define QCOW2_OPS_SHRINK_H

#include "image/image.h"

/**
 * qcow2_shrink: clusters of data go from the end of the file into free ones before it, then what metadata is
 * left there; the file is cut, and holes are punched where nothing is.
 */
bool qcow2_shrink(Qcow2Image *image, Qcow2TrimResult *result, Qcow2Progress *progress, GError **error);

/** qcow2_punch: gives the bytes [start, end) back to the file system; @ret_bytes grows by what was not given
 * back before. */
bool qcow2_punch(Qcow2Io *io, uint64_t start, uint64_t end, uint64_t *ret_bytes, GError **error);

/** qcow2_punch_data_file: likewise what no entry refers to. It is flushed then. */
bool qcow2_punch_data_file(Qcow2Image *image, uint64_t *ret_bytes, GError **error);

#endif
