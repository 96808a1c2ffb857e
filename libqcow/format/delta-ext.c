/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/delta-ext.h"

#include "util/error.h"

#define VERSION      1u
#define HEAD_LEN     8u    /* version, flags */
#define STATE_LEN    32u   /* before id and name */

static void encode_state(GByteArray *bytes, const Qcow2DeltaState *state, bool names)
{
    uint8_t fixed[STATE_LEN] = { 0 };
    size_t id_len = names ? MIN(strlen(state->id), G_MAXUINT16) : 0;
    size_t name_len = names ? MIN(strlen(state->name), G_MAXUINT16) : 0;

    fixed[0] = (uint8_t)state->kind;
    qcow2_store_be16(fixed + 4, (uint16_t)id_len);
    qcow2_store_be16(fixed + 6, (uint16_t)name_len);
    qcow2_store_be32(fixed + 8, state->date_sec);
    qcow2_store_be32(fixed + 12, state->date_nsec);
    qcow2_store_be64(fixed + 16, state->vm_clock_nsec);
    qcow2_store_be64(fixed + 24, state->size);
    g_byte_array_append(bytes, fixed, sizeof(fixed));
    g_byte_array_append(bytes, (const uint8_t *)state->id, (guint)id_len);
    g_byte_array_append(bytes, (const uint8_t *)state->name, (guint)name_len);
}

GBytes *qcow2_delta_ext_encode(const Qcow2DeltaExt *ext)
{
    GByteArray *bytes = g_byte_array_new();
    bool names = !(ext->flags & QCOW2_DELTA_NAMES_CUT);
    uint8_t head[HEAD_LEN];

    qcow2_store_be32(head, VERSION);
    qcow2_store_be32(head + 4, ext->flags);
    g_byte_array_append(bytes, head, sizeof(head));
    encode_state(bytes, &ext->from, names);
    encode_state(bytes, &ext->to, names);
    return g_byte_array_free_to_bytes(bytes);
}

/* Decodes one state and moves @bytes behind it. */
static bool decode_state(const uint8_t **bytes, size_t *len_bytes, Qcow2DeltaState *ret, GError **error)
{
    const uint8_t *p = *bytes;

    if (*len_bytes < STATE_LEN) {
        return qcow2_corrupt(error, "the delta extension ends inside a state's record");
    }
    size_t id_len = qcow2_load_be16(p + 4), name_len = qcow2_load_be16(p + 6);
    if (p[0] > QCOW2_DELTA_EMPTY) {
        return qcow2_corrupt(error, "the delta extension names a state of unknown kind %u", p[0]);
    }
    if (id_len + name_len > *len_bytes - STATE_LEN) {
        return qcow2_corrupt(error,
                             "the delta extension ends inside a state's id or name of %zu and %zu bytes",
                             id_len, name_len);
    }
    *ret = (Qcow2DeltaState) {
        .kind = (Qcow2DeltaKind)p[0],
        .id = g_strndup((const char *)p + STATE_LEN, id_len),
        .name = g_strndup((const char *)p + STATE_LEN + id_len, name_len),
        .date_sec = qcow2_load_be32(p + 8),
        .date_nsec = qcow2_load_be32(p + 12),
        .vm_clock_nsec = qcow2_load_be64(p + 16),
        .size = qcow2_load_be64(p + 24),
    };
    *bytes += STATE_LEN + id_len + name_len;
    *len_bytes -= STATE_LEN + id_len + name_len;
    return true;
}

bool qcow2_delta_ext_decode(const uint8_t *bytes, size_t len_bytes, Qcow2DeltaExt *ret, GError **error)
{
    *ret = (Qcow2DeltaExt) { 0 };
    if (len_bytes < HEAD_LEN) {
        return qcow2_corrupt(error, "the delta extension has %zu bytes only", len_bytes);
    }
    if (qcow2_load_be32(bytes) != VERSION) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "the delta extension has version %" PRIu32 "; %u is known", qcow2_load_be32(bytes),
                          VERSION);
    }
    ret->flags = qcow2_load_be32(bytes + 4);
    bytes += HEAD_LEN;
    len_bytes -= HEAD_LEN;
    if (!decode_state(&bytes, &len_bytes, &ret->from, error)
        || !decode_state(&bytes, &len_bytes, &ret->to, error)) {
        qcow2_delta_ext_clear(ret);
        return false;
    }
    return true;
}

static void clear_state(Qcow2DeltaState *state)
{
    g_clear_pointer(&state->id, g_free);
    g_clear_pointer(&state->name, g_free);
}

void qcow2_delta_ext_clear(Qcow2DeltaExt *ext)
{
    clear_state(&ext->from);
    clear_state(&ext->to);
}
