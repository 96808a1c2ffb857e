/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A new snapshot table. Internal to image/. */
#ifndef QCOW2_IMAGE_SNAPSHOT_WRITE_H
#define QCOW2_IMAGE_SNAPSHOT_WRITE_H

#include "image/batch.h"

/** qcow2_batch_set_snapshots: @entries, an array of GBytes (raw entries), become the table; the old one is
 * freed. */
bool qcow2_batch_set_snapshots(Qcow2Batch *batch, const Qcow2Image *image, GPtrArray *entries,
                               GError **error);

/**
 * qcow2_batch_add_snapshot: a snapshot of the active layer as it is in the batch.
 * @info: name, date, clock; id and disk size are filled in
 */
bool qcow2_batch_add_snapshot(Qcow2Batch *batch, Qcow2Image *image, const Qcow2Snapshot *info,
                              GError **error);

/** qcow2_batch_fix_active_flags: makes the COPIED flags of the active layer agree with the counts as they
 * will be. */
bool qcow2_batch_fix_active_flags(Qcow2Batch *batch, Qcow2Image *image, GError **error);

/** qcow2_snapshot_entries: the raw entries of an image's table, each a reference. */
GPtrArray *qcow2_snapshot_entries(const Qcow2Image *image);

#endif
