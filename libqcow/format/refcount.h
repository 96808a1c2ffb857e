/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reference counts of 1 to 64 bits in refcount blocks. Spec: "Host cluster management". */
#ifndef QCOW2_FORMAT_REFCOUNT_H
#define QCOW2_FORMAT_REFCOUNT_H

#include "format/layout.h"

#define QCOW2_REFTABLE_OFFSET UINT64_C(0xfffffffffffffe00)   /* bits 9-63 of a refcount table entry */

/** qcow2_refcount_get: count @index of a block in its on-disk form. */
uint64_t qcow2_refcount_get(const Qcow2Layout *layout, const uint8_t *block, size_t index);

/** qcow2_refcount_set: @count fits, see qcow2_refcount_max(). */
void qcow2_refcount_set(const Qcow2Layout *layout, uint8_t *block, size_t index, uint64_t count);

/** qcow2_refcount_fill: sets @n counts from @index on to the same value, quickly. */
void qcow2_refcount_fill(const Qcow2Layout *layout, uint8_t *block, size_t index, size_t n, uint64_t count);

uint64_t qcow2_refcount_max(const Qcow2Layout *layout);

#endif
