/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "state/joined.h"

#include <string.h>

#include "image/reader-pool.h"
#include "util/bits.h"
#include "util/error.h"

/* What cannot be read is read in parts of this size. */
#define MIN_PIECE QCOW2_SECTOR_SIZE

/* What one window of a part is; of several threads each may hold one. */
typedef struct Map {
    gint ref_count;
    size_t part;
    uint64_t start, end;      /* of the part */
    GArray *extents;          /* Qcow2Extent in guest offsets of the state; gaps cannot be mapped */
} Map;

typedef struct JoinedIo {
    Qcow2Io io;
    Qcow2JoinedPart *parts;
    size_t n_parts;
    uint64_t size;
    Qcow2JoinedOptions options;
    Qcow2ReaderPool *readers;
    GMutex lock;              /* of all below, and of warnings */
    Map *last;                /* the map that was used last */
    GArray *lost;             /* Qcow2Range of the whole: what could not be read */
    GArray *unmapped;         /* Qcow2Range: it is not known where they are, and that was told */
} JoinedIo;

static void map_unref(Map *map)
{
    if (map && g_atomic_int_dec_and_test(&map->ref_count)) {
        g_array_unref(map->extents);
        g_free(map);
    }
}

/* ---- Warnings ---------------------------------------------------------------------------------- */

/* Adds to ranges in order that do not touch. Returns: how many bytes of it were not there. */
static uint64_t add_range(GArray *ranges, uint64_t start, uint64_t end)
{
    Qcow2Range joined = { start, end };
    uint64_t n_new = end - start;
    guint first = 0, high = ranges->len;

    while (first < high) {
        guint middle = first + (high - first) / 2;
        if (g_array_index(ranges, Qcow2Range, middle).end < start) {
            first = middle + 1;
        } else {
            high = middle;
        }
    }
    while (first < ranges->len && g_array_index(ranges, Qcow2Range, first).start <= end) {
        Qcow2Range old = g_array_index(ranges, Qcow2Range, first);
        n_new -= MIN(end, old.end) - MAX(start, old.start);
        joined = (Qcow2Range) { MIN(joined.start, old.start), MAX(joined.end, old.end) };
        g_array_remove_index(ranges, first);
    }
    g_array_insert_val(ranges, first, joined);
    return n_new;
}

/* Of the whole. */
static uint64_t start_of(const JoinedIo *self, size_t part)
{
    uint64_t start = 0;

    for (size_t i = 0; i < part; i++) {
        start += self->parts[i].len_bytes;
    }
    return start;
}

/* What is looked at several times is told once; @told: where that is remembered. */
static void warn(JoinedIo *self, GArray *told, size_t part, uint64_t offset, uint64_t len_bytes,
                 const char *doing, const GError *reason)
{
    g_autofree char *message =
        g_strdup_printf("error while reading %s%" PRIu64 ": %s", doing, offset, reason->message);
    uint64_t start = start_of(self, part) + offset;

    g_mutex_lock(&self->lock);
    if (add_range(told, start, start + len_bytes) > 0 && self->options.warn) {
        self->options.warn(message, self->options.warn_data);
    }
    g_mutex_unlock(&self->lock);
}

/* ---- Maps -------------------------------------------------------------------------------------- */

static bool resolve(const Qcow2JoinedPart *part, uint64_t start, uint64_t end, GArray *extents,
                    GError **error)
{
    Qcow2Range range = { part->start + start, part->start + end };

    return qcow2_state_resolve(part->state, &range, 1, QCOW2_NO_STOP, extents, error);
}

/* In which the layers say where their data is. */
static uint64_t smallest_unit(const Qcow2State *state)
{
    uint64_t unit = UINT64_MAX;

    for (unsigned i = 0; i < qcow2_chain_n_layers(state->chain); i++) {
        unit = MIN(unit, qcow2_image_unit(qcow2_chain_image(state->chain, i)));
    }
    return unit;
}

/* In salvage mode: what can be mapped of a range, found by halving it. What cannot leaves a gap. */
static void resolve_parts(JoinedIo *self, size_t part, uint64_t start, uint64_t end, GArray *ret)
{
    uint64_t unit = smallest_unit(self->parts[part].state);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    g_autoptr(GError) reason = NULL;

    if (resolve(&self->parts[part], start, end, extents, &reason)) {
        g_array_append_vals(ret, extents->data, extents->len);
    } else if (end - start <= unit) {
        warn(self, self->unmapped, part, start, end - start, "block status at offset ", reason);
    } else {
        uint64_t middle = start + qcow2_align_up((end - start) / 2, unit);
        resolve_parts(self, part, start, middle, ret);
        resolve_parts(self, part, middle, end, ret);
    }
}

static Map *make_map(JoinedIo *self, size_t part, uint64_t offset, GError **error)
{
    Map *map = g_new0(Map, 1);
    uint64_t window = qcow2_state_window(self->parts[part].state);

    map->ref_count = 1;
    map->part = part;
    map->start = qcow2_align_down(offset, window);
    map->end = MIN(map->start + window, self->parts[part].len_bytes);
    map->extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    if (self->options.salvage) {
        resolve_parts(self, part, map->start, map->end, map->extents);
    } else if (!resolve(&self->parts[part], map->start, map->end, map->extents, error)) {
        map_unref(map);
        return NULL;
    }
    return map;
}

static Map *get_map(JoinedIo *self, size_t part, uint64_t offset, GError **error)
{
    Map *map = NULL;

    g_mutex_lock(&self->lock);
    if (self->last && self->last->part == part && offset >= self->last->start && offset < self->last->end) {
        map = self->last;
        g_atomic_int_inc(&map->ref_count);
    }
    g_mutex_unlock(&self->lock);
    if (map) {
        return map;
    }
    map = make_map(self, part, offset, error);
    if (map) {
        g_mutex_lock(&self->lock);
        map_unref(self->last);
        self->last = map;
        g_atomic_int_inc(&map->ref_count);
        g_mutex_unlock(&self->lock);
    }
    return map;
}

/* The extent at @offset of the part, or the gap there, up to the end of the map. */
static Qcow2Extent find_extent(const JoinedIo *self, const Map *map, uint64_t offset, bool *ret_is_gap)
{
    uint64_t guest_offset = self->parts[map->part].start + offset;
    guint low = 0, high = map->extents->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (qcow2_extent_end(&g_array_index(map->extents, Qcow2Extent, middle)) <= guest_offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const Qcow2Extent *found =
        low < map->extents->len ? &g_array_index(map->extents, Qcow2Extent, low) : NULL;
    *ret_is_gap = !found || found->guest_offset > guest_offset;
    if (!*ret_is_gap) {
        return qcow2_extent_slice(found, guest_offset, qcow2_extent_end(found));
    }
    uint64_t end = found ? found->guest_offset : self->parts[map->part].start + map->end;
    return (Qcow2Extent) { .guest_offset = guest_offset, .len_bytes = end - guest_offset };
}

/* ---- Reading ----------------------------------------------------------------------------------- */

/* The part that holds @offset of the whole; @ret_offset: where in it. */
static size_t find_part(const JoinedIo *self, uint64_t offset, uint64_t *ret_offset)
{
    size_t part = 0;

    while (offset >= self->parts[part].len_bytes) {
        offset -= self->parts[part++].len_bytes;
    }
    *ret_offset = offset;
    return part;
}

/* Sector by sector; those that cannot be read are zeros. */
static void salvage(JoinedIo *self, size_t part, Qcow2Reader *reader, const Qcow2Extent *extent,
                    uint8_t *buffer, size_t len_bytes)
{
    for (size_t done = 0; done < len_bytes;) {
        g_autoptr(GError) reason = NULL;
        uint64_t at = extent->guest_offset + done;
        size_t len = MIN(MIN_PIECE - at % MIN_PIECE, len_bytes - done);
        if (!qcow2_state_read_extent(self->parts[part].state, reader, extent, at, buffer + done, len,
                                     &reason)) {
            memset(buffer + done, 0, len);
            warn(self, self->lost, part, at - self->parts[part].start, len, "offset ", reason);
        }
        done += len;
    }
}

static bool read_extent(JoinedIo *self, size_t part, const Qcow2Extent *extent, uint8_t *buffer,
                        size_t len_bytes, GError **error)
{
    Qcow2Reader *reader = qcow2_reader_pool_take(self->readers);
    bool ok = qcow2_state_read_extent(self->parts[part].state, reader, extent, extent->guest_offset, buffer,
                                      len_bytes, self->options.salvage ? NULL : error);

    if (!ok && self->options.salvage) {
        salvage(self, part, reader, extent, buffer, len_bytes);
        ok = true;
    }
    qcow2_reader_pool_give(self->readers, reader);
    return ok;
}

static void note_gap(JoinedIo *self, uint64_t offset, uint8_t *buffer, size_t len_bytes)
{
    memset(buffer, 0, len_bytes);
    g_mutex_lock(&self->lock);
    add_range(self->lost, offset, offset + len_bytes);
    g_mutex_unlock(&self->lock);
}

/* Up to the end of one extent; returns how much, 0 on error. */
static size_t read_some(JoinedIo *self, uint64_t offset, uint8_t *buffer, size_t len_bytes, GError **error)
{
    uint64_t in_part;
    size_t part = find_part(self, offset, &in_part);
    Map *map = get_map(self, part, in_part, error);
    bool is_gap, ok = true;

    if (!map) {
        return 0;
    }
    Qcow2Extent extent = find_extent(self, map, in_part, &is_gap);
    size_t len = MIN(extent.len_bytes, len_bytes);
    if (is_gap) {
        note_gap(self, offset, buffer, len);
    } else {
        ok = read_extent(self, part, &extent, buffer, len, error);
    }
    map_unref(map);
    return ok ? len : 0;
}

static bool joined_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error)
{
    JoinedIo *self = (JoinedIo *)io;
    uint8_t *bytes = buffer;

    while (len_bytes > 0) {
        if (offset >= self->size) {
            memset(bytes, 0, len_bytes);
            return true;
        }
        size_t len = read_some(self, offset, bytes, MIN(len_bytes, self->size - offset), error);
        if (len == 0) {
            return false;
        }
        offset += len;
        bytes += len;
        len_bytes -= len;
    }
    return true;
}

static bool joined_extent(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret,
                          GError **error)
{
    JoinedIo *self = (JoinedIo *)io;
    uint64_t in_part;
    bool is_gap;

    if (offset >= self->size) {
        *ret = (Qcow2IoExtent) { .len_bytes = len_bytes, .zero = true, .hole = true };
        return true;
    }
    size_t part = find_part(self, offset, &in_part);
    Map *map = get_map(self, part, in_part, error);
    if (!map) {
        return false;
    }
    Qcow2Extent extent = find_extent(self, map, in_part, &is_gap);
    bool zero = !is_gap && (extent.kind == QCOW2_EXTENT_ZERO || extent.kind == QCOW2_EXTENT_UNALLOCATED);
    *ret = (Qcow2IoExtent) { .len_bytes = MIN(len_bytes, extent.len_bytes), .zero = zero, .hole = zero };
    map_unref(map);
    return true;
}

/* ---- Life -------------------------------------------------------------------------------------- */

static bool joined_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    (void)error;
    *ret_size = ((JoinedIo *)io)->size;
    return true;
}

static void joined_close(Qcow2Io *io)
{
    JoinedIo *self = (JoinedIo *)io;

    map_unref(self->last);
    qcow2_reader_pool_free(self->readers);
    g_mutex_clear(&self->lock);
    g_array_unref(self->lost);
    g_array_unref(self->unmapped);
    g_free(self->parts);
}

static const Qcow2IoOps joined_ops = {
    .protocol = "joined",
    .read = joined_read,
    .get_size = joined_get_size,
    .extent = joined_extent,
    .close = joined_close,
};

Qcow2Io *qcow2_joined_new(const Qcow2JoinedPart *parts, size_t n_parts, const Qcow2JoinedOptions *options,
                          GError **error)
{
    uint64_t size = 0;

    for (size_t i = 0; i < n_parts; i++) {
        if (!qcow2_range_fits(size, parts[i].len_bytes)) {
            qcow2_fail(error, QCOW2_ERROR_INVALID, "the sources are larger than 2^63 bytes together");
            return NULL;
        }
        size += parts[i].len_bytes;
    }
    JoinedIo *self = g_new0(JoinedIo, 1);
    qcow2_io_init(&self->io, &joined_ops, qcow2_chain_layer_name(parts[0].state->chain, 0), false);
    self->parts = g_memdup2(parts, n_parts * sizeof(Qcow2JoinedPart));
    self->n_parts = n_parts;
    self->size = size;
    self->options = *options;
    self->readers = qcow2_reader_pool_new();
    self->lost = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    self->unmapped = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    g_mutex_init(&self->lock);
    return &self->io;
}

uint64_t qcow2_joined_salvaged(Qcow2Io *io)
{
    JoinedIo *self = (JoinedIo *)io;

    uint64_t n_bytes = 0;

    g_mutex_lock(&self->lock);
    for (guint i = 0; i < self->lost->len; i++) {
        const Qcow2Range *range = &g_array_index(self->lost, Qcow2Range, i);
        n_bytes += range->end - range->start;
    }
    g_mutex_unlock(&self->lock);
    return n_bytes;
}

Qcow2Chain *qcow2_joined_open(Qcow2Io *io, const Qcow2OpenOptions *model, GError **error)
{
    Qcow2OpenOptions options = *model;

    options.format = "raw";
    options.writable = false;
    options.force_share = false;
    return qcow2_chain_open_io(io, &options, error);
}
