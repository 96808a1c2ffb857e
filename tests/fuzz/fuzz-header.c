/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Decodes the start of a file; what is accepted must be within the limits, and come back from the encoder. */
#include "format/header.h"
#include "fuzz/fuzz.h"

static void check_limits(const Qcow2Header *header)
{
    const Qcow2Layout *layout = &header->layout;

    g_assert_cmpuint(layout->cluster_bits, >=, QCOW2_MIN_CLUSTER_BITS);
    g_assert_cmpuint(layout->cluster_bits, <=, QCOW2_MAX_CLUSTER_BITS);
    g_assert_cmpuint(layout->refcount_order, <=, 6);
    g_assert_cmpuint(layout->subcluster_size, >=, 512);
    g_assert_cmpuint(header->header_length, <=, layout->cluster_size);
    g_assert_cmpuint(header->l1_entries * UINT64_C(8), <=, QCOW2_MAX_L1_BYTES);
    g_assert_cmpuint(header->reftable_clusters * layout->cluster_size, <=, QCOW2_MAX_REFTABLE_BYTES);
    g_assert_cmpuint(header->n_snapshots, <=, QCOW2_MAX_SNAPSHOTS);
    g_assert_cmpuint(qcow2_l1_entries(layout, header->size), <=, header->l1_entries);
    g_assert_true(!header->backing_name || strlen(header->backing_name) <= QCOW2_MAX_BACKING_NAME);
    g_assert_true(!header->backing_format || strlen(header->backing_format) <= QCOW2_MAX_BACKING_FORMAT);
    g_assert_true(header->bitmap_directory_size <= QCOW2_MAX_BITMAP_DIRECTORY_BYTES);
}

static void check_again(Qcow2Header *header)
{
    size_t cluster_size = header->layout.cluster_size;
    g_autofree uint8_t *room = g_malloc(cluster_size);
    g_autoptr(GError) error = NULL;
    Qcow2Header again;

    if (!qcow2_header_encode(header, room, cluster_size, &error)) {
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE);
        return;
    }
    qcow2_header_decode(room, cluster_size, &again, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(header->size, ==, again.size);
    g_assert_cmphex(header->incompatible, ==, again.incompatible);
    g_assert_cmpuint(header->header_length, ==, again.header_length);
    g_assert_cmpuint(header->n_bitmaps, ==, again.n_bitmaps);
    g_assert_cmphex(header->crypt_offset, ==, again.crypt_offset);
    g_assert_cmpstr(header->backing_name, ==, again.backing_name);
    g_assert_cmpstr(header->backing_format, ==, again.backing_format);
    g_assert_cmpstr(header->data_file, ==, again.data_file);
    qcow2_header_clear(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Qcow2Header header;
    g_autoptr(GError) error = NULL;
    uint64_t cluster_size;

    bool has_size = qcow2_header_cluster_size(data, size, &cluster_size, NULL);
    if (!qcow2_header_decode(data, size, &header, &error)) {
        g_assert_nonnull(error);
        return 0;
    }
    g_assert_true(has_size && cluster_size == header.layout.cluster_size);
    check_limits(&header);
    check_again(&header);
    qcow2_header_clear(&header);
    return 0;
}
