/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/holes.h"

#include "util/bits.h"
#include "util/error.h"
#include "util/pool.h"

#define PIECE_SIZE   (UINT64_C(2) << 20)      /* what one task looks at */
#define BUFFER_SIZE  (UINT64_C(128) << 10)    /* stays in the processor's cache */

/* A part of an extent that is looked at. */
typedef struct Piece {
    const Qcow2Extent *extent;
    uint64_t start, end;
    GArray *holes;            /* Qcow2Range */
} Piece;

typedef struct Search {
    const Qcow2HoleRules *rules;
    GArray *pieces;           /* Piece, in guest order */
} Search;

bool qcow2_is_cheap_to_read(const Qcow2State *state, const Qcow2Extent *extent)
{
    return extent->kind == QCOW2_EXTENT_DATA
        && qcow2_io_get_fd(qcow2_chain_image(state->chain, extent->layer)->data) >= 0;
}

static void clear_piece(gpointer piece)
{
    g_clear_pointer(&((Piece *)piece)->holes, g_array_unref);
}

static void cut_into_pieces(const Search *search, const GArray *extents)
{
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (!qcow2_is_cheap_to_read(search->rules->state, extent)) {
            continue;
        }
        for (uint64_t start = extent->guest_offset; start < qcow2_extent_end(extent);) {
            uint64_t end = MIN(qcow2_align_down(start, PIECE_SIZE) + PIECE_SIZE, qcow2_extent_end(extent));
            Piece piece = { extent, start, end, g_array_new(FALSE, FALSE, sizeof(Qcow2Range)) };
            g_array_append_val(search->pieces, piece);
            start = end;
        }
    }
}

static void note_holes(const Qcow2SparseRule *sparse, uint64_t start, const uint8_t *buffer, size_t len,
                       GArray *holes)
{
    bool zero;

    for (size_t done = 0, n; done < len; done += n) {
        n = qcow2_sparse_piece(sparse, start + done, buffer + done, len - done, &zero);
        if (zero) {
            qcow2_ranges_push(holes, start + done, start + done + n);
        }
    }
}

static bool search_piece(size_t index, void *data, GError **error)
{
    const Search *search = data;
    Piece *piece = &g_array_index(search->pieces, Piece, index);
    Qcow2Reader *reader = qcow2_reader_pool_take(search->rules->readers);
    g_autofree uint8_t *buffer = g_try_malloc(BUFFER_SIZE);
    bool ok = buffer || qcow2_fail_memory(error, BUFFER_SIZE, "a buffer");

    for (uint64_t at = piece->start; ok && at < piece->end;) {
        size_t len = MIN(BUFFER_SIZE, piece->end - at);
        ok = qcow2_state_read_extent(search->rules->state, reader, piece->extent, at, buffer, len, error);
        if (ok) {
            note_holes(&search->rules->sparse, at, buffer, len, piece->holes);
        }
        at += len;
    }
    qcow2_reader_pool_give(search->rules->readers, reader);
    return ok;
}

/* ---- The result -------------------------------------------------------------------------------- */

static void push_slice(GArray *ret, const Qcow2Extent *extent, uint64_t start, uint64_t end, bool hole)
{
    if (start >= end) {
        return;
    }
    Qcow2Extent slice = qcow2_extent_slice(extent, start, end);
    if (hole) {
        slice.kind = QCOW2_EXTENT_ZERO;
        slice.allocated = false;
        slice.host_offset = 0;
    }
    qcow2_extents_push(ret, &slice);
}

static void push_piece(GArray *ret, const Piece *piece)
{
    uint64_t at = piece->start;

    for (guint i = 0; i < piece->holes->len; i++) {
        Qcow2Range hole = g_array_index(piece->holes, Qcow2Range, i);
        push_slice(ret, piece->extent, at, hole.start, false);
        push_slice(ret, piece->extent, hole.start, hole.end, true);
        at = hole.end;
    }
    push_slice(ret, piece->extent, at, piece->end, false);
}

static void build(const Search *search, const GArray *extents, GArray *ret)
{
    guint next = 0;

    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (!qcow2_is_cheap_to_read(search->rules->state, extent)) {
            qcow2_extents_push(ret, extent);
            continue;
        }
        while (next < search->pieces->len && g_array_index(search->pieces, Piece, next).extent == extent) {
            push_piece(ret, &g_array_index(search->pieces, Piece, next++));
        }
    }
}

bool qcow2_find_holes(const Qcow2HoleRules *rules, const GArray *extents, GArray *ret, GError **error)
{
    g_autoptr(GArray) pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
    Search search = { rules, pieces };

    g_array_set_clear_func(pieces, clear_piece);
    g_array_set_size(ret, 0);
    cut_into_pieces(&search, extents);
    if (!qcow2_parallel_for(rules->n_threads, pieces->len, search_piece, &search, error)) {
        return false;
    }
    build(&search, extents, ret);
    return true;
}
