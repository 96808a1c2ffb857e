/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exports a delta between two states of an image, in memory, opens it again, and compares: where the delta
 * has a cluster it must hold the bytes of TO, and where it has none both states must agree.
 */
#include <string.h>

#include "fuzz-image.h"
#include "fuzz.h"
#include "ops/export.h"

#define SIZE_LIMIT (UINT64_C(2) << 20)     /* larger states are left to fuzz-open */
#define ROOM       (UINT64_C(64) << 20)

static Qcow2Io *export(Qcow2Export *job)
{
    g_auto(Qcow2Header) header = { 0 };
    g_autoptr(Qcow2Io) io = qcow2_io_memory_new(NULL, 0, "delta", true);

    if (!qcow2_export_header(job, false, &header, NULL)) {
        return NULL;
    }
    g_autoptr(Qcow2Choice) choice = qcow2_export_choice(job, qcow2_overlay_unit(&header), true, NULL);
    g_autoptr(Qcow2Overlay) overlay = choice ? qcow2_export_count(job, &header, choice, NULL) : NULL;
    if (!overlay || qcow2_overlay_end(overlay) > ROOM
        || !qcow2_export_write(job, overlay, choice, io, NULL)) {
        return NULL;
    }
    return g_steal_pointer(&io);
}

static uint8_t *read_whole(Qcow2State *state, uint64_t size)
{
    g_autofree uint8_t *bytes = g_malloc0(size + 1);

    return qcow2_state_read(state, 0, bytes, MIN(size, qcow2_state_get_size(state)), NULL)
               ? g_steal_pointer(&bytes)
               : NULL;
}

/* Puts what the delta holds over @bytes, which are those of FROM. */
static void apply(Qcow2State *delta, uint8_t *bytes, uint64_t size)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    Qcow2Range whole = { 0, size };

    if (size == 0) {
        return;
    }
    if (!qcow2_state_resolve(delta, &whole, 1, QCOW2_NO_STOP, extents, NULL)) {
        fuzz_fail("the delta cannot be mapped");
    }
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (extent->kind != QCOW2_EXTENT_UNALLOCATED
            && !qcow2_state_read(delta, extent->guest_offset, bytes + extent->guest_offset, extent->len_bytes,
                                 NULL)) {
            fuzz_fail("the delta cannot be read at 0x%" G_GINT64_MODIFIER "x", extent->guest_offset);
        }
    }
}

static void try_pair(Qcow2Chain *chain, const char *from_name, const char *to_name, bool compress,
                     bool compare)
{
    g_autoptr(Qcow2State) from = qcow2_state_open(chain, from_name, NULL);
    g_autoptr(Qcow2State) to = qcow2_state_open(chain, to_name, NULL);
    Qcow2ExportOptions options = { .compress = compress, .compare_data = compare };

    if (!from || !to || from->size > SIZE_LIMIT || to->size > SIZE_LIMIT) {
        return;
    }
    qcow2_states_share_size(from, to);
    Qcow2Export job = { .from = from, .to = to, .options = &options, .output = "delta" };
    g_autoptr(Qcow2Io) io = export(&job);
    g_autofree uint8_t *bytes = io ? read_whole(from, to->size) : NULL;
    g_autofree uint8_t *wanted = io ? read_whole(to, to->size) : NULL;
    if (!bytes || !wanted) {
        return;     /* damaged data: the export may have had no need to read it */
    }

    Qcow2OpenOptions open_options = { .format = "qcow2", .untrusted = true, .n_threads = 1 };
    g_autoptr(Qcow2Chain) delta_chain = qcow2_chain_open_io(io, &open_options, NULL);
    g_autoptr(Qcow2State) delta = delta_chain ? qcow2_state_open(delta_chain, "@active", NULL) : NULL;
    if (!delta || delta->size != to->size) {
        fuzz_fail("the delta cannot be opened");
    }
    apply(delta, bytes, to->size);
    if (memcmp(bytes, wanted, to->size) != 0) {
        fuzz_fail("the delta over %s is not %s", from_name, to_name);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(Qcow2Chain) chain = fuzz_open(data, size);
    Qcow2ImageInfo info;

    if (!chain || !qcow2_chain_get_info(chain, 0, &info, NULL)) {
        return 0;
    }
    try_pair(chain, "@empty", "@active", false, false);
    for (unsigned i = 0; i < MIN(info.n_snapshots, 2); i++) {
        g_autofree char *name = g_strconcat("id:", info.snapshots[i].id, NULL);
        try_pair(chain, name, "@active", i == 1, i == 0);
        try_pair(chain, "@active", name, i == 0, false);
    }
    return 0;
}
