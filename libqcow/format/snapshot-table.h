/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The snapshot table. Spec: "Snapshots". */
#ifndef QCOW2_FORMAT_SNAPSHOT_TABLE_H
#define QCOW2_FORMAT_SNAPSHOT_TABLE_H

#include "format/header.h"

#define QCOW2_MAX_SNAPSHOT_EXTRA 1024u                       /* bytes of extra data in an entry */
#define QCOW2_MAX_SNAPSHOT_TABLE_BYTES (UINT64_C(64) << 20)

/** A snapshot table entry, decoded; the whole raw entry stays with it, unknown extra data included. */
typedef struct Qcow2SnapshotEntry {
    Qcow2Snapshot info;       /* its strings point into this entry */
    char *id, *name;          /* raw bytes, NUL-terminated */
    size_t id_len, name_len;
    uint64_t l1_offset;
    uint32_t l1_entries;
    bool has_disk_size;       /* false: too little extra data, which version 3 forbids and QEMU reads;
                               * info.disk_size is the image's size then */
    GBytes *raw;              /* the entry as it stands in the file, without padding */
} Qcow2SnapshotEntry;

/**
 * qcow2_snapshot_entry_len:
 * @bytes: at least QCOW2_SNAPSHOT_FIXED of the entry
 *
 * The length of an entry with its padding to 8 bytes, so that a reader knows how much to read.
 */
#define QCOW2_SNAPSHOT_FIXED 40u
bool qcow2_snapshot_entry_len(const uint8_t *bytes, size_t *ret_len, GError **error);

/**
 * qcow2_snapshot_entry_decode:
 * @bytes: the whole entry, its padding may be missing
 *
 * What only the snapshot's user relies on is not checked, so that a table with one bad entry can be listed.
 *
 * Errors: QCOW2_ERROR_CORRUPT.
 */
bool qcow2_snapshot_entry_decode(const Qcow2Header *header, const uint8_t *bytes, size_t len_bytes,
                                 Qcow2SnapshotEntry *ret, GError **error);

/** qcow2_snapshot_entry_encode: a new raw entry, with the extra data that QEMU writes; without padding. */
GBytes *qcow2_snapshot_entry_encode(const Qcow2Snapshot *info, uint64_t l1_offset, uint32_t l1_entries);

/** qcow2_snapshot_entry_renamed: a raw entry with another name; everything else is kept. */
GBytes *qcow2_snapshot_entry_renamed(GBytes *raw, const char *name);

/** qcow2_snapshot_entry_with_vm_state: a raw entry with another L1 table and size of its VM state. */
GBytes *qcow2_snapshot_entry_with_vm_state(GBytes *raw, uint64_t l1_offset, uint32_t l1_entries,
                                           uint64_t vm_state_size, GError **error);

/** qcow2_snapshot_entry_completed: a raw entry with all extra data that version 3 wants. */
GBytes *qcow2_snapshot_entry_completed(GBytes *raw, uint64_t disk_size);
void qcow2_snapshot_entry_clear(Qcow2SnapshotEntry *entry);

/** qcow2_snapshot_entry_check: whether the snapshot can be read: L1 table and size are in QEMU's limits. */
bool qcow2_snapshot_entry_check(const Qcow2Header *header, const Qcow2SnapshotEntry *entry, GError **error);

#endif
