/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far the writing of a new file is, in a small file beside it, so that another process can go on with it.
 * Each line vouches for bytes that were flushed before it was written.
 */
#ifndef QCOW2_MOVE_JOURNAL_H
#define QCOW2_MOVE_JOURNAL_H

#include "image/new-image.h"

typedef struct Qcow2Journal Qcow2Journal;

typedef struct Qcow2JournalRecord {
    uint64_t guest_end;               /* all below this guest offset is done; 0: nothing is */
    Qcow2NewImagePosition position;   /* for a qcow2 image */
} Qcow2JournalRecord;

/**
 * qcow2_journal_open:
 * @identity: what must be the same for going on, as one word
 * @ret_last: the last record of a journal of this identity; all zero when there is none
 */
Qcow2Journal *qcow2_journal_open(const char *path, const char *identity, Qcow2JournalRecord *ret_last,
                                 GError **error);
void qcow2_journal_free(Qcow2Journal *journal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Journal, qcow2_journal_free)

/** qcow2_journal_note: adds a record. The caller has flushed what it vouches for. */
bool qcow2_journal_note(Qcow2Journal *journal, const Qcow2JournalRecord *record, GError **error);

/** qcow2_journal_restart: what the records vouch for is lost. To be called before it is written again. */
bool qcow2_journal_restart(Qcow2Journal *journal, GError **error);

/** qcow2_journal_is_empty: nothing is vouched for. */
bool qcow2_journal_is_empty(const Qcow2Journal *journal);

/** qcow2_journal_remove: the file is complete, or nothing of it stays. */
void qcow2_journal_remove(Qcow2Journal *journal);

#endif
