/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 *   step                                                   a crash afterwards leaves
 *   1  what would read otherwise goes into new clusters,   the image as it was, its file perhaps longer
 *      of the active layer and of each snapshot, with new
 *      tables and counts; flush
 *   2  one header write: tables, snapshots, backing name   the image over the new layers, reading the same
 */
#include "ops/keep.h"

#include <string.h>

#include "format/refcount.h"
#include "image/snapshot-write.h"
#include "move/in-place.h"
#include "ops/merge-bitmaps.h"
#include "util/error.h"
#include "util/progress.h"

/* One run of an operation over the states of an image. */
typedef struct Keeping {
    const Qcow2Keep *keep;
    Qcow2Image *image;
    Qcow2Chain *after;            /* the image over the new layers */
    Qcow2Chain *after_past;       /* the same where these read otherwise */
    Qcow2Batch *batch;
    Qcow2Placed *placed;
    Qcow2Progress *progress;
    bool snapshots_changed;
    Qcow2MoveResult result;
    bool has_expected_all;        /* progress knows the bytes of all states */
} Keeping;

/* A state before and after, and where these two differ. */
typedef struct Kept {
    Qcow2State *from, *past, *to;
    Qcow2Choice *choice;
} Kept;

static void clear_kept(Kept *kept)
{
    g_clear_pointer(&kept->choice, qcow2_choice_free);
    g_clear_pointer(&kept->from, qcow2_state_free);
    g_clear_pointer(&kept->past, qcow2_state_free);
    g_clear_pointer(&kept->to, qcow2_state_free);
}

static bool open_kept(const Keeping *self, guint snapshot, bool compare_data, Kept *kept, GError **error)
{
    Qcow2ChoiceOptions options = {
        .unit = qcow2_in_place_unit(self->image),
        .compare_data = compare_data,
        .progress = self->progress,
        .n_threads = self->image->n_threads,
    };

    *kept = (Kept) { 0 };
    kept->from = qcow2_state_open_at(self->after, snapshot, error);
    kept->to = kept->from ? qcow2_state_open_at(self->keep->chain, snapshot, error) : NULL;
    if (kept->to && self->after_past) {
        options.past = kept->past = qcow2_state_open_at(self->after_past, snapshot, error);
        options.past_from = self->keep->past_from;
        if (!kept->past) {
            clear_kept(kept);
            return false;
        }
    }
    kept->choice = kept->to ? qcow2_choice_new(kept->from, kept->to, &options, error) : NULL;
    if (!kept->choice) {
        clear_kept(kept);
        return false;
    }
    return true;
}

static bool start(Keeping *self, GError **error)
{
    if (!qcow2_chain_open_all(self->keep->chain, error) || !qcow2_image_load_snapshots(self->image, error)) {
        return false;
    }
    self->after = qcow2_chain_stack(self->keep->chain, 0, self->keep->below, error);
    if (self->after && self->keep->below_past) {
        self->after_past = qcow2_chain_stack(self->keep->chain, 0, self->keep->below_past, error);
        return self->after_past != NULL;
    }
    return self->after != NULL;
}

static void clear(Keeping *self)
{
    g_clear_pointer(&self->after, qcow2_chain_free);
    g_clear_pointer(&self->after_past, qcow2_chain_free);
    g_clear_pointer(&self->batch, qcow2_batch_free);
    g_clear_pointer(&self->placed, qcow2_placed_free);
}

/* ---- Counting ---------------------------------------------------------------------------------- */

/* Opening a state of an image without locks may read the table again: entries are not kept over that. */
static const Qcow2SnapshotEntry *entry_at(const Keeping *self, guint index)
{
    return index < self->image->snapshots->len
         ? &g_array_index(self->image->snapshots, Qcow2SnapshotEntry, index) : NULL;
}

static guint state_at(const Keeping *self, guint index)
{
    return index < self->image->snapshots->len ? index : QCOW2_ACTIVE_LAYER;
}

static bool count_states(const Keeping *self, bool compare_data, uint64_t *ret_bytes, char **ret_changed,
                         GError **error)
{
    guint n_states = self->image->snapshots->len + !self->keep->snapshots_only;

    *ret_bytes = 0;
    for (guint i = 0; i < n_states; i++) {
        Kept kept;
        uint64_t bytes;
        if (!open_kept(self, state_at(self, i), compare_data, &kept, error)) {
            return false;
        }
        bool ok = qcow2_choice_count(kept.choice, &bytes, error);
        clear_kept(&kept);
        if (!ok) {
            return false;
        }
        *ret_bytes += bytes;
        if (bytes > 0 && ret_changed && !*ret_changed) {
            const Qcow2SnapshotEntry *entry = entry_at(self, i);
            *ret_changed = g_strdup(entry ? entry->name : "@active");
        }
    }
    return true;
}

bool qcow2_keep_count(const Qcow2Keep *keep, uint64_t *ret_bytes, char **ret_changed, GError **error)
{
    Keeping self = { .keep = keep, .image = qcow2_chain_image(keep->chain, 0) };
    bool ok = start(&self, error) && count_states(&self, keep->compare_data, ret_bytes, ret_changed, error);

    clear(&self);
    return ok;
}

/* ---- Moving ------------------------------------------------------------------------------------ */

void qcow2_batch_set_backing(Qcow2Batch *batch, const char *name, const char *format)
{
    Qcow2Header *header = qcow2_batch_header(batch);

    g_free(header->backing_name);
    header->backing_name = g_strdup(name);
    qcow2_batch_set_ext(batch, QCOW2_EXT_BACKING_FORMAT, name ? format : NULL,
                        name && format ? strlen(format) : 0);
    qcow2_batch_relay_header(batch);
}

void qcow2_move_result_add(Qcow2MoveResult *result, const Qcow2InPlaceStats *stats)
{
    result->bytes += stats->bytes;
    result->clusters += stats->data_clusters + stats->zero_clusters + stats->compressed_clusters;
    result->data_clusters += stats->data_clusters;
    result->zero_clusters += stats->zero_clusters;
    result->compressed_clusters += stats->compressed_clusters;
    result->bytes_overwritten += stats->bytes_overwritten;
    result->bytes_copied += stats->moved.bytes_copied;
    result->bytes_cloned += stats->moved.bytes_cloned;
}

/*
 * With several states all are counted before, so that progress does not go backwards. Data is not compared
 * for it: where some of it is the same, progress ends early.
 */
static bool expect_all(Keeping *self, GError **error)
{
    uint64_t bytes;

    if (!self->progress || self->image->snapshots->len == 0) {
        return true;
    }
    if (!count_states(self, false, &bytes, NULL, error)) {
        return false;
    }
    qcow2_progress_expect(self->progress, bytes);
    self->has_expected_all = true;
    return true;
}

/* @ret_bytes: 0 when the state keeps its tables. */
static bool keep_state(Keeping *self, guint snapshot, Qcow2InPlaceResult *ret, uint64_t *ret_bytes,
                       GError **error)
{
    Qcow2InPlaceOptions options = {
        .n_threads = self->image->n_threads,
        .no_reflink = self->keep->no_reflink,
        .compress = self->keep->compress,
        .placed = self->placed,
    };
    Kept kept;

    if (!open_kept(self, snapshot, self->keep->compare_data, &kept, error)) {
        return false;
    }
    if (snapshot != QCOW2_ACTIVE_LAYER) {
        options.view = &kept.to->view;
    }
    bool ok = qcow2_choice_count(kept.choice, ret_bytes, error);
    if (ok && *ret_bytes > 0) {
        if (!self->has_expected_all) {
            qcow2_progress_expect(self->progress, *ret_bytes);
        }
        ok = qcow2_in_place_apply(self->batch, self->image, kept.to, kept.choice, &options, ret,
                                  self->progress, error);
        qcow2_move_result_add(&self->result, &ret->stats);
    }
    clear_kept(&kept);
    return ok;
}

static bool keep_snapshots(Keeping *self, GError **error)
{
    g_autoptr(GPtrArray) entries = qcow2_snapshot_entries(self->image);

    for (guint i = 0; i < entries->len; i++) {
        Qcow2InPlaceResult result;
        uint64_t bytes;
        bool ok = keep_state(self, i, &result, &bytes, error);
        const Qcow2SnapshotEntry *entry = entry_at(self, i);
        if (!ok) {
            g_prefix_error(error, "snapshot '%s': ", entry->name);
            return false;
        }
        if (bytes == 0) {
            continue;
        }
        GBytes *moved = qcow2_snapshot_entry_with_vm_state(entry->raw, result.l1_offset, result.l1_entries,
                                                           entry->info.vm_state_size, error);
        if (!moved) {
            return false;
        }
        g_bytes_unref(g_ptr_array_index(entries, i));
        g_ptr_array_index(entries, i) = moved;
        self->snapshots_changed = true;
        if (self->placed) {
            qcow2_placed_next_state(self->placed);
        }
    }
    return !self->snapshots_changed
        || qcow2_batch_set_snapshots(self->batch, self->image, entries, error);
}

Qcow2Placed *qcow2_keep_placed(const Qcow2Image *image)
{
    const Qcow2Layout *layout = &image->header.layout;
    guint n_states = image->snapshots->len + 1;

    return n_states > 1 && n_states <= qcow2_refcount_max(layout) ? qcow2_placed_new(layout->cluster_size)
                                                                  : NULL;
}

/* All but the commit of the batch. */
static bool fill_batch(Keeping *self, GError **error)
{
    const Qcow2Keep *keep = self->keep;
    Qcow2InPlaceResult result;
    uint64_t bytes;

    self->batch = qcow2_batch_begin(self->image, error);
    if (!self->batch) {
        return false;
    }
    self->placed = qcow2_keep_placed(self->image);
    if (keep->set_backing) {
        qcow2_batch_set_backing(self->batch, keep->backing_name, keep->backing_format);
    }
    if (keep->merge_note) {
        qcow2_batch_set_ext(self->batch, QCOW2_EXT_MERGED, g_bytes_get_data(keep->merge_note, NULL),
                            g_bytes_get_size(keep->merge_note));
    }
    return keep_snapshots(self, error)
        && (keep->snapshots_only || keep_state(self, QCOW2_ACTIVE_LAYER, &result, &bytes, error))
        /* What a snapshot shared with the active layer may be the active layer's alone now. */
        && (!self->snapshots_changed || qcow2_batch_fix_active_flags(self->batch, self->image, error))
        && qcow2_merge_bitmaps(self->batch, self->image, keep->chain, 0, 1, keep->bitmaps_end, error);
}

/* ---- The room for it --------------------------------------------------------------------------- */

static bool has_changes(const Keeping *self)
{
    return self->keep->set_backing || self->result.bytes > 0;
}

static bool rehearse(void *data, GError **error)
{
    const Keeping *whole = data;
    Keeping self = *whole;

    self.progress = NULL;
    bool ok = fill_batch(&self, error)
           && (!has_changes(&self) || qcow2_batch_rehearse(self.batch, error));
    /* The rest is the whole's. */
    g_clear_pointer(&self.batch, qcow2_batch_free);
    g_clear_pointer(&self.placed, qcow2_placed_free);
    return ok;
}

static uint64_t largest_size(const Keeping *self, guint n_states)
{
    uint64_t size = self->image->size;

    for (guint i = 0; i < n_states; i++) {
        const Qcow2SnapshotEntry *entry = entry_at(self, i);
        size = MAX(size, entry ? entry->info.disk_size : 0);
    }
    return size;
}

/* A Qcow2NeedFunc. */
static bool need(void *data, Qcow2NeedStep step, Qcow2Room *room, GError **error)
{
    Keeping *self = data;
    guint n_states = self->image->snapshots->len + !self->keep->snapshots_only;
    uint64_t size = largest_size(self, n_states), bytes = size * n_states;

    if (step == QCOW2_NEED_BY_REHEARSAL) {
        return qcow2_rehearse(self->image, rehearse, self, room, error);
    }
    return (step == QCOW2_NEED_BY_SIZE || count_states(self, false, &bytes, NULL, error))
        && qcow2_need_in_image(room, self->image, bytes, size, n_states, error);
}

static bool run(Keeping *self, GError **error)
{
    return start(self, error)
        && (self->keep->on_trial || (qcow2_check_room(need, self, error) && expect_all(self, error)))
        && fill_batch(self, error)
        && (!has_changes(self) || qcow2_batch_commit(self->batch, error));
}

bool qcow2_keep_need(const Qcow2Keep *keep, Qcow2NeedStep step, Qcow2Room *room, GError **error)
{
    Keeping self = { .keep = keep, .image = qcow2_chain_image(keep->chain, 0) };
    bool ok = start(&self, error) && need(&self, step, room, error);

    clear(&self);
    return ok;
}

bool qcow2_keep(const Qcow2Keep *keep, Qcow2MoveResult *ret_result, Qcow2Progress *progress, GError **error)
{
    Keeping self = { .keep = keep, .image = qcow2_chain_image(keep->chain, 0), .progress = progress };
    bool ok = run(&self, error);

    clear(&self);
    if (ok) {
        qcow2_image_cut_data(self.image);
    }
    if (ok && ret_result) {
        *ret_result = self.result;
    }
    return ok || qcow2_fail_unchanged(error, qcow2_chain_layer_name(keep->chain, 0));
}
