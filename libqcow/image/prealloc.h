/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clusters that were given out and never written. */
#ifndef QCOW2_IMAGE_PREALLOC_H
#define QCOW2_IMAGE_PREALLOC_H

#include "image/image.h"

/**
 * qcow2_image_is_preallocated:
 *
 * Whether the image uses clearly more clusters than its file has room for on the host, as one made with
 * preallocation=metadata does: then data clusters may be holes of the file, and asking for these pays. The
 * rule is that of QEMU, so that both say the same. False for a raw image, and where it cannot be known.
 */
bool qcow2_image_is_preallocated(Qcow2Image *image);

#endif
