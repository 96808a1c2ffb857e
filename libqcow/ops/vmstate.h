/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For operations that write VM states along with other files. Internal to ops/. */
#ifndef QCOW2_OPS_VMSTATE_H
#define QCOW2_OPS_VMSTATE_H

#include "state/state.h"

/** qcow2_vmstate_write: the VM state of a snapshot, from offset 0 of @io on. */
bool qcow2_vmstate_write(Qcow2State *snapshot, Qcow2Io *io, Qcow2Progress *progress, GError **error);

#endif
