/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file that becomes shorter, and what its parts need of each other. Internal to it.
 *
 *   trim-end.c     what metadata there is, and moving it
 *   trim-limit.c   how far down it can go
 */
#ifndef QCOW2_IMAGE_TRIM_JOB_H
#define QCOW2_IMAGE_TRIM_JOB_H

#include "image/bitmap-move.h"

/** The tables of the active layer, or of a snapshot. */
typedef struct Qcow2TrimTables {
    Qcow2View view;
    uint64_t tables_end;      /* where the last of its L2 tables ends, host bytes */
    uint64_t place;           /* of the L1 table as it will be */
} Qcow2TrimTables;

/** A cluster of metadata that can move. */
typedef struct Qcow2Movable {
    uint64_t cluster, n_users;
} Qcow2Movable;

typedef struct Qcow2TrimJob {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2Batch *batch;
    GArray *views;            /* Qcow2TrimTables; the active layer's, then those of the snapshots, if they may
                                 move */
    GPtrArray *by_size;       /* the same, the longest L1 table first */
    GArray *bitmaps;          /* Qcow2BitmapPlace */
    uint64_t snapshot_table_len; /* bytes */
    GArray *movable;          /* Qcow2Movable, in host order when all are found */
    guint n_joined;           /* of these, when they were joined last */
    GHashTable *moved;        /* host offset of an L2 table -> that of the new one */
    uint64_t end;             /* host clusters: where the last one in use ends */
    uint64_t limit;           /* what ends behind this moves */
} Qcow2TrimJob;

/* ---- trim-limit.c -------------------------------------------------------------------------------- */

/** qcow2_trim_find: the first movable cluster at or behind this one, as an index. */
guint qcow2_trim_find(const Qcow2TrimJob *trim, uint64_t cluster);

/** qcow2_trim_view_moves: whether something of these tables is behind the limit: the L1 table is new then. */
bool qcow2_trim_view_moves(const Qcow2TrimJob *trim, const Qcow2TrimTables *tables);

/** qcow2_trim_ends_behind: whether what ends there, in host bytes, reaches past the limit. */
bool qcow2_trim_ends_behind(const Qcow2TrimJob *trim, uint64_t end_bytes);

/** qcow2_trim_find_limit: the end, and the lowest limit for which there is room before it. */
bool qcow2_trim_find_limit(Qcow2TrimJob *trim, GError **error);

#endif
