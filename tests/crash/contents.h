/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image holds, as its users see it: what each state reads as, with its VM state, and the dirty
 * bitmaps. Bytes are kept in blocks, those of zeros left out: two states are equal when their blocks are.
 */
#ifndef TESTS_CRASH_CONTENTS_H
#define TESTS_CRASH_CONTENTS_H

#include "libqcow2.h"

typedef struct LabState {
    char *id;                 /* NULL: the active layer */
    char *name, *times;       /* of a snapshot: what -l prints, in two parts, since one that is taken once
                               * more has another date */
    uint64_t size;            /* bytes of the disk */
    uint64_t vm_state_size;
    GArray *offsets;          /* uint64_t: of the blocks that are not all zeros; the VM state is where QEMU
                               * has it, past what the L2 tables of the disk could map */
    GByteArray *bytes;        /* of these blocks */
} LabState;

#define LAB_BLOCK UINT64_C(16384)

typedef struct LabBitmap {
    char *name;
    bool enabled;
    uint64_t granularity;
    GByteArray *bits;         /* a bitmap that says nothing (in use, or nothing vouches for it) has none */
} LabBitmap;

typedef struct LabContents {
    GPtrArray *states;        /* LabState: the active layer, then the snapshots in table order */
    GPtrArray *bitmaps;       /* LabBitmap */
} LabContents;

/** lab_contents_read: of the first image of a chain. Ciphertext is read as it is. */
LabContents *lab_contents_read(Qcow2Chain *chain, GError **error);
void lab_contents_free(LabContents *contents);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LabContents, lab_contents_free)

static inline const LabState *lab_state(const LabContents *contents, guint i)
{
    return g_ptr_array_index(contents->states, i);
}

/** lab_state_reads: whether these bytes are what the disk of @state reads as. */
bool lab_state_reads(const LabState *state, const uint8_t *bytes, uint64_t len_bytes);

/**
 * lab_contents_require_bits: @after is what an operation made of @before. Where the active layer reads
 * otherwise now, enabled bitmaps must have their bits set, whatever @after has.
 */
void lab_contents_require_bits(LabContents *after, const LabContents *before);

/**
 * lab_contents_match:
 * @exact: snapshots have the same times, and bitmaps the same bits; otherwise enabled bitmaps may have more
 *
 * Returns: NULL when the image holds @expected; otherwise what is different.
 */
char *lab_contents_match(const LabContents *expected, const LabContents *found, bool exact_times,
                         bool exact_bits);

/** lab_contents_match_kept: the snapshots are those of @snapshots, the bitmaps have the bits of @bits. */
char *lab_contents_match_kept(const LabContents *snapshots, const LabContents *bits,
                              const LabContents *found);

#endif
