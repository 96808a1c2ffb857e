/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot table that no reader takes: more extra data in an entry, a longer table or more snapshots than
 * QEMU allows. What is too much goes, as with qemu-img check -r all.
 */
#include <limits.h>

#include "format/header-fields.h"
#include "format/snapshot-fields.h"
#include "image/repair-job.h"
#include "util/error.h"

typedef struct TableReader {
    Qcow2RepairJob *job;
    uint64_t file_size;
    uint64_t at;              /* bytes of the table that were looked at */
    uint64_t kept;            /* bytes of it as it will be */
} TableReader;

static bool append(TableReader *reader, GByteArray *entry, uint64_t at, size_t len_bytes, GError **error)
{
    uint64_t offset = reader->job->header.snapshots_offset + at;
    guint had = entry->len;

    if (!qcow2_range_fits(offset, len_bytes) || offset + len_bytes > reader->file_size) {
        return qcow2_corrupt(error, "the snapshot table at 0x%" PRIx64 " reaches past the end of the file at"
                             " 0x%" PRIx64, reader->job->header.snapshots_offset, reader->file_size);
    }
    g_byte_array_set_size(entry, had + (guint)len_bytes);
    return qcow2_io_read(reader->job->file, offset, entry->data + had, len_bytes, error);
}

/* The next entry; of too much extra data the first part is kept. */
static GByteArray *read_entry(TableReader *reader, guint index, GError **error)
{
    g_autoptr(GByteArray) entry = g_byte_array_new();
    uint64_t at = qcow2_align_up(reader->at, 8);

    if (!append(reader, entry, at, QCOW2_SNAPSHOT_FIXED, error)) {
        return NULL;
    }
    uint32_t extra = qcow2_load_be32(entry->data + ENTRY_EXTRA_LEN), kept = extra;
    size_t names = (size_t)qcow2_load_be16(entry->data + ENTRY_ID_LEN)
                 + qcow2_load_be16(entry->data + ENTRY_NAME_LEN);
    if (extra > QCOW2_MAX_SNAPSHOT_EXTRA) {
        kept = QCOW2_MAX_SNAPSHOT_EXTRA;
        qcow2_store_be32(entry->data + ENTRY_EXTRA_LEN, kept);
        qcow2_repair_say(reader->job, QCOW2_FINDING_CORRUPTION, 1,
                         "Discarding too much extra metadata in snapshot table entry %u (%" PRIu32 " > %u)",
                         index, extra, kept);
        reader->job->snapshots_changed = true;
    }
    at += QCOW2_SNAPSHOT_FIXED;
    if (!append(reader, entry, at, kept, error) || !append(reader, entry, at + extra, names, error)) {
        return NULL;
    }
    reader->at = at + extra + names;
    reader->kept = qcow2_align_up(reader->kept, 8) + entry->len;
    return g_steal_pointer(&entry);
}

static bool is_too_long(const TableReader *reader)
{
    return reader->kept > QCOW2_MAX_SNAPSHOT_TABLE_BYTES || reader->at > INT_MAX;
}

static void clear_entry(gpointer entry)
{
    qcow2_snapshot_entry_clear(entry);
}

static GArray *read_table(TableReader *reader, GError **error)
{
    Qcow2RepairJob *job = reader->job;
    g_autoptr(GArray) entries = g_array_new(FALSE, TRUE, sizeof(Qcow2SnapshotEntry));
    guint n = job->header.n_snapshots;

    g_array_set_clear_func(entries, clear_entry);
    for (guint i = 0; i < n; i++) {
        g_autoptr(GByteArray) raw = read_entry(reader, i, error);
        Qcow2SnapshotEntry entry = { 0 };
        if (!raw) {
            return NULL;
        }
        if (is_too_long(reader)) {
            qcow2_repair_say(job, QCOW2_FINDING_CORRUPTION, n - i,
                             "Discarding %u overhanging snapshots (snapshot table is too big)", n - i);
            job->snapshots_changed = true;
            break;
        }
        if (!qcow2_snapshot_entry_decode(&job->header, raw->data, raw->len, &entry, error)) {
            return NULL;
        }
        g_array_append_val(entries, entry);
    }
    return g_steal_pointer(&entries);
}

/* The header was decoded without the snapshots that are too many. */
static bool say_what_overhangs(Qcow2RepairJob *job, GError **error)
{
    uint8_t bytes[4];

    if (!qcow2_io_read(job->file, FIELD_N_SNAPSHOTS, bytes, sizeof(bytes), error)) {
        return false;
    }
    uint32_t n = qcow2_load_be32(bytes);
    if (n > job->header.n_snapshots && job->what != QCOW2_REPAIR_ALL) {
        return qcow2_corrupt(error, "header: %" PRIu32 " snapshots, the limit is %u; -r all drops the others",
                             n, QCOW2_MAX_SNAPSHOTS);
    }
    if (n > job->header.n_snapshots) {
        qcow2_repair_say(job, QCOW2_FINDING_CORRUPTION, n - job->header.n_snapshots,
                         "Discarding %u overhanging snapshots", n - job->header.n_snapshots);
        job->snapshots_changed = true;
    }
    return true;
}

bool qcow2_repair_read_snapshots(Qcow2RepairJob *job, GError **error)
{
    TableReader reader = { .job = job };
    g_autoptr(GError) cause = NULL;

    if (!say_what_overhangs(job, error)) {
        return false;
    }
    job->snapshots = qcow2_image_read_snapshot_table(job->file, &job->header, NULL, &cause);
    if (job->snapshots) {
        return true;
    }
    if (job->what != QCOW2_REPAIR_ALL) {
        g_propagate_error(error, g_steal_pointer(&cause));
        return false;
    }
    if (!qcow2_io_get_size(job->file, &reader.file_size, error)) {
        return false;
    }
    job->snapshots = read_table(&reader, error);
    return job->snapshots != NULL;
}
