/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ops/below.h"

#include <string.h>

bool qcow2_below_open(Qcow2Chain *chain, Qcow2Below *ret, GError **error)
{
    *ret = (Qcow2Below) { .chain = chain, .state = qcow2_state_below(chain, 1) };
    return qcow2_chain_open_below(chain, 0, &ret->exists, error);
}

bool qcow2_below_shown(const Qcow2Range *range, GArray *ret_ranges, void *data, GError **error)
{
    Qcow2Below *below = data;

    return qcow2_state_find_data(&below->state, range, ret_ranges, error);
}

bool qcow2_below_read(Qcow2Below *below, Qcow2Reader *reader, const Qcow2Range *range, uint8_t *buffer,
                      GError **error)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));

    if (!below->exists) {
        memset(buffer, 0, range->end - range->start);
        return true;
    }
    if (!qcow2_state_resolve(&below->state, range, 1, QCOW2_NO_STOP, extents, error)) {
        return false;
    }
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        uint8_t *place = buffer + (extent->guest_offset - range->start);
        if (!qcow2_state_read_extent(&below->state, reader, extent, extent->guest_offset, place,
                                     extent->len_bytes, error)) {
            return false;
        }
    }
    return true;
}
