/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest saw at one moment, through the image's backing chain. */
#ifndef QCOW2_STATE_STATE_H
#define QCOW2_STATE_STATE_H

#include "chain/chain.h"
#include "image/map.h"
#include "image/reader.h"

typedef enum {
    QCOW2_STATE_ACTIVE,
    QCOW2_STATE_SNAPSHOT,
    QCOW2_STATE_BACKING,
    QCOW2_STATE_EMPTY
} Qcow2StateKind;

struct Qcow2State {
    Qcow2Chain *chain;
    Qcow2StateKind kind;
    char *name;               /* as messages print it */
    uint64_t size;            /* bytes */
    unsigned first_layer;     /* where reading starts: 0, or 1 for @backing */
    Qcow2View view;           /* ACTIVE, SNAPSHOT: the tables of layer 0 */
    /* SNAPSHOT: what its table entry said when the state was opened. */
    GBytes *entry;            /* the raw entry */
    char *id, *snapshot_name;
    Qcow2Snapshot info;       /* its strings are id and snapshot_name */
};

/**
 * qcow2_find_snapshot: a name or id, or "name:NAME" or "id:ID", as an index in the snapshot table.
 * Errors: QCOW2_ERROR_NOT_FOUND, _AMBIGUOUS; what reading the table reports.
 */
bool qcow2_find_snapshot(Qcow2Image *image, const char *word, guint *ret_index, GError **error);

/** qcow2_state_open_at: a snapshot by its index; names and ids need not be unique in a table. */
Qcow2State *qcow2_state_open_at(Qcow2Chain *chain, guint snapshot, GError **error);

/** qcow2_states_share_size: @empty and @backing get the size of the state they are compared with. */
void qcow2_states_share_size(Qcow2State *a, Qcow2State *b);

/** qcow2_state_below: what the layers from @first_layer on read as by themselves; for internal use. */
Qcow2State qcow2_state_below(Qcow2Chain *chain, unsigned first_layer);

#define QCOW2_NO_STOP UINT_MAX

/**
 * qcow2_state_resolve:
 * @ranges: sorted; at most a window or so altogether
 * @stop_layer: do not look at this layer and those below; QCOW2_NO_STOP looks at all
 * @extents: emptied, then filled in guest order, all of each range
 *
 * Finds for each range the layer that answers. What no layer above @stop_layer answers is UNALLOCATED
 * with layer == stop_layer; what no layer of the chain answers is UNALLOCATED with the last layer's
 * index. Past the end of the state, and past the end of a layer that is shorter than the one above it,
 * is ZERO.
 */
bool qcow2_state_resolve(Qcow2State *state, const Qcow2Range *ranges, size_t n_ranges, unsigned stop_layer,
                         GArray *extents, GError **error);

/** qcow2_state_find_data: appends the parts of @range, at most a window, that some layer has bytes for. */
bool qcow2_state_find_data(Qcow2State *state, const Qcow2Range *range, GArray *ret_ranges, GError **error);

/** qcow2_state_read_extent: bytes of a resolved extent; errors name the layer's file. */
bool qcow2_state_read_extent(Qcow2State *state, Qcow2Reader *reader, const Qcow2Extent *extent,
                             uint64_t guest_offset, void *buffer, size_t len_bytes, GError **error);

/** qcow2_state_window: guest bytes that a walk through this state handles at a time. */
uint64_t qcow2_state_window(const Qcow2State *state);

#endif
