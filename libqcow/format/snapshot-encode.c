/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing snapshot table entries. Spec: "Snapshots". */
#include "format/snapshot-table.h"
#include "format/snapshot-fields.h"
#include "util/error.h"

/* What QEMU writes: 64-bit size of the VM state, disk size, icount. */
#define EXTRA_LEN 24u

GBytes *qcow2_snapshot_entry_encode(const Qcow2Snapshot *info, uint64_t l1_offset, uint32_t l1_entries)
{
    size_t id_len = MIN(strlen(info->id), G_MAXUINT16), name_len = MIN(strlen(info->name), G_MAXUINT16);
    size_t fixed = QCOW2_SNAPSHOT_FIXED + EXTRA_LEN;
    uint8_t *entry = g_malloc0(fixed + id_len + name_len);

    qcow2_store_be64(entry + ENTRY_L1_OFFSET, l1_offset);
    qcow2_store_be32(entry + ENTRY_L1_ENTRIES, l1_entries);
    qcow2_store_be16(entry + ENTRY_ID_LEN, (uint16_t)id_len);
    qcow2_store_be16(entry + ENTRY_NAME_LEN, (uint16_t)name_len);
    qcow2_store_be32(entry + ENTRY_DATE_SEC, info->date_sec);
    qcow2_store_be32(entry + ENTRY_DATE_NSEC, info->date_nsec);
    qcow2_store_be64(entry + ENTRY_VM_CLOCK, info->vm_clock_nsec);
    qcow2_store_be32(entry + ENTRY_VM_STATE_SIZE,
                     info->vm_state_size <= G_MAXUINT32 ? (uint32_t) info->vm_state_size : 0);
    qcow2_store_be32(entry + ENTRY_EXTRA_LEN, EXTRA_LEN);
    qcow2_store_be64(entry + ENTRY_VM_STATE_SIZE_LARGE, info->vm_state_size);
    qcow2_store_be64(entry + ENTRY_DISK_SIZE, info->disk_size);
    qcow2_store_be64(entry + ENTRY_ICOUNT, info->icount);
    memcpy(entry + fixed, info->id, id_len);
    memcpy(entry + fixed + id_len, info->name, name_len);
    return g_bytes_new_take(entry, fixed + id_len + name_len);
}

GBytes *qcow2_snapshot_entry_renamed(GBytes *raw, const char *name)
{
    const uint8_t *old = g_bytes_get_data(raw, NULL);
    size_t name_len = MIN(strlen(name), G_MAXUINT16);
    size_t before =
        QCOW2_SNAPSHOT_FIXED + qcow2_load_be32(old + ENTRY_EXTRA_LEN) + qcow2_load_be16(old + ENTRY_ID_LEN);
    uint8_t *entry = g_malloc(before + name_len);

    memcpy(entry, old, before);
    qcow2_store_be16(entry + ENTRY_NAME_LEN, (uint16_t)name_len);
    memcpy(entry + before, name, name_len);
    return g_bytes_new_take(entry, before + name_len);
}

GBytes *qcow2_snapshot_entry_with_vm_state(GBytes *raw, uint64_t l1_offset, uint32_t l1_entries,
                                           uint64_t vm_state_size, GError **error)
{
    gsize len;
    const uint8_t *old = g_bytes_get_data(raw, &len);
    bool has_large = qcow2_load_be32(old + ENTRY_EXTRA_LEN) >= 8;

    if (!has_large && vm_state_size > G_MAXUINT32) {
        qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                   "the snapshot's entry has 32 bits for the size of its VM state, and %" PRIu64
                   " bytes do not fit",
                   vm_state_size);
        return NULL;
    }
    uint8_t *entry = g_memdup2(old, len);
    qcow2_store_be64(entry + ENTRY_L1_OFFSET, l1_offset);
    qcow2_store_be32(entry + ENTRY_L1_ENTRIES, l1_entries);
    qcow2_store_be32(entry + ENTRY_VM_STATE_SIZE, vm_state_size <= G_MAXUINT32 ? (uint32_t)vm_state_size : 0);
    if (has_large) {
        qcow2_store_be64(entry + ENTRY_VM_STATE_SIZE_LARGE, vm_state_size);
    }
    return g_bytes_new_take(entry, len);
}

GBytes *qcow2_snapshot_entry_completed(GBytes *raw, uint64_t disk_size)
{
    gsize len;
    const uint8_t *old = g_bytes_get_data(raw, &len);
    size_t extra_len = qcow2_load_be32(old + ENTRY_EXTRA_LEN);
    size_t wanted = ENTRY_ICOUNT - ENTRY_VM_STATE_SIZE_LARGE;
    size_t rest = len - QCOW2_SNAPSHOT_FIXED - extra_len;

    if (extra_len >= wanted) {
        return g_bytes_ref(raw);
    }
    uint8_t *entry = g_malloc0(QCOW2_SNAPSHOT_FIXED + wanted + rest);
    memcpy(entry, old, QCOW2_SNAPSHOT_FIXED + extra_len);
    memcpy(entry + QCOW2_SNAPSHOT_FIXED + wanted, old + QCOW2_SNAPSHOT_FIXED + extra_len, rest);
    qcow2_store_be32(entry + ENTRY_EXTRA_LEN, (uint32_t)wanted);
    if (extra_len < ENTRY_DISK_SIZE - ENTRY_VM_STATE_SIZE_LARGE) {
        qcow2_store_be64(entry + ENTRY_VM_STATE_SIZE_LARGE, qcow2_load_be32(old + ENTRY_VM_STATE_SIZE));
    }
    qcow2_store_be64(entry + ENTRY_DISK_SIZE, disk_size);
    return g_bytes_new_take(entry, QCOW2_SNAPSHOT_FIXED + wanted + rest);
}
