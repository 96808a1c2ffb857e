/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* L1 and L2 table entries. Spec: "Cluster mapping", "Extended L2 Entries". */
#ifndef QCOW2_FORMAT_L2_H
#define QCOW2_FORMAT_L2_H

#include "format/layout.h"
#include "libqcow2.h"

#define L1E_OFFSET       UINT64_C(0x00fffffffffffe00)  /* bits 9-55 */
#define L1E_RESERVED     (~(L1E_OFFSET | L2E_COPIED))

#define L2E_ZERO         BIT(0)
#define L2E_HOST_OFFSET  UINT64_C(0x00fffffffffffe00)  /* bits 9-55 */
#define L2E_COMPRESSED   BIT(62)
#define L2E_COPIED       BIT(63)                       /* refcount is exactly one */
#define L2E_RESERVED     (~(L2E_ZERO | L2E_HOST_OFFSET | L2E_COMPRESSED | L2E_COPIED))

typedef enum {
    QCOW2_CLUSTER_UNALLOCATED,
    QCOW2_CLUSTER_ZERO,
    QCOW2_CLUSTER_DATA,
    QCOW2_CLUSTER_COMPRESSED,
} Qcow2ClusterKind;

/** One L2 entry, decoded. Reserved bits are masked; qcow2_l2_reserved() reports them. */
typedef struct Qcow2L2Entry {
    Qcow2ClusterKind kind;    /* extended entries: never ZERO; the masks refine DATA and UNALLOCATED */
    bool allocated;           /* host_offset is a cluster of this entry (also kept under zeros) */
    bool copied;
    uint64_t host_offset;     /* byte offset; of a compressed stream: its first byte */
    uint32_t stream_len;      /* compressed: bytes from host_offset that the stream may reach into */
    uint32_t data_mask;       /* extended: bit n set: subcluster n holds data */
    uint32_t zero_mask;       /* extended: bit n set: subcluster n reads as zeros */
} Qcow2L2Entry;

/**
 * qcow2_l2_decode:
 * @raw: the entry (of 8 bytes, in host order), @bitmap: the second half of an extended one, else 0
 *
 * Errors: QCOW2_ERROR_CORRUPT for what QEMU refuses to read: a host offset that is not cluster aligned, a
 * zero cluster in version 2, a compressed cluster in an image with a data file, a subcluster both allocated
 * and zero or allocated without a host cluster.
 */
bool qcow2_l2_decode(const Qcow2Layout *layout, uint64_t raw, uint64_t bitmap, Qcow2L2Entry *ret,
                     GError **error);

/** qcow2_l2_reserved: the bits set in @raw that the specification reserves for this kind of entry. */
uint64_t qcow2_l2_reserved(const Qcow2Layout *layout, uint64_t raw);

/** qcow2_l2_encode_compressed: a descriptor for @stream_len bytes at @host_offset; false when unfit. */
bool qcow2_l2_encode_compressed(const Qcow2Layout *layout, uint64_t host_offset, uint64_t stream_len,
                                uint64_t *ret_raw);

#endif
