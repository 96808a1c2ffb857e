/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading persistent dirty bitmaps. Spec: "Bitmaps". */
#ifndef QCOW2_IMAGE_BITMAPS_H
#define QCOW2_IMAGE_BITMAPS_H

#include "format/bitmap-directory.h"
#include "image/image.h"

/** qcow2_image_read_bitmaps: the directory as an array of Qcow2BitmapEntry; empty when there is none. */
GArray *qcow2_image_read_bitmaps(Qcow2Image *image, GError **error);

/** qcow2_read_bitmap_directory: the same of another header, such as one that is not in force yet. */
GArray *qcow2_read_bitmap_directory(Qcow2Io *file, const Qcow2Header *header, GError **error);

/**
 * qcow2_image_has_stale_bitmaps: there are some, and the autoclear bit does not vouch for them: a program
 * that knows nothing of bitmaps has written to the image. Reading them finds none.
 */
bool qcow2_image_has_stale_bitmaps(const Qcow2Image *image);

/** qcow2_image_count_bitmap: guest bytes under set bits, cut at the virtual size. */
bool qcow2_image_count_bitmap(Qcow2Image *image, const Qcow2BitmapEntry *entry, uint64_t *ret_bytes,
                              GError **error);

#endif
