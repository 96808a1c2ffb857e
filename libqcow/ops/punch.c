/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Holes where nothing is, in an image's file and in its data file. */
#include "format/l2.h"
#include "image/tables.h"
#include "ops/shrink.h"
#include "util/error.h"

bool qcow2_punch(Qcow2Io *io, uint64_t start, uint64_t end, uint64_t *ret_bytes, GError **error)
{
    while (start < end) {
        Qcow2IoExtent extent;
        if (!qcow2_io_extent(io, start, end - start, &extent, error)) {
            return false;
        }
        uint64_t len = MIN(extent.len_bytes, end - start);
        if (!extent.hole) {
            if (!qcow2_io_zero(io, start, len, true, error)) {
                return false;
            }
            *ret_bytes += len;
        }
        start += len;
    }
    return true;
}

/* ---- A data file ------------------------------------------------------------------------------- */

typedef struct DataFile {
    const Qcow2Layout *layout;
    uint64_t n_clusters;
    uint64_t *is_used;        /* bits */
} DataFile;

static bool is_used(const DataFile *self, uint64_t cluster)
{
    return self->is_used[cluster / 64] >> cluster % 64 & 1;
}

/* Offset 0 is a place in a data file; the COPIED flag tells it from none. */
static bool note_table(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data,
                       GError **error)
{
    const DataFile *self = data;

    (void)l1_index;
    (void)host_offset;
    (void)error;
    for (uint64_t i = 0; i < BIT(self->layout->l2_bits); i++) {
        uint64_t entry = qcow2_load_be64(raw + i * self->layout->l2_entry_size);
        uint64_t cluster = (entry & L2E_HOST_OFFSET) >> self->layout->cluster_bits;
        if ((entry & (L2E_HOST_OFFSET | L2E_COPIED)) && cluster < self->n_clusters) {
            self->is_used[cluster / 64] |= BIT(cluster % 64);
        }
    }
    return true;
}

static bool punch_unused(const DataFile *self, Qcow2Io *io, uint64_t *ret_bytes, GError **error)
{
    unsigned bits = self->layout->cluster_bits;

    for (uint64_t first = 0, end; first < self->n_clusters; first = MAX(end, first + 1)) {
        for (end = first; end < self->n_clusters && !is_used(self, end); end++) {
        }
        if (end > first && !qcow2_punch(io, first << bits, end << bits, ret_bytes, error)) {
            return false;
        }
    }
    return true;
}

/* The last cluster need not be whole; what is behind the last whole one is left alone. */
bool qcow2_punch_data_file(Qcow2Image *image, uint64_t *ret_bytes, GError **error)
{
    Qcow2View view = qcow2_image_active_view(image);
    DataFile self = { .layout = &image->header.layout };
    uint64_t size;

    if (!qcow2_io_get_size(image->data, &size, error)) {
        return false;
    }
    self.n_clusters = size >> self.layout->cluster_bits;
    g_autofree uint64_t *bits = g_try_malloc0((self.n_clusters / 64 + 1) * 8);
    if (!bits) {
        return qcow2_fail_memory(error, self.n_clusters / 8, "a bit for each cluster of the data file");
    }
    self.is_used = bits;
    bool ok = qcow2_each_table(image, &view, note_table, &self, error)
           && punch_unused(&self, image->data, ret_bytes, error)
           && qcow2_io_flush(image->data, error);
    if (!ok) {
        g_prefix_error(error, "data file: ");
    }
    return ok;
}
