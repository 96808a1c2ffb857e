/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of a commit. What its base will read as is known before it is written: up to the size of the top
 * layer as the top layer does, past that as the base does now.
 */
#ifndef QCOW2_OPS_MERGE_H
#define QCOW2_OPS_MERGE_H

#include "chain/chain.h"
#include "ops/keep.h"

/* What tells one commit from another, in hexadecimal digits. */
#define QCOW2_MERGE_ID_LEN 16u
/* In the note, before the kind of a file that was to be deleted. */
#define QCOW2_MERGE_DELETE "delete-"

typedef struct Qcow2Merge {
    const Qcow2CommitOptions *options;
    Qcow2Chain *chain;            /* of the image; [top, base] and the layer above top are writable */
    unsigned top, base;           /* layers of the chain */
    Qcow2Chain *top_chain, *base_chain;   /* the chain from these on */
    const char *base_format;      /* to be recorded */
    bool changes_base;            /* something will be written into it */
    GPtrArray *kept;              /* Qcow2Dependent: images that stay valid, lowest first */
    GPtrArray *others;            /* Qcow2Chain: other images that these are backed by */
    GPtrArray *invalid, *unmarked, *deleted, *not_deleted;    /* names for the result */
    char id[QCOW2_MERGE_ID_LEN + 1];
    GBytes *note;                 /* what has to be remembered until the end; NULL: nothing */
    bool is_completed;            /* by going on from what an interrupted commit left */
    const char *base_word;        /* the user's, as it is to be understood in the present chain; or NULL */
    Qcow2CommitResult *result;
    Qcow2Progress *progress;
} Qcow2Merge;

/** An image outside the merge, or inside with snapshots, that reads through the base. */
typedef struct Qcow2Dependent {
    Qcow2Chain *own;              /* the image alone; NULL: a layer of the merge's chain */
    Qcow2Chain *chain;            /* the image over what it reads now */
    Qcow2Chain *after;            /* below it afterwards, up to the size of top; NULL: nothing changes, or
                                     another one of them is between, which loses nothing */
    Qcow2Chain *after_past;       /* past that */
    char *backing_name;           /* NULL: it keeps the name that it has */
    bool snapshots_only;
} Qcow2Dependent;

/** qcow2_merge_init: the rest, and which chain and layers, is the caller's. */
void qcow2_merge_init(Qcow2Merge *merge, const Qcow2CommitOptions *options, Qcow2CommitResult *result,
                      Qcow2Progress *progress);
void qcow2_merge_clear(Qcow2Merge *merge);

/** qcow2_merge_run: all of a commit, of layers that are open and locked. */
bool qcow2_merge_run(Qcow2Merge *merge, GError **error);

/** qcow2_merge_keep_of: what keeping an image as it reads needs; borrowed from @dependent. */
Qcow2Keep qcow2_merge_keep_of(const Qcow2Merge *merge, const Qcow2Dependent *dependent);

/**
 * qcow2_merge_find_dependents: opens the images to preserve and finds out about all others.
 * Errors: QCOW2_ERROR_IN_USE for an image that would read otherwise and is not covered, by its name;
 * QCOW2_ERROR_INVALID for one to preserve that reads nothing through base.
 */
bool qcow2_merge_find_dependents(Qcow2Merge *merge, GError **error);

/** qcow2_merge_check_siblings: the second half of it; those to preserve, and what base will be, are known. */
bool qcow2_merge_check_siblings(Qcow2Merge *merge, GError **error);

/** qcow2_merge_find_layer: the layer of the merge's chain at @place, however it is opened; UINT_MAX: none. */
unsigned qcow2_merge_find_layer(const Qcow2Merge *merge, const Qcow2Place *place);

/** qcow2_merge_find_kept: the image outside the chain at @place, if it is to be preserved; or NULL. */
Qcow2Chain *qcow2_merge_find_kept(const Qcow2Merge *merge, const Qcow2Place *place);

/** qcow2_merge_find_kept_layer: what a layer of the chain was named for to be preserved; NULL: it was not. */
const Qcow2Dependent *qcow2_merge_find_kept_layer(const Qcow2Merge *merge, unsigned index);

/** qcow2_merge_find_changes: whether the base will read otherwise; a merge that was done changes nothing. */
bool qcow2_merge_find_changes(Qcow2Merge *merge, GError **error);

/** qcow2_merge_check_growth: whether a qcow2 base can become @size bytes large. */
bool qcow2_merge_check_growth(const Qcow2Image *base, uint64_t size, GError **error);

/** qcow2_merge_check_base: whether the base can become what it has to be; before anything is written. */
bool qcow2_merge_check_base(Qcow2Merge *merge, GError **error);

/** qcow2_merge_into_base: the data, and the bitmaps. */
bool qcow2_merge_into_base(Qcow2Merge *merge, GError **error);

/* What the parts need of the file systems; see ops/rehearse.h. */
bool qcow2_merge_base_need(const Qcow2Merge *merge, Qcow2NeedStep step, Qcow2Room *room, GError **error);
/* Always by a rehearsal: what would refuse later, with the data in base, does it here. */
bool qcow2_merge_drop_need(const Qcow2Merge *merge, Qcow2Room *room, GError **error);

/**
 * qcow2_merge_make_note: what the image that gets base as its backing file has to remember until the merged
 * layers are marked or deleted; none when nothing is to be done then.
 * @is_short: names only what the named layers do not lead to
 */
void qcow2_merge_make_note(Qcow2Merge *merge, bool is_short);

/** qcow2_merge_is_noted: a layer that the note names, or that is found from one that it names. */
bool qcow2_merge_is_noted(const Qcow2Merge *merge, unsigned index);

/** qcow2_merge_is_tagged, _tag_image: one of those layers; @image is it, or a copy on trial. */
bool qcow2_merge_is_tagged(const Qcow2Merge *merge, unsigned index);
bool qcow2_merge_tag_image(Qcow2Image *image, const Qcow2Merge *merge, GError **error);

/** qcow2_merge_tag_layers: those layers say in their headers that the note means them. */
bool qcow2_merge_tag_layers(const Qcow2Merge *merge, GError **error);

/** qcow2_merge_clear_note: of the layer @index, when all is done. */
bool qcow2_merge_clear_note(const Qcow2Chain *chain, unsigned index, GError **error);

/**
 * qcow2_merge_lay_out_note: makes the note, in full where there is room for it, and lays out all headers that
 * will be written; before anything is.
 */
bool qcow2_merge_lay_out_note(Qcow2Merge *merge, GError **error);

/**
 * qcow2_merge_finish: what an interrupted commit of this image had left to do, from its note. Sets
 * is_completed when that was the commit that is asked for and its top has left the chain. Of a dry run, only
 * that is found out.
 */
bool qcow2_merge_finish(Qcow2Merge *merge, const char *image, const Qcow2OpenOptions *open_options,
                        GError **error);

/** qcow2_merge_renames: whether what the header of a layer above base names is not base. */
bool qcow2_merge_renames(const Qcow2Merge *merge, unsigned index);

/**
 * qcow2_merge_is_repointed: a merged layer that stays valid, the top or one that is preserved, and names base
 * itself once the layer above top does.
 */
bool qcow2_merge_is_repointed(const Qcow2Merge *merge, unsigned index);

/** qcow2_merge_is_retired: a layer between that will not read as it did: neither it is kept nor one below. */
bool qcow2_merge_is_retired(const Qcow2Merge *merge, unsigned index);

/** qcow2_merge_is_deleted: a merged layer that drops out of the chain, when that is asked for. */
bool qcow2_merge_is_deleted(const Qcow2Merge *merge, unsigned index);

/** qcow2_merge_check_delete: Errors: QCOW2_ERROR_IN_USE for one that has internal snapshots. */
bool qcow2_merge_check_delete(const Qcow2Merge *merge, GError **error);

/** qcow2_merge_check_snapshots: the same, for a file that will be deleted. */
bool qcow2_merge_check_snapshots(const Qcow2Merge *merge, const char *name, const Qcow2Header *header,
                                 GError **error);

/**
 * qcow2_merge_delete: the file behind a name, the name itself when it is a symbolic link; flushes its folder.
 * @identity: of the file that is meant
 * @header: of that image; its data file is not deleted
 *
 * What is not deleted is listed in the result: a device, an image over NBD, another file than what is meant.
 */
bool qcow2_merge_delete(Qcow2Merge *merge, const Qcow2Place *place, const Qcow2IoIdentity *identity,
                        const Qcow2Header *header, GError **error);

/** qcow2_merge_drop_layers: the chain without the merged layers. */
bool qcow2_merge_drop_layers(Qcow2Merge *merge, GError **error);

void qcow2_dependent_free(Qcow2Dependent *dependent);

#endif
