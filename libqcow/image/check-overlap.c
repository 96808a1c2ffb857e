/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters of metadata that something else refers to as well.
 *
 * QEMU finds them only when the refcounts contradict: two structures in one cluster with a refcount of 2 are
 * fine to it, and the next write through one of them destroys the other. Every structure knows how many
 * references it makes to its clusters, so a higher count tells that somebody else makes some, too.
 */
#include "format/bitmap-directory.h"
#include "image/check-pass.h"

/* A structure, and how many references it makes to each of its clusters. */
typedef struct Structure {
    const char *name;
    uint64_t offset, len_bytes;
    uint64_t weight;
} Structure;

static bool report_overlap(Qcow2CheckPass *pass, const Structure *structure, uint64_t cluster, GError **error)
{
    uint64_t count = qcow2_counts_get(pass->counts, cluster), refcount;

    if (!qcow2_check_read_refcount(pass, cluster, &refcount, error)) {
        return false;
    }
    /* A refcount that differs is counted as corruption when refcounts are compared. */
    bool is_silent = refcount == count;
    qcow2_check_found_more(pass, is_silent ? QCOW2_FINDING_CORRUPTION : QCOW2_FINDING_EXPLANATION, is_silent,
                           "ERROR overlap: %s at offset=0x%" PRIx64 ": cluster %" PRIu64 " has %" PRIu64
                           " references, only %" PRIu64 " of them from there", structure->name,
                           structure->offset, cluster, count, structure->weight);
    return true;
}

/*
 * Looks for the first cluster that others refer to. No other structure has the clusters before it, so that
 * all of this takes no more time than there are clusters.
 */
static bool check_structure(Qcow2CheckPass *pass, const Structure *structure, GError **error)
{
    unsigned cluster_bits = pass->layout->cluster_bits;

    if (structure->len_bytes == 0 || !qcow2_check_is_inside(pass, structure->offset, structure->len_bytes)) {
        return true;
    }
    uint64_t end = ((structure->offset + structure->len_bytes - 1) >> cluster_bits) + 1;
    end = MIN(end, qcow2_counts_end(pass->counts));
    for (uint64_t cluster = MAX(structure->offset >> cluster_bits, pass->start); cluster < end; cluster++) {
        if (qcow2_counts_get(pass->counts, cluster) > structure->weight) {
            return report_overlap(pass, structure, cluster, error);
        }
    }
    return true;
}

static bool check_snapshots(Qcow2CheckPass *pass, GError **error)
{
    const GArray *snapshots = pass->source->snapshots;

    for (guint i = 0; i < snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(snapshots, Qcow2SnapshotEntry, i);
        g_autofree char *name = g_strdup_printf("L1 table of snapshot %s (%s)", entry->id, entry->name);
        Structure table = { name, entry->l1_offset, entry->l1_entries * UINT64_C(8), 1 };
        if (qcow2_check_snapshot_is_sound(pass, entry) && !check_structure(pass, &table, error)) {
            return false;
        }
    }
    return true;
}

static bool check_tables(Qcow2CheckPass *pass, const Qcow2TableRef *tables, size_t n, GError **error)
{
    for (size_t i = 0; i < n; i++) {
        Structure table = { "L2 table", tables[i].offset, pass->layout->cluster_size, tables[i].weight };
        if (qcow2_is_cluster_aligned(pass->layout, table.offset) && !check_structure(pass, &table, error)) {
            return false;
        }
    }
    return true;
}

static bool check_bitmap_entries(const Qcow2Span *span, uint64_t offset, const uint8_t *entries, size_t n,
                                 void *data, GError **error)
{
    Qcow2CheckPass *pass = data;

    (void)offset;
    for (size_t i = 0; i < n; i++) {
        uint64_t raw = qcow2_load_be64(entries + i * 8), at = raw & QCOW2_BITMAP_TABLE_OFFSET;
        Structure bits = { "bitmap data", at, pass->layout->cluster_size, span->weight };
        if (at != 0 && !qcow2_check_bitmap_entry_fault(pass, raw) && !check_structure(pass, &bits, error)) {
            return false;
        }
    }
    return true;
}

static bool check_bitmaps(Qcow2CheckPass *pass, GError **error)
{
    const Qcow2Header *header = pass->header;
    Structure directory = {
        "bitmap directory", header->bitmap_directory_offset, header->bitmap_directory_size, 1,
    };

    if (header->has_bitmaps && !check_structure(pass, &directory, error)) {
        return false;
    }
    for (guint i = 0; i < pass->bitmaps->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(pass->bitmaps, Qcow2BitmapEntry, i);
        g_autofree char *name = g_strdup_printf("table of bitmap '%s'", entry->name);
        Structure table = { name, entry->table_offset, entry->table_entries * UINT64_C(8), 1 };
        if (!check_structure(pass, &table, error)) {
            return false;
        }
    }
    return qcow2_spans_read(pass->file, pass->bitmap_spans, check_bitmap_entries, pass, error);
}

bool qcow2_check_overlaps(Qcow2CheckPass *pass, GError **error)
{
    const Qcow2Header *header = pass->header;
    uint64_t cluster_size = pass->layout->cluster_size;
    const Structure structures[] = {
        { "header", 0, cluster_size, 1 },
        { "L1 table", header->l1_offset, header->l1_entries * UINT64_C(8), 1 },
        { "snapshot table", header->snapshots_offset, qcow2_check_snapshots_len(pass), 1 },
        { "refcount table", header->reftable_offset, header->reftable_clusters * cluster_size, 1 },
        { "encryption header", header->crypt_offset, header->crypt_len, 1 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(structures); i++) {
        if (!check_structure(pass, &structures[i], error)) {
            return false;
        }
    }
    return check_snapshots(pass, error)
        && qcow2_check_visit_tables(pass, check_tables, error)
        && check_bitmaps(pass, error);
}
