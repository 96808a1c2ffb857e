/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/snapshot-table.h"

#include "format/snapshot-fields.h"
#include "util/error.h"

void qcow2_snapshot_entry_clear(Qcow2SnapshotEntry *entry)
{
    g_free(entry->id);
    g_free(entry->name);
    g_clear_pointer(&entry->raw, g_bytes_unref);
    *entry = (Qcow2SnapshotEntry) { 0 };
}

/* The lengths of the parts. Once they are checked, the whole is less than 133 KiB. */
typedef struct EntryLens {
    uint64_t extra, id, name, whole;
} EntryLens;

static EntryLens decode_lens(const uint8_t *bytes)
{
    EntryLens lens = {
        .extra = qcow2_load_be32(bytes + ENTRY_EXTRA_LEN),
        .id = qcow2_load_be16(bytes + ENTRY_ID_LEN),
        .name = qcow2_load_be16(bytes + ENTRY_NAME_LEN),
    };

    lens.whole = QCOW2_SNAPSHOT_FIXED + lens.extra + lens.id + lens.name;
    return lens;
}

static bool check_lens(const EntryLens *lens, GError **error)
{
    if (lens->extra > QCOW2_MAX_SNAPSHOT_EXTRA) {
        return qcow2_corrupt(error, "snapshot table entry: extra data of %" PRIu64 " bytes, the limit is %u",
                             lens->extra, QCOW2_MAX_SNAPSHOT_EXTRA);
    }
    return true;
}

bool qcow2_snapshot_entry_len(const uint8_t *bytes, size_t *ret_len, GError **error)
{
    EntryLens lens = decode_lens(bytes);

    if (!check_lens(&lens, error)) {
        return false;
    }
    *ret_len = qcow2_align_up(lens.whole, 8);
    return true;
}

/* A field of 8 bytes in the extra data; @absent when the extra data ends before it does. */
static uint64_t extra_field(const uint8_t *bytes, const EntryLens *lens, size_t offset, uint64_t absent)
{
    return QCOW2_SNAPSHOT_FIXED + lens->extra >= offset + 8 ? qcow2_load_be64(bytes + offset) : absent;
}

static char *copy_text(const uint8_t *bytes, size_t len_bytes)
{
    char *text = g_malloc(len_bytes + 1);

    memcpy(text, bytes, len_bytes);
    text[len_bytes] = '\0';
    return text;
}

bool qcow2_snapshot_entry_decode(const Qcow2Header *header, const uint8_t *bytes, size_t len_bytes,
                                 Qcow2SnapshotEntry *ret, GError **error)
{
    *ret = (Qcow2SnapshotEntry) { 0 };
    if (len_bytes < QCOW2_SNAPSHOT_FIXED) {
        return qcow2_corrupt(error, "snapshot table entry: %zu bytes are left of the table, %u are needed",
                             len_bytes, QCOW2_SNAPSHOT_FIXED);
    }

    EntryLens lens = decode_lens(bytes);
    if (!check_lens(&lens, error)) {
        return false;
    }
    if (lens.whole > len_bytes) {
        return qcow2_corrupt(error, "snapshot table entry: %zu bytes are left of the table, %" PRIu64
                             " are needed", len_bytes, lens.whole);
    }

    const uint8_t *id = bytes + QCOW2_SNAPSHOT_FIXED + lens.extra;
    *ret = (Qcow2SnapshotEntry) {
        .id = copy_text(id, lens.id),
        .name = copy_text(id + lens.id, lens.name),
        .id_len = lens.id,
        .name_len = lens.name,
        .l1_offset = qcow2_load_be64(bytes + ENTRY_L1_OFFSET),
        .l1_entries = qcow2_load_be32(bytes + ENTRY_L1_ENTRIES),
        .has_disk_size = QCOW2_SNAPSHOT_FIXED + lens.extra >= ENTRY_DISK_SIZE + 8,
        .raw = g_bytes_new(bytes, lens.whole),
        .info = {
            .disk_size = qcow2_align_down(extra_field(bytes, &lens, ENTRY_DISK_SIZE, header->size),
                                          QCOW2_SECTOR_SIZE),
            .vm_state_size = extra_field(bytes, &lens, ENTRY_VM_STATE_SIZE_LARGE,
                                         qcow2_load_be32(bytes + ENTRY_VM_STATE_SIZE)),
            .date_sec = qcow2_load_be32(bytes + ENTRY_DATE_SEC),
            .date_nsec = qcow2_load_be32(bytes + ENTRY_DATE_NSEC),
            .vm_clock_nsec = qcow2_load_be64(bytes + ENTRY_VM_CLOCK),
            .icount = extra_field(bytes, &lens, ENTRY_ICOUNT, UINT64_MAX),
        },
    };
    ret->info.id = ret->id;
    ret->info.name = ret->name;
    return true;
}

bool qcow2_snapshot_entry_check(const Qcow2Header *header, const Qcow2SnapshotEntry *entry, GError **error)
{
    const uint64_t max_entries = QCOW2_MAX_L1_BYTES / 8;

    if (entry->l1_entries > max_entries) {
        return qcow2_corrupt(error, "L1 table of %" PRIu32 " entries, the limit is %" PRIu64,
                             entry->l1_entries, max_entries);
    }
    if (!qcow2_is_cluster_aligned(&header->layout, entry->l1_offset)
        || !qcow2_range_fits(entry->l1_offset, (uint64_t) entry->l1_entries * 8)) {
        return qcow2_corrupt(error, "L1 table offset 0x%" PRIx64 " is not cluster aligned, or too large",
                             entry->l1_offset);
    }
    if (entry->info.disk_size > INT64_MAX) {
        return qcow2_corrupt(error, "disk size is 0x%" PRIx64 " bytes, more than 63 bits",
                             entry->info.disk_size);
    }
    return true;
}
