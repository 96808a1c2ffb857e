/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/header.h"

#include "format/header-extensions.h"
#include "format/header-fields.h"
#include "util/error.h"

#define KNOWN_INCOMPATIBLE (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DATA_FILE \
                            | QCOW2_INCOMPAT_COMPRESSION | QCOW2_INCOMPAT_EXTENDED_L2)

#define SNAPSHOT_ENTRY_MIN UINT64_C(40)
#define TABLE_ENTRY_LEN UINT64_C(8)

void qcow2_header_clear(Qcow2Header *header)
{
    g_free(header->backing_name);
    g_free(header->backing_format);
    g_free(header->data_file);
    g_clear_pointer(&header->unknown_fields, g_bytes_unref);
    g_clear_pointer(&header->extensions, g_array_unref);
    *header = (Qcow2Header) { 0 };
}

static void header_ext_unref(void *data)
{
    g_bytes_unref(((Qcow2HeaderExt *) data)->data);
}

void qcow2_header_copy(const Qcow2Header *header, Qcow2Header *ret)
{
    *ret = *header;
    ret->backing_name = g_strdup(header->backing_name);
    ret->backing_format = g_strdup(header->backing_format);
    ret->data_file = g_strdup(header->data_file);
    ret->unknown_fields = header->unknown_fields ? g_bytes_ref(header->unknown_fields) : NULL;
    ret->extensions = NULL;
    if (header->extensions) {
        ret->extensions = g_array_copy(header->extensions);
        g_array_set_clear_func(ret->extensions, header_ext_unref);
        for (guint i = 0; i < ret->extensions->len; i++) {
            g_bytes_ref(g_array_index(ret->extensions, Qcow2HeaderExt, i).data);
        }
    }
}

/* ---- Fields -------------------------------------------------------------------------------------- */

bool qcow2_header_cluster_size(const uint8_t *bytes, size_t len_bytes, uint64_t *ret_size, GError **error)
{
    if (len_bytes < QCOW2_HEADER_MIN) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "not a qcow2 image: %zu bytes hold no header",
                          len_bytes);
    }

    uint32_t magic = qcow2_load_be32(bytes + FIELD_MAGIC);
    uint32_t version = qcow2_load_be32(bytes + FIELD_VERSION);
    uint32_t cluster_bits = qcow2_load_be32(bytes + FIELD_CLUSTER_BITS);

    if (magic != QCOW2_MAGIC) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "not a qcow2 image: magic is 0x%08" PRIx32
                          ", not 0x%08" PRIx32, magic, QCOW2_MAGIC);
    }
    if (version != 2 && version != 3) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "header: version is %" PRIu32 ", not 2 or 3",
                          version);
    }
    if (cluster_bits < QCOW2_MIN_CLUSTER_BITS || cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        return qcow2_corrupt(error, "header: cluster_bits is %" PRIu32 ", not %u to %u",
                             cluster_bits, QCOW2_MIN_CLUSTER_BITS, QCOW2_MAX_CLUSTER_BITS);
    }
    *ret_size = BIT(cluster_bits);
    return true;
}

static bool decode_fields(const uint8_t *cluster, Qcow2Header *header, GError **error)
{
    unsigned version = qcow2_load_be32(cluster + FIELD_VERSION);
    uint32_t refcount_order = 4, crypt = qcow2_load_be32(cluster + FIELD_CRYPT_METHOD);
    unsigned cluster_bits = qcow2_load_be32(cluster + FIELD_CLUSTER_BITS);

    header->backing_offset = qcow2_load_be64(cluster + FIELD_BACKING_OFFSET);
    header->backing_len = qcow2_load_be32(cluster + FIELD_BACKING_LEN);
    header->size = qcow2_load_be64(cluster + FIELD_SIZE);
    header->l1_entries = qcow2_load_be32(cluster + FIELD_L1_ENTRIES);
    header->l1_offset = qcow2_load_be64(cluster + FIELD_L1_OFFSET);
    header->reftable_offset = qcow2_load_be64(cluster + FIELD_REFTABLE_OFFSET);
    header->reftable_clusters = qcow2_load_be32(cluster + FIELD_REFTABLE_CLUSTERS);
    header->n_snapshots = qcow2_load_be32(cluster + FIELD_N_SNAPSHOTS);
    header->snapshots_offset = qcow2_load_be64(cluster + FIELD_SNAPSHOTS_OFFSET);
    header->header_length = HEADER_LEN_V2;
    if (version >= 3) {
        header->incompatible = qcow2_load_be64(cluster + FIELD_INCOMPATIBLE);
        header->compatible = qcow2_load_be64(cluster + FIELD_COMPATIBLE);
        header->autoclear = qcow2_load_be64(cluster + FIELD_AUTOCLEAR);
        refcount_order = qcow2_load_be32(cluster + FIELD_REFCOUNT_ORDER);
        header->header_length = qcow2_load_be32(cluster + FIELD_HEADER_LENGTH);
    }

    if (refcount_order > 6) {
        return qcow2_corrupt(error, "header: refcount_order is %" PRIu32 ", the limit is 6", refcount_order);
    }
    if (crypt > QCOW2_CRYPT_LUKS) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "header: crypt_method is %" PRIu32
                          ", not 0 (none), 1 (AES) or 2 (LUKS)", crypt);
    }
    header->crypt = (Qcow2Crypt) crypt;
    header->layout = qcow2_layout(version, cluster_bits, header->incompatible & QCOW2_INCOMPAT_EXTENDED_L2,
                                  refcount_order, header->incompatible & QCOW2_INCOMPAT_DATA_FILE);
    return true;
}

static bool check_lengths(const Qcow2Header *header, GError **error)
{
    uint64_t cluster_size = header->layout.cluster_size;

    if (header->layout.version >= 3 && header->header_length < HEADER_LEN_V3_MIN) {
        return qcow2_corrupt(error, "header: header_length is %" PRIu32 " bytes, less than %u",
                             header->header_length, HEADER_LEN_V3_MIN);
    }
    if (header->header_length > cluster_size) {
        return qcow2_corrupt(error, "header: header_length is %" PRIu32 " bytes, more than a cluster of %"
                             PRIu64, header->header_length, cluster_size);
    }
    if (header->backing_offset > cluster_size) {
        return qcow2_corrupt(error, "header: backing_file_offset is 0x%" PRIx64
                             ", past the first cluster of 0x%" PRIx64 " bytes",
                             header->backing_offset, cluster_size);
    }
    return true;
}

/* The extensions end where the backing name starts, or with the cluster. */
static uint64_t extensions_end(const Qcow2Header *header)
{
    return header->backing_offset ? header->backing_offset : header->layout.cluster_size;
}

/* ---- Features ------------------------------------------------------------------------------------ */

static bool decode_compression(const uint8_t *cluster, Qcow2Header *header, GError **error)
{
    bool has_field = header->header_length > FIELD_COMPRESSION;
    bool has_bit = (header->incompatible & QCOW2_INCOMPAT_COMPRESSION) != 0;
    unsigned type = has_field ? cluster[FIELD_COMPRESSION] : QCOW2_COMPRESSION_ZLIB;

    if (type > QCOW2_COMPRESSION_ZSTD) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "header: compression_type is %u, not 0 (zlib) or 1 (zstd)", type);
    }
    if ((type != QCOW2_COMPRESSION_ZLIB) != has_bit) {
        return qcow2_corrupt(error, "header: compression_type is %u and incompatible feature bit 3 is %s",
                             type, has_bit ? "set" : "clear");
    }
    header->compression = (Qcow2Compression) type;
    return true;
}

static bool check_features(const uint8_t *cluster, const Qcow2Header *header, GError **error)
{
    uint64_t unknown = header->incompatible & ~KNOWN_INCOMPATIBLE;

    if (unknown) {
        g_autofree char *names = qcow2_header_name_features(cluster, header->header_length,
                                                            extensions_end(header), unknown);
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "Unsupported qcow2 feature(s): %s", names);
    }
    if (header->layout.subcluster_size < BIT(QCOW2_MIN_CLUSTER_BITS)) {
        return qcow2_corrupt(error, "header: extended L2 entries need clusters of 16384 bytes, not %" PRIu64,
                             header->layout.cluster_size);
    }
    if ((header->autoclear & QCOW2_AUTOCLEAR_RAW_DATA) && !header->layout.has_data_file) {
        return qcow2_corrupt(error, "header: autoclear feature bit 1 (raw data file) without a data file");
    }
    return true;
}

/* ---- Tables -------------------------------------------------------------------------------------- */

typedef struct TableClaim {
    const char *name;            /* of the table, in messages */
    uint64_t offset, n_entries, entry_len, max_bytes;
} TableClaim;

static bool check_table(const Qcow2Header *header, const TableClaim *claim, GError **error)
{
    uint64_t max_entries = claim->max_bytes / claim->entry_len;

    if (claim->n_entries > max_entries) {
        return qcow2_corrupt(error, "header: %s has %" PRIu64 " entries of %" PRIu64
                             " bytes, the limit is %" PRIu64,
                             claim->name, claim->n_entries, claim->entry_len, max_entries);
    }
    /* Also of an empty table: QEMU opens no such image. */
    if (!qcow2_is_cluster_aligned(&header->layout, claim->offset)
        || !qcow2_range_fits(claim->offset, claim->n_entries * claim->entry_len)) {
        return qcow2_corrupt(error, "header: %s offset 0x%" PRIx64 " is not cluster aligned, or too large",
                             claim->name, claim->offset);
    }
    return true;
}

static bool check_reftable(const Qcow2Header *header, GError **error)
{
    const TableClaim claim = {
        "refcount table", header->reftable_offset, header->reftable_clusters, header->layout.cluster_size,
        QCOW2_MAX_REFTABLE_BYTES,
    };

    if (header->reftable_clusters == 0) {
        return qcow2_corrupt(error, "header: refcount_table_clusters is 0");
    }
    return check_table(header, &claim, error);
}

static bool check_tables(const Qcow2Header *header, GError **error)
{
    const TableClaim claims[] = {
        { "snapshot table", header->snapshots_offset, header->n_snapshots,
          SNAPSHOT_ENTRY_MIN, SNAPSHOT_ENTRY_MIN * QCOW2_MAX_SNAPSHOTS },
        { "L1 table", header->l1_offset, header->l1_entries, TABLE_ENTRY_LEN, QCOW2_MAX_L1_BYTES },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(claims); i++) {
        if (!check_table(header, &claims[i], error)) {
            return false;
        }
    }
    if (header->size > INT64_MAX) {
        return qcow2_corrupt(error, "header: size is 0x%" PRIx64 " bytes, more than 63 bits", header->size);
    }

    uint64_t l1_needed = qcow2_l1_entries(&header->layout, header->size);
    if (header->l1_entries < l1_needed) {
        return qcow2_corrupt(error, "header: L1 table has %" PRIu32 " entries, a size of %" PRIu64
                             " bytes needs %" PRIu64, header->l1_entries, header->size, l1_needed);
    }
    return true;
}

/* ---- The whole ----------------------------------------------------------------------------------- */

static bool decode_backing_name(const uint8_t *cluster, Qcow2Header *header, GError **error)
{
    if (header->backing_offset == 0) {
        header->backing_len = 0;
        return true;
    }

    uint64_t room = MIN(QCOW2_MAX_BACKING_NAME, header->layout.cluster_size - header->backing_offset);
    if (header->backing_len > room) {
        return qcow2_corrupt(error, "header: backing_file_size is %" PRIu32 " bytes, at offset 0x%" PRIx64
                             " the limit is %" PRIu64, header->backing_len, header->backing_offset, room);
    }

    const char *name = (const char *) cluster + header->backing_offset;
    if (header->backing_len > 0 && name[0] != '\0') {
        header->backing_name = g_strndup(name, header->backing_len);
    }
    return true;
}

/* What a repair makes anew counts as not there; the snapshots that no reader would look at are given up. */
static void overlook_what_is_repaired(Qcow2Header *header)
{
    if (!check_reftable(header, NULL)) {
        header->reftable_offset = 0;
        header->reftable_clusters = 0;
    }
    header->n_snapshots = MIN(header->n_snapshots, QCOW2_MAX_SNAPSHOTS);
}

static bool decode_cluster(const uint8_t *cluster, Qcow2Header *header, bool repair, GError **error)
{
    if (!decode_fields(cluster, header, error)
        || !check_lengths(header, error)
        || !decode_compression(cluster, header, error)
        || !check_features(cluster, header, error)) {
        return false;
    }
    if (repair) {
        overlook_what_is_repaired(header);
    }
    if ((!repair && !check_reftable(header, error))
        || !check_tables(header, error)
        || !qcow2_header_decode_extensions(header, cluster, header->header_length, extensions_end(header),
                                           error)
        || !decode_backing_name(cluster, header, error)) {
        return false;
    }
    if (header->crypt == QCOW2_CRYPT_LUKS && !qcow2_header_find_ext(header, QCOW2_EXT_ENCRYPTION)) {
        return qcow2_corrupt(error, "header: crypt_method is LUKS, but the encryption extension is missing");
    }
    if (header->layout.version >= 3 && header->header_length > HEADER_LEN_KNOWN) {
        header->unknown_fields = g_bytes_new(cluster + HEADER_LEN_KNOWN,
                                             header->header_length - HEADER_LEN_KNOWN);
    }
    return true;
}

static bool decode(const uint8_t *bytes, size_t len_bytes, bool repair, Qcow2Header *ret, GError **error)
{
    g_autofree uint8_t *padded = NULL;
    uint64_t cluster_size;

    *ret = (Qcow2Header) { 0 };
    if (!qcow2_header_cluster_size(bytes, len_bytes, &cluster_size, error)) {
        return false;
    }

    /* A file may end inside its first cluster; what it does not have reads as zeros. */
    if (len_bytes < cluster_size) {
        padded = g_try_malloc0(cluster_size);
        if (!padded) {
            return qcow2_fail_memory(error, cluster_size, "the header");
        }
        memcpy(padded, bytes, len_bytes);
        bytes = padded;
    }

    if (!decode_cluster(bytes, ret, repair, error)) {
        qcow2_header_clear(ret);
        return false;
    }
    return true;
}

bool qcow2_header_decode(const uint8_t *bytes, size_t len_bytes, Qcow2Header *ret, GError **error)
{
    return decode(bytes, len_bytes, false, ret, error);
}

bool qcow2_header_decode_for_repair(const uint8_t *bytes, size_t len_bytes, Qcow2Header *ret, GError **error)
{
    return decode(bytes, len_bytes, true, ret, error);
}
