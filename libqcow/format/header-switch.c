/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/header-switch.h"

#include "format/header-fields.h"
#include "util/error.h"

#define EXT_HEADER_LEN    8u
#define FEATURE_ENTRY_LEN 48u

/* What a header uses of its cluster: [0, ext_end) and the backing name. */
typedef struct Used {
    uint64_t ext_end, name_start, name_end;
} Used;

/* Where the extensions end, with their end mark; it may be missing when they fill their area. */
static uint64_t find_ext_end(const uint8_t *cluster, uint64_t offset, uint64_t limit)
{
    while (offset + EXT_HEADER_LEN <= limit) {
        uint32_t type = qcow2_load_be32(cluster + offset), len = qcow2_load_be32(cluster + offset + 4);
        offset += EXT_HEADER_LEN;
        if (type == QCOW2_EXT_END) {
            return offset;
        }
        if (len > limit - offset) {
            break;
        }
        offset += qcow2_align_up(len, 8);
    }
    return limit;
}

static Used used_by(const uint8_t *cluster, size_t len_bytes)
{
    bool is_v2 = qcow2_load_be32(cluster + FIELD_VERSION) < 3;
    uint64_t start = is_v2 ? HEADER_LEN_V2 : MIN(len_bytes, qcow2_load_be32(cluster + FIELD_HEADER_LENGTH));
    uint64_t name_start = MIN(len_bytes, qcow2_load_be64(cluster + FIELD_BACKING_OFFSET));
    uint64_t name_len = name_start ? qcow2_load_be32(cluster + FIELD_BACKING_LEN) : 0;

    return (Used) {
        .ext_end = find_ext_end(cluster, start, name_start ? name_start : len_bytes),
        .name_start = name_start,
        .name_end = MIN(len_bytes, name_start + name_len),
    };
}

/* Whether [start, end) can be written while the old header is in force; the first sector is switched. */
static bool is_free(const Used *used, uint64_t start, uint64_t end)
{
    start = MAX(start, QCOW2_HEADER_SECTOR);
    return start >= end || (start >= used->ext_end && (end <= used->name_start || start >= used->name_end));
}

/* The extensions' part past the first sector lies free, or is there already. */
static bool extensions_fit(const Used *used, const uint8_t *old, const uint8_t *trial, uint64_t ext_end)
{
    for (uint64_t i = QCOW2_HEADER_SECTOR; i < ext_end; i++) {
        if (!is_free(used, i, i + 1) && old[i] != trial[i]) {
            return false;
        }
    }
    return true;
}

/* The old place when it holds the same name, or the first one that is free; 0 without any. */
static uint64_t place_name(const Used *used, const uint8_t *old, const char *name, uint64_t ext_end,
                           size_t len_bytes)
{
    size_t name_len = strlen(name);

    if (used->name_start >= ext_end && used->name_end - used->name_start == name_len
        && memcmp(old + used->name_start, name, name_len) == 0) {
        return used->name_start;
    }
    for (uint64_t at = ext_end; at + name_len <= len_bytes; at += 8) {
        if (is_free(used, at, at + name_len)) {
            return at;
        }
    }
    return 0;
}

/* @trial, just encoded, becomes a cluster to which one write can switch; false when it cannot. */
static bool arrange(const uint8_t *old, const Used *used, Qcow2Header *header, uint8_t *trial,
                    size_t len_bytes)
{
    uint64_t limit = header->backing_offset ? header->backing_offset : len_bytes;
    uint64_t ext_end = find_ext_end(trial, header->header_length, limit), name_start = 0;

    if (!extensions_fit(used, old, trial, ext_end)) {
        return false;
    }
    if (header->backing_name) {
        name_start = place_name(used, old, header->backing_name, ext_end, len_bytes);
        if (name_start == 0) {
            return false;
        }
    }
    /* Past the sector only what is needed changes. */
    uint64_t kept = MAX(ext_end, QCOW2_HEADER_SECTOR);
    memset(trial + ext_end, 0, kept - ext_end);
    memcpy(trial + kept, old + kept, len_bytes - kept);
    if (header->backing_name) {
        memcpy(trial + name_start, header->backing_name, strlen(header->backing_name));
    }
    header->backing_offset = name_start;
    qcow2_store_be64(trial + FIELD_BACKING_OFFSET, name_start);
    return true;
}

/* Cuts the feature name table to @n entries; without any it goes. */
static void cut_feature_names(Qcow2Header *header, size_t n)
{
    GBytes *table = qcow2_header_find_ext(header, QCOW2_EXT_FEATURE_NAMES);

    if (table) {
        g_autoptr(GBytes) kept = g_bytes_ref(table);
        qcow2_header_set_ext(header, QCOW2_EXT_FEATURE_NAMES, n > 0 ? g_bytes_get_data(kept, NULL) : NULL,
                             n * FEATURE_ENTRY_LEN);
    }
}

/* That a cluster is full is for the caller no matter of space. */
static bool encode(Qcow2Header *header, uint8_t *ret, size_t len_bytes, GError **error)
{
    g_autoptr(GError) cause = NULL;

    return qcow2_header_encode(header, ret, len_bytes, &cause)
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "%s", cause->message);
}

bool qcow2_header_switch(const uint8_t *old, Qcow2Header *header, uint8_t *ret, size_t len_bytes,
                         GError **error)
{
    Used used = used_by(old, len_bytes);
    GBytes *names = qcow2_header_find_ext(header, QCOW2_EXT_FEATURE_NAMES);
    size_t n_names = names ? g_bytes_get_size(names) / FEATURE_ENTRY_LEN : 0;

    for (;;) {
        if (!encode(header, ret, len_bytes, n_names == 0 ? error : NULL)) {
            if (n_names == 0) {
                return false;
            }
        } else if (arrange(old, &used, header, ret, len_bytes)) {
            return true;
        }
        if (n_names == 0) {
            return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                              "header: the extensions and the backing name cannot be laid out so that one"
                              " write of %u bytes switches to them: the cluster of %zu bytes is too full",
                              QCOW2_HEADER_SECTOR, len_bytes);
        }
        cut_feature_names(header, --n_names);
    }
}

void qcow2_header_patch_roots(const Qcow2Header *header, uint8_t sector[QCOW2_HEADER_SECTOR])
{
    qcow2_store_be64(sector + FIELD_SIZE, header->size);
    qcow2_store_be32(sector + FIELD_L1_ENTRIES, header->l1_entries);
    qcow2_store_be64(sector + FIELD_L1_OFFSET, header->l1_offset);
    qcow2_store_be64(sector + FIELD_REFTABLE_OFFSET, header->reftable_offset);
    qcow2_store_be32(sector + FIELD_REFTABLE_CLUSTERS, header->reftable_clusters);
    qcow2_store_be32(sector + FIELD_N_SNAPSHOTS, header->n_snapshots);
    qcow2_store_be64(sector + FIELD_SNAPSHOTS_OFFSET, header->snapshots_offset);
    if (header->layout.version >= 3) {
        qcow2_store_be64(sector + FIELD_INCOMPATIBLE, header->incompatible);
        qcow2_store_be64(sector + FIELD_COMPATIBLE, header->compatible);
        qcow2_store_be64(sector + FIELD_AUTOCLEAR, header->autoclear);
        qcow2_store_be32(sector + FIELD_REFCOUNT_ORDER, header->layout.refcount_order);
    }
}
