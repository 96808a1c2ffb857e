/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A header made by hand, for the tests of its decoder and encoder. */
#ifndef QCOW2_TESTS_HEADER_BYTES_H
#define QCOW2_TESTS_HEADER_BYTES_H

#include "format-bytes.h"
#include "format/header.h"

/* Offsets of the fields, from the specification. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_BACKING_OFFSET = 8,
    AT_BACKING_LEN = 16,
    AT_CLUSTER_BITS = 20,
    AT_SIZE = 24,
    AT_CRYPT = 32,
    AT_L1_ENTRIES = 36,
    AT_L1_OFFSET = 40,
    AT_REFTABLE_OFFSET = 48,
    AT_REFTABLE_CLUSTERS = 56,
    AT_N_SNAPSHOTS = 60,
    AT_SNAPSHOTS_OFFSET = 64,
    AT_INCOMPATIBLE = 72,
    AT_COMPATIBLE = 80,
    AT_AUTOCLEAR = 88,
    AT_REFCOUNT_ORDER = 96,
    AT_HEADER_LENGTH = 100,
    AT_COMPRESSION = 104,
};

#define MAX_CLUSTER (2u << 20)

/* An empty image of 1 GiB, which takes two L1 entries, with clusters of 64 KiB. @version: 2 or 3. */
static inline uint8_t *new_header_bytes(unsigned version)
{
    uint8_t *bytes = g_malloc0(MAX_CLUSTER);

    put_be(bytes, AT_MAGIC, 4, 0x514649fb);
    put_be(bytes, AT_VERSION, 4, version);
    put_be(bytes, AT_CLUSTER_BITS, 4, 16);
    put_be(bytes, AT_SIZE, 8, UINT64_C(1) << 30);
    put_be(bytes, AT_L1_ENTRIES, 4, 2);
    put_be(bytes, AT_L1_OFFSET, 8, 0x30000);
    put_be(bytes, AT_REFTABLE_OFFSET, 8, 0x10000);
    put_be(bytes, AT_REFTABLE_CLUSTERS, 4, 1);
    if (version == 3) {
        put_be(bytes, AT_REFCOUNT_ORDER, 4, 4);
        put_be(bytes, AT_HEADER_LENGTH, 4, 112);
    }
    return bytes;
}

/* Puts an extension at @offset and returns where the next one goes; an end mark is what zeros are. */
static inline size_t put_ext_bytes(uint8_t *bytes, size_t offset, uint32_t type, const void *data,
                                   size_t len_bytes)
{
    put_be(bytes, offset, 4, type);
    put_be(bytes, offset + 4, 4, len_bytes);
    if (len_bytes > 0) {
        memcpy(bytes + offset + 8, data, len_bytes);
    }
    return offset + 8 + qcow2_align_up(len_bytes, 8);
}

#endif
