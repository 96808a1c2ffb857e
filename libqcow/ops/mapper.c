/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ops/mapper.h"

#include "image/prealloc.h"
#include "util/bits.h"

/*
 * A call is for an eighth of a window, so at most 2^14 descriptors and 1 MiB of what they become: some calls
 * at a time stay far below 64 MiB, and a small disk with a deep chain is work for every processor, too.
 */
#define CALLS_PER_WINDOW 8u

struct Qcow2Mapper {
    Qcow2State *state;
    bool *preallocated;       /* for each layer: data clusters may be holes of the file */
    bool finds_holes;         /* any of them */
};

/* One call. */
typedef struct Piece {
    Qcow2State *state;
    const bool *preallocated;
    GArray *found;            /* Qcow2MapExtent */
    /* The last answer about holes of a layer's file: host offsets mostly rise, so it serves many extents. */
    unsigned hole_layer;
    uint64_t hole_start, hole_end;
    bool is_hole;
} Piece;

/* ---- Merging ----------------------------------------------------------------------------------- */

bool qcow2_map_continues(const Qcow2MapExtent *last, const Qcow2MapExtent *next)
{
    return last->start + last->length == next->start && last->present == next->present
        && last->data == next->data && last->zero == next->zero && last->compressed == next->compressed
        && last->depth == next->depth && last->has_offset == next->has_offset
        && (!next->has_offset || last->offset + last->length == next->offset);
}

void qcow2_map_push(GArray *extents, const Qcow2MapExtent *extent)
{
    if (extents->len > 0) {
        Qcow2MapExtent *last = &g_array_index(extents, Qcow2MapExtent, extents->len - 1);
        if (qcow2_map_continues(last, extent)) {
            last->length += extent->length;
            return;
        }
    }
    g_array_append_vals(extents, extent, 1);
}

/* ---- Ranges that hold something ---------------------------------------------------------------- */

/* Where an extent of a layer lies: nowhere to be shown when it is encrypted. */
static void set_offset(const Qcow2Image *image, Qcow2MapExtent *extent, uint64_t offset)
{
    if (image->kind == QCOW2_IMAGE_RAW || image->header.crypt == QCOW2_CRYPT_NONE) {
        extent->has_offset = true;
        extent->offset = offset;
        extent->filename = image->data->name;
    }
}

/* Asks once for each run of data or hole. A file that cannot be asked has none, as in QEMU. */
static bool is_hole(Piece *piece, unsigned layer, uint64_t offset, uint64_t *ret_end)
{
    if (piece->hole_layer != layer || offset < piece->hole_start || offset >= piece->hole_end) {
        const Qcow2Image *image = qcow2_chain_image(piece->state->chain, layer);
        Qcow2IoExtent extent;
        bool known = qcow2_io_extent(image->data, offset, INT64_MAX - offset, &extent, NULL);
        piece->hole_layer = layer;
        piece->hole_start = offset;
        piece->hole_end = known ? offset + extent.len_bytes : INT64_MAX;
        piece->is_hole = known && extent.zero;
    }
    *ret_end = piece->hole_end;
    return piece->is_hole;
}

static void put_data(Piece *piece, const Qcow2Extent *extent)
{
    const Qcow2Image *image = qcow2_chain_image(piece->state->chain, extent->layer);
    bool ask = piece->preallocated[extent->layer] && image->header.crypt == QCOW2_CRYPT_NONE;

    for (uint64_t done = 0; done < extent->len_bytes;) {
        uint64_t host_offset = extent->host_offset + done, end;
        Qcow2MapExtent part = {
            .start = extent->guest_offset + done,
            .length = extent->len_bytes - done,
            .present = true,
            .data = true,
            .depth = extent->layer,
        };
        if (ask) {
            part.zero = is_hole(piece, extent->layer, host_offset, &end);
            part.length = MIN(part.length, end - host_offset);
        }
        set_offset(image, &part, host_offset);
        qcow2_map_push(piece->found, &part);
        done += part.length;
    }
}

static void put_zero(Piece *piece, const Qcow2Extent *extent)
{
    const Qcow2Image *image = qcow2_chain_image(piece->state->chain, extent->layer);
    bool is_raw = image->kind == QCOW2_IMAGE_RAW;
    Qcow2MapExtent zero = {
        .start = extent->guest_offset,
        .length = extent->len_bytes,
        .present = true,
        .data = is_raw && extent->allocated,      /* zeros that take space */
        .zero = true,
        .depth = extent->layer,
    };

    if (is_raw) {
        set_offset(image, &zero, image->raw_offset + extent->guest_offset);
    } else if (extent->allocated) {
        set_offset(image, &zero, extent->host_offset);
    }
    qcow2_map_push(piece->found, &zero);
}

static void put_compressed(Piece *piece, const Qcow2Extent *extent)
{
    const Qcow2MapExtent compressed = {
        .start = extent->guest_offset,
        .length = extent->len_bytes,
        .present = true,
        .data = true,
        .compressed = true,
        .depth = extent->layer,
        .filename = qcow2_chain_image(piece->state->chain, extent->layer)->data->name,
    };
    qcow2_map_push(piece->found, &compressed);
}

static void put_extent(Piece *piece, const Qcow2Extent *extent)
{
    switch ((Qcow2ExtentKind)extent->kind) {
    case QCOW2_EXTENT_DATA:
        put_data(piece, extent);
        break;
    case QCOW2_EXTENT_ZERO:
        put_zero(piece, extent);
        break;
    case QCOW2_EXTENT_COMPRESSED:
        put_compressed(piece, extent);
        break;
    case QCOW2_EXTENT_UNALLOCATED:
        break;
    }
}

/* ---- Ranges that no layer allocates ------------------------------------------------------------ */

/*
 * From which guest offset on nothing allocates an extent, and the layer that is said to answer there: the
 * last one of the chain, or the one above a layer that ends before.
 */
static uint64_t nothing_from(const Qcow2State *state, const Qcow2Extent *extent, unsigned *ret_depth)
{
    *ret_depth = 0;
    if (extent->layer == QCOW2_NO_LAYER) {
        return extent->guest_offset;
    }
    if (extent->kind == QCOW2_EXTENT_UNALLOCATED) {
        *ret_depth = extent->layer;
        return extent->guest_offset;
    }
    if (extent->kind == QCOW2_EXTENT_ZERO && extent->layer > 0) {
        *ret_depth = MAX(extent->layer - 1u, state->first_layer);
        return CLAMP(qcow2_chain_image(state->chain, extent->layer)->size, extent->guest_offset,
                     qcow2_extent_end(extent));
    }
    return qcow2_extent_end(extent);
}

static bool has_subclusters(const Qcow2Image *image)
{
    return image->kind == QCOW2_IMAGE_QCOW2 && image->header.layout.extended_l2;
}

static bool ask_layer(Qcow2State *state, unsigned depth, GArray *ranges, GArray *kept, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(state->chain, depth);
    bool is_snapshot = depth == 0 && state->kind == QCOW2_STATE_SNAPSHOT;
    Qcow2View view = is_snapshot ? state->view : qcow2_image_active_view(image);

    if (!qcow2_image_map(image, &view, (const Qcow2Range *)(const void *)ranges->data, ranges->len, depth,
                         kept, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(state->chain, depth));
        return false;
    }
    g_array_set_size(ranges, 0);
    return true;
}

/*
 * A subcluster may be unallocated in a cluster that has a place in the file, and that place is shown. The
 * resolved extents do not tell it, so layers with subclusters are asked again, each once: towards the end of
 * the disk the depth of nothing only falls.
 */
static bool find_kept_places(const Piece *piece, const GArray *extents, GArray *kept, GError **error)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    unsigned asked_depth = 0;

    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        unsigned depth;
        uint64_t from = nothing_from(piece->state, extent, &depth);
        if (from == qcow2_extent_end(extent) || extent->layer == QCOW2_NO_LAYER
            || !has_subclusters(qcow2_chain_image(piece->state->chain, depth))) {
            continue;
        }
        if (ranges->len > 0 && depth != asked_depth
            && !ask_layer(piece->state, asked_depth, ranges, kept, error)) {
            return false;
        }
        asked_depth = depth;
        qcow2_ranges_push(ranges, from, qcow2_extent_end(extent));
    }
    return ranges->len == 0 || ask_layer(piece->state, asked_depth, ranges, kept, error);
}

/* Cuts [start, end) along what was kept there; @at is the first item of @kept that may lie in it. */
static void put_nothing(Piece *piece, uint64_t start, uint64_t end, unsigned depth, const GArray *kept,
                        guint *at)
{
    while (start < end) {
        const Qcow2Extent *place = *at < kept->len ? &g_array_index(kept, Qcow2Extent, *at) : NULL;
        Qcow2MapExtent nothing = { .start = start, .length = end - start, .zero = true, .depth = depth };
        if (place && place->guest_offset <= start) {
            Qcow2Extent part = qcow2_extent_slice(place, start, end);
            nothing.length = part.len_bytes;
            if (part.allocated) {
                set_offset(qcow2_chain_image(piece->state->chain, depth), &nothing, part.host_offset);
            }
            *at += qcow2_extent_end(&part) == qcow2_extent_end(place);
        }
        qcow2_map_push(piece->found, &nothing);
        start += nothing.length;
    }
}

/* ---- Calls ------------------------------------------------------------------------------------- */

static bool convert(Piece *piece, const GArray *extents, GError **error)
{
    g_autoptr(GArray) kept = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    guint at = 0;

    if (!find_kept_places(piece, extents, kept, error)) {
        return false;
    }
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        unsigned depth;
        uint64_t from = nothing_from(piece->state, extent, &depth);
        if (from > extent->guest_offset) {
            Qcow2Extent something = qcow2_extent_slice(extent, extent->guest_offset, from);
            put_extent(piece, &something);
        }
        put_nothing(piece, from, qcow2_extent_end(extent), depth, kept, &at);
    }
    return true;
}

/* Layers are opened as they are needed, which is not for several threads: so all of them now. */
static bool open_layers(Qcow2Mapper *mapper, GError **error)
{
    Qcow2Chain *chain = mapper->state->chain;

    if (mapper->state->kind != QCOW2_STATE_EMPTY && !qcow2_chain_open_all(chain, error)) {
        return false;
    }
    unsigned n_layers = qcow2_chain_n_layers(chain);
    mapper->preallocated = g_new0(bool, n_layers);
    for (unsigned i = 0; i < n_layers; i++) {
        if (!qcow2_chain_open_data(chain, i, error)) {
            return false;
        }
        mapper->preallocated[i] = qcow2_image_is_preallocated(qcow2_chain_image(chain, i));
        mapper->finds_holes = mapper->finds_holes || mapper->preallocated[i];
    }
    return true;
}

Qcow2Mapper *qcow2_mapper_new(Qcow2State *state, GError **error)
{
    g_autoptr(Qcow2Mapper) mapper = g_new0(Qcow2Mapper, 1);

    mapper->state = state;
    return open_layers(mapper, error) ? g_steal_pointer(&mapper) : NULL;
}

void qcow2_mapper_free(Qcow2Mapper *mapper)
{
    if (mapper) {
        g_free(mapper->preallocated);
        g_free(mapper);
    }
}

uint64_t qcow2_mapper_step(const Qcow2Mapper *mapper)
{
    return qcow2_state_window(mapper->state) / CALLS_PER_WINDOW;
}

bool qcow2_mapper_finds_holes(const Qcow2Mapper *mapper)
{
    return mapper->finds_holes;
}

bool qcow2_mapper_map(const Qcow2Mapper *mapper, const Qcow2Range *ranges, size_t n_ranges,
                      GArray *ret_extents, GError **error)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    Piece piece = { .state = mapper->state, .preallocated = mapper->preallocated, .found = ret_extents };

    g_array_set_size(ret_extents, 0);
    return qcow2_state_resolve(mapper->state, ranges, n_ranges, QCOW2_NO_STOP, extents, error)
        && convert(&piece, extents, error);
}
