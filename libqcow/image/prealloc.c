/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/prealloc.h"

#include "format/refcount.h"
#include "util/bits.h"

/* Counting goes on until there are @wanted used clusters below @end_cluster. */
typedef struct Count {
    Qcow2Image *image;
    uint64_t end_cluster, wanted;
    uint64_t found;
    uint64_t n_blocks, max_blocks;   /* read so far; a table may name the same block a million times */
    uint8_t *block;                  /* a refcount block */
} Count;

/* A block that is not there, or past the part that counts, holds nothing; false: it cannot be read. */
static bool count_block(Count *count, uint64_t index, uint64_t block_offset)
{
    const Qcow2Layout *layout = &count->image->header.layout;
    uint64_t first = index << layout->refblock_bits;
    uint64_t end = MIN(BIT(layout->refblock_bits), count->end_cluster - first);

    if (block_offset == 0) {
        return true;
    }
    if (!qcow2_is_cluster_aligned(layout, block_offset) || count->n_blocks++ > count->max_blocks
        || !qcow2_io_read(count->image->file, block_offset, count->block, layout->cluster_size, NULL)) {
        return false;
    }
    for (uint64_t i = 0; i < end && count->found < count->wanted; i++) {
        count->found += qcow2_refcount_get(layout, count->block, i) != 0;
    }
    return true;
}

static bool count_table(Count *count)
{
    const Qcow2Header *header = &count->image->header;
    uint64_t entries = header->reftable_clusters * header->layout.cluster_size / 8;
    uint64_t n = MIN(entries, qcow2_div_round_up(count->end_cluster, BIT(header->layout.refblock_bits)));
    g_autofree uint64_t *table = g_try_new(uint64_t, n);
    bool ok = table && qcow2_io_read(count->image->file, header->reftable_offset, table, n * 8, NULL);

    for (uint64_t i = 0; ok && i < n && count->found < count->wanted; i++) {
        ok = count_block(count, i, GUINT64_FROM_BE(table[i]) & QCOW2_REFTABLE_OFFSET);
    }
    return ok;
}

bool qcow2_image_is_preallocated(Qcow2Image *image)
{
    uint64_t file_size, actual_size, cluster_size = image->header.layout.cluster_size;

    if (image->kind != QCOW2_IMAGE_QCOW2 || !qcow2_io_get_size(image->file, &file_size, NULL)
        || !qcow2_io_get_actual_size(image->file, &actual_size)) {
        return false;
    }

    uint64_t real_clusters = actual_size / cluster_size;
    Count count = {
        .image = image,
        .end_cluster = qcow2_div_round_up(file_size, cluster_size),
        .wanted = MAX(real_clusters * 10 / 9, real_clusters + 2),
        .max_blocks = real_clusters,
    };
    if (count.end_cluster < count.wanted) {
        return false;     /* a file without holes: there is nothing to count */
    }
    g_autofree uint8_t *block = count.block = g_try_malloc(cluster_size);
    return block && count_table(&count) && count.found >= count.wanted;
}
