/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The states that a crash could leave of recorded operations.
 *
 * What a file had before its last flush is durable. Of what came after, any part may have reached the disk,
 * in any order, and a write by any of its sectors. Before each flush, and after the last record, such states
 * are built:
 *
 *   every prefix of the list, the last write whole and torn
 *   all but a few, a few alone, a random half; shuffled; with torn writes
 */
#ifndef TESTS_CRASH_EXPLORE_H
#define TESTS_CRASH_EXPLORE_H

#include "disk.h"

/** A record, or some of its sectors, that had reached the disk. */
typedef struct LabPiece {
    guint record;
    bool whole;
    uint64_t first, n;        /* sectors of a torn write */
} LabPiece;

typedef struct LabCrash {
    guint at;                 /* the records before this one had been issued */
    bool finished;            /* the operation had returned */
    const GArray *pending;    /* guint: issued, and not durable */
    const GArray *pieces;     /* LabPiece, in the order in which they reached the disk */
} LabCrash;

/** LabVisitFunc: the disks are in that state; false ends the exploration. */
typedef bool (*LabVisitFunc)(const LabCrash *crash, void *data);

typedef struct LabExploration {
    const GArray *records;    /* Qcow2Record */
    LabDisk **disks;          /* as before the operation; by the place of the records */
    unsigned n_disks;
    GRand *random;
    guint64 max_states;
    gint64 deadline;          /* of g_get_monotonic_time(); 0: none */
    LabVisitFunc visit;
    void *data;
} LabExploration;

/** lab_explore: visits each state once; returns how many. The disks are as after the operation then. */
guint64 lab_explore(const LabExploration *exploration);

/** lab_crash_describe: for a person who wants to see it again. */
char *lab_crash_describe(const LabCrash *crash, const GArray *records);

#endif
