/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an operation carries: the ranges in which two states differ, as the second one resolves them. */
#ifndef QCOW2_STATE_CHOICE_H
#define QCOW2_STATE_CHOICE_H

#include "state/diff.h"

typedef struct Qcow2Choice Qcow2Choice;

typedef struct Qcow2ChoiceOptions {
    uint64_t unit; /* ranges are grown to whole units of this many bytes, a power of two up to 2 MiB */
    bool compare_data;        /* leave out units that hold the same bytes in both */
    unsigned n_threads;
    bool not_aligned;         /* keep the ranges as they differ; @unit is for comparing data only */
    Qcow2State *past;         /* NULL, or the state to compare with from @past_from on; borrowed */
    uint64_t past_from;       /* guest offset */
    bool everything;          /* all of @to, also what does not differ */
    uint64_t end;             /* where to stop in @to; 0: at its end */
    Qcow2Progress *progress;  /* NULL, or what can cancel the search; nothing is reported to it; borrowed */
} Qcow2ChoiceOptions;

/** qcow2_choice_new: both states are borrowed; everything is cut at the end of @to. */
Qcow2Choice *qcow2_choice_new(Qcow2State *from, Qcow2State *to, const Qcow2ChoiceOptions *options,
                              GError **error);
void qcow2_choice_free(Qcow2Choice *choice);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Choice, qcow2_choice_free)

/**
 * qcow2_choice_next:
 * @ret_extents: the next window's extents of @to, in guest order; owned by the choice, valid until the
 *               next call; NULL when all windows were given
 *
 * Windows in which nothing differs are passed over.
 */
bool qcow2_choice_next(Qcow2Choice *choice, const GArray **ret_extents, GError **error);

/** Called for the extents of a window. */
typedef void (*Qcow2ExtentsFunc)(const GArray *extents, void *data);

/** qcow2_choice_each: gives all that it carries to @func, from where it stands; it is at its start then. */
bool qcow2_choice_each(Qcow2Choice *choice, Qcow2ExtentsFunc func, void *data, GError **error);

/** qcow2_choice_count: guest bytes of all that it carries; it is at its start again then. */
bool qcow2_choice_count(Qcow2Choice *choice, uint64_t *ret_bytes, GError **error);

/** qcow2_choice_rewind: start again; what was found is remembered as far as memory allows. */
void qcow2_choice_rewind(Qcow2Choice *choice);

#endif
