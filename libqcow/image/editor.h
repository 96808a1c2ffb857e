/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * New L2 tables for the active layer or a snapshot, within a metadata batch. A table in which an entry
 * changes becomes a new one; what the old entries referred to is released. Nothing that is reachable is
 * written.
 */
#ifndef QCOW2_IMAGE_EDITOR_H
#define QCOW2_IMAGE_EDITOR_H

#include "image/batch.h"

typedef struct Qcow2Editor Qcow2Editor;

/**
 * qcow2_editor_new:
 * @view: the tables that are edited, and the disk's size as it was
 * @disk_size: bytes; the size that the disk will have. A longer L1 table is made when it needs one; a smaller
 *             disk loses all that is past its end, and its L1 table becomes shorter
 */
Qcow2Editor *qcow2_editor_new(Qcow2Batch *batch, Qcow2Image *image, const Qcow2View *view, uint64_t disk_size,
                              GError **error);
void qcow2_editor_free(Qcow2Editor *editor);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Editor, qcow2_editor_free)

/**
 * qcow2_editor_set:
 * @raw, @bitmap: of the first cluster, in host order; @step is added to @raw for each next one
 *
 * Maps guest clusters, best in rising order. The caller has taken what the entries refer to.
 */
bool qcow2_editor_set(Qcow2Editor *editor, uint64_t first_cluster, uint64_t n_clusters, uint64_t raw,
                      uint64_t bitmap, uint64_t step, GError **error);

/** qcow2_editor_get: the entry as it is now. */
bool qcow2_editor_get(Qcow2Editor *editor, uint64_t cluster, uint64_t *ret_raw, uint64_t *ret_bitmap,
                      GError **error);

/** qcow2_editor_drop: releases guest clusters [first, end), which become unallocated. */
bool qcow2_editor_drop(Qcow2Editor *editor, uint64_t first, uint64_t end, GError **error);

/** qcow2_editor_finish: writes the last table and the new L1 table, which the old one makes room for. */
bool qcow2_editor_finish(Qcow2Editor *editor, uint64_t *ret_l1_offset, uint32_t *ret_l1_entries,
                         GError **error);

#endif
