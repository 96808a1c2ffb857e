/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tables that may overlap, as disjoint spans of the file. Internal to the check.
 *
 * 65536 snapshots may each claim 32 MiB of the same file for their L1 tables. Cut into spans that say how
 * many tables cover them, each entry is read once, whatever the claims.
 */
#ifndef QCOW2_IMAGE_CHECK_SPANS_H
#define QCOW2_IMAGE_CHECK_SPANS_H

#include "io/io.h"

typedef struct Qcow2Span {
    uint64_t start, end;      /* bytes of the file, both multiples of 8 */
    uint64_t weight;          /* how many tables cover it */
    uint32_t active;          /* how many of them belong to the active layer */
} Qcow2Span;

/** qcow2_spans_new: an empty array of Qcow2Span. */
GArray *qcow2_spans_new(void);

/** qcow2_spans_add: a table of @n_entries of 8 bytes; what is at or past @limit is left out. */
void qcow2_spans_add(GArray *spans, uint64_t offset, uint64_t n_entries, bool active, uint64_t limit);

/** qcow2_spans_split: sorts spans and makes them disjoint, summing the weights of those that overlap. */
void qcow2_spans_split(GArray *spans);

/** Qcow2EntriesFunc: @n entries of a span, as they stand in the file; the first one is at @offset. */
typedef bool (*Qcow2EntriesFunc)(const Qcow2Span *span, uint64_t offset, const uint8_t *entries, size_t n,
                                 void *data, GError **error);

/**
 * qcow2_spans_read: calls @func for all entries, in file order. Holes of the file, where entries are zero,
 * are passed over, so that the time follows what is really there.
 */
bool qcow2_spans_read(Qcow2Io *file, const GArray *spans, Qcow2EntriesFunc func, void *data, GError **error);

#endif
