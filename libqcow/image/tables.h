/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All L2 tables that an L1 table names, whole, and what they refer to. */
#ifndef QCOW2_IMAGE_TABLES_H
#define QCOW2_IMAGE_TABLES_H

#include "image/batch.h"
#include "image/l2-slices.h"

/** Qcow2TableFunc: @raw is the whole table as it stands in the file. */
typedef bool (*Qcow2TableFunc)(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data,
                               GError **error);

/**
 * qcow2_each_table:
 *
 * Calls @func for each allocated L2 table of @view, in L1 order, those past the end of the disk (VM state)
 * included. Reads some MiB at a time, in host order.
 */
bool qcow2_each_table(Qcow2Image *image, const Qcow2View *view, Qcow2TableFunc func, void *data,
                      GError **error);

/** A run of host clusters that entries of one table refer to. */
typedef struct Qcow2Reference {
    uint64_t host_offset, len_bytes;
    bool copied;              /* the flag, the same in all entries of the run */
    bool compressed;
    uint64_t first_entry, n_entries;
} Qcow2Reference;

typedef bool (*Qcow2ReferenceFunc)(const Qcow2Reference *reference, void *data, GError **error);

/** qcow2_each_reference: the runs of clusters that a table refers to; none with an external data file. */
bool qcow2_each_reference(const Qcow2Layout *layout, const uint8_t *raw, Qcow2ReferenceFunc func, void *data,
                          GError **error);

/** qcow2_table_has_copied: whether any entry has the COPIED flag. */
bool qcow2_table_has_copied(const Qcow2Layout *layout, const uint8_t *raw);

/** qcow2_table_set_copied: sets or clears the flag of entries [first, first + n). */
void qcow2_table_set_copied(const Qcow2Layout *layout, uint8_t *raw, uint64_t first, uint64_t n, bool copied);

/** qcow2_batch_add_view: @delta for every cluster that the tables of @view refer to, and for the tables. */
bool qcow2_batch_add_view(Qcow2Batch *batch, Qcow2Image *image, const Qcow2View *view, int delta,
                          GError **error);

#endif
