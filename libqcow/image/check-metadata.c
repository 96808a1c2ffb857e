/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image needs besides L2 tables, guest data and refcount blocks. */
#include "format/bitmap-directory.h"
#include "format/snapshot-table.h"
#include "image/check-pass.h"
#include "util/progress.h"

/* Where an entry of the snapshot table has the length of its extra data, and how much version 3 needs. */
#define SNAPSHOT_EXTRA_LEN_AT 36u
#define SNAPSHOT_EXTRA_MIN    16u

/* ---- Snapshots ----------------------------------------------------------------------------------- */

static const Qcow2SnapshotEntry *snapshot_at(const Qcow2CheckPass *pass, guint index)
{
    return &g_array_index(pass->source->snapshots, Qcow2SnapshotEntry, index);
}

static bool is_l1_too_large(const Qcow2SnapshotEntry *entry)
{
    return entry->l1_entries > QCOW2_MAX_L1_BYTES / 8;
}

bool qcow2_check_snapshot_is_sound(const Qcow2CheckPass *pass, const Qcow2SnapshotEntry *entry)
{
    return qcow2_is_cluster_aligned(pass->layout, entry->l1_offset) && !is_l1_too_large(entry);
}

uint64_t qcow2_check_snapshots_len(const Qcow2CheckPass *pass)
{
    uint64_t len_bytes = 0;

    for (guint i = 0; i < pass->source->snapshots->len; i++) {
        len_bytes = qcow2_align_up(len_bytes, 8) + g_bytes_get_size(snapshot_at(pass, i)->raw);
    }
    return len_bytes;
}

static bool is_l1_too_small(const Qcow2CheckPass *pass, const Qcow2SnapshotEntry *entry)
{
    return entry->has_disk_size && entry->l1_entries < qcow2_l1_entries(pass->layout, entry->info.disk_size);
}

static void check_snapshot(Qcow2CheckPass *pass, const Qcow2SnapshotEntry *entry)
{
    if (!qcow2_is_cluster_aligned(pass->layout, entry->l1_offset)) {
        qcow2_check_corrupt(pass, 1, "ERROR snapshot %s (%s) l1_offset=%#" PRIx64 ": L1 table is not cluster "
                            "aligned; snapshot table entry corrupted", entry->id, entry->name,
                            entry->l1_offset);
    } else if (is_l1_too_large(entry)) {
        qcow2_check_corrupt(pass, 1, "ERROR snapshot %s (%s) l1_size=%#" PRIx32 ": L1 table is too large; "
                            "snapshot table entry corrupted", entry->id, entry->name, entry->l1_entries);
    } else if (is_l1_too_small(pass, entry)) {
        qcow2_check_found_more(pass, QCOW2_FINDING_CORRUPTION, 1,
                               "ERROR snapshot %s (%s) l1_size=%#" PRIx32 ": L1 table is too small for "
                               "%" PRIu64 " bytes; snapshot table entry corrupted", entry->id, entry->name,
                               entry->l1_entries, entry->info.disk_size);
    }
}

void qcow2_check_snapshots(Qcow2CheckPass *pass)
{
    guint n = pass->source->snapshots->len;

    for (guint i = 0; i < n && pass->layout->version >= 3; i++) {
        const uint8_t *raw = g_bytes_get_data(snapshot_at(pass, i)->raw, NULL);
        if (qcow2_load_be32(raw + SNAPSHOT_EXTRA_LEN_AT) < SNAPSHOT_EXTRA_MIN) {
            qcow2_check_corrupt(pass, 1, "%s snapshot table entry %u is incomplete", qcow2_check_verb(pass),
                                i);
        }
    }
    if (pass->layout->has_data_file && n > 0) {
        qcow2_check_corrupt(pass, 1, "ERROR %u snapshots in image with data file", n);
    }
    for (guint i = 0; i < n; i++) {
        check_snapshot(pass, snapshot_at(pass, i));
    }
}

/* ---- Tables of entries that refer to clusters ---------------------------------------------------- */

void qcow2_check_find_spans(Qcow2CheckPass *pass)
{
    const Qcow2Header *header = pass->header;

    pass->l1_spans = qcow2_spans_new();
    qcow2_spans_add(pass->l1_spans, header->l1_offset, header->l1_entries, true, pass->file_size);
    for (guint i = 0; i < pass->source->snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = snapshot_at(pass, i);
        if (qcow2_check_snapshot_is_sound(pass, entry)) {
            qcow2_spans_add(pass->l1_spans, entry->l1_offset, entry->l1_entries, false, pass->file_size);
        }
    }
    qcow2_spans_split(pass->l1_spans);

    pass->bitmap_spans = qcow2_spans_new();
    for (guint i = 0; i < pass->bitmaps->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(pass->bitmaps, Qcow2BitmapEntry, i);
        qcow2_spans_add(pass->bitmap_spans, entry->table_offset, entry->table_entries, false,
                        pass->file_size);
    }
    qcow2_spans_split(pass->bitmap_spans);
}

/* ---- Bitmaps ------------------------------------------------------------------------------------- */

const char *qcow2_check_bitmap_entry_fault(const Qcow2CheckPass *pass, uint64_t raw)
{
    uint64_t offset = raw & QCOW2_BITMAP_TABLE_OFFSET;

    if (raw & QCOW2_BITMAP_TABLE_RESERVED) {
        return "reserved bits set";
    }
    if (offset != 0 && (raw & QCOW2_BITMAP_TABLE_ONES)) {
        return "reserved bit 0 set beside an offset";
    }
    return qcow2_is_cluster_aligned(pass->layout, offset) ? NULL : "offset is not cluster aligned";
}

/*
 * The bits of a bitmap in use are not to be believed, whatever the size of its table. With another one whose
 * table has the wrong size QEMU does not open the image.
 */
void qcow2_check_bitmaps(Qcow2CheckPass *pass)
{
    uint64_t disk_size = qcow2_align_down(pass->header->size, 512);

    for (guint i = 0; i < pass->bitmaps->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(pass->bitmaps, Qcow2BitmapEntry, i);
        uint64_t n_bits = qcow2_div_round_up(disk_size, BIT(entry->granularity_bits));
        uint64_t needed = qcow2_div_round_up(n_bits, 8 * pass->layout->cluster_size);
        if (!(entry->flags & QCOW2_BITMAP_IN_USE) && entry->table_entries != needed) {
            qcow2_check_found_more(pass, QCOW2_FINDING_CORRUPTION, 1,
                                   "ERROR bitmap '%s': its table has %" PRIu32 " entries, the size of the "
                                   "disk needs %" PRIu64, entry->name, entry->table_entries, needed);
        }
    }
}

static bool count_bitmap_entries(const Qcow2Span *span, uint64_t offset, const uint8_t *entries, size_t n,
                                 void *data, GError **error)
{
    Qcow2CheckPass *pass = data;

    for (size_t i = 0; i < n; i++) {
        uint64_t raw = qcow2_load_be64(entries + i * 8);
        uint64_t cluster_offset = raw & QCOW2_BITMAP_TABLE_OFFSET;
        const char *fault = qcow2_check_bitmap_entry_fault(pass, raw);
        if (!fault && cluster_offset != 0) {
            qcow2_check_refer(pass, cluster_offset, pass->layout->cluster_size, span->weight);
        } else if (fault && pass->first) {
            /* QEMU does not open such an image. */
            qcow2_check_found_more(pass, QCOW2_FINDING_CORRUPTION, span->weight,
                                   "ERROR bitmap table entry at offset=0x%" PRIx64 ": %s: %" PRIx64,
                                   offset + i * 8, fault, raw);
        }
    }
    return qcow2_progress_check(pass->progress, error);
}

/* ---- All of it ----------------------------------------------------------------------------------- */

bool qcow2_check_metadata(Qcow2CheckPass *pass, GError **error)
{
    const Qcow2Header *header = pass->header;
    uint64_t cluster_size = pass->layout->cluster_size;

    qcow2_check_refer(pass, 0, cluster_size, 1);
    qcow2_check_refer(pass, header->l1_offset, header->l1_entries * UINT64_C(8), 1);
    for (guint i = 0; i < pass->source->snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = snapshot_at(pass, i);
        if (qcow2_check_snapshot_is_sound(pass, entry)) {
            qcow2_check_refer(pass, entry->l1_offset, entry->l1_entries * UINT64_C(8), 1);
        }
    }
    qcow2_check_refer(pass, header->snapshots_offset, qcow2_check_snapshots_len(pass), 1);
    qcow2_check_refer(pass, header->reftable_offset, header->reftable_clusters * cluster_size, 1);
    qcow2_check_refer(pass, header->crypt_offset, header->crypt_len, 1);

    if (pass->header->has_bitmaps) {
        qcow2_check_refer(pass, header->bitmap_directory_offset, header->bitmap_directory_size, 1);
    }
    for (guint i = 0; i < pass->bitmaps->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(pass->bitmaps, Qcow2BitmapEntry, i);
        qcow2_check_refer(pass, entry->table_offset, entry->table_entries * UINT64_C(8), 1);
    }
    return qcow2_spans_read(pass->file, pass->bitmap_spans, count_bitmap_entries, pass, error);
}
