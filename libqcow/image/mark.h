/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image whose backing file holds what layers above it held reads garbage. It is marked with an
 * incompatible feature bit of a name that says so: QEMU and this library refuse it by that name.
 */
#ifndef QCOW2_IMAGE_MARK_H
#define QCOW2_IMAGE_MARK_H

#include "image/image.h"

/**
 * qcow2_image_mark_merged:
 * @base: name of the file that it was merged into
 * @ret_marked: false for an image that has no feature bits: version 2
 */
bool qcow2_image_mark_merged(Qcow2Image *image, const char *base, bool *ret_marked, GError **error);

/** qcow2_header_mark_merged: the mark as a change of a header that is laid out anew; version 3. */
void qcow2_header_mark_merged(Qcow2Header *header, const char *base);

/**
 * qcow2_image_read_marked: the header of a qcow2 file that may be marked, for which no image can be opened.
 * @ret: without the mark; free with qcow2_header_clear()
 */
bool qcow2_image_read_marked(Qcow2Io *file, Qcow2Header *ret, bool *ret_is_marked, GError **error);

/** qcow2_image_unmark: @file: of a marked image, open for writing. Errors: QCOW2_ERROR_EXISTS: it is not. */
bool qcow2_image_unmark(Qcow2Io *file, GError **error);

#endif
