/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/header-fields.h"
#include "format/header.h"
#include "util/error.h"

#define EXT_HEADER_LEN 8u

/* A place in the cluster that fills from the front. */
typedef struct Room {
    uint8_t *start;
    size_t used, len;
} Room;

/* Room for @len_bytes and, after it, for what must still come; NULL when there is none. */
static uint8_t *take_room(Room *room, size_t len_bytes, size_t len_reserved)
{
    size_t len_padded = qcow2_align_up(len_bytes, 8);

    if (len_bytes > room->len || len_padded + len_reserved > room->len - room->used) {
        return NULL;
    }
    uint8_t *place = room->start + room->used;
    room->used += len_padded;
    return place;
}

static bool no_room(const Room *room, const char *what, size_t len_bytes, GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_NO_SPACE,
                      "header: no room for %s of %zu bytes: %zu of %zu bytes are used",
                      what, len_bytes, room->used, room->len);
}

static bool put_ext(Room *room, uint32_t type, GBytes *data, size_t len_reserved)
{
    size_t len_bytes = data ? g_bytes_get_size(data) : 0;
    uint8_t *place = take_room(room, EXT_HEADER_LEN + len_bytes, len_reserved);

    if (!place) {
        return false;
    }
    qcow2_store_be32(place, type);
    qcow2_store_be32(place + 4, (uint32_t) len_bytes);
    if (len_bytes > 0) {
        memcpy(place + EXT_HEADER_LEN, g_bytes_get_data(data, NULL), len_bytes);
    }
    return true;
}

typedef enum { EXT_ROOT, EXT_OTHER, EXT_OPTIONAL } ExtGroup;

static ExtGroup group_of(uint32_t type)
{
    switch (type) {
    case QCOW2_EXT_BACKING_FORMAT:
    case QCOW2_EXT_BITMAPS:
    case QCOW2_EXT_ENCRYPTION:
    case QCOW2_EXT_DATA_FILE:
        return EXT_ROOT;
    case QCOW2_EXT_FEATURE_NAMES:
        return EXT_OPTIONAL;
    default:
        return EXT_OTHER;
    }
}

static bool put_group(const Qcow2Header *header, ExtGroup group, Room *room, size_t len_reserved,
                      GError **error)
{
    for (guint i = 0; header->extensions && i < header->extensions->len; i++) {
        const Qcow2HeaderExt *ext = &g_array_index(header->extensions, Qcow2HeaderExt, i);

        if (group_of(ext->type) == group && !put_ext(room, ext->type, ext->data, len_reserved)
            && group != EXT_OPTIONAL) {
            g_autofree char *what = g_strdup_printf("the extension of type 0x%08" PRIx32, ext->type);
            return no_room(room, what, g_bytes_get_size(ext->data), error);
        }
    }
    return true;
}

/* Extensions, their end mark, and the backing name, which the cluster must have room for in any case. */
static bool put_rest(Qcow2Header *header, Room *room, GError **error)
{
    size_t len_name = header->backing_name ? strlen(header->backing_name) : 0;
    size_t len_reserved = EXT_HEADER_LEN + len_name;

    if (len_name > QCOW2_MAX_BACKING_NAME) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "header: backing file name of %zu bytes, the limit is %u",
                          len_name, QCOW2_MAX_BACKING_NAME);
    }
    if (len_reserved > room->len - room->used) {
        return no_room(room, "a backing file name", len_name, error);
    }
    if (!put_group(header, EXT_ROOT, room, len_reserved, error)
        || !put_group(header, EXT_OTHER, room, len_reserved, error)
        || !put_group(header, EXT_OPTIONAL, room, len_reserved, error)) {
        return false;
    }

    put_ext(room, QCOW2_EXT_END, NULL, len_name);
    header->backing_offset = len_name > 0 ? room->used : 0;
    header->backing_len = (uint32_t) len_name;
    if (len_name > 0) {
        memcpy(room->start + room->used, header->backing_name, len_name);
    }
    return true;
}

static void put_fields(const Qcow2Header *header, uint8_t *start)
{
    qcow2_store_be32(start + FIELD_MAGIC, QCOW2_MAGIC);
    qcow2_store_be32(start + FIELD_VERSION, header->layout.version);
    qcow2_store_be64(start + FIELD_BACKING_OFFSET, header->backing_offset);
    qcow2_store_be32(start + FIELD_BACKING_LEN, header->backing_len);
    qcow2_store_be32(start + FIELD_CLUSTER_BITS, header->layout.cluster_bits);
    qcow2_store_be64(start + FIELD_SIZE, header->size);
    qcow2_store_be32(start + FIELD_CRYPT_METHOD, header->crypt);
    qcow2_store_be32(start + FIELD_L1_ENTRIES, header->l1_entries);
    qcow2_store_be64(start + FIELD_L1_OFFSET, header->l1_offset);
    qcow2_store_be64(start + FIELD_REFTABLE_OFFSET, header->reftable_offset);
    qcow2_store_be32(start + FIELD_REFTABLE_CLUSTERS, header->reftable_clusters);
    qcow2_store_be32(start + FIELD_N_SNAPSHOTS, header->n_snapshots);
    qcow2_store_be64(start + FIELD_SNAPSHOTS_OFFSET, header->snapshots_offset);
    if (header->layout.version >= 3) {
        qcow2_store_be64(start + FIELD_INCOMPATIBLE, header->incompatible);
        qcow2_store_be64(start + FIELD_COMPATIBLE, header->compatible);
        qcow2_store_be64(start + FIELD_AUTOCLEAR, header->autoclear);
        qcow2_store_be32(start + FIELD_REFCOUNT_ORDER, header->layout.refcount_order);
        qcow2_store_be32(start + FIELD_HEADER_LENGTH, header->header_length);
        start[FIELD_COMPRESSION] = (uint8_t) header->compression;
    }
}

bool qcow2_header_encode(Qcow2Header *header, uint8_t *room_start, size_t room_len, GError **error)
{
    Room room = { .start = room_start, .len = room_len };
    bool is_v2 = header->layout.version == 2;
    GBytes *unknown = is_v2 ? NULL : header->unknown_fields;
    size_t len_unknown = unknown ? g_bytes_get_size(unknown) : 0;
    size_t len_fields = is_v2 ? HEADER_LEN_V2 : HEADER_LEN_KNOWN;

    memset(room_start, 0, room_len);
    if (!take_room(&room, len_fields, 0) || !take_room(&room, len_unknown, 0)) {
        return no_room(&room, "the fields", len_fields + len_unknown, error);
    }
    if (len_unknown > 0) {
        memcpy(room_start + len_fields, g_bytes_get_data(unknown, NULL), len_unknown);
    }
    header->header_length = (uint32_t) room.used;

    if (!put_rest(header, &room, error)) {
        return false;
    }
    put_fields(header, room_start);
    return true;
}
