/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another virtual size for a qcow2 image. */
#ifndef QCOW2_IMAGE_RESIZE_H
#define QCOW2_IMAGE_RESIZE_H

#include "image/create-options.h"
#include "image/extent.h"
#include "image/image.h"

/** Qcow2ShownFunc: appends the parts of @range where the layers below hold data, sorted. */
typedef bool (*Qcow2ShownFunc)(const Qcow2Range *range, GArray *ret_ranges, void *data, GError **error);

typedef struct Qcow2Resize {
    uint64_t size;                      /* bytes, whole sectors */
    Qcow2Preallocation preallocation;   /* of what is new */

    /*
     * For a disk that grows. @tail: the cluster in which it ends now, as it must read when it is larger; NULL
     * when it will read so by itself. @shown: what the new part would show; NULL when nothing is below.
     */
    const uint8_t *tail;
    Qcow2ShownFunc shown;
    void *shown_data;
} Qcow2Resize;

/** qcow2_image_check_resize: whether this image can have that size, as far as it is known before a write. */
bool qcow2_image_check_resize(const Qcow2Image *image, const Qcow2Resize *resize, GError **error);

/**
 * qcow2_image_resize: checked before; its data file is attached, for writing.
 *
 * The new part of a disk that grows reads as zeros. One batch: a crash leaves the old size or the new one.
 */
bool qcow2_image_resize(Qcow2Image *image, const Qcow2Resize *resize, Qcow2Progress *progress,
                        GError **error);

/**
 * qcow2_image_trim_end:
 * @with_snapshots: what only they have moves, too; nobody else may be reading them
 *
 * Makes the file as short as it can be without moving data: metadata that stands behind what is in use goes
 * to free clusters before it. The file never grows meanwhile.
 */
bool qcow2_image_trim_end(Qcow2Image *image, bool with_snapshots, GError **error);

/**
 * qcow2_image_trim_back:
 * @old_size: of the file before its last batch, which changed tables and counts and added none
 *
 * The same for a file that has grown by that batch: it is no longer than before in the end. Where it did not
 * end with a whole cluster, and there is something in the rest of that now, it has the rest, too.
 */
bool qcow2_image_trim_back(Qcow2Image *image, bool with_snapshots, uint64_t old_size, GError **error);

#endif
