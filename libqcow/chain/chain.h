/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images stacked. A chain opens, locks and owns every file; the images below the first are opened when
 * something asks what they hold, so that a missing base does not hinder what does not need it.
 */
#ifndef QCOW2_CHAIN_CHAIN_H
#define QCOW2_CHAIN_CHAIN_H

#include "chain/place.h"
#include "image/image.h"
#include "io/room.h"

#define QCOW2_MAX_LAYERS 65000u   /* an extent names its layer with 16 bits */

typedef struct Qcow2Layer {
    Qcow2Image *image;
    Qcow2Place *place;
    bool format_was_probed;
    bool below_was_given;             /* by the name of this layer, not by its header */
    Qcow2IoIdentity identity;         /* as it was when it was opened */
    bool has_data_identity;           /* a data file is open: */
    Qcow2IoIdentity data_identity;
    /* For qcow2_chain_get_info(); filled when asked. */
    char *full_backing_name;
    GArray *snapshot_infos;           /* Qcow2Snapshot, whose strings belong to snapshot_entries */
    GArray *snapshot_entries;
    GArray *bitmap_entries;           /* Qcow2BitmapEntry */
    GArray *bitmap_infos;             /* Qcow2BitmapInfo */
    Qcow2LuksInfo *luks;
} Qcow2Layer;

struct Qcow2Chain {
    GPtrArray *layers;                /* Qcow2Layer, [0] is the image itself */
    GPtrArray *on_trial;              /* Qcow2Layer: of a chain of others' layers, its own ones; or NULL */
    bool complete;                    /* the last layer has nothing below */
    unsigned writable_first, writable_end;   /* lower layers [first, end) are opened for writing */
    unsigned given_index;             /* a lower layer whose format the user says */
    const char *given_format;         /* borrowed; NULL: none */
    Qcow2OpenOptions options;
    char *name;                       /* as the user gave it */
};

static inline Qcow2Layer *qcow2_chain_layer(const Qcow2Chain *chain, unsigned index)
{
    return g_ptr_array_index(chain->layers, index);
}

static inline Qcow2Image *qcow2_chain_image(const Qcow2Chain *chain, unsigned index)
{
    return qcow2_chain_layer(chain, index)->image;
}

/** qcow2_chain_layer_name: for messages. */
const char *qcow2_chain_layer_name(const Qcow2Chain *chain, unsigned index);

/** qcow2_chain_open_in: qcow2_chain_open() of a name relative to @folder; NULL: to the working directory. */
Qcow2Chain *qcow2_chain_open_in(const char *folder, const char *name, const Qcow2OpenOptions *options,
                                GError **error);

/** qcow2_chain_open_place: the same of a name that was parsed; takes @place. */
Qcow2Chain *qcow2_chain_open_place(Qcow2Place *place, const char *name, const Qcow2OpenOptions *options,
                                   GError **error);

/**
 * qcow2_chain_open_io: a chain over bytes that need no opening, such as memory; takes a reference.
 * Relative names inside the image refer to the working directory.
 */
Qcow2Chain *qcow2_chain_open_io(Qcow2Io *io, const Qcow2OpenOptions *options, GError **error);

/**
 * qcow2_chain_stack: one layer of @top, without the layers that it names, over all layers of @below, which
 * are opened; over nothing when that is NULL. Both must live longer; the layers stay theirs.
 */
Qcow2Chain *qcow2_chain_stack(Qcow2Chain *top, unsigned layer, Qcow2Chain *below, GError **error);

/** qcow2_chain_tail: the layers from @first on; all are opened. They stay those of @chain. */
Qcow2Chain *qcow2_chain_tail(Qcow2Chain *chain, unsigned first, GError **error);

/**
 * qcow2_chain_on_trial: all layers of @chain, which must live longer; those of [@first, @end) are opened
 * again, writable, and keep to themselves what is written to them. Nothing is locked for that, and nobody
 * warned.
 */
Qcow2Chain *qcow2_chain_on_trial(Qcow2Chain *chain, unsigned first, unsigned end, GError **error);

/**
 * qcow2_chain_find_layer:
 * @word: "[2]", or the name of a layer's file as qcow-info prints it, or another path to the same file; if it
 *   is none of these, the name that the image above the layer has for it, relative to that image's folder
 *
 * Opens layers until it is found. Errors: QCOW2_ERROR_NOT_FOUND; QCOW2_ERROR_AMBIGUOUS for a name by which
 * two images call different layers.
 */
bool qcow2_chain_find_layer(Qcow2Chain *chain, const char *word, unsigned *ret_index, GError **error);

/**
 * qcow2_chain_open_below:
 * @index: an open layer
 * @ret_exists: whether there is a layer below it, which is open now
 */
bool qcow2_chain_open_below(Qcow2Chain *chain, unsigned index, bool *ret_exists, GError **error);

/** qcow2_chain_has_below: the same from what is recorded; nothing is opened. */
bool qcow2_chain_has_below(const Qcow2Chain *chain, unsigned index);

/** qcow2_chain_open_data: attaches the data file of a layer that has one. */
bool qcow2_chain_open_data(Qcow2Chain *chain, unsigned index, GError **error);

/** qcow2_chain_warn: calls the user's function; @format as printf. */
void qcow2_chain_warn(const Qcow2Chain *chain, const char *format, ...) G_GNUC_PRINTF(2, 3);

/** qcow2_chain_add_dry_run: adds to what other chains of the same operation need; it is 0 at first. */
void qcow2_chain_add_dry_run(const Qcow2Chain *chain, Qcow2Room *room, Qcow2DryRun *ret);

/** qcow2_backing_place: what an image says about the image below it; NULL without error when nothing. */
Qcow2Place *qcow2_backing_place(const Qcow2Layer *layer, GError **error);

#endif
