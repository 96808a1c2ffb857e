/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Is the metadata of an image consistent? What qemu-img check finds, and some more. */
#ifndef QCOW2_IMAGE_CHECK_H
#define QCOW2_IMAGE_CHECK_H

#include "format/header.h"
#include "io/io.h"

typedef enum {
    QCOW2_FINDING_CORRUPTION,
    QCOW2_FINDING_LEAK,
    QCOW2_FINDING_CHECK_ERROR,    /* something could not be checked */
    QCOW2_FINDING_EXPLANATION,    /* of what another finding counts */
} Qcow2FindingKind;

/**
 * One thing that is wrong. Its text is said once; the count is how often QEMU would say it: once for each
 * reference, so that an entry of an L2 table that two snapshots share with the active layer counts 3.
 */
typedef struct Qcow2Finding {
    Qcow2FindingKind kind;
    bool additional;              /* qemu-img check does not look for this */
    uint64_t count;
    const char *text;             /* valid during the call */
} Qcow2Finding;

/** Qcow2FindingFunc: called from the thread that checks. */
typedef void (*Qcow2FindingFunc)(const Qcow2Finding *finding, void *data);

/** What is checked. All of it is borrowed. */
typedef struct Qcow2CheckSource {
    Qcow2Io *file;
    const Qcow2Header *header;
    const GArray *snapshots;      /* Qcow2SnapshotEntry */
    unsigned n_threads;           /* 0: the default */
    size_t memory;                /* bytes that counts may take; 0: the default */
    Qcow2Repair repair;           /* what is about to be repaired: findings say so */
} Qcow2CheckSource;

/**
 * qcow2_image_check:
 * @ret_result: gets the offset and the numbers of clusters; the numbers of findings stay 0
 *
 * One pass over all tables and counts. Changes nothing.
 *
 * Errors: QCOW2_ERROR_CORRUPT for a bitmap directory that cannot be decoded: its clusters would look like
 * leaks; what reading reports.
 */
bool qcow2_image_check(const Qcow2CheckSource *source, Qcow2FindingFunc func, void *data,
                       Qcow2CheckResult *ret_result, Qcow2Progress *progress, GError **error);

#endif
