/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty bitmaps made, changed and removed.
 *
 *   step                                                   a crash afterwards leaves
 *   1  bits, tables and directory into new clusters; flush the image as it was, its file perhaps longer
 *   2  one header write: the bitmaps extension, refcounts  all that was asked for
 */
#include <string.h>

#include "image/bitmap-write.h"
#include "image/bitmaps.h"
#include "ops/changes.h"
#include "util/error.h"

typedef struct Changing {
    Qcow2Chain *chain;
    Qcow2Image *image;
    Qcow2Image *source;           /* where merged bitmaps come from; NULL: the image itself */
    const char *name;
    uint64_t granularity;         /* 0: QEMU's default */
    Qcow2BitmapEdit *edit;
    Qcow2Progress *progress;
} Changing;

/* ---- New bitmaps ------------------------------------------------------------------------------- */

static uint64_t default_granularity(const Qcow2Image *image)
{
    return CLAMP(image->header.layout.cluster_size, 4096, 65536);
}

static bool add(const Changing *changing, bool enabled, GError **error)
{
    uint64_t granularity = changing->granularity;

    if (granularity == 0) {
        granularity = default_granularity(changing->image);
    }
    if (granularity < 512 || (granularity & (granularity - 1)) != 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Granularity must be power of 2 and at least 512");
    }
    return qcow2_bitmap_edit_add(changing->edit, changing->name, (unsigned)__builtin_ctzll(granularity),
                                 enabled, error);
}

/* Disabled: it says what changed between two moments, and that is over. */
static bool add_changes(const Changing *changing, const Qcow2BitmapAction *action, GError **error)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    g_autoptr(Qcow2State) from = qcow2_state_open(changing->chain, action->from, error);
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(changing->chain, action->to, error) : NULL;

    if (!to || !add(changing, false, error)) {
        return false;
    }
    uint64_t unit = BIT(qcow2_bitmap_edit_find(changing->edit, changing->name)->granularity_bits);
    return qcow2_find_changes(from, to, unit, ranges, changing->progress, error)
        && qcow2_bitmap_edit_set(changing->edit, changing->name, ranges, error);
}

/* ---- Merging ----------------------------------------------------------------------------------- */

static bool find_in_source(const Changing *changing, const char *name, GArray *entries,
                           const Qcow2BitmapEntry **ret, GError **error)
{
    for (guint i = 0; i < entries->len; i++) {
        *ret = &g_array_index(entries, Qcow2BitmapEntry, i);
        if (strcmp((*ret)->name, name) == 0) {
            return !((*ret)->flags & QCOW2_BITMAP_IN_USE)
                || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                              "'%s': Bitmap '%s' is inconsistent and cannot be used",
                              changing->source->file->name, name);
        }
    }
    return qcow2_fail(error, QCOW2_ERROR_NOT_FOUND, "Dirty bitmap '%s' not found", name);
}

static bool merge_from_source(const Changing *changing, const char *name, GError **error)
{
    uint64_t size = qcow2_bitmap_edit_size(changing->edit);
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(changing->source, error);
    const Qcow2BitmapEntry *entry = NULL;

    if (!entries || !find_in_source(changing, name, entries, &entry, error)) {
        return false;
    }
    if (size != changing->source->size) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Bitmaps are of different sizes (destination size is %" PRIu64 ", source size is %"
                          PRIu64 ") and can't be merged", size, changing->source->size);
    }
    g_autoptr(Qcow2BitmapBits) bits =
        qcow2_bitmap_bits_open(changing->source, NULL, entry, changing->source->size, error);
    return bits && qcow2_bitmap_edit_merge(changing->edit, changing->name, bits, error);
}

static bool merge(const Changing *changing, const char *name, GError **error)
{
    if (!qcow2_bitmap_edit_check(changing->edit, changing->name, error)) {
        return false;
    }
    if (changing->source) {
        return merge_from_source(changing, name, error);
    }
    g_autoptr(Qcow2BitmapBits) bits = qcow2_bitmap_edit_read(changing->edit, name, error);
    return bits && qcow2_bitmap_edit_merge(changing->edit, changing->name, bits, error);
}

/* ---- All verbs --------------------------------------------------------------------------------- */

static bool apply(const Changing *changing, const Qcow2BitmapAction *action, GError **error)
{
    switch (action->verb) {
    case QCOW2_BITMAP_ADD:
        return add(changing, true, error);
    case QCOW2_BITMAP_ADD_CHANGES:
        return add_changes(changing, action, error);
    case QCOW2_BITMAP_REMOVE:
        return qcow2_bitmap_edit_remove(changing->edit, changing->name, error);
    case QCOW2_BITMAP_CLEAR:
        return qcow2_bitmap_edit_clear(changing->edit, changing->name, error);
    case QCOW2_BITMAP_ENABLE:
    case QCOW2_BITMAP_DISABLE:
        return qcow2_bitmap_edit_enable(changing->edit, changing->name, action->verb == QCOW2_BITMAP_ENABLE,
                                        error);
    case QCOW2_BITMAP_MERGE:
        return merge(changing, action->source, error);
    }
    return qcow2_fail(error, QCOW2_ERROR_INVALID, "there is no such verb");
}

static bool apply_named(const Changing *changing, const Qcow2BitmapAction *action, GError **error)
{
    static const char *const words[] = {
        [QCOW2_BITMAP_ADD] = "add",         [QCOW2_BITMAP_ADD_CHANGES] = "from-states",
        [QCOW2_BITMAP_REMOVE] = "remove",   [QCOW2_BITMAP_CLEAR] = "clear",
        [QCOW2_BITMAP_ENABLE] = "enable",   [QCOW2_BITMAP_DISABLE] = "disable",
        [QCOW2_BITMAP_MERGE] = "merge",
    };

    if (apply(changing, action, error)) {
        return true;
    }
    g_prefix_error(error, "Operation %s on bitmap %s failed: ", words[action->verb], changing->name);
    return false;
}

/* A raw image never has any. */
static bool refuse_raw(const Changing *changing, const Qcow2BitmapAction *actions, GError **error)
{
    bool adds = actions[0].verb == QCOW2_BITMAP_ADD || actions[0].verb == QCOW2_BITMAP_ADD_CHANGES;

    return adds ? qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                             "Operation add on bitmap %s failed: Can't store persistent bitmaps to %s:"
                             " Operation not supported", changing->name, changing->image->file->name)
                : qcow2_fail(error, QCOW2_ERROR_NOT_FOUND, "Dirty bitmap '%s' not found", changing->name);
}

static bool change(Changing *changing, const Qcow2BitmapAction *actions, size_t n_actions, GError **error)
{
    if (changing->image->kind != QCOW2_IMAGE_QCOW2) {
        return n_actions == 0 || refuse_raw(changing, actions, error);
    }
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(changing->image, error);
    g_autoptr(Qcow2BitmapEdit) edit = batch ? qcow2_bitmap_edit_new(batch, changing->image, error) : NULL;

    changing->edit = edit;
    for (size_t i = 0; edit && i < n_actions; i++) {
        if (!apply_named(changing, &actions[i], error)) {
            return false;
        }
    }
    if (!edit || !qcow2_bitmap_edit_is_changed(edit)) {
        return edit != NULL;
    }
    return qcow2_bitmap_edit_finish(edit, error) && qcow2_batch_commit(batch, error);
}

bool qcow2_bitmap_change(Qcow2Chain *chain, const char *name, const Qcow2BitmapAction *actions,
                         size_t n_actions, const Qcow2BitmapOptions *options, Qcow2Progress *progress,
                         GError **error)
{
    static const Qcow2BitmapOptions defaults = { 0 };
    Changing changing = {
        .chain = chain,
        .image = qcow2_chain_image(chain, 0),
        .name = name,
        .progress = progress,
    };

    options = options ? options : &defaults;
    changing.granularity = options->granularity;
    changing.source = options->source ? qcow2_chain_image(options->source, 0) : NULL;
    return change(&changing, actions, n_actions, error)
        || qcow2_fail_unchanged(error, qcow2_chain_layer_name(chain, 0));
}
