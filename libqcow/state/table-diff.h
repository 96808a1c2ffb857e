/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Table entries of two states of one image that differ, found for some windows at once. */
#ifndef QCOW2_STATE_TABLE_DIFF_H
#define QCOW2_STATE_TABLE_DIFF_H

#include "image/map.h"

/** Filled in by its user but for the part that says otherwise. */
typedef struct Qcow2TableDiff {
    Qcow2Image *image;
    const Qcow2View *a, *b;
    uint64_t limit;           /* guest offset: the end of the smaller view */
    /* What is known: */
    Qcow2Range known;
    Qcow2Differing found;     /* in that range */
} Qcow2TableDiff;

void qcow2_table_diff_clear(Qcow2TableDiff *tables);

/**
 * qcow2_table_diff_get:
 * @window: below the limit
 * @sure, @maybe: get the ranges of the window appended that Qcow2Differing calls so
 */
bool qcow2_table_diff_get(Qcow2TableDiff *tables, Qcow2Range window, GArray *sure, GArray *maybe,
                          GError **error);

#endif
