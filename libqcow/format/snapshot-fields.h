/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the fields of a snapshot table entry stand. Spec: "Snapshots". */
#ifndef QCOW2_FORMAT_SNAPSHOT_FIELDS_H
#define QCOW2_FORMAT_SNAPSHOT_FIELDS_H

/* The fixed part, then extra data, id, name and padding to 8 bytes. */
enum {
    ENTRY_L1_OFFSET = 0,
    ENTRY_L1_ENTRIES = 8,
    ENTRY_ID_LEN = 12,
    ENTRY_NAME_LEN = 14,
    ENTRY_DATE_SEC = 16,
    ENTRY_DATE_NSEC = 20,
    ENTRY_VM_CLOCK = 24,
    ENTRY_VM_STATE_SIZE = 32,
    ENTRY_EXTRA_LEN = 36,
    /* extra data, each field there when the extra data reaches its end */
    ENTRY_VM_STATE_SIZE_LARGE = 40,
    ENTRY_DISK_SIZE = 48,
    ENTRY_ICOUNT = 56,
};

#endif
