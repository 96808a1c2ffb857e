/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest bytes of a state. */
#include "state/state.h"
#include "util/error.h"

bool qcow2_state_read(Qcow2State *state, uint64_t offset, void *buffer, size_t length, GError **error)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    g_autoptr(Qcow2Reader) reader = qcow2_reader_new();
    uint64_t window = qcow2_state_window(state);
    uint8_t *bytes = buffer;

    if (offset > state->size || length > state->size - offset) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "read of %zu bytes at 0x%" PRIx64 " is past the end of the state at"
                          " 0x%" PRIx64,
                          length, offset, state->size);
    }
    for (uint64_t at = offset, end = offset + length; at < end;) {
        Qcow2Range range = { at, MIN(end, at + window) };
        if (!qcow2_state_resolve(state, &range, 1, QCOW2_NO_STOP, extents, error)) {
            return false;
        }
        for (guint i = 0; i < extents->len; i++) {
            const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
            if (!qcow2_state_read_extent(state, reader, extent, extent->guest_offset,
                                         bytes + (extent->guest_offset - offset), extent->len_bytes, error)) {
                return false;
            }
        }
        at = range.end;
    }
    return true;
}

bool qcow2_state_read_extent(Qcow2State *state, Qcow2Reader *reader, const Qcow2Extent *extent,
                             uint64_t guest_offset, void *buffer, size_t len_bytes, GError **error)
{
    if (extent->kind == QCOW2_EXTENT_ZERO || extent->kind == QCOW2_EXTENT_UNALLOCATED) {
        memset(buffer, 0, len_bytes);
        return true;
    }
    if (!qcow2_reader_read(reader, qcow2_chain_image(state->chain, extent->layer), extent, guest_offset,
                           buffer, len_bytes, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(state->chain, extent->layer));
        return false;
    }
    return true;
}
