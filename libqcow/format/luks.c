/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/luks.h"

#include "util/bits.h"
#include "util/error.h"

/* LUKS On-Disk Format Specification 1.2.3, "The phdr" and "Key slots"; all numbers are big-endian. */
enum {
    PHDR_VERSION = 6,
    PHDR_CIPHER_NAME = 8,
    PHDR_CIPHER_MODE = 40,
    PHDR_HASH_SPEC = 72,
    PHDR_PAYLOAD_SECTOR = 104,
    PHDR_KEY_BYTES = 108,
    PHDR_ITERATIONS = 164,
    PHDR_UUID = 168,
    PHDR_SLOTS = 208,
    SLOT_ACTIVE = 0,
    SLOT_ITERATIONS = 4,
    SLOT_KEY_SECTOR = 40,
    SLOT_STRIPES = 44,
    SLOT_LEN = 48,
};

static const uint8_t magic[] = { 'L', 'U', 'K', 'S', 0xba, 0xbe };

#define TEXT_LEN 32u
#define UUID_LEN 40u
#define SECTOR UINT64_C(512)
#define SLOT_ENABLED UINT32_C(0x00ac71f3)

/* A text field that must have its terminating NUL inside. */
static bool decode_text(const uint8_t *field, size_t len_field, const char *name, char *ret, GError **error)
{
    size_t len = strnlen((const char *) field, len_field);

    if (len == len_field) {
        return qcow2_corrupt(error, "LUKS header: %s is not terminated within %zu bytes", name, len_field);
    }
    memcpy(ret, field, len + 1);
    return true;
}

/* The mode is "MODE-IVGEN" or "MODE-IVGEN:HASH". */
static bool split_mode(const char *text, Qcow2LuksInfo *ret, GError **error)
{
    g_auto(GStrv) mode = g_strsplit(text, "-", 2);
    if (g_strv_length(mode) != 2) {
        return qcow2_corrupt(error, "LUKS header: the cipher mode has no \"-\" before its IV generator");
    }

    g_auto(GStrv) ivgen = g_strsplit(mode[1], ":", 2);
    g_strlcpy(ret->cipher_mode, mode[0], sizeof(ret->cipher_mode));
    g_strlcpy(ret->ivgen_alg, ivgen[0] ? ivgen[0] : "", sizeof(ret->ivgen_alg));
    g_strlcpy(ret->ivgen_hash_alg, ivgen[0] && ivgen[1] ? ivgen[1] : "", sizeof(ret->ivgen_hash_alg));
    return true;
}

static Qcow2LuksSlot decode_slot(const uint8_t *slot)
{
    return (Qcow2LuksSlot) {
        .active = qcow2_load_be32(slot + SLOT_ACTIVE) == SLOT_ENABLED,
        .iterations = qcow2_load_be32(slot + SLOT_ITERATIONS),
        .stripes = qcow2_load_be32(slot + SLOT_STRIPES),
        .key_offset = qcow2_load_be32(slot + SLOT_KEY_SECTOR) * SECTOR,
    };
}

static bool decode_fields(const uint8_t *bytes, Qcow2LuksInfo *ret, GError **error)
{
    char cipher[TEXT_LEN + 1], mode[TEXT_LEN + 1];

    if (!decode_text(bytes + PHDR_CIPHER_NAME, TEXT_LEN, "cipher name", cipher, error)
        || !decode_text(bytes + PHDR_CIPHER_MODE, TEXT_LEN, "cipher mode", mode, error)
        || !decode_text(bytes + PHDR_HASH_SPEC, TEXT_LEN, "hash", ret->hash_alg, error)
        || !decode_text(bytes + PHDR_UUID, UUID_LEN, "UUID", ret->uuid, error)
        || !split_mode(mode, ret, error)) {
        return false;
    }

    /* QEMU's name for the cipher has the bits of one key: XTS has two. */
    uint64_t key_bits = qcow2_load_be32(bytes + PHDR_KEY_BYTES) * UINT64_C(8);
    g_snprintf(ret->cipher_alg, sizeof(ret->cipher_alg), "%s-%" PRIu64, cipher,
               strcmp(ret->cipher_mode, "xts") == 0 ? key_bits / 2 : key_bits);

    ret->payload_offset = qcow2_load_be32(bytes + PHDR_PAYLOAD_SECTOR) * SECTOR;
    ret->master_key_iterations = qcow2_load_be32(bytes + PHDR_ITERATIONS);
    for (size_t i = 0; i < G_N_ELEMENTS(ret->slots); i++) {
        ret->slots[i] = decode_slot(bytes + PHDR_SLOTS + i * SLOT_LEN);
    }
    return true;
}

bool qcow2_luks_decode(const uint8_t *bytes, size_t len_bytes, Qcow2LuksInfo *ret, GError **error)
{
    *ret = (Qcow2LuksInfo) { 0 };
    if (len_bytes < QCOW2_LUKS_HEADER_LEN) {
        return qcow2_corrupt(error, "LUKS header: %zu bytes, it has %u", len_bytes, QCOW2_LUKS_HEADER_LEN);
    }
    if (memcmp(bytes, magic, sizeof(magic)) != 0) {
        return qcow2_corrupt(error, "LUKS header: the magic \"LUKS\\xba\\xbe\" is missing");
    }

    unsigned version = qcow2_load_be16(bytes + PHDR_VERSION);
    if (version != 1) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "LUKS header: version is %u, not 1", version);
    }
    return decode_fields(bytes, ret, error);
}
