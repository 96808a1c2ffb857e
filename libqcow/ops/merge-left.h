/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an interrupted commit left, as its note says (ops/merge-note.c). A name in it is only a hint where to
 * look: a file is meant when its header has the note's digits, and when it is still over base as the commit
 * left it, directly or through others that have them. What does not, was replaced or given another use.
 */
#ifndef QCOW2_OPS_MERGE_LEFT_H
#define QCOW2_OPS_MERGE_LEFT_H

#include "ops/merge.h"

typedef enum {
    LEFT_VALID,       /* the top, or one that is preserved: to be over base */
    LEFT_BETWEEN,
    LEFT_DROPPED,
} LeftKind;

/* A layer that was on its way out of the chain. */
typedef struct Left {
    LeftKind kind;
    bool was_to_go;               /* that commit was to delete it */
    Qcow2Place *place;
    Qcow2IoIdentity identity;
    Qcow2Header header;           /* but for the mark */
    bool is_marked;
    bool is_certain;              /* it is as the commit left it */
    bool leads_to_base;           /* its backing file is base itself */
    Qcow2Chain *own;              /* opened to be written, or deleted; NULL: not needed, or not possible */
} Left;

/* Going on from a note. */
typedef struct Finish {
    Qcow2Merge *merge;
    Qcow2Chain *chain;
    unsigned index;               /* of the layer that has the note; base is below it */
    char *folder;                 /* of that layer */
    const char *id;
    GPtrArray *left;              /* Left, in the order of the chain that was */
    bool has_top, is_asked_for;   /* the note's top is what is to be merged now */
} Finish;

/** qcow2_merge_note_of: the note in the header of a layer, borrowed; NULL: it has none. */
GBytes *qcow2_merge_note_of(const Qcow2Chain *chain, unsigned index);

/** qcow2_merge_read_note: finds what is left; the rest of @finish is set, and @note outlives it. */
void qcow2_merge_read_note(Finish *finish, GBytes *note);

/** qcow2_merge_find_in_chain: the layer that a place is; UINT_MAX: none. */
unsigned qcow2_merge_find_in_chain(const Qcow2Chain *chain, const Qcow2Place *place);

void qcow2_left_free(gpointer left);

#endif
