/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The geometry of one image: everything that follows from cluster size and entry width. */
#ifndef QCOW2_FORMAT_LAYOUT_H
#define QCOW2_FORMAT_LAYOUT_H

#include "util/bits.h"

/*
 * Disks have whole sectors in QEMU: what a qcow2 header or a snapshot says is cut to them, while a raw file
 * is filled up with zeros.
 */
#define QCOW2_SECTOR_SIZE UINT64_C(512)

#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_SUBCLUSTERS 32          /* in each cluster of an image with extended L2 entries */

/** Spec: "Cluster mapping", "Extended L2 Entries", "Refcount table". */
typedef struct Qcow2Layout {
    unsigned version;                 /* 2 or 3 */
    unsigned cluster_bits;
    uint64_t cluster_size;            /* bytes */
    unsigned l2_bits;                 /* log2 of the entries of an L2 table */
    unsigned l2_entry_size;           /* 8, or 16 when extended */
    bool extended_l2;
    uint64_t subcluster_size;         /* bytes; the cluster size when L2 entries are not extended */
    unsigned refcount_order;          /* a count has 1 << refcount_order bits */
    unsigned refblock_bits;           /* log2 of the counts in a refcount block */
    bool has_data_file;
} Qcow2Layout;

/** qcow2_layout_init: all values are in range: the header's decoder has checked them. */
static inline Qcow2Layout qcow2_layout(unsigned version, unsigned cluster_bits, bool extended_l2,
                                       unsigned refcount_order, bool has_data_file)
{
    return (Qcow2Layout) {
        .version = version,
        .cluster_bits = cluster_bits,
        .cluster_size = BIT(cluster_bits),
        .l2_bits = cluster_bits - (extended_l2 ? 4 : 3),
        .l2_entry_size = extended_l2 ? 16 : 8,
        .extended_l2 = extended_l2,
        .subcluster_size = extended_l2 ? BIT(cluster_bits) / QCOW2_SUBCLUSTERS : BIT(cluster_bits),
        .refcount_order = refcount_order,
        .refblock_bits = cluster_bits + 3 - refcount_order,
        .has_data_file = has_data_file,
    };
}

/* Guest bytes that one L2 table maps. */
static inline uint64_t qcow2_l2_coverage(const Qcow2Layout *layout)
{
    return BIT(layout->cluster_bits + layout->l2_bits);
}

/* L1 entries that a disk of this size needs. */
static inline uint64_t qcow2_l1_entries(const Qcow2Layout *layout, uint64_t disk_size)
{
    return qcow2_div_round_up(disk_size, qcow2_l2_coverage(layout));
}

static inline bool qcow2_is_cluster_aligned(const Qcow2Layout *layout, uint64_t offset)
{
    return (offset & (layout->cluster_size - 1)) == 0;
}

#endif
