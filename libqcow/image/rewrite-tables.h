/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every L2 table of an image, those of snapshots too, gone through once in a metadata batch. A table in which
 * something changes is replaced by a new one, or by none when nothing is left in it; one that several L1
 * tables share stays shared.
 */
#ifndef QCOW2_IMAGE_REWRITE_TABLES_H
#define QCOW2_IMAGE_REWRITE_TABLES_H

#include "image/batch.h"

/** A table at hand. */
typedef struct Qcow2RewrittenTable {
    guint snapshot;                   /* whose table it is, the first one's that has it: an index, or
                                         QCOW2_ACTIVE_LAYER */
    uint64_t host_offset;             /* where it is */
    uint64_t guest_start;             /* of its first entry */
    uint64_t n_users;                 /* L1 tables that refer to it: what it refers to is counted so often */
    uint64_t min_size;                /* guest bytes: of the smallest state that has it */
    uint8_t *bytes;                   /* as on disk; to be changed in place */
} Qcow2RewrittenTable;

/** Qcow2RewriteFunc: changes the table and the counts of what its entries refer to. @ret_changed: did it? */
typedef bool (*Qcow2RewriteFunc)(Qcow2RewrittenTable *table, bool *ret_changed, void *data, GError **error);

/**
 * qcow2_batch_rewrite_tables:
 * @image: its snapshots are loaded
 *
 * The batch's header gets the new L1 and snapshot tables. COPIED flags are right where counts only fell with
 * the tables; qcow2_batch_fix_active_flags() puts the others right.
 */
bool qcow2_batch_rewrite_tables(Qcow2Batch *batch, Qcow2Image *image, Qcow2RewriteFunc func, void *data,
                                Qcow2Progress *progress, GError **error);

/** qcow2_table_is_empty: whether a table, as on disk, says nothing. */
bool qcow2_table_is_empty(const Qcow2Layout *layout, const uint8_t *bytes);

/** qcow2_table_clear_entry: entry @index refers to nothing; what it referred to is released. */
bool qcow2_table_clear_entry(Qcow2Batch *batch, Qcow2RewrittenTable *table, uint64_t index, GError **error);

#endif
