/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/new-image.h"

#include "format/l2.h"
#include "format/refcount.h"
#include "util/error.h"

struct Qcow2NewImage {
    Qcow2Header header;
    uint64_t n_l1;
    uint64_t *l1;             /* while counting: 1 for a table that is needed; then host offsets */
    uint64_t n_tables;        /* L2 tables expected */
    uint64_t n_data;          /* data clusters expected at most */

    /* Where everything is, in clusters. */
    uint64_t reftable, n_reftable, refblocks, n_refblocks, l1_start, n_l1_clusters, tables, data;

    uint64_t next_data;       /* the next free data cluster, counted from @data */
    uint64_t stream_end; /* bytes from the start of the data at which the last stream ends; 0: none open */
    GArray *counts;           /* guint16 by data cluster: streams in it; missing or 0: a plain cluster */
    uint8_t *table;           /* the L2 table being filled */
    uint64_t table_index;     /* its L1 index; UINT64_MAX: none */
};

static uint64_t clusters_for(const Qcow2NewImage *image, uint64_t len_bytes)
{
    return qcow2_div_round_up(len_bytes, image->header.layout.cluster_size);
}

static uint64_t offset_of(const Qcow2NewImage *image, uint64_t host_cluster)
{
    return host_cluster << image->header.layout.cluster_bits;
}

Qcow2NewImage *qcow2_new_image_new(Qcow2Header *header, GError **error)
{
    g_autoptr(Qcow2NewImage) image = g_new0(Qcow2NewImage, 1);

    image->header = *header;
    *header = (Qcow2Header) { 0 };
    image->counts = g_array_new(FALSE, TRUE, sizeof(guint16));
    image->table_index = UINT64_MAX;
    image->n_l1 = qcow2_l1_entries(&image->header.layout, image->header.size);
    if (image->n_l1 > QCOW2_MAX_L1_BYTES / 8) {
        qcow2_fail(error, QCOW2_ERROR_INVALID,
                   "a disk of %" PRIu64 " bytes needs an L1 table of %" PRIu64 " entries with"
                   " clusters of %" PRIu64 " bytes; the limit is %" PRIu64 ": choose larger clusters",
                   image->header.size, image->n_l1, image->header.layout.cluster_size,
                   QCOW2_MAX_L1_BYTES / 8);
        return NULL;
    }
    image->l1 = g_try_new0(uint64_t, image->n_l1);
    image->table = g_try_malloc0(image->header.layout.cluster_size);
    if ((!image->l1 && image->n_l1 > 0) || !image->table) {
        qcow2_fail_memory(error, image->n_l1 * 8, "the L1 table");
        return NULL;
    }
    return g_steal_pointer(&image);
}

void qcow2_new_image_free(Qcow2NewImage *image)
{
    if (!image) {
        return;
    }
    qcow2_header_clear(&image->header);
    g_clear_pointer(&image->counts, g_array_unref);
    g_free(image->l1);
    g_free(image->table);
    g_free(image);
}

const Qcow2Layout *qcow2_new_image_layout(const Qcow2NewImage *image)
{
    return &image->header.layout;
}

/* ---- Counting and laying out ------------------------------------------------------------------- */

void qcow2_new_image_expect(Qcow2NewImage *image, uint64_t first_cluster, uint64_t n_clusters,
                            uint64_t n_data)
{
    unsigned l2_bits = image->header.layout.l2_bits;
    uint64_t last = (first_cluster + n_clusters - 1) >> l2_bits;

    for (uint64_t i = first_cluster >> l2_bits; i <= last; i++) {
        image->n_tables += image->l1[i] == 0;
        image->l1[i] = 1;
    }
    image->n_data += image->header.layout.has_data_file ? 0 : n_data;
}

bool qcow2_new_image_lay_out(Qcow2NewImage *image, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t refs_per_block = BIT(layout->refblock_bits);
    uint64_t before = 0;

    /* Refcounts count themselves: grow until they cover what they need. */
    image->n_l1_clusters = clusters_for(image, image->n_l1 * 8);
    image->n_refblocks = image->n_reftable = 1;
    for (;;) {
        uint64_t total = 1 + image->n_reftable + image->n_refblocks + image->n_l1_clusters + image->n_tables
                         + image->n_data;
        uint64_t n_refblocks = qcow2_div_round_up(total, refs_per_block);
        image->n_reftable = clusters_for(image, n_refblocks * 8);
        image->n_refblocks = n_refblocks;
        if (total == before) {
            break;
        }
        before = total;
    }
    if (offset_of(image, image->n_reftable) > QCOW2_MAX_REFTABLE_BYTES) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "%" PRIu64 " clusters of %" PRIu64 " bytes need a refcount table larger"
                          " than %" PRIu64 " bytes: choose larger clusters",
                          before, layout->cluster_size, QCOW2_MAX_REFTABLE_BYTES);
    }

    image->reftable = 1;
    image->refblocks = image->reftable + image->n_reftable;
    image->l1_start = image->refblocks + image->n_refblocks;
    image->tables = image->l1_start + image->n_l1_clusters;
    image->data = image->tables + image->n_tables;

    uint64_t next_table = image->tables;
    for (uint64_t i = 0; i < image->n_l1; i++) {
        image->l1[i] = image->l1[i] ? offset_of(image, next_table++) : 0;
    }
    return true;
}

Qcow2Range qcow2_new_image_data(const Qcow2NewImage *image)
{
    return (Qcow2Range) { offset_of(image, image->data), offset_of(image, image->data + image->n_data) };
}

uint64_t qcow2_new_image_take(Qcow2NewImage *image, uint64_t n_clusters)
{
    uint64_t first = image->next_data;

    image->next_data += n_clusters;
    return offset_of(image, image->data + first);
}

void qcow2_new_image_restart_data(Qcow2NewImage *image)
{
    image->next_data = 0;
    image->stream_end = 0;
    g_array_set_size(image->counts, 0);
}

/* Whether a stream can go on in the last stream's cluster: its count must have room for one more. */
static bool can_share_cluster(const Qcow2NewImage *image)
{
    uint64_t cluster = image->stream_end >> image->header.layout.cluster_bits;

    return g_array_index(image->counts, guint16, cluster)
           < MIN(qcow2_refcount_max(&image->header.layout), G_MAXUINT16);
}

static void count_stream(Qcow2NewImage *image, uint64_t data_cluster)
{
    if (image->counts->len < data_cluster + 1) {
        g_array_set_size(image->counts, (guint)(data_cluster + 1));
    }
    g_array_index(image->counts, guint16, data_cluster)++;
}

uint64_t qcow2_new_image_take_stream(Qcow2NewImage *image, uint64_t len_bytes)
{
    uint64_t cluster_size = image->header.layout.cluster_size;
    unsigned cluster_bits = image->header.layout.cluster_bits;
    uint64_t start = image->stream_end;
    bool open = start % cluster_size != 0 && can_share_cluster(image);
    uint64_t room = open ? cluster_size - start % cluster_size : 0;

    /* A stream that crosses a border needs the next cluster to be free, and then takes just that one. */
    bool crosses_into_free = open && image->next_data == (start >> cluster_bits) + 1;
    if (len_bytes > room && !crosses_into_free) {
        start = image->next_data << cluster_bits;
    }
    uint64_t first = start >> cluster_bits, last = (start + len_bytes - 1) >> cluster_bits;
    image->next_data = MAX(image->next_data, last + 1);
    image->stream_end = start + len_bytes;
    for (uint64_t i = first; i <= last; i++) {
        count_stream(image, i);
    }
    return offset_of(image, image->data) + start;
}

/* ---- L2 tables --------------------------------------------------------------------------------- */

bool qcow2_new_image_end_tables(Qcow2NewImage *image, Qcow2Io *io, GError **error)
{
    uint64_t index = image->table_index;

    if (index == UINT64_MAX) {
        return true;
    }
    image->table_index = UINT64_MAX;
    return qcow2_io_write_named(io, image->l1[index], image->table, image->header.layout.cluster_size, error);
}

static bool open_table(Qcow2NewImage *image, Qcow2Io *io, uint64_t index, GError **error)
{
    if (image->table_index == index) {
        return true;
    }
    if (!qcow2_new_image_end_tables(image, io, error)) {
        return false;
    }
    memset(image->table, 0, image->header.layout.cluster_size);
    image->table_index = index;
    return true;
}

bool qcow2_new_image_map(Qcow2NewImage *image, Qcow2Io *io, uint64_t first_cluster, uint64_t n_clusters,
                         uint64_t raw, uint64_t bitmap, uint64_t step, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;

    for (uint64_t i = 0; i < n_clusters; i++) {
        uint64_t cluster = first_cluster + i;
        if (!open_table(image, io, cluster >> layout->l2_bits, error)) {
            return false;
        }
        uint8_t *entry = image->table + (cluster & (BIT(layout->l2_bits) - 1)) * layout->l2_entry_size;
        qcow2_store_be64(entry, raw + i * step);
        if (layout->extended_l2) {
            qcow2_store_be64(entry + 8, bitmap);
        }
    }
    return true;
}

/* ---- The head ---------------------------------------------------------------------------------- */

uint64_t qcow2_new_image_end(const Qcow2NewImage *image)
{
    return offset_of(image, image->data + image->next_data);
}

/* Plain clusters count one; a cluster with streams counts them. */
static void fill_block(const Qcow2NewImage *image, uint8_t *block, uint64_t first, uint64_t used)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t n = BIT(layout->refblock_bits);
    uint64_t counted_end = image->data + image->counts->len;

    memset(block, 0, layout->cluster_size);
    if (first < used) {
        qcow2_refcount_fill(layout, block, 0, MIN(n, used - first), 1);
    }
    for (uint64_t i = MAX(first, image->data); i < MIN(first + n, counted_end); i++) {
        guint16 streams = g_array_index(image->counts, guint16, i - image->data);
        if (streams > 1) {
            qcow2_refcount_set(layout, block, i - first, streams);
        }
    }
}

static bool write_refcounts(Qcow2NewImage *image, Qcow2Io *io, uint64_t used, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    size_t table_len = offset_of(image, image->n_reftable);
    g_autofree uint8_t *table = g_try_malloc0(table_len);
    g_autofree uint8_t *block = g_try_malloc(layout->cluster_size);

    if (!table || !block) {
        return qcow2_fail_memory(error, table_len, "the refcount table");
    }
    for (uint64_t i = 0; i < image->n_refblocks; i++) {
        qcow2_store_be64(table + i * 8, offset_of(image, image->refblocks + i));
    }
    if (!qcow2_io_write_named(io, offset_of(image, image->reftable), table, table_len, error)) {
        return false;
    }
    for (uint64_t i = 0; i < image->n_refblocks; i++) {
        fill_block(image, block, i << layout->refblock_bits, used);
        if (!qcow2_io_write_named(io, offset_of(image, image->refblocks + i), block, layout->cluster_size,
                                  error)) {
            return false;
        }
    }
    return true;
}

static bool write_l1(Qcow2NewImage *image, Qcow2Io *io, GError **error)
{
    size_t len = offset_of(image, image->n_l1_clusters);
    g_autofree uint8_t *raw = g_try_malloc0(len);

    if (!raw && len > 0) {
        return qcow2_fail_memory(error, len, "the L1 table");
    }
    for (uint64_t i = 0; i < image->n_l1; i++) {
        qcow2_store_be64(raw + i * 8, image->l1[i] ? image->l1[i] | L2E_COPIED : 0);
    }
    return qcow2_io_write_named(io, offset_of(image, image->l1_start), raw, len, error);
}

static bool write_header(Qcow2NewImage *image, Qcow2Io *io, GError **error)
{
    Qcow2Header *header = &image->header;
    size_t len = header->layout.cluster_size;
    g_autofree uint8_t *cluster = g_try_malloc(len);

    if (!cluster) {
        return qcow2_fail_memory(error, len, "the header");
    }
    header->l1_offset = offset_of(image, image->l1_start);
    header->l1_entries = (uint32_t)image->n_l1;
    header->reftable_offset = offset_of(image, image->reftable);
    header->reftable_clusters = (uint32_t)image->n_reftable;
    return qcow2_header_encode(header, cluster, len, error)
           && qcow2_io_write_named(io, 0, cluster, len, error);
}

bool qcow2_new_image_write_head(Qcow2NewImage *image, Qcow2Io *io, bool all_expected, GError **error)
{
    uint64_t used = image->data + (all_expected ? image->n_data : image->next_data);

    return write_header(image, io, error) && write_refcounts(image, io, used, error)
           && write_l1(image, io, error);
}

/* ---- Going on ---------------------------------------------------------------------------------- */

bool qcow2_new_image_save(const Qcow2NewImage *image, Qcow2Io *io, GError **error)
{
    uint64_t index = image->table_index;

    return index == UINT64_MAX
        || qcow2_io_write_named(io, image->l1[index], image->table, image->header.layout.cluster_size, error);
}

bool qcow2_new_image_position(const Qcow2NewImage *image, Qcow2Io *io, Qcow2NewImagePosition *ret,
                              GError **error)
{
    uint64_t size;

    if (!qcow2_io_get_size(io, &size, error)) {
        return false;
    }
    *ret = (Qcow2NewImagePosition) {
        .data_start = image->data,
        .next_data = image->next_data,
        .stream_end = image->stream_end,
        .file_size = MIN(size, qcow2_new_image_end(image)),
    };
    return true;
}

/* The streams in each cluster are counted by the entries that name them. */
static bool count_streams(Qcow2NewImage *image, uint64_t n_entries, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t data_offset = offset_of(image, image->data);
    Qcow2L2Entry entry;

    for (uint64_t i = 0; i < n_entries; i++) {
        uint64_t raw = qcow2_load_be64(image->table + i * layout->l2_entry_size);
        if (!(raw & L2E_COMPRESSED)) {
            continue;
        }
        if (!qcow2_l2_decode(layout, raw, 0, &entry, error)) {
            return false;
        }
        uint64_t first = (entry.host_offset - data_offset) >> layout->cluster_bits;
        uint64_t last = (entry.host_offset - data_offset + entry.stream_len - 1) >> layout->cluster_bits;
        if (entry.host_offset < data_offset || last >= image->next_data) {
            return qcow2_corrupt(error, "the unfinished image has a stream at 0x%" PRIx64, entry.host_offset);
        }
        for (uint64_t cluster = first; cluster <= last; cluster++) {
            count_stream(image, cluster);
        }
    }
    return true;
}

static bool restore_table(Qcow2NewImage *image, Qcow2Io *io, uint64_t index, uint64_t n_clusters,
                          GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t n_entries = MIN(BIT(layout->l2_bits), n_clusters - (index << layout->l2_bits));
    size_t len = n_entries * layout->l2_entry_size;

    if (image->l1[index] == 0) {
        return true;
    }
    if (!qcow2_io_read(io, image->l1[index], image->table, layout->cluster_size, error)) {
        return false;
    }
    /* It may have been written again later, with more entries. */
    memset(image->table + len, 0, layout->cluster_size - len);
    image->table_index = index;
    return count_streams(image, n_entries, error);
}

bool qcow2_new_image_restore(Qcow2NewImage *image, Qcow2Io *io, const Qcow2NewImagePosition *position,
                             uint64_t n_clusters, bool *ret_fits, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t n_tables = qcow2_div_round_up(n_clusters, BIT(layout->l2_bits)), size;

    if (!qcow2_io_get_size(io, &size, error)) {
        return false;
    }
    *ret_fits = position->data_start == image->data && position->next_data <= image->n_data
             && position->stream_end <= offset_of(image, position->next_data) && n_tables <= image->n_l1
             && position->file_size <= size;
    if (!*ret_fits) {
        return true;
    }
    image->next_data = position->next_data;
    image->stream_end = position->stream_end;
    for (uint64_t i = 0; i < n_tables; i++) {
        if (!restore_table(image, io, i, n_clusters, error)) {
            return false;
        }
    }
    return qcow2_io_truncate(io, MIN(size, qcow2_new_image_end(image)), error);
}
