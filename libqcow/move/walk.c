/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/walk.h"

#include "util/bits.h"
#include "util/pool.h"
#include "util/progress.h"

#define SLICE_SIZE   (UINT64_C(64) << 20)     /* of data: it is still in memory when it is moved */
#define NOTED_SLICE  (UINT64_C(8) << 20)      /* so much is lost at most when the user stops it */
#define SLICE_BORDER (UINT64_C(2) << 20)      /* the largest cluster there is */

/* Where the next slice starts. */
typedef struct Cursor {
    guint extent;
    uint64_t offset;
} Cursor;

static bool is_data(const Qcow2Extent *extent)
{
    return extent->kind == QCOW2_EXTENT_DATA || extent->kind == QCOW2_EXTENT_COMPRESSED;
}

/* The extents up to the first border behind @size bytes of data; false when there are none. */
static bool next_slice(const GArray *extents, uint64_t size, Cursor *cursor, GArray *ret)
{
    uint64_t n_bytes = 0, border = UINT64_MAX;

    g_array_set_size(ret, 0);
    for (; cursor->extent < extents->len; cursor->extent++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, cursor->extent);
        uint64_t start = MAX(cursor->offset, extent->guest_offset), end = qcow2_extent_end(extent);
        if (start >= border) {
            break;
        }
        if (is_data(extent) && border == UINT64_MAX && n_bytes + (end - start) >= size) {
            border = qcow2_align_up(start + (size - n_bytes), SLICE_BORDER);
        }
        Qcow2Extent slice = qcow2_extent_slice(extent, start, MIN(end, border));
        n_bytes += is_data(extent) ? slice.len_bytes : 0;
        g_array_append_val(ret, slice);
        cursor->offset = qcow2_extent_end(&slice);
        if (cursor->offset < end) {
            break;
        }
    }
    return ret->len > 0;
}

static uint64_t end_of(const GArray *extents)
{
    return qcow2_extent_end(&g_array_index(extents, Qcow2Extent, extents->len - 1));
}

static bool put(const Qcow2Walk *walk, const Qcow2Sink *sink, const GArray *extents, GError **error)
{
    return qcow2_progress_check(walk->progress, error) && sink->put(extents, sink->data, error)
        && (!sink->note || sink->note(end_of(extents), sink->data, error));
}

/* A slice that is put, and the next one, which is looked at meanwhile: the kernel copies with one thread. */
typedef struct Pair {
    const Qcow2Walk *walk;
    const Qcow2Sink *sink;
    bool looks;
    GArray *found, *next_slice, *next_found;
    bool has_next;
} Pair;

static bool look(const Pair *pair, const GArray *slice, GArray *ret, GError **error)
{
    if (pair->looks) {
        return qcow2_find_holes(pair->walk->holes, slice, ret, error);
    }
    g_array_set_size(ret, 0);
    g_array_append_vals(ret, slice->data, slice->len);
    return true;
}

static bool put_or_look(size_t index, void *data, GError **error)
{
    Pair *pair = data;

    return index == 0 ? put(pair->walk, pair->sink, pair->found, error)
                      : look(pair, pair->next_slice, pair->next_found, error);
}

static Cursor begin(const Qcow2Walk *walk, const GArray *extents)
{
    Cursor cursor = { 0, walk->start };

    while (cursor.extent < extents->len
           && qcow2_extent_end(&g_array_index(extents, Qcow2Extent, cursor.extent)) <= walk->start) {
        cursor.extent++;
    }
    return cursor;
}

static bool put_slices(const Qcow2Walk *walk, const Qcow2Sink *sink, const GArray *extents, bool looks,
                       GError **error)
{
    g_autoptr(GArray) slice = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    g_autoptr(GArray) next = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    Pair pair = { walk, sink, looks, found, slice, next, false };
    Cursor cursor = begin(walk, extents);
    uint64_t size = sink->note ? NOTED_SLICE : SLICE_SIZE;

    if (!next_slice(extents, size, &cursor, slice)) {
        return true;
    }
    bool ok = look(&pair, slice, pair.found, error);
    do {
        pair.has_next = next_slice(extents, size, &cursor, slice);
        ok = ok && qcow2_parallel_for(walk->n_threads, pair.has_next ? 2 : 1, put_or_look, &pair, error);
        GArray *put_found = pair.found;
        pair.found = pair.next_found;
        pair.next_found = put_found;
    } while (ok && pair.has_next);
    return ok;
}

static bool put_window(const Qcow2Walk *walk, const Qcow2Sink *sink, const GArray *extents, GError **error)
{
    bool looks = walk->holes && !(sink->can_share && sink->can_share(extents, sink->data));

    return looks || sink->note || walk->start > 0 ? put_slices(walk, sink, extents, looks, error)
                                                  : put(walk, sink, extents, error);
}

bool qcow2_walk(const Qcow2Walk *walk, const Qcow2Sink *sink, GError **error)
{
    const GArray *extents = NULL;

    do {
        if (!qcow2_choice_next(walk->choice, &extents, error)
            || (extents && !put_window(walk, sink, extents, error))) {
            return false;
        }
    } while (extents);
    return true;
}
