/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Taking, applying, deleting and renaming internal snapshots. Each is one batch: all or nothing. */
#ifndef QCOW2_IMAGE_SNAPSHOT_EDIT_H
#define QCOW2_IMAGE_SNAPSHOT_EDIT_H

#include "image/image.h"

/** qcow2_image_create_snapshot: @name is not in use; @now_usec since 1970. */
bool qcow2_image_create_snapshot(Qcow2Image *image, const char *name, int64_t now_usec, GError **error);

/** qcow2_image_delete_snapshot: @index in the snapshot table. */
bool qcow2_image_delete_snapshot(Qcow2Image *image, guint index, GError **error);

/**
 * qcow2_image_apply_snapshot: the active layer becomes what the snapshot is, its size included.
 * @changes: Qcow2Range: where the two may read differently; enabled bitmaps get it
 */
bool qcow2_image_apply_snapshot(Qcow2Image *image, guint index, const GArray *changes, GError **error);

/** qcow2_image_rename_snapshot: @name is not in use. */
bool qcow2_image_rename_snapshot(Qcow2Image *image, guint index, const char *name, GError **error);

#endif
