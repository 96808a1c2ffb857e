/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ops/merge-bitmaps.h"

#include <string.h>

#include "image/bitmap-write.h"
#include "image/bitmaps.h"
#include "ops/changes.h"
#include "ops/rehearse.h"
#include "util/error.h"

/* One that was off when the layer was written to says nothing about what changed. */
static bool has_bitmap(Qcow2Image *image, const char *name, bool *ret_has, GError **error)
{
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(image, error);

    *ret_has = false;
    for (guint i = 0; entries && i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        bool tracks = (entry->flags & QCOW2_BITMAP_AUTO) && !(entry->flags & QCOW2_BITMAP_IN_USE);
        *ret_has = *ret_has || (tracks && strcmp(entry->name, name) == 0);
    }
    return entries != NULL;
}

bool qcow2_bitmap_is_in_layers(Qcow2Chain *chain, unsigned first, unsigned end, const char *name,
                               bool *ret_is, GError **error)
{
    *ret_is = true;
    for (unsigned i = first; *ret_is && i < end; i++) {
        if (!has_bitmap(qcow2_chain_image(chain, i), name, ret_is, error)) {
            return false;
        }
    }
    return true;
}

/* What the layers [top, index) changed. */
static GArray *find_changes(Qcow2Chain *chain, unsigned top, unsigned index, uint64_t unit, GError **error)
{
    g_autoptr(Qcow2Chain) below = qcow2_chain_tail(chain, index, error);
    g_autoptr(Qcow2Chain) above = below ? qcow2_chain_tail(chain, top, error) : NULL;
    g_autoptr(Qcow2State) from = above ? qcow2_state_open(below, "@active", error) : NULL;
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(above, "@active", error) : NULL;
    g_autoptr(GArray) changes = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));

    return to && qcow2_find_changes(from, to, unit, changes, NULL, error) ? g_steal_pointer(&changes) : NULL;
}

static bool set_changes(Qcow2Batch *batch, Qcow2Image *image, Qcow2Chain *chain, unsigned top, unsigned index,
                        const Qcow2BitmapEntry *entry, GError **error)
{
    g_autoptr(GArray) changes = find_changes(chain, top, index, BIT(entry->granularity_bits), error);
    g_autoptr(Qcow2BitmapEdit) edit = changes ? qcow2_bitmap_edit_new(batch, image, error) : NULL;
    const Qcow2BitmapEntry *merged = edit ? qcow2_bitmap_edit_find(edit, entry->name) : NULL;

    if (!merged || (merged->flags & QCOW2_BITMAP_IN_USE)) {
        return edit != NULL;
    }
    return qcow2_bitmap_edit_set(edit, entry->name, changes, error) && qcow2_bitmap_edit_finish(edit, error);
}

static bool complete_bitmaps(Qcow2Batch *batch, Qcow2Image *image, Qcow2Chain *chain, unsigned top,
                             unsigned index, GError **error)
{
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(qcow2_chain_image(chain, index), error);

    for (guint i = 0; entries && i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        bool is_complete = true;
        if ((entry->flags & QCOW2_BITMAP_AUTO)
            && !qcow2_bitmap_is_in_layers(chain, top, index, entry->name, &is_complete, error)) {
            return false;
        }
        if (!is_complete && !set_changes(batch, image, chain, top, index, entry, error)) {
            return false;
        }
    }
    return entries != NULL;
}

bool qcow2_merge_bitmaps(Qcow2Batch *batch, Qcow2Image *image, Qcow2Chain *chain, unsigned top,
                         unsigned first, unsigned end, GError **error)
{
    for (unsigned i = first; i < end; i++) {
        if (!qcow2_batch_merge_bitmaps(batch, image, qcow2_chain_image(chain, i), error)
            || !complete_bitmaps(batch, image, chain, top, i, error)) {
            g_prefix_error(error, "bitmaps of '%s': ", qcow2_chain_layer_name(chain, i));
            return false;
        }
    }
    return true;
}

typedef struct Check {
    Qcow2Image *image;
    Qcow2Chain *chain;
    unsigned top, first, end;
} Check;

static bool rehearse(void *data, GError **error)
{
    const Check *check = data;
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(check->image, error);

    return batch && qcow2_merge_bitmaps(batch, check->image, check->chain, check->top, check->first,
                                        check->end, error);
}

/* They would be taken for none, and what is merged then would seem to say all that changed. */
static bool check_vouched_for(const Qcow2Image *image, GError **error)
{
    return !qcow2_image_has_stale_bitmaps(image)
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "a program lacking bitmap support modified this file, so its bitmaps are inconsistent"
                      " and cannot be merged; without --bitmaps they are left as they are");
}

static bool check_all_vouched_for(const Qcow2Image *image, Qcow2Chain *chain, unsigned first, unsigned end,
                                  GError **error)
{
    for (unsigned i = first; i < end; i++) {
        if (!check_vouched_for(qcow2_chain_image(chain, i), error)) {
            g_prefix_error(error, "bitmaps of '%s': ", qcow2_chain_layer_name(chain, i));
            return false;
        }
    }
    return check_vouched_for(image, error);
}

bool qcow2_merge_bitmaps_check(Qcow2Image *image, Qcow2Chain *chain, unsigned top, unsigned first,
                               unsigned end, GError **error)
{
    Check check = { image, chain, top, first, end };
    g_autoptr(Qcow2Room) room = qcow2_room_new();

    return check_all_vouched_for(image, chain, first, end, error)
        && qcow2_rehearse(image, rehearse, &check, room, error);
}
