/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The base of a commit: data and bitmaps. */
#include <string.h>

#include "image/bitmap-write.h"
#include "image/bitmaps.h"
#include "move/in-place.h"
#include "ops/changes.h"
#include "ops/merge-bitmaps.h"
#include "ops/merge.h"
#include "util/error.h"
#include "util/progress.h"

typedef struct Base {
    Qcow2Merge *merge;
    Qcow2Image *image;
    Qcow2State *from, *to;
    Qcow2Choice *choice;
    GArray *changes;              /* Qcow2Range, for bitmaps; NULL when there is none to mark */
} Base;

static void clear_base(Base *self)
{
    g_clear_pointer(&self->choice, qcow2_choice_free);
    g_clear_pointer(&self->from, qcow2_state_free);
    g_clear_pointer(&self->to, qcow2_state_free);
    g_clear_pointer(&self->changes, g_array_unref);
}

static bool open_base(Base *self, GError **error)
{
    Qcow2Merge *merge = self->merge;
    Qcow2ChoiceOptions options = {
        .unit = QCOW2_SECTOR_SIZE, .not_aligned = true, .n_threads = self->image->n_threads,
    };

    self->from = qcow2_state_open(merge->base_chain, "@active", error);
    self->to = self->from ? qcow2_state_open(merge->top_chain, "@active", error) : NULL;
    self->choice = self->to ? qcow2_choice_new(self->from, self->to, &options, error) : NULL;
    return self->choice != NULL;
}

/* ---- Bitmaps ----------------------------------------------------------------------------------- */

static bool mark_written(Base *self, Qcow2Batch *batch, GError **error)
{
    const Qcow2Merge *merge = self->merge;
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(self->image, error);
    g_autoptr(Qcow2BitmapEdit) edit = entries ? qcow2_bitmap_edit_new(batch, self->image, error) : NULL;

    for (guint i = 0; edit && i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        bool merged = false;
        if (!(entry->flags & QCOW2_BITMAP_AUTO) || (entry->flags & QCOW2_BITMAP_IN_USE)) {
            continue;
        }
        /* With --bitmaps, one that all merged layers have says itself what changed. */
        if ((merge->options->bitmaps
             && !qcow2_bitmap_is_in_layers(merge->chain, merge->top, merge->base, entry->name, &merged,
                                           error))
            || (!merged && !qcow2_bitmap_edit_set(edit, entry->name, self->changes, error))) {
            return false;
        }
    }
    return edit && qcow2_bitmap_edit_finish(edit, error);
}

static bool note_changes(Base *self, Qcow2Batch *batch, GError **error)
{
    const Qcow2Merge *merge = self->merge;

    return (!self->changes || mark_written(self, batch, error))
        && (!merge->options->bitmaps
            || qcow2_merge_bitmaps(batch, self->image, merge->chain, merge->top, merge->top, merge->base,
                                   error));
}

static bool find_changes(Base *self, GError **error)
{
    uint64_t unit = 0;

    if (!qcow2_image_check_bitmaps(self->image, error)
        || !qcow2_image_bitmap_unit(self->image, &unit, error)) {
        return false;
    }
    if (unit == 0) {
        return true;
    }
    self->changes = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    return qcow2_list_choice(self->choice, unit, self->changes, error);
}

/* Before anything is overwritten; a batch of its own, whose header write makes the bits real. */
static bool note_changes_first(Base *self, const Qcow2InPlaceStats *planned, GError **error)
{
    if ((!self->changes && !self->merge->options->bitmaps) || planned->bytes_overwritten == 0) {
        return true;
    }
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);
    return batch && note_changes(self, batch, error) && qcow2_batch_commit(batch, error);
}

/* ---- A qcow2 base ------------------------------------------------------------------------------ */

/* What was planned is what the layers above are emptied of: nothing less may have been moved. */
static bool check_moved(const Qcow2InPlaceStats *planned, const Qcow2InPlaceStats *moved, GError **error)
{
    return planned->bytes == moved->bytes
        || qcow2_fail(error, QCOW2_ERROR_CHANGED,
                      "%" PRIu64 " bytes were to be moved, and %" PRIu64 " were found then; the layers above"
                      " are as they were", planned->bytes, moved->bytes);
}

static Qcow2InPlaceOptions in_place_options(const Base *self)
{
    return (Qcow2InPlaceOptions) {
        .n_threads = self->image->n_threads,
        .no_reflink = self->merge->options->no_reflink,
        .before = self->merge->base_chain,
    };
}

/* All but the commit of the batch. */
static bool fill_batch(Base *self, Qcow2Batch *batch, Qcow2InPlaceStats *ret_moved, GError **error)
{
    Qcow2InPlaceOptions options = in_place_options(self);
    Qcow2InPlaceResult result;

    if (!qcow2_in_place_apply(batch, self->image, self->to, self->choice, &options, &result,
                              self->merge->progress, error)) {
        return false;
    }
    *ret_moved = result.stats;
    return note_changes(self, batch, error);
}

static bool move_into_qcow2(Base *self, const Qcow2InPlaceStats *planned, GError **error)
{
    Qcow2InPlaceStats moved;
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);

    if (!batch || !fill_batch(self, batch, &moved, error) || !check_moved(planned, &moved, error)
        || !qcow2_batch_commit(batch, error)) {
        return false;
    }
    qcow2_image_cut_data(self->image);
    qcow2_move_result_add(&self->merge->result->moved, &moved);
    return true;
}

static bool plan(Base *self, Qcow2InPlaceStats *ret, GError **error)
{
    Qcow2InPlaceOptions options = in_place_options(self);
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);

    return batch
        && qcow2_in_place_plan(batch, self->image, self->to, self->choice, &options, ret, error);
}

static bool merge_into_qcow2(Base *self, GError **error)
{
    Qcow2Merge *merge = self->merge;
    Qcow2InPlaceStats planned;

    if (!plan(self, &planned, error) || !find_changes(self, error)) {
        return false;
    }
    if (planned.bytes == 0 && !merge->options->bitmaps && self->to->size <= self->from->size) {
        return true;
    }
    qcow2_progress_expect(merge->progress, planned.bytes);
    return note_changes_first(self, &planned, error) && move_into_qcow2(self, &planned, error);
}

/* ---- A raw base -------------------------------------------------------------------------------- */

static bool grow_raw(Base *self, GError **error)
{
    return self->to->size <= self->from->size
        || qcow2_io_truncate(self->image->file, self->image->raw_offset + self->to->size, error);
}

static bool move_into_raw(Base *self, Qcow2Mover *mover, GError **error)
{
    Qcow2MoveResult *moved = &self->merge->result->moved;
    const GArray *extents;

    do {
        if (!qcow2_choice_next(self->choice, &extents, error)) {
            return false;
        }
        for (guint i = 0; extents && i < extents->len; i++) {
            const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
            qcow2_progress_expect(self->merge->progress, extent->len_bytes);
            moved->bytes += extent->len_bytes;
            moved->bytes_overwritten += extent->len_bytes;
            if (!qcow2_mover_add(mover, extent, self->image->raw_offset + extent->guest_offset, error)) {
                return false;
            }
        }
    } while (extents);
    return qcow2_mover_drain(mover, error);
}

static bool merge_into_raw(Base *self, GError **error)
{
    Qcow2MoverOptions options = {
        .n_threads = self->image->n_threads, .no_reflink = self->merge->options->no_reflink,
    };

    if (!grow_raw(self, error)) {
        return false;
    }
    Qcow2Mover *mover = qcow2_mover_new(self->to, self->image->file, &options, self->merge->progress);
    bool ok = move_into_raw(self, mover, error) && qcow2_io_flush(self->image->file, error);
    Qcow2MoverStats stats = qcow2_mover_get_stats(mover);
    self->merge->result->moved.bytes_copied = stats.bytes_copied;
    self->merge->result->moved.bytes_cloned = stats.bytes_cloned;
    qcow2_mover_free(mover);
    return ok;
}

/* ---- Before anything is written ---------------------------------------------------------------- */

static bool check_raw(const Qcow2Merge *merge, const Qcow2Image *image, uint64_t size, GError **error)
{
    const char *protocol = image->file->ops->protocol;
    bool resizable = strcmp(protocol, "file") == 0 || strcmp(protocol, "memory") == 0;
    const Qcow2Layer *layer = qcow2_chain_layer(merge->chain, merge->base);

    if (merge->options->bitmaps) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "a raw image cannot hold bitmaps");
    }
    return size <= image->size || (resizable && layer->place->raw_size == UINT64_MAX)
        || qcow2_fail(error, QCOW2_ERROR_NO_SPACE,
                      "it has %" PRIu64 " bytes and cannot grow to the %" PRIu64
                      " of the layer above; nothing was written", image->size, size);
}

static bool check_bitmaps(const Qcow2Merge *merge, Qcow2Image *image, GError **error)
{
    return !merge->options->bitmaps
        || qcow2_merge_bitmaps_check(image, merge->chain, merge->top, merge->top, merge->base, error);
}

bool qcow2_merge_check_growth(const Qcow2Image *image, uint64_t size, GError **error)
{
    return size <= image->size || image->header.layout.version >= 3 || image->header.n_snapshots == 0
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "a version 2 image with snapshots cannot grow from %" PRIu64 " to the %" PRIu64
                      " bytes of the layer above (qcow-amend -o compat=1.1 makes it one that can)",
                      image->size, size);
}

bool qcow2_merge_check_base(Qcow2Merge *merge, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(merge->chain, merge->base);
    uint64_t size = qcow2_chain_image(merge->chain, merge->top)->size;
    bool ok = image->kind == QCOW2_IMAGE_RAW ? check_raw(merge, image, size, error)
                                             : qcow2_merge_check_growth(image, size, error)
                                                   && check_bitmaps(merge, image, error);

    if (!ok) {
        g_prefix_error(error, "into '%s': ", qcow2_chain_layer_name(merge->chain, merge->base));
    }
    return ok;
}

bool qcow2_merge_into_base(Qcow2Merge *merge, GError **error)
{
    Base self = { .merge = merge, .image = qcow2_chain_image(merge->chain, merge->base) };
    bool ok = open_base(&self, error)
           && (self.image->kind == QCOW2_IMAGE_RAW ? merge_into_raw(&self, error)
                                                   : merge_into_qcow2(&self, error));

    clear_base(&self);
    if (!ok) {
        g_prefix_error(error, "into '%s': ", qcow2_chain_layer_name(merge->chain, merge->base));
    }
    return ok;
}

bool qcow2_merge_find_changes(Qcow2Merge *merge, GError **error)
{
    Base self = { .merge = merge, .image = qcow2_chain_image(merge->chain, merge->base) };
    const GArray *extents = NULL;
    bool ok = open_base(&self, error) && qcow2_choice_next(self.choice, &extents, error);

    merge->changes_base = ok && (extents || self.to->size > self.from->size);
    clear_base(&self);
    return ok;
}

/* ---- The room for it --------------------------------------------------------------------------- */

static bool rehearse(void *data, GError **error)
{
    Base *self = data;
    Qcow2InPlaceStats moved;

    if (self->image->kind == QCOW2_IMAGE_RAW) {
        return merge_into_raw(self, error);
    }
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);
    return batch && find_changes(self, error) && fill_batch(self, batch, &moved, error)
        && qcow2_batch_rehearse(batch, error);
}

static bool count_bytes(Base *self, uint64_t *ret_bytes, GError **error)
{
    Qcow2InPlaceStats stats = { 0 };

    if (self->image->kind == QCOW2_IMAGE_RAW) {
        return qcow2_choice_count(self->choice, ret_bytes, error);
    }
    if (!plan(self, &stats, error)) {
        return false;
    }
    *ret_bytes = stats.bytes_overwritten
               + (stats.data_clusters + stats.compressed_clusters) * self->image->header.layout.cluster_size;
    return true;
}

static bool need(Base *self, Qcow2NeedStep step, Qcow2Room *room, GError **error)
{
    uint64_t size = MAX(self->from->size, self->to->size), bytes = self->to->size;

    if (step == QCOW2_NEED_BY_REHEARSAL) {
        return qcow2_rehearse(self->image, rehearse, self, room, error);
    }
    return (step == QCOW2_NEED_BY_SIZE || count_bytes(self, &bytes, error))
        && qcow2_need_in_image(room, self->image, bytes, size, 1, error);
}

bool qcow2_merge_base_need(const Qcow2Merge *merge, Qcow2NeedStep step, Qcow2Room *room, GError **error)
{
    Qcow2CommitResult unused = { 0 };
    Qcow2Merge alone = *merge;
    Base self = { .merge = &alone, .image = qcow2_chain_image(merge->chain, merge->base) };

    alone.progress = NULL;
    alone.result = &unused;
    bool ok = open_base(&self, error) && need(&self, step, room, error);
    clear_base(&self);
    if (!ok) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(merge->chain, merge->base));
    }
    return ok;
}
