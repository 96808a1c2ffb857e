/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One repair, and what its parts need of each other. Internal to the repair.
 *
 *   repair.c             finds out what is wrong, calls the parts below, looks at the result, publishes it
 *   repair-snapshots.c   the snapshot table: entries that no reader would take
 *   repair-tables.c      L1 and L2 tables: entries, and tables that share a cluster with something else
 *   repair-flags.c       COPIED flags of the active layer
 *   repair-refcounts.c   refcount blocks and the refcount table
 */
#ifndef QCOW2_IMAGE_REPAIR_JOB_H
#define QCOW2_IMAGE_REPAIR_JOB_H

#include "image/check-pass.h"
#include "image/image.h"

typedef struct Qcow2RepairJob {
    Qcow2Image *image;
    Qcow2Io *file;
    Qcow2Repair what;
    Qcow2Header header;       /* as it will be */
    GArray *snapshots;        /* Qcow2SnapshotEntry, as they will be */
    bool snapshots_changed;   /* other entries than in the file */

    Qcow2CheckPass count;     /* what counted last; its counts are those below */
    Qcow2CheckSource source;  /* of it */
    Qcow2Header counted;      /* the header without refcount table that it looked at; borrows from header */
    GArray *unhealthy;        /* Qcow2TableRef: tables with something wrong that it found */
    Qcow2Counts *counts;      /* references as they will be; those to refcount structures come last */

    bool can_grow;            /* the file; a block device is as long as it is */
    uint64_t old_size;        /* bytes of the file before */
    uint64_t next;            /* first cluster past all that is in use or taken */
    bool changed;             /* something was written */
    bool blocked;             /* no cluster can be taken where entries point past the end of the file */

    Qcow2FindingFunc func;
    void *data;
    Qcow2Progress *progress;
} Qcow2RepairJob;

/* ---- repair.c ------------------------------------------------------------------------------------ */

/** qcow2_repair_take: @n new contiguous clusters; their host offset, or 0 with an error. Counts nothing. */
uint64_t qcow2_repair_take(Qcow2RepairJob *job, uint64_t n, GError **error);

/** qcow2_repair_take_for: the same for @len_bytes. */
uint64_t qcow2_repair_take_for(Qcow2RepairJob *job, uint64_t len_bytes, GError **error);

/** qcow2_repair_write: into clusters that were taken. */
bool qcow2_repair_write(Qcow2RepairJob *job, uint64_t host_offset, const void *bytes, size_t len_bytes,
                        GError **error);

/** qcow2_repair_count: counts what header and snapshots reach, as they will be; refcount structures aside. */
bool qcow2_repair_count(Qcow2RepairJob *job, GError **error);

/** qcow2_repair_add: adds to the counts of the clusters that a structure has. */
void qcow2_repair_add(Qcow2RepairJob *job, uint64_t host_offset, uint64_t len_bytes, int64_t delta);

/** qcow2_repair_say: a finding, counted @count times. */
void qcow2_repair_say(const Qcow2RepairJob *job, Qcow2FindingKind kind, uint64_t count, const char *format,
                      ...) G_GNUC_PRINTF(4, 5);

/* ---- The other parts ----------------------------------------------------------------------------- */

/** qcow2_repair_read_snapshots: fills job->snapshots; entries that are too much for a reader are cut. */
bool qcow2_repair_read_snapshots(Qcow2RepairJob *job, GError **error);

/** qcow2_repair_tables: writes tables that have to be otherwise. @ret_changed: the counts are out of date. */
bool qcow2_repair_tables(Qcow2RepairJob *job, bool *ret_changed, GError **error);

/** qcow2_repair_flags: says which flags are wrong, and (@repairs) writes the tables anew that hold them. */
bool qcow2_repair_flags(Qcow2RepairJob *job, bool repairs, GError **error);

/** qcow2_repair_refcounts: writes the blocks whose counts differ from job->counts, and a new table. */
bool qcow2_repair_refcounts(Qcow2RepairJob *job, GError **error);

#endif
