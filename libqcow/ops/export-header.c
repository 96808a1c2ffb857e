/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a delta is laid out, and what its header says. */
#include <string.h>

#include "format/delta-ext.h"
#include "image/create-options.h"
#include "ops/export.h"
#include "util/error.h"

static bool refuse_foreign_options(const Qcow2CreateOptions *options, GError **error)
{
    const char *name = options->has_size ? "size"
                       : options->has_preallocation && options->preallocation != QCOW2_PREALLOCATION_OFF
                           ? "preallocation"
                       : options->has_nocow                                   ? "nocow"
                       : options->has_extent_size_hint                        ? "extent_size_hint"
                       : options->data_file                                   ? "data_file"
                       : options->has_data_file_raw && options->data_file_raw ? "data_file_raw"
                       : options->backing_file || options->backing_format ? "backing_file (that is -b and -F)"
                                                                          : NULL;

    return !name
           || qcow2_fail(error, QCOW2_ERROR_INVALID,
                         "option %s is not for a delta; cluster_size, compat,"
                         " refcount_bits, extended_l2, lazy_refcounts and compression_type are",
                         name);
}

/* What is not asked for is as in the source, so that no cluster is larger or smaller than what changed. */
static bool fill_from_source(const Qcow2Image *source, Qcow2CreateOptions *options, GError **error)
{
    bool is_qcow2 = source->kind == QCOW2_IMAGE_QCOW2;
    uint64_t min_extended = QCOW2_SUBCLUSTERS * 512;

    if (is_qcow2 && !options->has_cluster_size) {
        uint64_t wanted = source->header.layout.cluster_size;
        bool too_small = options->has_extended_l2 && options->extended_l2 && wanted < min_extended;
        options->cluster_size = too_small ? options->cluster_size : wanted;
    }
    if (is_qcow2 && !options->has_extended_l2) {
        options->extended_l2 = source->header.layout.extended_l2 && options->version >= 3
                            && options->cluster_size >= min_extended;
    }
    if (is_qcow2 && !options->has_compression && options->version >= 3) {
        options->compression = source->header.compression;
    }
    return qcow2_create_options_check(options, error);
}

static void fill_delta_state(const Qcow2State *state, Qcow2DeltaState *ret)
{
    static const Qcow2DeltaKind kinds[] = {
        [QCOW2_STATE_ACTIVE] = QCOW2_DELTA_ACTIVE,
        [QCOW2_STATE_SNAPSHOT] = QCOW2_DELTA_SNAPSHOT,
        [QCOW2_STATE_BACKING] = QCOW2_DELTA_BACKING,
        [QCOW2_STATE_EMPTY] = QCOW2_DELTA_EMPTY,
    };

    *ret = (Qcow2DeltaState) {
        .kind = kinds[state->kind],
        .id = g_strdup(state->id ? state->id : ""),
        .name = g_strdup(state->snapshot_name ? state->snapshot_name : ""),
        .date_sec = state->info.date_sec,
        .date_nsec = state->info.date_nsec,
        .vm_clock_nsec = state->info.vm_clock_nsec,
        .size = state->size,
    };
}

static void set_delta_ext(const Qcow2Export *job, uint32_t flags, Qcow2Header *header)
{
    g_auto(Qcow2DeltaExt) ext = { .flags = flags };

    fill_delta_state(job->from, &ext.from);
    fill_delta_state(job->to, &ext.to);
    g_autoptr(GBytes) bytes = qcow2_delta_ext_encode(&ext);
    qcow2_header_set_ext(header, QCOW2_EXT_DELTA, g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes));
}

/* The header has one cluster. Long names of snapshots are left out first: date and clock identify them. */
static bool fit_header(const Qcow2Export *job, uint32_t flags, Qcow2Header *header, GError **error)
{
    size_t room = header->layout.cluster_size;
    g_autofree uint8_t *trial = g_malloc(room);

    set_delta_ext(job, flags, header);
    if (qcow2_header_encode(header, trial, room, NULL)) {
        return true;
    }
    set_delta_ext(job, flags | QCOW2_DELTA_NAMES_CUT, header);
    if (qcow2_header_encode(header, trial, room, error)) {
        return true;
    }
    g_prefix_error(error, "header of the delta, with clusters of %zu bytes: ", room);
    return false;
}

static bool set_backing(const Qcow2Export *job, Qcow2Header *header, GError **error)
{
    const Qcow2ExportOptions *options = job->options;

    if (!options->backing_name) {
        return !options->backing_format
               || qcow2_fail(error, QCOW2_ERROR_INVALID,
                             "-F gives the format of a backing file, and -b names none");
    }
    if (!options->backing_format) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "backing format must be specified: give -F qcow2 or -F raw with -b");
    }
    if (strlen(options->backing_name) > QCOW2_MAX_BACKING_NAME) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "the backing name has %zu bytes; the limit is %u",
                          strlen(options->backing_name), QCOW2_MAX_BACKING_NAME);
    }
    header->backing_name = g_strdup(options->backing_name);
    header->backing_format = g_strdup(options->backing_format);
    qcow2_header_set_ext(header, QCOW2_EXT_BACKING_FORMAT, options->backing_format,
                         strlen(options->backing_format));
    return true;
}

static void set_fields(const Qcow2Export *job, const Qcow2CreateOptions *options, Qcow2Header *header)
{
    unsigned cluster_bits = (unsigned)__builtin_ctzll(options->cluster_size);
    unsigned refcount_order = (unsigned)__builtin_ctz(options->refcount_bits);

    header->layout =
        qcow2_layout(options->version, cluster_bits, options->extended_l2, refcount_order, false);
    header->size = job->to->size;
    header->compression = options->compression;
    header->incompatible = (options->extended_l2 ? QCOW2_INCOMPAT_EXTENDED_L2 : 0)
                         | (options->compression != QCOW2_COMPRESSION_ZLIB ? QCOW2_INCOMPAT_COMPRESSION : 0);
    header->compatible = options->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0;
}

bool qcow2_export_header(const Qcow2Export *job, bool to_pipe, Qcow2Header *ret, GError **error)
{
    g_auto(Qcow2CreateOptions) options = { 0 };

    qcow2_create_options_init(&options);
    if (!qcow2_create_options_parse(job->options->create_options, &options, error)
        || !refuse_foreign_options(&options, error)
        || !fill_from_source(qcow2_chain_image(job->to->chain, 0), &options, error)) {
        return false;
    }
    *ret = (Qcow2Header) { 0 };
    set_fields(job, &options, ret);
    if (set_backing(job, ret, error) && fit_header(job, to_pipe ? QCOW2_DELTA_HAS_DIGEST : 0, ret, error)) {
        return true;
    }
    qcow2_header_clear(ret);
    return false;
}
