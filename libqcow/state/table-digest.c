/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "state/table-digest.h"

#include "image/l2-slices.h"
#include "util/error.h"

static bool digest_window(Qcow2Image *image, const Qcow2State *state, Qcow2Range range, GChecksum *digest,
                          GError **error)
{
    g_auto(Qcow2L2Slices) slices = { 0 };

    if (!qcow2_l2_slices_load(image, &state->view, &range, 1, &slices, error)) {
        return false;
    }
    for (guint i = 0; i < slices.slices->len; i++) {
        const Qcow2L2Slice *slice = &g_array_index(slices.slices, Qcow2L2Slice, i);
        g_checksum_update(digest, (const guchar *)&slice->host_offset, sizeof(slice->host_offset));
        if (slice->raw) {
            g_checksum_update(digest, slice->raw,
                              (gssize) (slice->n_entries * image->header.layout.l2_entry_size));
        }
    }
    return true;
}

char *qcow2_digest_tables(const Qcow2State *state, Qcow2Io *file, GError **error)
{
    g_autoptr(GChecksum) digest = g_checksum_new(G_CHECKSUM_SHA256);
    const Qcow2Image *image = qcow2_chain_image(state->chain, 0);
    uint64_t window = qcow2_image_window(image);
    Qcow2Image afresh = *image;

    afresh.file = file;
    for (uint64_t at = 0; at < state->size; at += window) {
        Qcow2Range range = { at, MIN(at + window, state->size) };
        if (!digest_window(&afresh, state, range, digest, error)) {
            g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(state->chain, 0));
            return NULL;
        }
    }
    return g_strdup(g_checksum_get_string(digest));
}
