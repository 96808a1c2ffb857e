/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/roots.h"

#include "format/l2.h"
#include "image/map.h"
#include "util/error.h"

#define MAX_OFFSET BIT(56)

typedef struct Root {
    uint64_t first, end;      /* host clusters */
    const char *what;
} Root;

static bool add_root(GArray *roots, const Qcow2Layout *layout, uint64_t offset, uint64_t len_bytes,
                     const char *what, GError **error)
{
    if (len_bytes == 0) {
        return true;
    }
    if (offset % layout->cluster_size != 0 || offset >= MAX_OFFSET || len_bytes > MAX_OFFSET) {
        return qcow2_corrupt(error, "%s at 0x%" PRIx64 " is not at a cluster's start; run qcow-check -r all",
                             what, offset);
    }
    Root root = {
        offset >> layout->cluster_bits, (offset + len_bytes - 1) / layout->cluster_size + 1, what,
    };
    g_array_append_val(roots, root);
    return true;
}

static uint64_t snapshot_table_len(const Qcow2Image *image)
{
    uint64_t len = 0;

    for (guint i = 0; i < image->snapshots->len; i++) {
        GBytes *raw = g_array_index(image->snapshots, Qcow2SnapshotEntry, i).raw;
        len = qcow2_align_up(len, 8) + g_bytes_get_size(raw);
    }
    return len;
}

static bool add_snapshots(GArray *roots, Qcow2Image *image, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;

    if (!qcow2_image_load_snapshots(image, error)
        || !add_root(roots, layout, image->header.snapshots_offset, snapshot_table_len(image),
                     "the snapshot table", error)) {
        return false;
    }
    for (guint i = 0; i < image->snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(image->snapshots, Qcow2SnapshotEntry, i);
        if (!add_root(roots, layout, entry->l1_offset, entry->l1_entries * UINT64_C(8),
                      "the L1 table of a snapshot", error)) {
            return false;
        }
    }
    return true;
}

static bool add_refcounts(GArray *roots, const Qcow2Image *image, const Qcow2CountsCache *counts,
                          GError **error)
{
    const Qcow2Header *header = &image->header;
    uint64_t cluster_size = header->layout.cluster_size;

    if (!add_root(roots, &header->layout, header->reftable_offset, header->reftable_clusters * cluster_size,
                  "the refcount table", error)) {
        return false;
    }
    for (uint64_t i = 0; i < qcow2_counts_cache_n_blocks(counts); i++) {
        uint64_t offset = qcow2_counts_cache_block(counts, i);
        if (offset != 0
            && !add_root(roots, &header->layout, offset, cluster_size, "a refcount block", error)) {
            return false;
        }
    }
    return true;
}

static gint compare_roots(gconstpointer a, gconstpointer b)
{
    const Root *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static bool check_counts(const Root *root, const Qcow2Layout *layout, Qcow2CountsCache *counts,
                         GError **error)
{
    uint64_t end = qcow2_counts_cache_end(counts), count = 0;

    for (uint64_t cluster = root->first; cluster < root->end; cluster++) {
        if (cluster < end && !qcow2_counts_cache_get(counts, cluster, &count, error)) {
            return false;
        }
        if (cluster >= end || count == 0) {
            return qcow2_corrupt(error,
                                 "%s has the cluster at 0x%" PRIx64 ", whose refcount is 0; run qcow-check"
                                 " -r all", root->what, cluster << layout->cluster_bits);
        }
    }
    return true;
}

bool qcow2_image_check_roots(Qcow2Image *image, Qcow2CountsCache *counts, GError **error)
{
    const Qcow2Header *header = &image->header;
    const Qcow2Layout *layout = &header->layout;
    g_autoptr(GArray) roots = g_array_new(FALSE, FALSE, sizeof(Root));
    /* Without the bit that vouches for them, bitmaps may be gone, and their clusters be somebody else's. */
    uint64_t directory_len = header->autoclear & QCOW2_AUTOCLEAR_BITMAPS ? header->bitmap_directory_size : 0;

    if (!add_root(roots, layout, 0, layout->cluster_size, "the header", error)
        || !add_root(roots, layout, header->l1_offset, header->l1_entries * UINT64_C(8), "the L1 table",
                     error)
        || !add_root(roots, layout, header->bitmap_directory_offset, directory_len, "the bitmap directory",
                     error)
        || !add_refcounts(roots, image, counts, error) || !add_snapshots(roots, image, error)) {
        return false;
    }
    g_array_sort(roots, compare_roots);
    for (guint i = 0; i < roots->len; i++) {
        const Root *root = &g_array_index(roots, Root, i), *last = i > 0 ? root - 1 : NULL;
        if (last && root->first < last->end) {
            return qcow2_corrupt(error,
                                 "%s and %s have the cluster at 0x%" PRIx64 " both; run qcow-check -r all",
                                 last->what, root->what, root->first << layout->cluster_bits);
        }
        if (!check_counts(root, layout, counts, error)) {
            return false;
        }
    }
    return true;
}

bool qcow2_image_check_tables(Qcow2Image *image, const Qcow2FreeSpace *space, GError **error)
{
    Qcow2View view = qcow2_image_active_view(image);
    g_autofree uint64_t *l1 = qcow2_image_read_l1(image, &view, error);

    for (uint64_t i = 0; l1 && i < view.l1_entries; i++) {
        uint64_t offset = GUINT64_FROM_BE(l1[i]) & L1E_OFFSET;
        uint64_t cluster = offset >> image->header.layout.cluster_bits;
        if (offset != 0
            && (qcow2_free_space_has(space, cluster) || cluster >= qcow2_free_space_end(space))) {
            return qcow2_corrupt(error,
                                 "L1 table: entry %" PRIu64 " names the L2 table at 0x%" PRIx64
                                 ", whose refcount is 0; run qcow-check -r all", i, offset);
        }
    }
    return l1 != NULL;
}
