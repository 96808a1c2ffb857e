/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "state/vm-state.h"

#include "util/error.h"

uint64_t qcow2_vm_state_offset(const Qcow2Image *image, uint64_t disk_size)
{
    return qcow2_l1_entries(&image->header.layout, disk_size) * qcow2_l2_coverage(&image->header.layout);
}

bool qcow2_vm_state_read(Qcow2State *snapshot, uint64_t offset, void *buffer, size_t len_bytes,
                         GError **error)
{
    const Qcow2Image *image = qcow2_chain_image(snapshot->chain, 0);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    g_autoptr(Qcow2Reader) reader = qcow2_reader_new();
    uint64_t start = qcow2_vm_state_offset(image, snapshot->size) + offset;
    Qcow2Range range = { start, start + len_bytes };
    Qcow2State behind = *snapshot;
    bool ok = true;

    behind.size = behind.view.size = INT64_MAX;
    /* No layer below has a VM state: what is not allocated is zero. */
    if (!qcow2_state_resolve(&behind, &range, 1, 1, extents, error)) {
        return false;
    }
    for (guint i = 0; ok && i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        ok = qcow2_state_read_extent(&behind, reader, extent, extent->guest_offset,
                                     (uint8_t *) buffer + (extent->guest_offset - start), extent->len_bytes,
                                     error);
    }
    return ok;
}
