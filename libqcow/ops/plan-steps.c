/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ops/plan-steps.h"

#include <string.h>

#include "chain/naming.h"
#include "io/trial.h"
#include "move/in-place.h"
#include "ops/keep.h"
#include "ops/merge.h"

void qcow2_plan_file_clear(Qcow2PlanFile *file)
{
    g_clear_pointer(&file->now, qcow2_chain_free);
}

static Qcow2Image *image_of(const Qcow2PlanFile *file)
{
    return qcow2_chain_image(file->now, file->target);
}

/* What a commit writes: from the layer that will name the file on. A pull writes the file alone. */
static bool put_on_trial(Qcow2PlanFile *file, GError **error)
{
    unsigned first = file->target == file->above ? file->target : MAX(file->above, 1) - 1;

    if (!file->now) {
        file->now = qcow2_chain_on_trial(file->chain, first, file->target + 1, error);
    }
    return file->now != NULL;
}

/* ---- What is read through the file ------------------------------------------------------------- */

/* The file over what is below @first; over nothing when that is past the last layer. */
static Qcow2Chain *file_over(const Qcow2PlanFile *file, unsigned first, GError **error)
{
    bool has_below = first < qcow2_chain_n_layers(file->now);
    g_autoptr(Qcow2Chain) below = has_below ? qcow2_chain_tail(file->now, first, error) : NULL;

    if (has_below && !below) {
        return NULL;
    }
    return qcow2_chain_stack(file->now, file->target, below, error);
}

static Qcow2Chain *file_over_rest(const Qcow2PlanFile *file, GError **error)
{
    return file_over(file, file->last + 1, error);
}

static Qcow2Chain *file_as_it_is(const Qcow2PlanFile *file, GError **error)
{
    return file_over(file, file->pulled ? file->last + 1 : file->target + 1, error);
}

/* From @layer on, which is above the file. */
static Qcow2Chain *above_file(const Qcow2PlanFile *file, unsigned layer, GError **error)
{
    Qcow2Chain *chain = file_as_it_is(file, error);

    for (unsigned i = file->target; chain && i-- > layer;) {
        g_autoptr(Qcow2Chain) below = chain;
        chain = qcow2_chain_stack(file->now, i, below, error);
    }
    return chain;
}

/* ---- Counting ---------------------------------------------------------------------------------- */

static void add_stats(Qcow2PlanStep *step, const Qcow2Layout *layout, const Qcow2InPlaceStats *stats)
{
    uint64_t moved = stats->data_clusters * layout->cluster_size + stats->bytes_overwritten;

    step->bytes += stats->bytes;
    step->clusters += stats->data_clusters + stats->zero_clusters + stats->compressed_clusters;
    step->bytes_read += moved + stats->bytes_streamed;
    /* Compressed streams are written with the tables, and counted when the step is tried. */
    step->bytes_written += moved;
}

/* What a step does to the file, state by state. */
typedef struct Counting {
    Qcow2Image *image;
    Qcow2Chain *from, *to;
    bool merge;                   /* the file is the base of a commit */
    bool to_none;                 /* nothing will be below it */
    Qcow2Placed *placed;          /* what its states share then; or NULL */
    Qcow2PlanStep *step;
} Counting;

/* One state, by what the sink would do. */
static bool count_choice(const Counting *self, Qcow2State *to, Qcow2Choice *choice, GError **error)
{
    Qcow2View view = to->kind == QCOW2_STATE_SNAPSHOT ? to->view : qcow2_image_active_view(self->image);
    const Qcow2InPlaceOptions options = {
        .before = self->merge ? self->from : NULL,
        .view = &view,
        .placed = self->placed,
    };
    Qcow2InPlaceStats stats;
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);

    if (batch && self->to_none) {
        qcow2_batch_set_backing(batch, NULL, NULL);
    }
    if (!batch || !qcow2_in_place_plan(batch, self->image, to, choice, &options, &stats, error)) {
        return false;
    }
    add_stats(self->step, &self->image->header.layout, &stats);
    if (self->placed) {
        qcow2_placed_next_state(self->placed);
    }
    return true;
}

static bool count_state(const Counting *self, guint snapshot, GError **error)
{
    g_autoptr(Qcow2State) from = qcow2_state_open_at(self->from, snapshot, error);
    g_autoptr(Qcow2State) to = from ? qcow2_state_open_at(self->to, snapshot, error) : NULL;
    const Qcow2ChoiceOptions options = {
        .unit = self->merge ? QCOW2_SECTOR_SIZE : qcow2_in_place_unit(self->image),
        .not_aligned = self->merge,
    };
    g_autoptr(Qcow2Choice) choice = to ? qcow2_choice_new(from, to, &options, error) : NULL;

    return choice && count_choice(self, to, choice, error);
}

/* A raw image has no entries: the bytes that differ are written. */
static bool count_raw(Qcow2Chain *from_chain, Qcow2Chain *to_chain, Qcow2PlanStep *step, GError **error)
{
    g_autoptr(Qcow2State) from = qcow2_state_open(from_chain, "@active", error);
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(to_chain, "@active", error) : NULL;
    Qcow2ChoiceOptions options = { .unit = QCOW2_SECTOR_SIZE, .not_aligned = true };
    g_autoptr(Qcow2Choice) choice = to ? qcow2_choice_new(from, to, &options, error) : NULL;
    const GArray *extents = NULL;

    do {
        if (!choice || !qcow2_choice_next(choice, &extents, error)) {
            return false;
        }
        for (guint i = 0; extents && i < extents->len; i++) {
            const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
            step->bytes += extent->len_bytes;
            step->bytes_read += extent->kind == QCOW2_EXTENT_ZERO ? 0 : extent->len_bytes;
            step->bytes_written += extent->len_bytes;
        }
    } while (extents);
    return true;
}

static bool count_commit(const Qcow2PlanFile *file, Qcow2PlanStep *step, GError **error)
{
    Qcow2Image *image = image_of(file);
    g_autoptr(Qcow2Chain) from = file_as_it_is(file, error);
    g_autoptr(Qcow2Chain) to = from ? above_file(file, file->above, error) : NULL;
    const Counting counting = { .image = image, .from = from, .to = to, .merge = true, .step = step };

    if (!to) {
        return false;
    }
    if (image->kind == QCOW2_IMAGE_RAW) {
        return count_raw(from, to, step, error);
    }
    return qcow2_merge_check_growth(image, qcow2_chain_image(to, 0)->size, error)
        && count_state(&counting, QCOW2_ACTIVE_LAYER, error);
}

/* The snapshots come first, as in ops/keep.c: what the active layer shares with them is moved once. */
static bool count_states(Counting *self, GError **error)
{
    if (!qcow2_image_load_snapshots(self->image, error)) {
        return false;
    }
    g_autoptr(Qcow2Placed) placed = qcow2_keep_placed(self->image);
    self->placed = placed;
    for (guint i = 0; i < self->image->snapshots->len; i++) {
        if (!count_state(self, i, error)) {
            return false;
        }
    }
    return count_state(self, QCOW2_ACTIVE_LAYER, error);
}

static bool count_pull(const Qcow2PlanFile *file, Qcow2PlanStep *step, GError **error)
{
    g_autoptr(Qcow2Chain) from = file_over_rest(file, error);
    g_autoptr(Qcow2Chain) to = from ? file_as_it_is(file, error) : NULL;
    Counting counting = {
        .image = image_of(file), .from = from, .to = to, .step = step,
        .to_none = file->last + 1 == qcow2_chain_n_layers(file->chain),
    };

    return to && count_states(&counting, error);
}

/* ---- Trying ------------------------------------------------------------------------------------ */

/* All that a commit writes to the layers of the chain; images outside are not looked for. */
static bool merge(Qcow2Merge *self, GError **error)
{
    self->top_chain = qcow2_chain_tail(self->chain, self->top, error);
    self->base_chain = self->top_chain ? qcow2_chain_tail(self->chain, self->base, error) : NULL;
    self->base_format = self->base_chain ? qcow2_chain_format_name(self->chain, self->base, NULL, error)
                                         : NULL;
    return self->base_format && qcow2_merge_lay_out_note(self, error)
        && qcow2_merge_into_base(self, error)
        && qcow2_merge_tag_layers(self, error)
        && qcow2_merge_drop_layers(self, error);
}

static bool try_commit(Qcow2PlanFile *file, GError **error)
{
    const Qcow2CommitOptions options = { 0 };
    g_auto(Qcow2CommitResult) unused = { 0 };
    Qcow2Merge self;

    qcow2_merge_init(&self, &options, &unused, NULL);
    self.chain = above_file(file, 0, error);
    self.top = file->above;
    self.base = file->target;
    bool ok = self.chain && merge(&self, error);
    qcow2_merge_clear(&self);
    return ok;
}

static bool try_pull(Qcow2PlanFile *file, GError **error)
{
    unsigned base = file->last + 1 - file->target;
    g_autoptr(Qcow2Chain) chain = file_as_it_is(file, error);
    Qcow2Keep keep = { .chain = chain, .on_trial = true, .set_backing = true };

    file->pulled = true;
    if (!chain || base == qcow2_chain_n_layers(chain)) {
        return chain && qcow2_keep(&keep, NULL, NULL, error);
    }
    g_autofree char *name = qcow2_chain_backing_name(chain, 0, base, error);
    g_autoptr(Qcow2Chain) rest = name ? qcow2_chain_tail(chain, base, error) : NULL;
    keep.below = rest;
    keep.backing_name = name;
    keep.backing_format = rest ? qcow2_chain_format_name(chain, base, NULL, error) : NULL;
    return keep.backing_format && qcow2_keep(&keep, NULL, NULL, error);
}

/* ---- A step ------------------------------------------------------------------------------------ */

/* Of all layers: a commit writes to those above the file as well. In raw ones there is none. */
static uint64_t metadata_of(const Qcow2PlanFile *file)
{
    uint64_t written = 0;

    for (unsigned i = 0; i <= file->target; i++) {
        const Qcow2Image *image = qcow2_chain_image(file->now, i);
        Qcow2TrialSums sums;
        if (image->kind == QCOW2_IMAGE_QCOW2 && qcow2_io_trial_get(image->file, &sums)) {
            written += sums.written;
        }
    }
    return written;
}

typedef bool StepFunc(Qcow2PlanFile *file, GError **error);

static bool try_step(Qcow2PlanFile *file, StepFunc *func, Qcow2PlanStep *step, GError **error)
{
    uint64_t before = metadata_of(file);
    bool ok = func(file, error);

    step->metadata_written = metadata_of(file) - before;
    return ok;
}

bool qcow2_plan_commit(Qcow2PlanFile *file, Qcow2PlanStep *ret_step, GError **error)
{
    *ret_step = (Qcow2PlanStep) { .kind = QCOW2_PLAN_COMMIT, .layer = file->above, .other = file->target };
    return put_on_trial(file, error) && count_commit(file, ret_step, error)
        && try_step(file, try_commit, ret_step, error);
}

bool qcow2_plan_pull(Qcow2PlanFile *file, Qcow2PlanStep *ret_step, GError **error)
{
    *ret_step = (Qcow2PlanStep) { .kind = QCOW2_PLAN_PULL, .layer = file->target, .other = file->last + 1 };
    return put_on_trial(file, error) && count_pull(file, ret_step, error)
        && try_step(file, try_pull, ret_step, error);
}
