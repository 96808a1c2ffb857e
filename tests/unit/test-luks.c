/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The LUKS header, as QEMU 7.2 and 10.0 write it; what qemu-img info says of it is the judge. */
#include "format/luks.h"

#include "format-bytes.h"

static const struct {
    const char *name, *uuid;
    uint32_t iterations;
} pieces[] = {
    { "luks-7.2.luks", "b3c5fa0e-12f7-4bd0-bbc8-5383faee2358", 11133 },
    { "luks-10.0.luks", "51b41329-26a0-4f73-80cc-ec9344d63771", 11116 },
};

static void test_qemu_headers(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(pieces); i++) {
        size_t len;
        g_autofree uint8_t *bytes = load_piece(pieces[i].name, &len);
        g_autoptr(GError) error = NULL;
        Qcow2LuksInfo info;

        qcow2_luks_decode(bytes, len, &info, &error);
        g_assert_no_error(error);
        g_assert_cmpstr(info.cipher_alg, ==, "aes-256");
        g_assert_cmpstr(info.cipher_mode, ==, "xts");
        g_assert_cmpstr(info.ivgen_alg, ==, "plain64");
        g_assert_cmpstr(info.ivgen_hash_alg, ==, "");
        g_assert_cmpstr(info.hash_alg, ==, "sha256");
        g_assert_cmpstr(info.uuid, ==, pieces[i].uuid);
        g_assert_cmpuint(info.payload_offset, ==, 2068480);
        g_assert_cmpuint(info.master_key_iterations, ==, pieces[i].iterations);
        g_assert_true(info.slots[0].active);
        g_assert_cmpuint(info.slots[0].iterations, ==, 44521);
        g_assert_cmpuint(info.slots[0].stripes, ==, 4000);
        for (size_t slot = 0; slot < G_N_ELEMENTS(info.slots); slot++) {
            g_assert_true(info.slots[slot].active == (slot == 0));
            g_assert_cmpuint(info.slots[slot].key_offset, ==, 4096 + slot * 258048);
        }
    }
}

static void test_modes(void)
{
    static const struct {
        const char *mode, *cipher_mode, *ivgen_alg, *ivgen_hash_alg;
        uint32_t key_bytes;
        const char *cipher_alg;
    } cases[] = {
        { "cbc-essiv:sha256", "cbc", "essiv", "sha256", 32, "aes-256" },
        { "cbc-plain64", "cbc", "plain64", "", 16, "aes-128" },
        { "xts-plain64", "xts", "plain64", "", 32, "aes-128" },
        { "xts-", "xts", "", "", 64, "aes-256" },
        { "-:", "", "", "", UINT32_MAX, "aes-34359738360" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        size_t len;
        g_autofree uint8_t *bytes = load_piece("luks-7.2.luks", &len);
        Qcow2LuksInfo info;

        memset(bytes + 40, 0, 32);
        memcpy(bytes + 40, cases[i].mode, strlen(cases[i].mode));
        put_be(bytes, 108, 4, cases[i].key_bytes);
        g_assert_true(qcow2_luks_decode(bytes, len, &info, NULL));
        g_assert_cmpstr(info.cipher_mode, ==, cases[i].cipher_mode);
        g_assert_cmpstr(info.ivgen_alg, ==, cases[i].ivgen_alg);
        g_assert_cmpstr(info.ivgen_hash_alg, ==, cases[i].ivgen_hash_alg);
        g_assert_cmpstr(info.cipher_alg, ==, cases[i].cipher_alg);
    }
}

static void check_bad(size_t offset, uint8_t value, size_t n, Qcow2Error code, const char *message)
{
    size_t len;
    g_autofree uint8_t *bytes = load_piece("luks-7.2.luks", &len);
    g_autoptr(GError) error = NULL;
    Qcow2LuksInfo info;

    memset(bytes + offset, value, n);
    g_assert_false(qcow2_luks_decode(bytes, len, &info, &error));
    assert_error_tells(error, (int) code, message);
}

static void test_bad(void)
{
    size_t len;
    g_autofree uint8_t *bytes = load_piece("luks-7.2.luks", &len);
    g_autoptr(GError) error = NULL;
    Qcow2LuksInfo info;

    g_assert_false(qcow2_luks_decode(bytes, 591, &info, &error));
    assert_error_tells(error, QCOW2_ERROR_CORRUPT, "LUKS header: 591 bytes, it has 592");
    check_bad(0, 'l', 1, QCOW2_ERROR_CORRUPT, "the magic");
    check_bad(7, 2, 1, QCOW2_ERROR_UNSUPPORTED, "version is 2, not 1");
    check_bad(8, 'x', 32, QCOW2_ERROR_CORRUPT, "cipher name is not terminated within 32 bytes");
    check_bad(40, 'x', 32, QCOW2_ERROR_CORRUPT, "cipher mode is not terminated");
    check_bad(40, 'x', 31, QCOW2_ERROR_CORRUPT, "no \"-\" before its IV generator");
    check_bad(72, 'x', 32, QCOW2_ERROR_CORRUPT, "hash is not terminated");
    check_bad(168, 'x', 40, QCOW2_ERROR_CORRUPT, "UUID is not terminated within 40 bytes");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/luks/headers of QEMU", test_qemu_headers);
    g_test_add_func("/luks/cipher modes", test_modes);
    g_test_add_func("/luks/what it is not", test_bad);
    return g_test_run();
}
