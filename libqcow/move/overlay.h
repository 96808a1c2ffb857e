/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sink for the mover: a new qcow2 overlay that holds some ranges of a state and nothing else.
 *
 * The ranges come twice: first to be counted, then to be written. What is written:
 *
 *   a cluster that reads as zeros              an entry that says so; no data
 *   a compressed cluster that fits the target  its stream, cut at its true end, packed behind the last one
 *   anything else                              a new host cluster, filled from every layer that gives a part
 */
#ifndef QCOW2_MOVE_OVERLAY_H
#define QCOW2_MOVE_OVERLAY_H

#include "image/create-options.h"
#include "image/new-image.h"
#include "move/mover.h"

typedef struct Qcow2Overlay Qcow2Overlay;

typedef struct Qcow2OverlayOptions {
    bool compress;            /* data that is not compressed yet is compressed */
    unsigned n_threads;
    bool no_reflink;
    bool source_in_use;

    /* For a copy, which is as small as can be; all zero for a delta, which says what it is told. */
    bool unpack;              /* compressed data is stored as it is, unless @compress */
    Qcow2SparseRule sparse;   /* zeros in data that is read are left out; all zero: they are not looked for */
    bool zeros_are_nothing;   /* nothing lies below: what reads as zeros is not mapped */
    bool map_zeros;           /* what reads as zeros gets clusters (preallocation) */
    bool map_gaps;            /* extended L2: what is not carried gets clusters that hold nothing yet */
    Qcow2Io *data;            /* the external data file, which holds all data; NULL: the image does */
    uint64_t resume_end;      /* guest offset: what is below is not expected to be written again */
    bool target_is_dirty;     /* a device holds the data: what is not written there reads as anything */
} Qcow2OverlayOptions;

typedef struct Qcow2OverlayStats {
    uint64_t bytes;           /* guest bytes, as data or as zeros, without those of an interrupted copy */
    uint64_t data_clusters, zero_clusters, compressed_clusters;
    uint64_t bytes_passed_through;
    Qcow2MoverStats moved;
} Qcow2OverlayStats;

/** qcow2_overlay_new: @state is borrowed; takes over the contents of @header. */
Qcow2Overlay *qcow2_overlay_new(Qcow2State *state, Qcow2Header *header, const Qcow2OverlayOptions *options,
                                Qcow2Progress *progress, GError **error);
void qcow2_overlay_free(Qcow2Overlay *overlay);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Overlay, qcow2_overlay_free)

/** qcow2_overlay_unit: ranges are whole units of this many bytes, but for the end of the state. */
uint64_t qcow2_overlay_unit(const Qcow2Header *header);

/** qcow2_overlay_expect: counts the extents of a window. */
void qcow2_overlay_expect(Qcow2Overlay *overlay, const GArray *extents);

/** qcow2_overlay_lay_out: ends the counting. */
bool qcow2_overlay_lay_out(Qcow2Overlay *overlay, GError **error);

/** qcow2_overlay_data: where all data is that was expected, once that is laid out; tables are before it. */
Qcow2Range qcow2_overlay_data(const Qcow2Overlay *overlay);

/** qcow2_overlay_has_streams: whether the amount of data is known only when it was read. */
bool qcow2_overlay_has_streams(const Qcow2Overlay *overlay);

/* Writing into a place that can be written at any offset: windows in order, then the end. */
bool qcow2_overlay_write(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents, GError **error);
bool qcow2_overlay_finish(Qcow2Overlay *overlay, Qcow2Io *io, uint64_t *ret_len, GError **error);

/**
 * qcow2_overlay_can_share: whether extents of the source can be shared, found out with the first that comes.
 * To be asked before anything is written.
 */
bool qcow2_overlay_can_share(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents);

/** qcow2_overlay_settle: nothing that was written is under way then; @ret tells how to go on from there. */
bool qcow2_overlay_settle(Qcow2Overlay *overlay, Qcow2Io *io, Qcow2NewImagePosition *ret, GError **error);

/** qcow2_overlay_save: all that was settled is flushed then, also when a later write was given up. */
bool qcow2_overlay_save(Qcow2Overlay *overlay, Qcow2Io *io, GError **error);

/**
 * qcow2_overlay_restore: instead of writing what is below @guest_end: it is in @io, which was saved.
 * @ret_fits: false: it was saved of another image, or is not whole; all has to be written
 */
bool qcow2_overlay_restore(Qcow2Overlay *overlay, Qcow2Io *io, const Qcow2NewImagePosition *position,
                           uint64_t guest_end, bool *ret_fits, GError **error);

/** qcow2_overlay_reserve: sets aside the space of all data that is expected, as for a new image. */
bool qcow2_overlay_reserve(Qcow2Overlay *overlay, Qcow2Io *io, Qcow2Preallocation mode, GError **error);

/**
 * qcow2_overlay_clear_tables: for a target that is dirty: an L2 table is written only when something is
 * mapped there, and of what was counted zeros may have been found to be nothing.
 */
bool qcow2_overlay_clear_tables(Qcow2Overlay *overlay, Qcow2Io *io, GError **error);

/* Writing in file order, which needs has_streams to be false: the head, all tables, then all data. */
bool qcow2_overlay_write_head(Qcow2Overlay *overlay, Qcow2Io *io, GError **error);
bool qcow2_overlay_write_tables(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents, GError **error);
bool qcow2_overlay_end_tables(Qcow2Overlay *overlay, Qcow2Io *io, GError **error);
bool qcow2_overlay_write_data(Qcow2Overlay *overlay, Qcow2Io *io, const GArray *extents, GError **error);

/** qcow2_overlay_end: the length of the file when all is written. */
uint64_t qcow2_overlay_end(const Qcow2Overlay *overlay);

Qcow2OverlayStats qcow2_overlay_get_stats(const Qcow2Overlay *overlay);

#endif
