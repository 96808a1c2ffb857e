/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The size that a copy would take, by the rules of qemu-img measure. */
#include <string.h>

#include "image/bitmaps.h"
#include "image/create-options.h"
#include "ops/mapper.h"
#include "util/bits.h"
#include "util/error.h"

#define TABLE_ENTRY_SIZE     8u       /* of L1, refcount and bitmap tables */
#define DIRECTORY_ENTRY_SIZE 24u      /* of the bitmap directory, without the name */

/* ---- A qcow2 file with every cluster allocated ------------------------------------------------- */

/*
 * Refcount blocks and tables count themselves, too. Each round adds what counting the clusters of the round
 * before takes, until nothing is added.
 */
static uint64_t refcount_clusters(const Qcow2CreateOptions *options, uint64_t clusters)
{
    uint64_t counts_per_block = options->cluster_size * 8 / options->refcount_bits;
    uint64_t entries_per_table_cluster = options->cluster_size / TABLE_ENTRY_SIZE;
    uint64_t added = 0, before;

    do {
        before = added;
        uint64_t blocks = qcow2_div_round_up(clusters + before, counts_per_block);
        added = blocks + qcow2_div_round_up(blocks, entries_per_table_cluster);
    } while (added != before);
    return added;
}

static uint64_t l2_tables(const Qcow2CreateOptions *options, uint64_t aligned_size)
{
    uint64_t entry_size = options->extended_l2 ? 16 : 8;

    return qcow2_div_round_up(aligned_size / options->cluster_size, options->cluster_size / entry_size);
}

static uint64_t full_size(const Qcow2CreateOptions *options, uint64_t aligned_size)
{
    uint64_t tables = l2_tables(options, aligned_size);
    uint64_t l1_clusters = qcow2_div_round_up(tables * TABLE_ENTRY_SIZE, options->cluster_size);
    uint64_t clusters = 1 + l1_clusters + tables + aligned_size / options->cluster_size;

    return (clusters + refcount_clusters(options, clusters)) * options->cluster_size;
}

static bool check_size(const Qcow2CreateOptions *options, uint64_t size, GError **error)
{
    uint64_t max_tables = QCOW2_MAX_L1_BYTES / TABLE_ENTRY_SIZE;

    if (size > INT64_MAX - options->cluster_size
        || l2_tables(options, qcow2_align_up(size, options->cluster_size)) > max_tables) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "The image size is too large (try using a larger cluster size)");
    }
    return true;
}

/* ---- The data that there is -------------------------------------------------------------------- */

/* Clusters of the copy that hold some data; @counted is the end of those that were counted already. */
static void count_data(const GArray *extents, uint64_t cluster_size, uint64_t *counted, uint64_t *ret_bytes)
{
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2MapExtent *extent = &g_array_index(extents, Qcow2MapExtent, i);
        uint64_t start = MAX(*counted, qcow2_align_down(extent->start, cluster_size));
        uint64_t end = qcow2_align_up(extent->start + extent->length, cluster_size);
        if (extent->data && !extent->zero && start < end) {
            *ret_bytes += end - start;
            *counted = end;
        }
    }
}

static bool measure_data(Qcow2State *state, uint64_t cluster_size, uint64_t *ret_bytes, GError **error)
{
    g_autoptr(Qcow2Mapper) mapper = qcow2_mapper_new(state, error);
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2MapExtent));
    uint64_t counted = 0;

    *ret_bytes = 0;
    if (!mapper) {
        return false;
    }
    for (uint64_t start = 0; start < state->size;) {
        Qcow2Range range = { start, start + MIN(state->size - start, qcow2_mapper_step(mapper)) };
        if (!qcow2_mapper_map(mapper, &range, 1, extents, error)) {
            return false;
        }
        count_data(extents, cluster_size, &counted, ret_bytes);
        start = range.end;
    }
    return true;
}

static bool measure_bitmaps(Qcow2State *state, uint64_t cluster_size, uint64_t *ret_bytes, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(state->chain, 0);
    g_autoptr(GArray) bitmaps = qcow2_image_read_bitmaps(image, error);
    uint64_t directory = 0;

    if (!bitmaps) {
        return false;
    }
    *ret_bytes = 0;
    for (guint i = 0; i < bitmaps->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(bitmaps, Qcow2BitmapEntry, i);
        uint64_t bits = qcow2_div_round_up(image->size, BIT(entry->granularity_bits));
        uint64_t clusters = qcow2_div_round_up(qcow2_div_round_up(bits, 8), cluster_size);
        *ret_bytes += clusters * cluster_size + qcow2_align_up(clusters * TABLE_ENTRY_SIZE, cluster_size);
        directory += qcow2_align_up(DIRECTORY_ENTRY_SIZE + strlen(entry->name), 8);
    }
    *ret_bytes += qcow2_align_up(directory, cluster_size);
    return true;
}

/* ---- The two formats --------------------------------------------------------------------------- */

static bool measure_state(Qcow2State *state, const Qcow2CreateOptions *options, Qcow2MeasureResult *ret,
                          uint64_t *ret_data, GError **error)
{
    const Qcow2Image *image = qcow2_chain_image(state->chain, 0);
    bool source_has_bitmaps = image->kind == QCOW2_IMAGE_QCOW2 && image->header.layout.version >= 3;

    /* How much of the new backing file would be the same is not known: then nothing is. */
    *ret_data = qcow2_align_up(state->size, options->cluster_size);
    if (!options->backing_file && !measure_data(state, options->cluster_size, ret_data, error)) {
        return false;
    }
    ret->has_bitmaps = options->version >= 3 && source_has_bitmaps;
    return !ret->has_bitmaps || measure_bitmaps(state, options->cluster_size, &ret->bitmaps, error);
}

static bool measure_qcow2(Qcow2State *state, uint64_t size, const char *text, Qcow2MeasureResult *ret,
                          GError **error)
{
    g_auto(Qcow2CreateOptions) options = { 0 };
    uint64_t data = 0;

    qcow2_create_options_init(&options);
    if (!qcow2_create_options_parse(text, &options, error)
        || !check_size(&options, state ? options.size : size, error)
        || (state && !measure_state(state, &options, ret, &data, error))) {
        return false;
    }
    uint64_t aligned_size = qcow2_align_up(state ? state->size : size, options.cluster_size);
    if (options.preallocation >= QCOW2_PREALLOCATION_FALLOC) {      /* the data, too */
        data = aligned_size;
    }
    ret->fully_allocated = full_size(&options, aligned_size);
    ret->required = ret->fully_allocated - aligned_size + data;
    return true;
}

static bool measure_raw(const Qcow2State *state, uint64_t size, const char *text, Qcow2MeasureResult *ret,
                        GError **error)
{
    g_auto(Qcow2CreateOptions) options = { 0 };

    qcow2_create_options_init(&options);
    if (!qcow2_create_options_parse_raw(text, &options, error)) {
        return false;
    }
    ret->required = ret->fully_allocated = state ? state->size : qcow2_align_up(size, QCOW2_SECTOR_SIZE);
    return true;
}

bool qcow2_measure(Qcow2State *state, uint64_t size, const char *format, const char *create_options,
                   Qcow2MeasureResult *ret_result, GError **error)
{
    *ret_result = (Qcow2MeasureResult) { 0 };
    if (strcmp(format, "raw") == 0) {
        return measure_raw(state, size, create_options, ret_result, error);
    }
    if (strcmp(format, "qcow2") == 0) {
        return measure_qcow2(state, size, create_options, ret_result, error);
    }
    return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "copies of format '%s' are not measured;"
                      " qcow2 and raw are", format);
}
