/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/map.h"

#include "format/l2.h"
#include "image/l2-slices.h"
#include "util/error.h"

/*
 * A window holds at most this many descriptors, so that in the worst case, when no two of them continue
 * each other, its extents take 4 MiB.
 */
#define WINDOW_DESCRIPTORS (UINT64_C(1) << 17)

Qcow2View qcow2_image_active_view(const Qcow2Image *image)
{
    return (Qcow2View) {
        .l1_offset = image->header.l1_offset,
        .l1_entries = image->header.l1_entries,
        .size = image->size,
    };
}

uint64_t *qcow2_image_read_l1(const Qcow2Image *image, const Qcow2View *view, GError **error)
{
    g_autofree uint64_t *l1 = g_try_malloc(MAX(view->l1_entries, 1) * 8);

    if (!l1) {
        qcow2_fail_memory(error, view->l1_entries * 8, "the L1 table");
        return NULL;
    }
    if (!qcow2_io_read(image->file, view->l1_offset, l1, view->l1_entries * 8, error)) {
        g_prefix_error(error, "L1 table: ");
        return NULL;
    }
    return g_steal_pointer(&l1);
}

bool qcow2_image_snapshot_view(const Qcow2Image *image, const Qcow2SnapshotEntry *entry, Qcow2View *ret,
                               GError **error)
{
    if (!qcow2_snapshot_entry_check(&image->header, entry, error)) {
        return false;
    }
    /* A table may be too short for the disk: version 2 does not record a snapshot's size. The rest is
     * unallocated. */
    *ret = (Qcow2View) {
        .l1_offset = entry->l1_offset,
        .l1_entries = entry->l1_entries,
        .size = entry->info.disk_size,
    };
    return true;
}

uint64_t qcow2_image_unit(const Qcow2Image *image)
{
    /* Raw files are asked for their holes, and a file system's blocks are what is counted there. */
    return image->kind == QCOW2_IMAGE_RAW ? 4096 : image->header.layout.subcluster_size;
}

uint64_t qcow2_image_window(const Qcow2Image *image)
{
    /* A raw file rarely has as many holes as it has blocks; if it has, 4 GiB give 32 MiB of extents. */
    return image->kind == QCOW2_IMAGE_RAW ? BIT(32)
                                          : WINDOW_DESCRIPTORS * image->header.layout.subcluster_size;
}

/* Where the extents of one slice go, and the range that is wanted of it. */
typedef struct Decoder {
    const Qcow2Layout *layout;
    Qcow2Range wanted;
    unsigned layer;
    GArray *extents;
} Decoder;

static void emit(const Decoder *decoder, Qcow2Extent extent)
{
    uint64_t start = MAX(extent.guest_offset, decoder->wanted.start);
    uint64_t end = MIN(qcow2_extent_end(&extent), decoder->wanted.end);

    extent.layer = (uint16_t)decoder->layer;
    extent = qcow2_extent_slice(&extent, start, end);
    qcow2_extents_push(decoder->extents, &extent);
}

/* In an external data file a guest cluster has only one place. QEMU refuses another, and so must who reads.
 */
static bool check_data_file(const Qcow2Layout *layout, const Qcow2L2Entry *entry, uint64_t guest_offset,
                            GError **error)
{
    if (layout->has_data_file && entry->kind == QCOW2_CLUSTER_DATA && entry->host_offset != guest_offset) {
        return qcow2_corrupt(error,
                             "guest offset 0x%" PRIx64 ": its host offset 0x%" PRIx64
                             " in the data file is not the"
                             " same",
                             guest_offset, entry->host_offset);
    }
    return true;
}

/* The entries from @index on that follow from the first one: the same nothing, or the next cluster. */
static uint64_t run_length(const uint8_t *raw, uint64_t index, uint64_t end, uint64_t step)
{
    uint64_t expected = qcow2_load_be64(raw + index * 8) & ~L2E_COPIED;
    uint64_t i = index;

    do {
        i++;
        expected += step;
    } while (i < end && (qcow2_load_be64(raw + i * 8) & ~L2E_COPIED) == expected);
    return i - index;
}

static const Qcow2ExtentKind extent_kind[] = {
    [QCOW2_CLUSTER_UNALLOCATED] = QCOW2_EXTENT_UNALLOCATED,
    [QCOW2_CLUSTER_ZERO] = QCOW2_EXTENT_ZERO,
    [QCOW2_CLUSTER_DATA] = QCOW2_EXTENT_DATA,
    [QCOW2_CLUSTER_COMPRESSED] = QCOW2_EXTENT_COMPRESSED,
};

static Qcow2Extent extent_of_entry(const Qcow2L2Entry *entry, uint64_t guest_offset, uint64_t len_bytes)
{
    return (Qcow2Extent) {
        .guest_offset = guest_offset,
        .len_bytes = len_bytes,
        .host_offset = entry->host_offset,
        .stream_len = entry->stream_len,
        .kind = (uint8_t)extent_kind[entry->kind],
        .allocated = entry->kind == QCOW2_CLUSTER_ZERO && entry->allocated,
    };
}

static bool decode_standard(const Decoder *decoder, const Qcow2L2Slice *slice, uint64_t first, uint64_t end,
                            GError **error)
{
    const Qcow2Layout *layout = decoder->layout;
    uint64_t cluster_size = layout->cluster_size;

    for (uint64_t i = first; i < end;) {
        uint64_t guest_offset = slice->guest_start + i * cluster_size;
        Qcow2L2Entry entry;
        if (!qcow2_l2_decode(layout, qcow2_load_be64(slice->raw + i * 8), 0, &entry, error)) {
            g_prefix_error(error, "guest offset 0x%" PRIx64 ": L2 table at 0x%" PRIx64 ": ", guest_offset,
                           slice->host_offset);
            return false;
        }
        if (!check_data_file(layout, &entry, guest_offset, error)) {
            return false;
        }
        uint64_t n = 1;
        if (entry.kind != QCOW2_CLUSTER_COMPRESSED) {
            n = run_length(slice->raw, i, end,
                           entry.host_offset || entry.kind == QCOW2_CLUSTER_DATA ? cluster_size : 0);
        }
        emit(decoder, extent_of_entry(&entry, guest_offset, n * cluster_size));
        i += n;
    }
    return true;
}

/* The subclusters from @n on that are alike. */
static unsigned subcluster_run(const Qcow2L2Entry *entry, unsigned n)
{
    uint32_t data = entry->data_mask & BIT(n) ? ~entry->data_mask : entry->data_mask;
    uint32_t zero = entry->zero_mask & BIT(n) ? ~entry->zero_mask : entry->zero_mask;
    uint32_t others = (data | zero) >> n;

    return others ? (unsigned)__builtin_ctz(others) : QCOW2_SUBCLUSTERS - n;
}

/* Subclusters @n and on, of the kind of the first. Spec: "Extended L2 Entries". */
static Qcow2Extent extent_of_subclusters(const Qcow2Layout *layout, const Qcow2L2Entry *entry, unsigned n,
                                         uint64_t cluster_start)
{
    Qcow2Extent extent = {
        .guest_offset = cluster_start + n * layout->subcluster_size,
        .len_bytes = subcluster_run(entry, n) * layout->subcluster_size,
        .host_offset = entry->allocated ? entry->host_offset + n * layout->subcluster_size : 0,
        .kind = entry->zero_mask & BIT(n)   ? QCOW2_EXTENT_ZERO
                : entry->data_mask & BIT(n) ? QCOW2_EXTENT_DATA
                                            : QCOW2_EXTENT_UNALLOCATED,
    };
    extent.allocated = entry->allocated && extent.kind != QCOW2_EXTENT_DATA;
    return extent;
}

static bool decode_extended(const Decoder *decoder, const Qcow2L2Slice *slice, uint64_t first, uint64_t end,
                            GError **error)
{
    const Qcow2Layout *layout = decoder->layout;

    for (uint64_t i = first; i < end; i++) {
        uint64_t guest_offset = slice->guest_start + i * layout->cluster_size;
        uint64_t guest_end = guest_offset + layout->cluster_size;
        const uint8_t *raw = slice->raw + i * 16;
        Qcow2L2Entry entry;
        if (!qcow2_l2_decode(layout, qcow2_load_be64(raw), qcow2_load_be64(raw + 8), &entry, error)) {
            g_prefix_error(error, "guest offset 0x%" PRIx64 ": L2 table at 0x%" PRIx64 ": ", guest_offset,
                           slice->host_offset);
            return false;
        }
        if (entry.kind == QCOW2_CLUSTER_COMPRESSED) {
            emit(decoder, extent_of_entry(&entry, guest_offset, layout->cluster_size));
            continue;
        }
        for (uint64_t at = guest_offset; at < guest_end;) {
            unsigned n = (unsigned)((at - guest_offset) / layout->subcluster_size);
            Qcow2Extent extent = extent_of_subclusters(layout, &entry, n, guest_offset);
            at = qcow2_extent_end(&extent);
            if (extent.guest_offset < decoder->wanted.end && at > decoder->wanted.start) {
                emit(decoder, extent);
            }
        }
    }
    return true;
}

static bool decode_slice(const Decoder *decoder, const Qcow2L2Slice *slice, GError **error)
{
    const Qcow2Layout *layout = decoder->layout;
    uint64_t slice_end = slice->guest_start + (slice->n_entries << layout->cluster_bits);
    Decoder part = *decoder;

    part.wanted.start = MAX(decoder->wanted.start, slice->guest_start);
    part.wanted.end = MIN(decoder->wanted.end, slice_end);
    if (!slice->raw) {
        emit(&part, (Qcow2Extent) {
            .guest_offset = part.wanted.start,
            .len_bytes = part.wanted.end - part.wanted.start,
            .kind = QCOW2_EXTENT_UNALLOCATED,
        });
        return true;
    }

    uint64_t first = (part.wanted.start - slice->guest_start) >> layout->cluster_bits;
    uint64_t end = qcow2_div_round_up(part.wanted.end - slice->guest_start, layout->cluster_size);
    return layout->extended_l2 ? decode_extended(&part, slice, first, end, error)
                               : decode_standard(&part, slice, first, end, error);
}

static bool map_qcow2(Qcow2Image *image, const Qcow2View *view, const Qcow2Range *ranges, size_t n_ranges,
                      unsigned layer, GArray *extents, GError **error)
{
    g_auto(Qcow2L2Slices) slices = { 0 };
    guint at = 0;

    if (!qcow2_l2_slices_load(image, view, ranges, n_ranges, &slices, error)) {
        return false;
    }
    for (size_t i = 0; i < n_ranges; i++) {
        Decoder decoder = { &image->header.layout, ranges[i], layer, extents };
        /* A range may need several slices, and several ranges the same one. */
        for (;; at++) {
            const Qcow2L2Slice *slice = &g_array_index(slices.slices, Qcow2L2Slice, at);
            uint64_t slice_end = slice->guest_start + (slice->n_entries << image->header.layout.cluster_bits);
            if (slice_end <= ranges[i].start) {
                continue;
            }
            if (!decode_slice(&decoder, slice, error)) {
                return false;
            }
            if (slice_end >= ranges[i].end) {
                break;
            }
        }
    }
    return true;
}

static bool map_raw(Qcow2Image *image, const Qcow2Range *ranges, size_t n_ranges, unsigned layer,
                    GArray *extents, GError **error)
{
    for (size_t i = 0; i < n_ranges; i++) {
        uint64_t offset = ranges[i].start;
        while (offset < ranges[i].end) {
            uint64_t left = ranges[i].end - offset;
            Qcow2IoExtent found;
            if (!qcow2_io_extent(image->data, image->raw_offset + offset, left, &found, error)) {
                return false;
            }
            Qcow2Extent extent = {
                .guest_offset = offset,
                .len_bytes = MIN(found.len_bytes, left),
                .host_offset = image->raw_offset + offset,
                .layer = (uint16_t)layer,
                .kind = found.zero ? QCOW2_EXTENT_ZERO : QCOW2_EXTENT_DATA,
                .allocated = found.zero && !found.hole,
            };
            qcow2_extents_push(extents, &extent);
            offset += extent.len_bytes;
        }
    }
    return true;
}

bool qcow2_image_map(Qcow2Image *image, const Qcow2View *view, const Qcow2Range *ranges, size_t n_ranges,
                     unsigned layer, GArray *extents, GError **error)
{
    return image->kind == QCOW2_IMAGE_RAW ? map_raw(image, ranges, n_ranges, layer, extents, error)
                                          : map_qcow2(image, view, ranges, n_ranges, layer, extents, error);
}
