/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One pass of the check, and what its parts need of each other. Internal to the check.
 *
 * A pass goes through windows of host clusters, usually one that holds them all. For each window
 *
 *   check-refcounts.c   notes which refcounts in the file are exactly 1
 *   check-metadata.c    counts header, L1 tables, snapshot table, bitmaps …
 *   check-tables.c      finds the L2 tables, each once, and has them read in host order:
 *   check-runs.c          healthy ones on all processors, as runs of clusters
 *   check-entries.c       the others entry by entry, saying what is wrong
 *   check-refcounts.c   counts the refcount blocks
 *   check-overlap.c     looks for clusters of metadata that something else refers to too
 *   check-compare.c     compares the counts with the refcounts in the file
 */
#ifndef QCOW2_IMAGE_CHECK_PASS_H
#define QCOW2_IMAGE_CHECK_PASS_H

#include "format/snapshot-table.h"
#include "image/check-counts.h"
#include "image/check-spans.h"
#include "image/check.h"
#include "util/error.h"

typedef struct Qcow2CheckPass {
    const Qcow2CheckSource *source;
    Qcow2Io *file;
    const Qcow2Header *header;
    const Qcow2Layout *layout;
    uint64_t file_size;       /* in whole sectors, as QEMU sees it */
    uint64_t n_clusters;      /* of the file; and one more if something reaches that far past its end */
    uint64_t n_in_file;       /* of the file alone */
    uint64_t limit;           /* end of the last window: the most that n_clusters can be */
    uint64_t *reftable;       /* in host byte order */
    size_t n_reftable;
    GArray *bitmaps;          /* Qcow2BitmapEntry */
    GArray *l1_spans, *bitmap_spans;
    GArray *tables;           /* Qcow2TableRef; NULL unless it holds all L2 tables of the image */
    unsigned n_threads;

    /* The window */
    bool first;               /* what has no place in a window is said in the first one */
    uint64_t start;           /* its first cluster; qcow2_counts_end() tells where it ends */
    Qcow2Counts *counts;
    uint64_t flags_start, flags_end;   /* clusters for which COPIED flags are judged */
    uint64_t *single;         /* one bit for each of them: the refcount in the file is 1 */

    /* For a repair */
    bool needs_rebuild;       /* found: refcount structures that cannot be corrected entry by entry */
    uint64_t n_flags;         /* found: COPIED flags that contradict the refcounts in the file */
    GArray *unhealthy;        /* NULL, or gets a Qcow2TableRef of each table with something wrong */
    uint64_t outside;         /* a file of more clusters would have what is referred to past its end inside */
    const Qcow2Counts *wanted;    /* NULL, or the refcounts as they will be: these count, not the file's, */
    uint64_t wanted_end;      /* below this cluster */

    Qcow2FindingFunc func;
    void *data;
    Qcow2CheckResult result;
    Qcow2Progress *progress;
} Qcow2CheckPass;

/* ---- check.c ------------------------------------------------------------------------------------- */

/** qcow2_check_begin: @pass has its source, func, data and progress, the rest is zero. */
bool qcow2_check_begin(Qcow2CheckPass *pass, GError **error);
void qcow2_check_end(Qcow2CheckPass *pass);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2CheckPass, qcow2_check_end)

/**
 * qcow2_check_windows: looks through all windows.
 * Errors: as qcow2_image_check().
 */
bool qcow2_check_windows(Qcow2CheckPass *pass, GError **error);

/** qcow2_check_repairs: what is said to be wrong here is about to be repaired. */
static inline bool qcow2_check_repairs(const Qcow2CheckPass *pass)
{
    return pass->source->repair == QCOW2_REPAIR_ALL;
}

/** qcow2_check_verb: how a finding begins that would be repaired. */
static inline const char *qcow2_check_verb(const Qcow2CheckPass *pass)
{
    return qcow2_check_repairs(pass) ? "Repairing" : "ERROR";
}

/** qcow2_check_found: reports something that qemu-img check finds, too. */
void qcow2_check_found(Qcow2CheckPass *pass, Qcow2FindingKind kind, uint64_t count, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

/** qcow2_check_corrupt: the same, for corruption. */
void qcow2_check_corrupt(Qcow2CheckPass *pass, uint64_t count, const char *format, ...) G_GNUC_PRINTF(3, 4);

/** qcow2_check_found_more: reports what qemu-img check does not look for. */
void qcow2_check_found_more(Qcow2CheckPass *pass, Qcow2FindingKind kind, uint64_t count,
                            const char *format, ...) G_GNUC_PRINTF(4, 5);

/** qcow2_check_is_inside: at most a part of the range's last cluster lies past the end of the file. */
static inline bool qcow2_check_is_inside(const Qcow2CheckPass *pass, uint64_t offset, uint64_t len_bytes)
{
    return qcow2_range_fits(offset, len_bytes)
        && offset + len_bytes < pass->file_size + pass->layout->cluster_size;
}

/** qcow2_check_report_outside: a reference to a range that is not inside. */
void qcow2_check_report_outside(Qcow2CheckPass *pass, uint64_t offset, uint64_t len_bytes, uint64_t weight);

/** qcow2_check_refer: counts @weight references to all clusters of a range; reports one that is outside. */
void qcow2_check_refer(Qcow2CheckPass *pass, uint64_t offset, uint64_t len_bytes, uint64_t weight);

/* ---- check-refcounts.c --------------------------------------------------------------------------- */

/** qcow2_check_read_reftable: as far as the file reaches. */
bool qcow2_check_read_reftable(Qcow2CheckPass *pass, GError **error);

/** qcow2_check_chunk_len: bytes of the refcounts of QCOW2_COUNTS_CHUNK clusters. */
size_t qcow2_check_chunk_len(const Qcow2CheckPass *pass);

/** qcow2_check_has_refcounts: some cluster of the chunk has a refcount in the file, or should have. */
bool qcow2_check_has_refcounts(const Qcow2CheckPass *pass, uint64_t first);

/**
 * qcow2_check_read_chunk: the refcounts of a chunk of clusters from @first on, as refcount blocks hold them;
 * 0 where there is no block.
 * @ret_unreadable: some of them have a block that cannot be read: see qcow2_check_has_refcount()
 */
bool qcow2_check_read_chunk(const Qcow2CheckPass *pass, uint64_t first, uint8_t *room, bool *ret_unreadable,
                            GError **error);

/** qcow2_check_has_refcount: the refcount table does not have an impossible entry for this cluster. */
bool qcow2_check_has_refcount(const Qcow2CheckPass *pass, uint64_t cluster);

/** qcow2_check_read_refcount: one refcount from the file; for reports. */
bool qcow2_check_read_refcount(const Qcow2CheckPass *pass, uint64_t cluster, uint64_t *ret_count,
                               GError **error);

/** qcow2_check_refblock_cluster: of a refcount table entry that can be one; UINT64_MAX for others. */
uint64_t qcow2_check_refblock_cluster(const Qcow2Layout *layout, uint64_t raw);

/** qcow2_check_note_single: fills pass->single for the window. */
bool qcow2_check_note_single(Qcow2CheckPass *pass, GError **error);

/**
 * qcow2_check_flags_agree: all clusters [@first, @first + @n) that are in the window have a refcount of 1
 * (@copied), or none of them has.
 */
bool qcow2_check_flags_agree(const Qcow2CheckPass *pass, uint64_t first, uint64_t n, bool copied);

/** qcow2_check_refblocks: counts the refcount blocks; the last thing to be counted. */
void qcow2_check_refblocks(Qcow2CheckPass *pass);

/* ---- check-tables.c, check-runs.c, check-entries.c ----------------------------------------------- */

/** An L2 table, and how many L1 entries refer to it. */
typedef struct Qcow2TableRef {
    uint64_t offset;
    uint64_t weight;          /* of all L1 tables */
    uint32_t active;          /* of the active one */
} Qcow2TableRef;

/** Qcow2TablesFunc: gets L2 tables in host order, each once; all of them, or a part in each call. */
typedef bool (*Qcow2TablesFunc)(Qcow2CheckPass *pass, const Qcow2TableRef *tables, size_t n, GError **error);

bool qcow2_check_visit_tables(Qcow2CheckPass *pass, Qcow2TablesFunc func, GError **error);

/** qcow2_check_tables: counts and checks L2 tables and what they refer to. */
bool qcow2_check_tables(Qcow2CheckPass *pass, const Qcow2TableRef *tables, size_t n, GError **error);

/** Host clusters that follow each other. */
typedef struct Qcow2Run {
    uint64_t first, n;
} Qcow2Run;

/** What a healthy table holds. */
typedef struct Qcow2TableScan {
    Qcow2Run *runs;           /* room for as many as the table has entries */
    size_t n_runs;
    uint64_t allocated, fragmented, compressed;
} Qcow2TableScan;

/**
 * qcow2_check_scan_table:
 * @raw: the whole table
 *
 * Only reads @pass, so that tables can be scanned at the same time.
 *
 * Returns: false when something about the table needs a closer look; @ret is worth nothing then.
 */
bool qcow2_check_scan_table(const Qcow2CheckPass *pass, const Qcow2TableRef *table, const uint8_t *raw,
                            Qcow2TableScan *ret);

/** qcow2_check_table_closely: counts and checks a table entry by entry. */
bool qcow2_check_table_closely(Qcow2CheckPass *pass, const Qcow2TableRef *table, const uint8_t *raw,
                               GError **error);

/**
 * qcow2_check_judges_flags: the COPIED flags in this table say something: the active layer reaches it. QEMU
 * looks at none where the refcount of the table itself cannot be read.
 */
static inline bool qcow2_check_judges_flags(const Qcow2CheckPass *pass, const Qcow2TableRef *table)
{
    return table->active > 0 && table->offset != 0
        && qcow2_check_has_refcount(pass, table->offset >> pass->layout->cluster_bits);
}

/** A table entry whose COPIED flag is to be judged. */
typedef struct Qcow2FlaggedEntry {
    bool is_l1;
    uint64_t l1_index;
    uint64_t raw;
    uint64_t count;           /* how many entries of the active layer are this one */
} Qcow2FlaggedEntry;

/** qcow2_check_copied: reports a flag that contradicts the refcount in the file, once over all windows. */
bool qcow2_check_copied(Qcow2CheckPass *pass, const Qcow2FlaggedEntry *entry, GError **error);

/* ---- check-metadata.c, check-overlap.c, check-compare.c ------------------------------------------ */

/** qcow2_check_snapshots: what the entries of the snapshot table say. */
void qcow2_check_snapshots(Qcow2CheckPass *pass);

/** qcow2_check_bitmaps: what the entries of the bitmap directory say. */
void qcow2_check_bitmaps(Qcow2CheckPass *pass);

/** qcow2_check_snapshot_is_sound: its L1 table can be looked at. */
bool qcow2_check_snapshot_is_sound(const Qcow2CheckPass *pass, const Qcow2SnapshotEntry *entry);

/** qcow2_check_snapshots_len: bytes of the snapshot table, without padding after the last entry. */
uint64_t qcow2_check_snapshots_len(const Qcow2CheckPass *pass);

/** qcow2_check_find_spans: cuts L1 tables and bitmap tables into disjoint spans. */
void qcow2_check_find_spans(Qcow2CheckPass *pass);

/** qcow2_check_metadata: counts everything but L2 tables, guest data and refcount blocks. */
bool qcow2_check_metadata(Qcow2CheckPass *pass, GError **error);

/** qcow2_check_bitmap_entry_fault: what is wrong with a bitmap table entry; NULL when nothing is. */
const char *qcow2_check_bitmap_entry_fault(const Qcow2CheckPass *pass, uint64_t raw);

bool qcow2_check_overlaps(Qcow2CheckPass *pass, GError **error);
bool qcow2_check_compare(Qcow2CheckPass *pass, GError **error);

#endif
