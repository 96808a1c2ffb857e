/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading the snapshot table. Spec: "Snapshots". */
#include "image/image.h"
#include "util/bits.h"
#include "util/error.h"

#define MAX_TABLE_BYTES (UINT64_C(64) << 20)   /* QEMU's limit */
#define CHUNK           (UINT64_C(64) << 10)   /* most tables fit one read; a name can take all of it */

static void clear_entry(gpointer entry)
{
    qcow2_snapshot_entry_clear(entry);
}

/* A table is read in chunks, since only its entries tell how long it is. */
typedef struct TableReader {
    Qcow2Io *file;
    uint64_t table_offset;
    uint64_t file_size;
    GByteArray *bytes;        /* the table so far, from its start */
} TableReader;

static bool want(TableReader *reader, uint64_t len_bytes, GError **error)
{
    if (len_bytes <= reader->bytes->len) {
        return true;
    }
    if (len_bytes > MAX_TABLE_BYTES) {
        return qcow2_corrupt(error, "the snapshot table is longer than %" PRIu64 " bytes", MAX_TABLE_BYTES);
    }
    if (!qcow2_range_fits(reader->table_offset, len_bytes)
        || reader->table_offset + len_bytes > reader->file_size) {
        return qcow2_corrupt(
            error, "the snapshot table at 0x%" PRIx64 " reaches past the end of the file at 0x%" PRIx64,
            reader->table_offset, reader->file_size);
    }
    uint64_t had = reader->bytes->len;
    uint64_t until = MIN(MAX(len_bytes, had + CHUNK), reader->file_size - reader->table_offset);
    g_byte_array_set_size(reader->bytes, (guint)until);
    return qcow2_io_read(reader->file, reader->table_offset + had, reader->bytes->data + had, until - had,
                         error);
}

static bool read_entry(TableReader *reader, const Qcow2Header *header, uint64_t at, Qcow2SnapshotEntry *ret,
                       uint64_t *ret_len, GError **error)
{
    size_t len;

    if (!want(reader, at + QCOW2_SNAPSHOT_FIXED, error)
        || !qcow2_snapshot_entry_len(reader->bytes->data + at, &len, error)) {
        return false;
    }
    /* The padding of the last entry may be missing at the end of the file. */
    uint64_t end = MIN(at + len, reader->file_size - reader->table_offset);
    if (!want(reader, end, error)
        || !qcow2_snapshot_entry_decode(header, reader->bytes->data + at, end - at, ret, error)) {
        return false;
    }
    *ret_len = len;
    return true;
}

GArray *qcow2_image_read_snapshot_table(Qcow2Io *file, const Qcow2Header *header, GByteArray *raw,
                                        GError **error)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autoptr(GArray) entries = g_array_new(FALSE, TRUE, sizeof(Qcow2SnapshotEntry));
    TableReader reader = { .file = file, .table_offset = header->snapshots_offset, .bytes = bytes };
    uint64_t at = 0;

    g_array_set_clear_func(entries, clear_entry);
    if (!qcow2_io_get_size(file, &reader.file_size, error)) {
        return NULL;
    }
    for (uint32_t i = 0; i < header->n_snapshots; i++) {
        Qcow2SnapshotEntry entry = { 0 };
        uint64_t len;
        if (!read_entry(&reader, header, at, &entry, &len, error)) {
            g_prefix_error(error, "snapshot table at 0x%" PRIx64 ", entry %" PRIu32 " of %" PRIu32 ": ",
                           header->snapshots_offset, i + 1, header->n_snapshots);
            return NULL;
        }
        g_array_append_val(entries, entry);
        at += len;
    }
    if (raw) {
        g_byte_array_append(raw, bytes->data, (guint)MIN(at, bytes->len));
    }
    return g_steal_pointer(&entries);
}

bool qcow2_image_load_snapshots(Qcow2Image *image, GError **error)
{
    if (!image->snapshots) {
        image->snapshots = image->kind == QCOW2_IMAGE_RAW
                         ? g_array_new(FALSE, TRUE, sizeof(Qcow2SnapshotEntry))
                         : qcow2_image_read_snapshot_table(image->file, &image->header, NULL, error);
    }
    return image->snapshots != NULL;
}
