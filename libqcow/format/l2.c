/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/l2.h"

#include "util/error.h"

#define COMPRESSED_SECTOR_SIZE UINT64_C(512)

/* A compressed descriptor: the offset in bits 0 to x-1, the count of additional sectors from x to 61. */
static unsigned compressed_offset_bits(const Qcow2Layout *layout)
{
    return 62 - (layout->cluster_bits - 8);
}

static uint64_t compressed_max_sectors(const Qcow2Layout *layout)
{
    return BIT(layout->cluster_bits - 8) - 1;
}

static bool decode_compressed(const Qcow2Layout *layout, uint64_t raw, Qcow2L2Entry *ret, GError **error)
{
    unsigned offset_bits = compressed_offset_bits(layout);
    uint64_t host_offset = raw & (BIT(offset_bits) - 1);
    uint64_t more_sectors = (raw >> offset_bits) & compressed_max_sectors(layout);

    if (layout->has_data_file) {
        return qcow2_corrupt(error, "L2 entry 0x%016" PRIx64 " is a compressed cluster, "
                             "which an image with a data file cannot hold", raw);
    }

    /* The last sector is only an upper bound: its tail may belong to the next compressed cluster. */
    *ret = (Qcow2L2Entry) {
        .kind = QCOW2_CLUSTER_COMPRESSED,
        .allocated = true,
        .copied = (raw & L2E_COPIED) != 0,
        .host_offset = host_offset,
        .stream_len = (uint32_t) ((more_sectors + 1) * COMPRESSED_SECTOR_SIZE
                                  - host_offset % COMPRESSED_SECTOR_SIZE),
    };
    return true;
}

static bool decode_standard(const Qcow2Layout *layout, uint64_t raw, Qcow2L2Entry *ret, GError **error)
{
    uint64_t host_offset = raw & L2E_HOST_OFFSET;
    bool zero = (raw & L2E_ZERO) != 0 && !layout->extended_l2;   /* extended: the bitmap says it instead */
    bool copied = (raw & L2E_COPIED) != 0;

    if (zero && layout->version < 3) {
        return qcow2_corrupt(error, "L2 entry 0x%016" PRIx64
                             " is a zero cluster, which version 2 does not have", raw);
    }
    if (!qcow2_is_cluster_aligned(layout, host_offset)) {
        return qcow2_corrupt(error, "L2 entry 0x%016" PRIx64 ": host offset 0x%" PRIx64
                             " is not a multiple of the cluster size 0x%" PRIx64,
                             raw, host_offset, layout->cluster_size);
    }

    /*
     * Host offset 0 is a cluster only in a data file, where COPIED tells it from "unallocated". Under zeros
     * it is none even there: nothing reads it, and QEMU shows no offset for it.
     */
    bool allocated = host_offset != 0 || (layout->has_data_file && copied && !zero);

    *ret = (Qcow2L2Entry) {
        .kind = zero      ? QCOW2_CLUSTER_ZERO
              : allocated ? QCOW2_CLUSTER_DATA
                          : QCOW2_CLUSTER_UNALLOCATED,
        .allocated = allocated,
        .copied = copied,
        .host_offset = host_offset,
    };
    return true;
}

static bool decode_subclusters(uint64_t raw, uint64_t bitmap, Qcow2L2Entry *entry, GError **error)
{
    entry->data_mask = (uint32_t) bitmap;
    entry->zero_mask = (uint32_t) (bitmap >> 32);

    if (!entry->allocated && entry->data_mask != 0) {
        return qcow2_corrupt(error, "L2 entry 0x%016" PRIx64 ": bitmap 0x%016" PRIx64
                             " allocates subclusters of no host cluster", raw, bitmap);
    }
    if (entry->data_mask & entry->zero_mask) {
        return qcow2_corrupt(error, "L2 entry 0x%016" PRIx64 ": bitmap 0x%016" PRIx64
                             " has subclusters that are both allocated and zero", raw, bitmap);
    }
    return true;
}

bool qcow2_l2_decode(const Qcow2Layout *layout, uint64_t raw, uint64_t bitmap, Qcow2L2Entry *ret,
                     GError **error)
{
    if (raw & L2E_COMPRESSED) {
        return decode_compressed(layout, raw, ret, error);   /* its bitmap is reserved and not used */
    }
    return decode_standard(layout, raw, ret, error)
        && (!layout->extended_l2 || decode_subclusters(raw, bitmap, ret, error));
}

uint64_t qcow2_l2_reserved(const Qcow2Layout *layout, uint64_t raw)
{
    if (raw & L2E_COMPRESSED) {
        /* With small clusters the offset field is wider than an offset may be. */
        return raw & (BIT(compressed_offset_bits(layout)) - 1) & ~(BIT(56) - 1);
    }

    bool has_zero_bit = layout->version >= 3 && !layout->extended_l2;
    return raw & (L2E_RESERVED | (has_zero_bit ? 0 : L2E_ZERO));
}

bool qcow2_l2_encode_compressed(const Qcow2Layout *layout, uint64_t host_offset, uint64_t stream_len,
                                uint64_t *ret_raw)
{
    unsigned offset_bits = compressed_offset_bits(layout);
    uint64_t offset_limit = BIT(MIN(offset_bits, 56));

    if (stream_len == 0 || host_offset >= offset_limit || stream_len > offset_limit - host_offset) {
        return false;
    }

    uint64_t last_byte = host_offset + stream_len - 1;
    uint64_t more_sectors = last_byte / COMPRESSED_SECTOR_SIZE - host_offset / COMPRESSED_SECTOR_SIZE;
    if (more_sectors > compressed_max_sectors(layout)) {
        return false;
    }

    *ret_raw = L2E_COMPRESSED | more_sectors << offset_bits | host_offset;
    return true;
}
