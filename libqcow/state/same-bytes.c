/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "state/same-bytes.h"

#include <string.h>

#include "image/reader-pool.h"
#include "util/bits.h"
#include "util/error.h"
#include "util/pool.h"
#include "util/progress.h"

#define PIECE_SIZE  (UINT64_C(2) << 20)       /* what one task compares; a whole number of units */
#define BUFFER_SIZE (UINT64_C(64) << 10)

typedef struct Comparison {
    Qcow2State *a, *b;
    uint64_t unit;
    const GArray *extents_a, *extents_b;      /* both cover all pieces */
    Qcow2ReaderPool *readers;
    GArray *pieces;                           /* Qcow2Range */
    GPtrArray *results;                       /* GArray of Qcow2Range for each piece: what differs */
    Qcow2Progress *progress;
} Comparison;

/* The index of the extent that holds @offset. */
static guint find_extent(const GArray *extents, uint64_t offset)
{
    guint low = 0, high = extents->len;

    while (high - low > 1) {
        guint middle = low + (high - low) / 2;
        if (g_array_index(extents, Qcow2Extent, middle).guest_offset <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool read_range(Qcow2State *state, Qcow2Reader *reader, const GArray *extents, uint64_t start,
                       uint8_t *buffer, size_t len_bytes, GError **error)
{
    uint64_t end = start + len_bytes;

    for (guint i = find_extent(extents, start); start < end; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        size_t len = MIN(end, qcow2_extent_end(extent)) - start;
        if (!qcow2_state_read_extent(state, reader, extent, start, buffer, len, error)) {
            return false;
        }
        start += len;
        buffer += len;
    }
    return true;
}

typedef struct Buffers {
    Qcow2Reader *reader_a, *reader_b;
    uint8_t *a, *b;
} Buffers;

/*
 * Compares what is in the buffers, [start, end) of @piece, unit by unit.
 *
 * Returns: where to go on: past @end when the unit that goes on there is known to differ.
 */
static uint64_t compare_units(const Comparison *comparison, const Buffers *buffers, Qcow2Range piece,
                              uint64_t start, uint64_t end, GArray *result)
{
    uint64_t unit = comparison->unit, at = start;

    if (memcmp(buffers->a, buffers->b, end - start) == 0) {
        return end;
    }
    while (at < end) {
        uint64_t unit_start = MAX(qcow2_align_down(at, unit), piece.start);
        uint64_t unit_end = MIN(qcow2_align_down(at, unit) + unit, piece.end);
        size_t len = MIN(unit_end, end) - at;
        bool differs = memcmp(buffers->a + (at - start), buffers->b + (at - start), len) != 0;
        if (differs) {
            qcow2_ranges_push(result, unit_start, unit_end);
        }
        at = differs ? unit_end : at + len;
    }
    return at;
}

static bool compare_buffers(const Comparison *comparison, const Buffers *buffers, Qcow2Range piece,
                            GArray *result, GError **error)
{
    for (uint64_t at = piece.start; at < piece.end;) {
        size_t len = MIN(BUFFER_SIZE, piece.end - at);
        if (!qcow2_progress_check(comparison->progress, error)
            || !read_range(comparison->a, buffers->reader_a, comparison->extents_a, at, buffers->a, len,
                           error)
            || !read_range(comparison->b, buffers->reader_b, comparison->extents_b, at, buffers->b, len,
                           error)) {
            return false;
        }
        at = compare_units(comparison, buffers, piece, at, at + len, result);
    }
    return true;
}

static bool compare_piece(size_t index, void *data, GError **error)
{
    const Comparison *comparison = data;
    Qcow2Range piece = g_array_index(comparison->pieces, Qcow2Range, index);
    GArray *result = g_ptr_array_index(comparison->results, index);
    g_autofree uint8_t *buffer_a = g_malloc(BUFFER_SIZE);
    g_autofree uint8_t *buffer_b = g_malloc(BUFFER_SIZE);
    /* One reader for each state: a reader remembers the last cluster that it inflated. */
    Buffers buffers = {
        qcow2_reader_pool_take(comparison->readers),
        qcow2_reader_pool_take(comparison->readers),
        buffer_a,
        buffer_b,
    };
    bool ok = compare_buffers(comparison, &buffers, piece, result, error);

    qcow2_reader_pool_give(comparison->readers, buffers.reader_a);
    qcow2_reader_pool_give(comparison->readers, buffers.reader_b);
    return ok;
}

static void cut_into_pieces(Comparison *comparison, const GArray *ranges)
{
    for (guint i = 0; i < ranges->len; i++) {
        Qcow2Range range = g_array_index(ranges, Qcow2Range, i);
        while (range.start < range.end) {
            uint64_t end = MIN(qcow2_align_down(range.start, PIECE_SIZE) + PIECE_SIZE, range.end);
            Qcow2Range piece = { range.start, end };
            g_array_append_val(comparison->pieces, piece);
            g_ptr_array_add(comparison->results, g_array_new(FALSE, FALSE, sizeof(Qcow2Range)));
            range.start = end;
        }
    }
}

static void free_ranges(gpointer ranges)
{
    g_array_unref(ranges);
}

bool qcow2_drop_same_bytes(Qcow2State *a, Qcow2State *b, uint64_t unit, unsigned n_threads, GArray *ranges,
                           Qcow2Progress *progress, GError **error)
{
    g_autoptr(GArray) extents_a = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    g_autoptr(GArray) extents_b = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    g_autoptr(GArray) pieces = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    g_autoptr(GPtrArray) results = g_ptr_array_new_with_free_func(free_ranges);
    g_autoptr(Qcow2ReaderPool) readers = qcow2_reader_pool_new();
    const Qcow2Range *items = (const Qcow2Range *)(const void *)ranges->data;
    Comparison comparison = { a, b, unit, extents_a, extents_b, readers, pieces, results, progress };

    if (!qcow2_state_resolve(a, items, ranges->len, QCOW2_NO_STOP, extents_a, error)
        || !qcow2_state_resolve(b, items, ranges->len, QCOW2_NO_STOP, extents_b, error)) {
        return false;
    }
    cut_into_pieces(&comparison, ranges);
    if (!qcow2_parallel_for(n_threads, pieces->len, compare_piece, &comparison, error)) {
        return false;
    }
    g_array_set_size(ranges, 0);
    for (guint i = 0; i < results->len; i++) {
        const GArray *result = g_ptr_array_index(results, i);
        for (guint k = 0; k < result->len; k++) {
            Qcow2Range range = g_array_index(result, Qcow2Range, k);
            qcow2_ranges_push(ranges, range.start, range.end);
        }
    }
    return true;
}
