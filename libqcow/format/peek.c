/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/peek.h"

#include <string.h>

#include "format/header-fields.h"
#include "util/bits.h"

/* Of QED: little-endian, and in its own order. */
#define QED_MAGIC           0x00444551u
#define QED_FEATURES        16
#define QED_HAS_BACKING     BIT(0)
#define QED_BACKING_OFFSET  56
#define QED_BACKING_LEN     60

#define EXT_HEADER_LEN      8u   /* type and length */

static uint32_t load_le32(const uint8_t *p)
{
    uint32_t value;

    memcpy(&value, p, sizeof(value));
    return GUINT32_FROM_LE(value);
}

/* Extensions end before the backing file's name; 0 where there is no room for any. */
static uint64_t find_area_len(uint64_t name_offset, uint32_t cluster_bits)
{
    uint64_t cluster_size = BIT(MIN(cluster_bits, QCOW2_MAX_CLUSTER_BITS));
    uint64_t len = name_offset > 0 ? MIN(name_offset, cluster_size) : cluster_size;

    return len > HEADER_LEN_V3_MIN ? len : 0;
}

/* Version 1 is a format of its own, which has these fields at the same places. */
static void peek_qcow(const uint8_t *bytes, Qcow2Peek *ret)
{
    uint32_t version = qcow2_load_be32(bytes + FIELD_VERSION);

    *ret = (Qcow2Peek) {
        .name_offset = qcow2_load_be64(bytes + FIELD_BACKING_OFFSET),
        .name_len = qcow2_load_be32(bytes + FIELD_BACKING_LEN),
        .incompatible = version >= 3 ? qcow2_load_be64(bytes + FIELD_INCOMPATIBLE) : 0,
        .is_qcow2 = version >= 2,
    };
    if (ret->incompatible & QCOW2_INCOMPAT_DATA_FILE) {
        ret->area_len = find_area_len(ret->name_offset, qcow2_load_be32(bytes + FIELD_CLUSTER_BITS));
    }
}

static void peek_qed(const uint8_t *bytes, Qcow2Peek *ret)
{
    if (load_le32(bytes + QED_FEATURES) & QED_HAS_BACKING) {
        ret->name_offset = load_le32(bytes + QED_BACKING_OFFSET);
        ret->name_len = load_le32(bytes + QED_BACKING_LEN);
    }
}

bool qcow2_peek_header(const uint8_t *bytes, Qcow2Peek *ret)
{
    *ret = (Qcow2Peek) { 0 };
    if (qcow2_load_be32(bytes + FIELD_MAGIC) == QCOW2_MAGIC) {
        peek_qcow(bytes, ret);
    } else if (load_le32(bytes) == QED_MAGIC) {
        peek_qed(bytes, ret);
    }
    return ret->name_offset > 0 && ret->name_offset <= BIT(QCOW2_MAX_CLUSTER_BITS) && ret->name_len > 0
        && ret->name_len <= QCOW2_MAX_BACKING_NAME;
}

/* As QEMU takes it: the last one, up to a zero byte. */
char *qcow2_peek_data_file(const uint8_t *area, const Qcow2Peek *peek)
{
    uint64_t offset = qcow2_load_be32(area + FIELD_HEADER_LENGTH), end = peek->area_len;
    char *name = NULL;

    while (offset + EXT_HEADER_LEN <= end) {
        uint32_t type = qcow2_load_be32(area + offset), len_bytes = qcow2_load_be32(area + offset + 4);
        offset += EXT_HEADER_LEN;
        if (type == QCOW2_EXT_END || len_bytes > end - offset) {
            break;
        }
        if (type == QCOW2_EXT_DATA_FILE) {
            g_free(name);
            name = g_strndup((const char *)area + offset, len_bytes);
        }
        offset += qcow2_align_up(len_bytes, 8);
    }
    return name;
}
