/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Comparing, measuring, checking, repairing. */
#ifndef LIBQCOW2_CHECK_H
#define LIBQCOW2_CHECK_H

#include "libqcow2/chain.h"

G_BEGIN_DECLS

typedef struct Qcow2CompareOptions {
    bool strict;                    /* sizes and allocation must agree too */
} Qcow2CompareOptions;

typedef enum {
    QCOW2_COMPARE_SAME,
    QCOW2_COMPARE_CONTENT,          /* contents differ, first at @offset */
    QCOW2_COMPARE_STATUS,           /* strict: one allocates what the other does not, at @offset */
    QCOW2_COMPARE_SIZE,             /* strict: the sizes differ */
} Qcow2CompareVerdict;

/** What a comparison was doing: when it fails, this tells which of qemu-img's exit codes fits. */
typedef enum {
    QCOW2_COMPARE_OPENING,          /* the images below those that were given */
    QCOW2_COMPARE_METADATA,         /* finding out what is where */
    QCOW2_COMPARE_DATA,             /* reading guest data */
} Qcow2CompareStage;

typedef struct Qcow2CompareResult {
    Qcow2CompareVerdict verdict;
    uint64_t offset;                /* as qemu-img tells it: of the first sector that differs */
    bool sizes_differ;              /* without strict this is only worth a warning */
    uint64_t bytes_read;            /* guest bytes that metadata could not decide */
    Qcow2CompareStage stage;        /* of the failure, also set when qcow2_compare() returns false */
} Qcow2CompareResult;

/**
 * qcow2_compare:
 * @func: NULL to stop at the first difference; otherwise gets every differing range, exact to 512 bytes,
 *        with what @b holds there, neighbours of one kind merged; returning false stops
 *
 * Compares the guest contents of two states, of one chain or of two. The shorter reads as zeros past
 * its end. Data is read only where metadata cannot tell. With strict set it must also be the same
 * whether a range is allocated, data or zeros, and plain or compressed; the verdict is what comes first.
 */
bool qcow2_compare(Qcow2State *a, Qcow2State *b, const Qcow2CompareOptions *options,
                   Qcow2DiffFunc func, void *data, Qcow2CompareResult *ret_result,
                   Qcow2Progress *progress, GError **error);

typedef struct Qcow2MeasureResult {
    uint64_t required, fully_allocated, bitmaps;
    bool has_bitmaps;
} Qcow2MeasureResult;

/**
 * qcow2_measure:
 * @state: what would be copied, or NULL with @size bytes of an empty disk
 * @format: of the target: "qcow2" or "raw"
 * @create_options: as qemu-img measure -o, or NULL
 *
 * The size that a copy would take. Reads metadata only.
 */
bool qcow2_measure(Qcow2State *state, uint64_t size, const char *format, const char *create_options,
                   Qcow2MeasureResult *ret_result, GError **error);

typedef struct Qcow2CheckResult {
    uint64_t corruptions, leaks, check_errors;
    uint64_t image_end_offset, total_clusters, allocated_clusters, fragmented_clusters;
    uint64_t compressed_clusters;
    uint64_t additional_corruptions;   /* of the corruptions: what qemu-img check does not look for */
    uint64_t corruptions_fixed, leaks_fixed;   /* by a repair; those above are what is left */
} Qcow2CheckResult;

/** Qcow2CheckFunc: one finding, worded as qemu-img check words it; without a newline. */
typedef void (*Qcow2CheckFunc)(const char *finding, void *data);

/**
 * qcow2_check:
 *
 * Compares the refcounts, tables, snapshots and bitmaps of the image (layer 0) with each other.
 * Changes nothing. On an image in use, only what two passes find alike is reported.
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED for a raw image; what reading reports.
 */
bool qcow2_check(Qcow2Chain *chain, Qcow2CheckFunc func, void *data, Qcow2CheckResult *ret_result,
                 Qcow2Progress *progress, GError **error);

typedef enum {
    QCOW2_REPAIR_NOTHING,
    QCOW2_REPAIR_LEAKS,      /* clusters that nothing refers to any more become free */
    QCOW2_REPAIR_ALL,        /* and all that can be put right without a guess about data */
} Qcow2Repair;

/**
 * qcow2_repair:
 * @chain: opened with the option of the same name
 * @ret_result: what was put right, and what is left
 *
 * All or nothing, also across a crash. A consistent image is not written to. What a guest reads, now and in
 * each snapshot, stays as it is; what cannot be known is reported and left alone.
 *
 * Errors: QCOW2_ERROR_UNSUPPORTED for a raw image; QCOW2_ERROR_CORRUPT when QCOW2_REPAIR_LEAKS cannot be done
 * since the refcounts have to be made anew; what reading and writing report. The image is as it was then.
 */
bool qcow2_repair(Qcow2Chain *chain, Qcow2Repair what, Qcow2CheckFunc func, void *data,
                  Qcow2CheckResult *ret_result, Qcow2Progress *progress, GError **error);

G_END_DECLS

#endif
