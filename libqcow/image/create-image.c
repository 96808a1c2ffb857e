/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/create-image.h"

#include "format/l2.h"
#include "image/image.h"
#include "image/new-image.h"
#include "image/reserve.h"
#include "util/error.h"

/* A raw data file is only then the disk, byte for byte, when every cluster is mapped where it lies. */
static Qcow2Preallocation wanted_preallocation(const Qcow2CreateOptions *options)
{
    bool must_map = options->data_file_raw && options->preallocation == QCOW2_PREALLOCATION_OFF;

    return must_map ? QCOW2_PREALLOCATION_METADATA : options->preallocation;
}

/*
 * Maps the whole disk: in the image one cluster after the other, in a data file each where the guest has it.
 * With extended entries no subcluster is marked, so that a backing file shows through.
 */
static bool map_everything(Qcow2NewImage *image, Qcow2Io *io, uint64_t n_clusters, uint64_t first_host,
                           GError **error)
{
    return qcow2_new_image_map(image, io, 0, n_clusters, first_host | L2E_COPIED, 0,
                               qcow2_new_image_layout(image)->cluster_size, error)
        && qcow2_new_image_end_tables(image, io, error);
}

static bool preallocate(Qcow2NewImage *image, Qcow2Io *io, Qcow2Io *data,
                        const Qcow2CreateOptions *options, Qcow2Progress *progress, GError **error)
{
    uint64_t n_clusters = qcow2_div_round_up(options->size, options->cluster_size);
    uint64_t n_data = data ? 0 : n_clusters;

    if (n_clusters > 0) {
        qcow2_new_image_expect(image, 0, n_clusters, n_data);
    }
    if (!qcow2_new_image_lay_out(image, error)) {
        return false;
    }
    uint64_t start = data ? 0 : qcow2_new_image_take(image, n_data);
    uint64_t end = data ? options->size : qcow2_new_image_end(image);
    return map_everything(image, io, n_clusters, start, error)
        && qcow2_reserve(data ? data : io, start, end, wanted_preallocation(options), progress, error);
}

/* Grows the data file, or cuts off what another had left there; a block device stays as it is. */
static bool size_data(Qcow2Io *data, const Qcow2CreateOptions *options, GError **error)
{
    return !data || qcow2_io_truncate(data, options->size, error);
}

/* The file ends with the L1 table, as qemu-img leaves it; what is past its end reads as zeros. */
static bool end_after_l1(Qcow2NewImage *image, Qcow2Io *io, uint64_t n_l1_bytes, GError **error)
{
    const Qcow2Layout *layout = qcow2_new_image_layout(image);
    uint64_t l1_start = qcow2_new_image_end(image) - qcow2_align_up(n_l1_bytes, layout->cluster_size);

    return qcow2_io_truncate(io, l1_start + n_l1_bytes, error);
}

bool qcow2_create_image(Qcow2Io *io, Qcow2Io *data, const Qcow2CreateOptions *options,
                        Qcow2Progress *progress, GError **error)
{
    g_auto(Qcow2Header) header = { 0 };
    bool map = wanted_preallocation(options) != QCOW2_PREALLOCATION_OFF;

    qcow2_create_options_header(options, &header);
    g_autoptr(Qcow2NewImage) image = qcow2_new_image_new(&header, error);
    if (!image || !size_data(data, options, error)) {
        return false;
    }
    bool laid_out = map ? preallocate(image, io, data, options, progress, error)
                        : qcow2_new_image_lay_out(image, error);
    if (!laid_out || !qcow2_new_image_write_head(image, io, false, error)) {
        return false;
    }
    uint64_t n_l1_bytes = qcow2_l1_entries(qcow2_new_image_layout(image), options->size) * 8;
    return map ? qcow2_io_truncate(io, qcow2_new_image_end(image), error)
               : end_after_l1(image, io, n_l1_bytes, error);
}

bool qcow2_create_raw_image(Qcow2Io *io, const Qcow2CreateOptions *options, Qcow2Progress *progress,
                            GError **error)
{
    uint64_t clear_len = MIN(QCOW2_SECTOR_SIZE, options->size);

    /* A device keeps its bytes, but must not look like another format. */
    if (options->preallocation == QCOW2_PREALLOCATION_OFF) {
        return qcow2_io_truncate(io, options->size, error) && qcow2_io_zero(io, 0, clear_len, true, error);
    }
    return qcow2_reserve(io, 0, options->size, options->preallocation, progress, error);
}
