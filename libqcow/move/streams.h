/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compressed clusters for a sink, made by all processors and taken in order. */
#ifndef QCOW2_MOVE_STREAMS_H
#define QCOW2_MOVE_STREAMS_H

#include "image/reader-pool.h"
#include "state/state.h"

/** One target cluster. */
typedef struct Qcow2Stream {
    /* Filled by the caller. */
    uint64_t guest_start, guest_end;  /* of the state; the rest of the cluster is zeros */
    const GArray *extents;
    guint first_extent;               /* the one that holds guest_start */
    bool pass_through;
    bool store;                       /* leave it as it is: it comes here only to be looked at */
    bool find_zero;                   /* a cluster of zeros shall leave no bytes */

    /* Filled by qcow2_streams_make(). */
    uint8_t *bytes;                   /* free it with g_free() */
    size_t len_bytes;                 /* the cluster size when compression did not make it smaller */
    bool compressed;
    bool zero;                        /* with find_zero: it holds zeros only */
} Qcow2Stream;

typedef struct Qcow2StreamRules {
    Qcow2State *state;
    size_t cluster_size;              /* of the target */
    Qcow2Compression compression;
    unsigned n_threads;
    Qcow2ReaderPool *readers;
} Qcow2StreamRules;

/** qcow2_streams_make: @streams is an array of Qcow2Stream. */
bool qcow2_streams_make(const Qcow2StreamRules *rules, GArray *streams, GError **error);

/** qcow2_streams_clear: frees what was made and empties the array. */
void qcow2_streams_clear(GArray *streams);

#endif
