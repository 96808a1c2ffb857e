/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM state of a snapshot: out to a file, in from a file, dropped. */
#include <string.h>

#include "format/l2.h"
#include "image/editor.h"
#include "image/snapshot-write.h"
#include "io/backends.h"
#include "move/output.h"
#include "ops/vmstate.h"
#include "state/vm-state.h"
#include "util/error.h"
#include "util/progress.h"

#define BUFFER_SIZE (UINT64_C(128) << 10)

static Qcow2State *open_snapshot(Qcow2Chain *chain, const char *name, GError **error)
{
    g_autoptr(Qcow2State) state = qcow2_state_open(chain, name, error);

    if (state && state->kind != QCOW2_STATE_SNAPSHOT) {
        qcow2_fail(error, QCOW2_ERROR_INVALID, "'%s': %s is no snapshot: only snapshots have a VM state",
                   qcow2_chain_layer_name(chain, 0), name);
        return NULL;
    }
    return g_steal_pointer(&state);
}

/* ---- Out --------------------------------------------------------------------------------------- */

bool qcow2_vmstate_write(Qcow2State *snapshot, Qcow2Io *io, Qcow2Progress *progress, GError **error)
{
    uint64_t size = snapshot->info.vm_state_size;
    g_autofree uint8_t *buffer = g_malloc(BUFFER_SIZE);

    qcow2_progress_expect(progress, size);
    for (uint64_t at = 0; at < size;) {
        size_t len = MIN(BUFFER_SIZE, size - at);
        if (!qcow2_vm_state_read(snapshot, at, buffer, len, error)
            || !qcow2_io_write_named(io, at, buffer, len, error)
            || !qcow2_progress_advance(progress, len, error)) {
            return false;
        }
        at += len;
    }
    return true;
}

bool qcow2_vmstate_export(Qcow2Chain *chain, const char *state, const char *file, bool overwrite,
                          Qcow2Progress *progress, GError **error)
{
    g_autoptr(Qcow2State) snapshot = open_snapshot(chain, state, error);

    if (!snapshot) {
        return false;
    }
    if (snapshot->info.vm_state_size == 0) {
        return qcow2_fail(error, QCOW2_ERROR_NOT_FOUND, "'%s': snapshot '%s' has no VM state",
                          qcow2_chain_layer_name(chain, 0), snapshot->snapshot_name);
    }
    g_autoptr(Qcow2Output) output = qcow2_output_new(file, overwrite, QCOW2_CACHE_WRITEBACK, error);
    bool ok = output && qcow2_output_trace(output, chain->options.trace, error)
           && qcow2_vmstate_write(snapshot, qcow2_output_io(output), progress, error)
           && qcow2_output_publish(output, error);
    if (ok) {
        qcow2_progress_finish(progress);
    }
    return ok;
}

/* ---- In and away ------------------------------------------------------------------------------- */

typedef struct Change {
    Qcow2Chain *chain;
    Qcow2Image *image;
    Qcow2Progress *progress;
    guint index;                  /* of the snapshot */
    Qcow2View view;
    Qcow2Batch *batch;
    Qcow2Editor *editor;
} Change;

/* Copies a file into new clusters behind the disk. */
static bool write_state(Change *change, Qcow2Io *source, uint64_t len_bytes, GError **error)
{
    const Qcow2Layout *layout = &change->image->header.layout;
    uint64_t first = qcow2_vm_state_offset(change->image, change->view.size) >> layout->cluster_bits;
    uint64_t step = MAX(layout->cluster_size, BUFFER_SIZE);
    g_autofree uint8_t *buffer = g_malloc(step);

    qcow2_progress_expect(change->progress, len_bytes);
    for (uint64_t at = 0; at < len_bytes; at += step) {
        uint64_t len = MIN(step, len_bytes - at), n = qcow2_div_round_up(len, layout->cluster_size);
        uint64_t host_offset = qcow2_batch_take(change->batch, n, error);
        uint64_t bitmap = layout->extended_l2 ? UINT32_MAX : 0;
        memset(buffer, 0, step);
        if (host_offset == 0 || !qcow2_io_read(source, at, buffer, len, error)
            || !qcow2_batch_write(change->batch, host_offset, buffer, n << layout->cluster_bits, error)
            || !qcow2_editor_set(change->editor, first + (at >> layout->cluster_bits), n,
                                 host_offset | L2E_COPIED, bitmap, layout->cluster_size, error)
            || !qcow2_progress_advance(change->progress, len, error)) {
            return false;
        }
    }
    return true;
}

static bool set_entry(Change *change, uint64_t l1_offset, uint32_t l1_entries, uint64_t vm_state_size,
                      GError **error)
{
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(change->image);
    GBytes *old = g_ptr_array_index(entries, change->index);
    GBytes *entry = qcow2_snapshot_entry_with_vm_state(old, l1_offset, l1_entries, vm_state_size, error);

    if (!entry) {
        return false;
    }
    g_bytes_unref(old);
    g_ptr_array_index(entries, change->index) = entry;
    return qcow2_batch_set_snapshots(change->batch, change->image, entries, error);
}

/* Releases the old VM state, writes the new one; the snapshot gets a new L1 table, so that readers notice. */
static bool replace_state(Change *change, Qcow2Io *source, uint64_t len_bytes, GError **error)
{
    const Qcow2Layout *layout = &change->image->header.layout;
    uint64_t start = qcow2_vm_state_offset(change->image, change->view.size);
    uint64_t end = MAX(start + len_bytes, change->view.l1_entries * qcow2_l2_coverage(layout));
    uint32_t l1_entries;
    uint64_t l1_offset;

    /* The editor is told of the space behind the disk as if it were disk: nothing of the disk changes. */
    Qcow2View whole = { change->view.l1_offset, change->view.l1_entries, end };
    change->editor = qcow2_editor_new(change->batch, change->image, &whole, end, error);
    return change->editor
           && qcow2_editor_drop(change->editor, start >> layout->cluster_bits, end >> layout->cluster_bits,
                                error)
           && (len_bytes == 0 || write_state(change, source, len_bytes, error))
           && qcow2_editor_finish(change->editor, &l1_offset, &l1_entries, error)
           && set_entry(change, l1_offset, l1_entries, len_bytes, error)
           /* A VM that was resumed from the snapshot still refers to what it read. */
           && qcow2_batch_fix_active_flags(change->batch, change->image, error)
           && qcow2_batch_commit(change->batch, error);
}

static bool begin_change(Change *change, const char *state, GError **error)
{
    if (!qcow2_find_snapshot(change->image, state, &change->index, error)) {
        return false;
    }
    const Qcow2SnapshotEntry *entry =
        &g_array_index(change->image->snapshots, Qcow2SnapshotEntry, change->index);
    if (!qcow2_image_snapshot_view(change->image, entry, &change->view, error)) {
        return false;
    }
    change->batch = qcow2_batch_begin(change->image, error);
    return change->batch != NULL;
}

static bool run_change(Qcow2Chain *chain, const char *state, Qcow2Io *source, uint64_t len_bytes,
                       Qcow2Progress *progress, GError **error)
{
    Change change = { .chain = chain, .image = qcow2_chain_image(chain, 0), .progress = progress };
    bool ok = begin_change(&change, state, error) && replace_state(&change, source, len_bytes, error);

    qcow2_editor_free(change.editor);
    qcow2_batch_free(change.batch);
    if (ok) {
        qcow2_progress_finish(progress);
    } else {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(chain, 0));
    }
    return ok;
}

bool qcow2_vmstate_import(Qcow2Chain *chain, const char *state, const char *file, Qcow2Progress *progress,
                          GError **error)
{
    Qcow2FileOptions options = { 0 };
    g_autoptr(Qcow2Io) source = qcow2_io_file_open(file, &options, error);
    uint64_t len;

    if (!source || !qcow2_io_get_size(source, &len, error)) {
        g_prefix_error(error, "'%s': ", file);
        return false;
    }
    if (len == 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "'%s': an empty file is no VM state", file);
    }
    return run_change(chain, state, source, len, progress, error);
}

bool qcow2_vmstate_drop(Qcow2Chain *chain, const char *state, GError **error)
{
    g_autoptr(Qcow2State) snapshot = open_snapshot(chain, state, error);

    if (!snapshot) {
        return false;
    }
    if (snapshot->info.vm_state_size == 0) {
        return qcow2_fail(error, QCOW2_ERROR_EXISTS, "'%s': snapshot '%s' is without a VM state already",
                          qcow2_chain_layer_name(chain, 0), snapshot->snapshot_name);
    }
    return run_change(chain, state, NULL, 0, NULL, error);
}
