/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Backing chains: merging points in time away, another backing file, less space. */
#ifndef LIBQCOW2_MERGE_H
#define LIBQCOW2_MERGE_H

#include "libqcow2/chain.h"

G_BEGIN_DECLS

typedef struct Qcow2PullOptions {
    const char *base;               /* "[2]" or a layer's name; NULL: no backing file at all */
    const char *base_format;        /* NULL: what is recorded */
    bool bitmaps;                   /* merge those of the pulled layers into those of the image, by name */
    bool no_reflink;
} Qcow2PullOptions;

/**
 * qcow2_pull:
 * @chain: opened writable and exclusive; its image may be any layer of a longer chain
 *
 * Merges upward: what the image and its snapshots read from the layers above the base moves into it, and the
 * base becomes its backing file. All or nothing, also across a crash.
 *
 * Errors: QCOW2_ERROR_NOT_FOUND, QCOW2_ERROR_EXISTS when it is so already, QCOW2_ERROR_UNSUPPORTED.
 */
bool qcow2_pull(Qcow2Chain *chain, const Qcow2PullOptions *options, Qcow2MoveResult *ret_result,
                Qcow2Progress *progress, GError **error);

typedef struct Qcow2CommitOptions {
    const char *base;               /* "[2]" or a layer's name; NULL: the backing file of top */
    const char *top;                /* likewise; NULL: the image itself */
    const char *base_format;        /* where the chain does not record it; or NULL */
    bool keep_image;                /* leave the image as it is, instead of emptying it */
    bool bitmaps;                   /* merge the layers' bitmaps into those of base, by name */
    bool force;                     /* although other images or snapshots read otherwise then */
    bool delete_merged;             /* delete the files of layers that dropped out of the chain */
    char **preserve;                /* images that go on reading the same; NULL for none */
    bool no_reflink;
} Qcow2CommitOptions;

typedef struct Qcow2CommitResult {
    Qcow2MoveResult moved;          /* into base */
    uint64_t bytes_preserved;       /* guest bytes copied into images to preserve */
    char *base;                     /* the file that the layers were merged into */
    char **invalid;                 /* layers that are not valid by themselves any more; NULL-terminated */
    char **unmarked;                /* those of them that could not be marked */
    char **deleted;
    char **not_deleted;             /* what was to be deleted and is still there: see qcow2_commit() */
    Qcow2DryRun dry_run;            /* with that open option */
} Qcow2CommitResult;

void qcow2_commit_result_clear(Qcow2CommitResult *result);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2CommitResult, qcow2_commit_result_clear)

/**
 * qcow2_commit:
 * @image: the top of the chain, as for qcow2_chain_open()
 * @open_options: writable need not be set
 *
 * Merges downward: what the layers from top down to above base hold moves into base. Through the image and
 * everything that stays valid a guest reads the same at every moment, also after a crash; the same call again
 * completes it. Not deleted are data files, devices, and layers over NBD.
 *
 * Also a call that fails fills @ret_result: what an interrupted one had left may have been finished.
 *
 * Errors: QCOW2_ERROR_IN_USE when an image or snapshot would read otherwise, a snapshot would be deleted, or
 * a file is locked;
 * QCOW2_ERROR_NOT_FOUND; QCOW2_ERROR_UNSUPPORTED; QCOW2_ERROR_NO_SPACE.
 */
bool qcow2_commit(const char *image, const Qcow2OpenOptions *open_options, const Qcow2CommitOptions *options,
                  Qcow2CommitResult *ret_result, Qcow2Progress *progress, GError **error);

/** qcow2_unmark: removes the mark that qcow2_commit() left on an image. Errors: QCOW2_ERROR_EXISTS. */
bool qcow2_unmark(const char *image, GError **error);

typedef enum { QCOW2_PLAN_COMMIT, QCOW2_PLAN_PULL } Qcow2PlanKind;

/** One command of a way. */
typedef struct Qcow2PlanStep {
    Qcow2PlanKind kind;
    unsigned layer;                 /* COMMIT: the top that is merged; PULL: the image that is pulled into */
    unsigned other;                 /* COMMIT: the base; PULL: the new backing file; past the last: none */
    uint64_t bytes, clusters;       /* as the operation will count them */
    uint64_t bytes_read, bytes_written;
    uint64_t metadata_written;      /* to the file that gets the data; with compressed clusters */
    double seconds;                 /* an estimate, from the bytes */
} Qcow2PlanStep;

/** One way to drop a group. */
typedef struct Qcow2PlanWay {
    unsigned target;                /* the layer whose file holds it all then */
    Qcow2PlanStep *steps;
    unsigned n_steps;
    unsigned *invalid;              /* layers whose file does not hold its point in time any more */
    unsigned n_invalid;
    uint64_t bytes_read, bytes_written, metadata_written;
    double seconds;
} Qcow2PlanWay;

/** Neighbouring layers that are dropped, and the ways to do it, the cheapest first. */
typedef struct Qcow2PlanGroup {
    unsigned first, last;
    Qcow2PlanWay *ways;
    unsigned n_ways;
} Qcow2PlanGroup;

typedef struct Qcow2Plan {
    Qcow2PlanGroup *groups;         /* from the top down */
    unsigned n_groups;
} Qcow2Plan;

/**
 * qcow2_plan_new:
 * @drop: layers of @chain, by name or "[2]"; NULL-terminated
 *
 * What each way to drop these points in time costs, from metadata alone.
 */
Qcow2Plan *qcow2_plan_new(Qcow2Chain *chain, char *const *drop, GError **error);
void qcow2_plan_free(Qcow2Plan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Plan, qcow2_plan_free)

typedef struct Qcow2TrimOptions {
    bool shrink;                    /* also move data down, and give free space back to the file system */
} Qcow2TrimOptions;

typedef struct Qcow2TrimResult {
    uint64_t clusters;              /* table entries that were dropped or became zeros */
    uint64_t clusters_moved, bytes_moved;    /* by shrink */
    uint64_t bytes_punched;         /* by shrink: free space inside the file */
    uint64_t bytes_freed;           /* of clusters that nothing uses any more, those of a data file too */
    uint64_t file_size_before, file_size;
    uint64_t bytes;                 /* guest bytes of the clusters */
} Qcow2TrimResult;

/**
 * qcow2_trim:
 * @chain: opened writable and exclusive
 *
 * Drops what the active layer and the snapshots read the same without: clusters equal to what the layers
 * below give, and zeros. Dirty bitmaps stay as they are: no guest reads anything else. All or nothing;
 * shrinking is a second such step.
 */
bool qcow2_trim(Qcow2Chain *chain, const Qcow2TrimOptions *options, Qcow2TrimResult *ret_result,
                Qcow2Progress *progress, GError **error);

typedef struct Qcow2RebaseOptions {
    const char *backing_name;       /* relative to the image's folder; NULL or "": none */
    const char *backing_format;
    bool name_only;                 /* only the header's name changes, whatever is read then */
    bool compress;
    bool no_reflink;
} Qcow2RebaseOptions;

/**
 * qcow2_rebase:
 * @chain: opened writable and exclusive
 *
 * Another backing file. The image and its snapshots read the same: where old and new chain differ, what they
 * read moves into the image. All or nothing, also across a crash.
 *
 * Errors: QCOW2_ERROR_INVALID without a format, or over itself; QCOW2_ERROR_NOT_FOUND;
 * QCOW2_ERROR_UNSUPPORTED.
 */
bool qcow2_rebase(Qcow2Chain *chain, const Qcow2RebaseOptions *options, Qcow2MoveResult *ret_result,
                  Qcow2Progress *progress, GError **error);

G_END_DECLS

#endif
