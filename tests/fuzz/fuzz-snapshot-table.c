/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Decodes entry after entry of a snapshot table, as long as they make sense. */
#include "format/snapshot-table.h"
#include "fuzz/fuzz.h"

/* The length of the entry and its padding; 0 when it is refused. */
static size_t decode_entry(const Qcow2Header *header, const uint8_t *bytes, size_t len_left)
{
    Qcow2SnapshotEntry entry;
    g_autoptr(GError) error = NULL;
    size_t len;

    if (!qcow2_snapshot_entry_decode(header, bytes, len_left, &entry, &error)) {
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_CORRUPT);
        return 0;
    }
    g_assert_true(qcow2_snapshot_entry_len(bytes, &len, NULL));
    g_assert_cmpuint(g_bytes_get_size(entry.raw), <=, len);
    g_assert_cmpuint(strlen(entry.info.id), <=, entry.id_len);
    g_assert_cmpuint(strlen(entry.info.name), <=, entry.name_len);
    if (qcow2_snapshot_entry_check(header, &entry, NULL)) {
        g_assert_cmpuint(entry.l1_entries * UINT64_C(8), <=, QCOW2_MAX_L1_BYTES);
    }
    qcow2_snapshot_entry_clear(&entry);
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Qcow2Header header = { .layout = qcow2_layout(3, 16, false, 4, false), .size = 10 << 20 };
    size_t at = 0, len;

    do {
        len = decode_entry(&header, data + at, size - at);
        at += len;
    } while (len > 0 && at < size);
    return 0;
}
