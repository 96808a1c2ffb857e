/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names, sizes, cache modes and errors in words. What qemu-img 10 accepts and prints is the judge. */
#include "util/error.h"

#include <errno.h>
#include <locale.h>

static void check_escape(const char *name, gssize len, const char *expected)
{
    g_autofree char *text = qcow2_escape_name(name, len);
    g_assert_cmpstr(text, ==, expected);
}

static void test_escape_keeps_text(void)
{
    check_escape("", -1, "");
    check_escape("vm 1 \"quoted\" 'single'", -1, "vm 1 \"quoted\" 'single'");
    check_escape("Zürich 日本 \xf0\x9f\x92\xbe", -1, "Zürich 日本 \xf0\x9f\x92\xbe");
}

static void test_escape_controls(void)
{
    check_escape("a\nb\x1b[31m\x7f", -1, "a\\x0ab\\x1b[31m\\x7f");
    check_escape("a\\x0ab", -1, "a\\\\x0ab");
    check_escape("c1 \xc2\x9b", -1, "c1 \\xc2\\x9b");
    check_escape("\xe2\x80\xaetxt.exe", -1, "\\xe2\\x80\\xaetxt.exe");
    check_escape("nul\0in", 6, "nul\\x00in");
    check_escape("nul\0in", -1, "nul");
}

static void test_escape_invalid_utf8(void)
{
    check_escape("\xff\xfe", -1, "\\xff\\xfe");
    check_escape("cut \xe6\x97", -1, "cut \\xe6\\x97");
    check_escape("cut \xe6\x97\xa5", 6, "cut \\xe6\\x97");
    check_escape("over\xc0\xaflong", -1, "over\\xc0\\xaflong");
    check_escape("surrogate \xed\xa0\x80", -1, "surrogate \\xed\\xa0\\x80");
}

static const struct {
    const char *text;
    uint64_t bytes;
} sizes[] = {
    { "0", 0 }, { "1", 1 }, { "1024", 1024 }, { "010", 10 }, { " 5", 5 }, { "+5", 5 }, { "1.", 1 },
    { "1.0", 1 }, { "1b", 1 }, { "1B", 1 }, { "1.0b", 1 }, { "1k", 1024 }, { "1K", 1024 },
    { "1M", 1048576 }, { "1m", 1048576 },
    { "1g", UINT64_C(1) << 30 }, { "1t", UINT64_C(1) << 40 }, { "1p", UINT64_C(1) << 50 },
    { "1e", UINT64_C(1) << 60 }, { "7E", UINT64_C(8070450532247928832) },
    { "0x10", 16 }, { "0X10", 16 }, { "0x10b", 267 },
    { ".5k", 512 }, { "+.5k", 512 }, { "1.k", 1024 }, { "0.1k", 102 }, { "0.3k", 307 }, { "1.7k", 1741 },
    { "0.0005k", 1 }, { ".00048828125k", 1 }, { "1.00048828124k", 1024 }, { "0.0001k", 0 },
    { "0.99999999999999999999k", 1024 }, { "1.99999999999999999999E", UINT64_C(2) << 60 },
    { "1.7E", UINT64_C(1959966557831639808) }, { "7.9999E", UINT64_C(9223256744704315136) },
    { "3.3T", UINT64_C(3628388371661) }, { "1.5e", UINT64_C(3) << 59 },
    { "9223372036854775807", INT64_MAX }, { "0x7fffffffffffffff", INT64_MAX },
};

static void test_parse_size(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(GError) error = NULL;
        uint64_t bytes = UINT64_MAX;

        qcow2_parse_size(sizes[i].text, &bytes, &error);
        g_assert_no_error(error);
        g_test_message("%s", sizes[i].text);
        g_assert_cmpuint(bytes, ==, sizes[i].bytes);
    }
}

static void test_parse_size_refuses(void)
{
    static const char *const texts[] = {
        "", "k", ".", ".k", "+", "1kk", "1kb", "1kB", "1KiB", "1i", "1 k", "5 ", "1.5", "1.5b", "0.4999999b",
        "1,5k", "1e3", "1e3k", "1.5e1k", "1.e1k", "5E5", "0b11", "inf", "nan", "--5", "+-5", "-5", "-0",
        "-0.0k", "1.2.3k",
        "0x", "0xg", "0x1g", "0x10k", "0x1.8k", "0x-1", "0x 1",
        "8E", "9223372036854775808", "18446744073709551616", "99999999999999999999E", "9007199254740993.0k",
        "7.9999999999999999999999E", "0x8000000000000000", "0xffffffffffffffffff",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        uint64_t bytes;

        g_test_message("'%s'", texts[i]);
        g_assert_false(qcow2_parse_size(texts[i], &bytes, &error));
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
    }
}

static void test_format_size(void)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        { 0, "0 B" }, { 512, "512 B" }, { 1023, "0.999 KiB" }, { 1024, "1 KiB" }, { 1536, "1.5 KiB" },
        { 10752, "10.5 KiB" }, { 1022976, "999 KiB" }, { 1023488, "1e+03 KiB" }, { 1024000, "0.977 MiB" },
        { 1048064, "1 MiB" }, { 1047552, "0.999 MiB" }, { 106954752, "102 MiB" }, { 3436032, "3.28 MiB" },
        { 1073217536, "1 GiB" }, { 1072693248, "0.999 GiB" }, { UINT64_C(10) << 30, "10 GiB" },
        { UINT64_C(1099511627776), "1 TiB" }, { INT64_MAX, "8 EiB" }, { UINT64_MAX, "16 EiB" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = qcow2_format_size(cases[i].bytes);
        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

/* A program that honours the locale, with a comma as decimal point, reads and prints the same. */
static void test_size_in_locale(void)
{
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8")) {
        g_test_skip("no locale with a decimal comma is installed");
        return;
    }
    test_parse_size();
    test_format_size();
    setlocale(LC_NUMERIC, "C");
}

static void test_parse_cache(void)
{
    static const struct {
        const char *name;
        Qcow2Cache cache;
    } cases[] = {
        { "writeback", QCOW2_CACHE_WRITEBACK }, { "none", QCOW2_CACHE_NONE }, { "off", QCOW2_CACHE_NONE },
        { "writethrough", QCOW2_CACHE_WRITETHROUGH }, { "directsync", QCOW2_CACHE_DIRECTSYNC },
        { "unsafe", QCOW2_CACHE_UNSAFE },
    };
    g_autoptr(GError) error = NULL;
    Qcow2Cache cache;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_assert_true(qcow2_parse_cache(cases[i].name, &cache, &error));
        g_assert_no_error(error);
        g_assert_cmpint(cache, ==, cases[i].cache);
    }
    g_assert_false(qcow2_parse_cache("WriteBack", &cache, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
}

static void test_errors(void)
{
    static const struct {
        int errnum;
        Qcow2Error code;
    } cases[] = {
        { ENOSPC, QCOW2_ERROR_NO_SPACE }, { EDQUOT, QCOW2_ERROR_NO_SPACE }, { ENOENT, QCOW2_ERROR_NOT_FOUND },
        { EIO, QCOW2_ERROR_IO }, { EACCES, QCOW2_ERROR_IO },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *expected = g_strdup_printf("write 7 bytes: %s", g_strerror(cases[i].errnum));

        g_assert_false(qcow2_fail_errno(&error, cases[i].errnum, "write %d bytes", 7));
        g_assert_error(error, QCOW2_ERROR, (int) cases[i].code);
        g_assert_cmpstr(error->message, ==, expected);
    }
    g_assert_false(qcow2_fail_errno(NULL, EIO, "nobody asks"));
    g_assert_false(qcow2_corrupt(NULL, "nobody asks"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/escape/valid text stays as it is", test_escape_keeps_text);
    g_test_add_func("/escape/control characters and backslashes are spelled out", test_escape_controls);
    g_test_add_func("/escape/bytes that are not UTF-8 are spelled out", test_escape_invalid_utf8);
    g_test_add_func("/size/what qemu-img reads is read alike", test_parse_size);
    g_test_add_func("/size/what qemu-img refuses is refused", test_parse_size_refuses);
    g_test_add_func("/size/sizes print as qemu-img prints them", test_format_size);
    g_test_add_func("/size/the locale changes nothing", test_size_in_locale);
    g_test_add_func("/cache/the names of qemu-img -t", test_parse_cache);
    g_test_add_func("/error/system errors get a code and their words", test_errors);
    return g_test_run();
}
