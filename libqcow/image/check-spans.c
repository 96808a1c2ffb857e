/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/check-spans.h"

#include "util/bits.h"

#define MAX_READ (UINT64_C(256) << 10)

/* Asking where holes are costs as much as reading some pages, so it is done for more than this only. */
#define MIN_ASK (UINT64_C(64) << 10)

GArray *qcow2_spans_new(void)
{
    return g_array_new(FALSE, FALSE, sizeof(Qcow2Span));
}

void qcow2_spans_add(GArray *spans, uint64_t offset, uint64_t n_entries, bool active, uint64_t limit)
{
    limit = qcow2_align_up(limit, 8);
    if (offset < limit && n_entries > 0) {
        uint64_t len_bytes = MIN(n_entries * 8, limit - offset);
        Qcow2Span span = { offset, offset + len_bytes, 1, active };
        g_array_append_val(spans, span);
    }
}

/* ---- Splitting ----------------------------------------------------------------------------------- */

/* A place in the file where one table more, or one less, covers what follows. */
typedef struct Edge {
    uint64_t offset;
    int weight, active;
} Edge;

static int compare_edges(const void *a, const void *b)
{
    const Edge *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static GArray *sorted_edges(const GArray *spans)
{
    GArray *edges = g_array_sized_new(FALSE, FALSE, sizeof(Edge), spans->len * 2);

    for (guint i = 0; i < spans->len; i++) {
        const Qcow2Span *span = &g_array_index(spans, Qcow2Span, i);
        int weight = (int)span->weight, active = (int)span->active;
        Edge both[] = { { span->start, weight, active }, { span->end, -weight, -active } };
        g_array_append_vals(edges, both, 2);
    }
    g_array_sort(edges, compare_edges);
    return edges;
}

void qcow2_spans_split(GArray *spans)
{
    g_autoptr(GArray) edges = sorted_edges(spans);
    Qcow2Span span = { 0 };

    g_array_set_size(spans, 0);
    for (guint i = 0; i < edges->len; i++) {
        const Edge *edge = &g_array_index(edges, Edge, i);
        span.end = edge->offset;
        if (span.weight > 0 && span.end > span.start) {
            g_array_append_val(spans, span);
        }
        span.start = edge->offset;
        span.weight += (uint64_t)(int64_t)edge->weight;
        span.active += (uint32_t)edge->active;
    }
}

/* ---- Reading ------------------------------------------------------------------------------------- */

typedef struct SpanReader {
    Qcow2Io *file;
    uint8_t *buffer;          /* MAX_READ bytes */
    Qcow2EntriesFunc func;
    void *data;
} SpanReader;

static bool read_part(const SpanReader *reader, const Qcow2Span *span, uint64_t start, uint64_t end,
                      GError **error)
{
    while (start < end) {
        size_t len_bytes = MIN(MAX_READ, end - start);
        if (!qcow2_io_read(reader->file, start, reader->buffer, len_bytes, error)
            || !reader->func(span, start, reader->buffer, len_bytes / 8, reader->data, error)) {
            return false;
        }
        start += len_bytes;
    }
    return true;
}

static bool read_span(const SpanReader *reader, const Qcow2Span *span, GError **error)
{
    uint64_t at = span->start;

    while (at < span->end) {
        Qcow2IoExtent extent = { .len_bytes = span->end - at };
        if (span->end - at >= MIN_ASK && !qcow2_io_extent(reader->file, at, span->end - at, &extent, error)) {
            return false;
        }
        /* A hole may begin or end inside an entry. */
        uint64_t until = extent.zero ? qcow2_align_down(at + extent.len_bytes, 8)
                                     : qcow2_align_up(at + extent.len_bytes, 8);
        until = MIN(until, span->end);
        if (until <= at) {
            extent.zero = false;
            until = MIN(at + 8, span->end);
        }
        if (!extent.zero && !read_part(reader, span, at, until, error)) {
            return false;
        }
        at = until;
    }
    return true;
}

bool qcow2_spans_read(Qcow2Io *file, const GArray *spans, Qcow2EntriesFunc func, void *data, GError **error)
{
    g_autofree uint8_t *buffer = g_malloc(MAX_READ);
    SpanReader reader = { file, buffer, func, data };

    for (guint i = 0; i < spans->len; i++) {
        if (!read_span(&reader, &g_array_index(spans, Qcow2Span, i), error)) {
            return false;
        }
    }
    return true;
}
