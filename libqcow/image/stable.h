/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading header and snapshot table of an image that somebody may be writing to. */
#ifndef QCOW2_IMAGE_STABLE_H
#define QCOW2_IMAGE_STABLE_H

#include "image/image.h"

/** Header and snapshot table as two reads in a row found them alike. */
typedef struct Qcow2StableRead {
    Qcow2Header header;
    GArray *snapshots;        /* Qcow2SnapshotEntry */
    GByteArray *bytes;        /* of the header's cluster and the table */
} Qcow2StableRead;

void qcow2_stable_read_clear(Qcow2StableRead *read);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2StableRead, qcow2_stable_read_clear)

/**
 * qcow2_stable_read:
 * @ret: zeroed by the caller; cleared by it even when this fails
 *
 * Reads until two passes in a row are byte-equal, 20 times at most.
 *
 * Errors: QCOW2_ERROR_CHANGED when it never settles; what decoding the settled bytes reports.
 */
bool qcow2_stable_read(Qcow2Io *file, Qcow2StableRead *ret, GError **error);

/** qcow2_image_refresh: replaces header and snapshots of an open image by a stable read. */
bool qcow2_image_refresh(Qcow2Image *image, GError **error);

#endif
