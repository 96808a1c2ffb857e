/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of qcow2_copy(). Internal to ops/. */
#ifndef QCOW2_OPS_COPY_H
#define QCOW2_OPS_COPY_H

#include "image/batch.h"
#include "move/journal.h"
#include "move/mover.h"
#include "move/walk.h"
#include "ops/create.h"
#include "state/joined.h"
#include "state/witness.h"

/** One copy while it runs. */
typedef struct Qcow2Copy {
    Qcow2State *const *sources;   /* as they were given */
    size_t n_sources;
    Qcow2State *source;           /* what is copied, whole: one of them, or all joined */
    Qcow2Chain *first;            /* the chain of the first source */
    const Qcow2CopyOptions *options;
    const char *target;
    uint64_t size;                /* of the source, in whole sectors */
    uint64_t target_offset;       /* raw bytes in place: where the target's disk begins */
    Qcow2SparseRule sparse;
    bool share_first;             /* where extents can be shared nobody looks for zeros */
    Qcow2Progress *progress;
    GPtrArray *witnesses;         /* Qcow2Witness */
    Qcow2Journal *journal;        /* NULL, or how far it is, to be resumed */
    Qcow2JournalRecord resume;    /* with a journal: how far it was */
    /* Of qcow2_copy_expect_bytes(): */
    Qcow2State *nothing;
    Qcow2Choice *choice;
    bool target_is_zero;
    Qcow2CopyResult result;
} Qcow2Copy;

/** qcow2_copy_is_all: everything gets space, zeros too. */
static inline bool qcow2_copy_is_all(const Qcow2Copy *copy)
{
    return copy->options->has_sparse_size && copy->options->sparse_size == 0;
}

/** qcow2_copy_refuse_source: a file of a source's chain is not written to; @place may be NULL. */
bool qcow2_copy_refuse_source(const Qcow2Copy *copy, const Qcow2Place *place, GError **error);

/** qcow2_copy_end: that no source changed; to be called before the target gets its name. */
bool qcow2_copy_end(const Qcow2Copy *copy, GError **error);

/** qcow2_copy_open_journal: does nothing unless the copy shall be resumable; @data may be NULL. */
bool qcow2_copy_open_journal(Qcow2Copy *copy, const Qcow2Creation *creation, Qcow2Target *target,
                             Qcow2Target *data, GError **error);

/** qcow2_copy_give_up: of a failed copy that has nothing to go on with no part stays; both may be NULL. */
void qcow2_copy_give_up(Qcow2Copy *copy, Qcow2Target *target, Qcow2Target *data);

/* All do nothing unless bitmaps shall be copied: whether they can be; in a batch; in a new image. */
bool qcow2_copy_check_bitmaps(const Qcow2Copy *copy, GError **error);
bool qcow2_copy_bitmaps(const Qcow2Copy *copy, Qcow2Batch *batch, Qcow2Image *target, GError **error);
bool qcow2_copy_bitmaps_to_new(const Qcow2Copy *copy, Qcow2Io *io, uint64_t *len_bytes, GError **error);

/**
 * qcow2_copy_most_of_bitmaps: what the bitmaps of @target take at most when they are written anew, bits all
 * over, those of the source with them where they are copied.
 */
bool qcow2_copy_most_of_bitmaps(const Qcow2Copy *copy, Qcow2Image *target, uint64_t *ret_bytes,
                                GError **error);

/** qcow2_copy_publish: when no source changed. */
bool qcow2_copy_publish(Qcow2Copy *copy, Qcow2Target *target, GError **error);

/** What a copy takes for sure. */
typedef struct Qcow2CopyNeed {
    const Qcow2Copy *copy;
    Qcow2Choice *choice;          /* at its start, and again then */
    uint64_t certain;             /* bytes, whatever the data is */
    bool data;                    /* data that is no zeros comes on top of that */
    uint64_t start;               /* guest offset: data below it is there already */
    uint64_t freed;               /* bytes: of a file that is replaced before the next one is written */
} Qcow2CopyNeed;

/**
 * qcow2_copy_check_room: for all of @needs together.
 * @target: a place where data goes; what is no file has the size that it has
 *
 * Errors: QCOW2_ERROR_NO_SPACE when it certainly does not fit.
 */
bool qcow2_copy_check_room(Qcow2Io *target, const Qcow2CopyNeed *needs, size_t n_needs, GError **error);

/* Each does the whole work. */
bool qcow2_copy_to_new_qcow2(Qcow2Copy *copy, const Qcow2Creation *creation, GError **error);
bool qcow2_copy_to_new_raw(Qcow2Copy *copy, const Qcow2Creation *creation, GError **error);
bool qcow2_copy_to_existing(Qcow2Copy *copy, GError **error);

/**
 * qcow2_copy_expect_bytes: chooses what qcow2_copy_bytes() has to move, so that progress knows of all of it
 * before the first byte.
 * @is_zero: the target holds zeros, and has space for them where all shall have space
 */
bool qcow2_copy_expect_bytes(Qcow2Copy *copy, bool is_zero, GError **error);

/** qcow2_copy_bytes: what was chosen, as raw bytes. The target is flushed by the caller. */
bool qcow2_copy_bytes(Qcow2Copy *copy, Qcow2Io *target, GError **error);

/** qcow2_copy_forget_bytes: the choice; to be called before the source goes. */
void qcow2_copy_forget_bytes(Qcow2Copy *copy);

#endif
