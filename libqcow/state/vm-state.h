/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM state of a snapshot, which lies behind the end of its disk, where its next L2 table begins. */
#ifndef QCOW2_STATE_VM_STATE_H
#define QCOW2_STATE_VM_STATE_H

#include "state/state.h"

/** qcow2_vm_state_offset: the guest offset at which a snapshot's VM state begins. */
uint64_t qcow2_vm_state_offset(const Qcow2Image *image, uint64_t disk_size);

/**
 * qcow2_vm_state_read:
 * @snapshot: a state of kind SNAPSHOT
 * @offset, @len_bytes: inside the VM state
 */
bool qcow2_vm_state_read(Qcow2State *snapshot, uint64_t offset, void *buffer, size_t len_bytes,
                         GError **error);

#endif
