/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/create-options.h"

#include <string.h>

static void parse(const char *text, Qcow2CreateOptions *ret)
{
    g_autoptr(GError) error = NULL;

    qcow2_create_options_init(ret);
    g_assert_true(qcow2_create_options_parse(text, ret, &error));
    g_assert_no_error(error);
}

static void test_defaults(void)
{
    g_auto(Qcow2CreateOptions) options = { 0 };

    parse(NULL, &options);
    g_assert_cmpuint(options.cluster_size, ==, 65536);
    g_assert_cmpuint(options.version, ==, 3);
    g_assert_cmpuint(options.refcount_bits, ==, 16);
    g_assert_cmpint(options.compression, ==, QCOW2_COMPRESSION_ZLIB);
    g_assert_cmpint(options.preallocation, ==, QCOW2_PREALLOCATION_OFF);
    g_assert_false(options.extended_l2 || options.lazy_refcounts || options.data_file_raw);
    g_assert_null(options.backing_file);
    g_assert_false(options.has_cluster_size || options.has_version || options.has_compression
                   || options.has_size);
}

static void test_every_option(void)
{
    g_auto(Qcow2CreateOptions) options = { 0 };

    parse("size=1G,cluster_size=128k,compat=1.1,refcount_bits=0x20,extended_l2=on,lazy_refcounts=yes,"
          "compression_type=zstd,preallocation=falloc,backing_file=a,,b,backing_fmt=raw,data_file=d",
          &options);
    g_assert_cmpuint(options.size, ==, UINT64_C(1) << 30);
    g_assert_cmpuint(options.cluster_size, ==, 131072);
    g_assert_cmpuint(options.version, ==, 3);
    g_assert_cmpuint(options.refcount_bits, ==, 32);
    g_assert_true(options.extended_l2 && options.lazy_refcounts);
    g_assert_cmpint(options.compression, ==, QCOW2_COMPRESSION_ZSTD);
    g_assert_cmpint(options.preallocation, ==, QCOW2_PREALLOCATION_FALLOC);
    g_assert_cmpstr(options.backing_file, ==, "a,b");
    g_assert_cmpstr(options.backing_format, ==, "raw");
    g_assert_cmpstr(options.data_file, ==, "d");
    g_assert_true(options.has_size && options.has_cluster_size && options.has_version
                  && options.has_refcount_bits);
    g_assert_true(options.has_extended_l2 && options.has_lazy_refcounts && options.has_compression);
    g_assert_true(options.has_preallocation && !options.has_data_file_raw);
}

static void test_spelling(void)
{
    const char *const on[] = { "extended_l2",      "extended_l2=on",  "extended_l2=y",
                               "extended_l2=true", "extended_l2=yes", "extended_l2=off,extended_l2=on" };
    const char *const off[] = { "extended_l2=off", "extended_l2=no", "extended_l2,extended_l2=n",
                                "extended_l2=false" };
    const char *const v2[] = { "compat=0.10", "compat=v2", "compat=1.1,compat=0.10" };

    for (size_t i = 0; i < G_N_ELEMENTS(on); i++) {
        g_auto(Qcow2CreateOptions) options = { 0 };
        parse(on[i], &options);
        g_assert_true(options.extended_l2);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(off); i++) {
        g_auto(Qcow2CreateOptions) options = { 0 };
        parse(off[i], &options);
        g_assert_true(options.has_extended_l2 && !options.extended_l2);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(v2); i++) {
        g_auto(Qcow2CreateOptions) options = { 0 };
        parse(v2[i], &options);
        g_assert_cmpuint(options.version, ==, 2);
    }

    g_auto(Qcow2CreateOptions) files = { 0 };
    parse("backing_file=old,backing_file=,,new,,=,,", &files);
    g_assert_cmpstr(files.backing_file, ==, ",new,=,");
}

typedef struct Refused {
    const char *text, *words;
} Refused;

static void test_refused(void)
{
    const Refused refused[] = {
        { "cluster_size=3k", "power of two between 512 and 2048k" },
        { "cluster_size=256", "power of two" },
        { "cluster_size=4M", "power of two" },
        { "cluster_size=0", "power of two" },
        { "cluster_size=abc", "'abc' is no size" },
        { "cluster_size=-1", "no size" },
        { "cluster_size", "'on' is no size" },
        { "cluster_size=64k,,compat=1.1", "no size" },
        { "refcount_bits=3", "power of two" },
        { "refcount_bits=0", "power of two" },
        { "refcount_bits=128", "exceed 64 bits" },
        { "refcount_bits=-16", "a number" },
        { "refcount_bits=8bit", "a number" },
        { "refcount_bits=", "a number" },
        { "refcount_bits=4294967312", "a number" },
        { "compat=1.2", "0.10, 1.1, v2, v3" },
        { "compression_type=lz4", "zlib, zstd" },
        { "preallocation=some", "off, metadata, falloc, full" },
        { "lazy_refcounts=maybe", "on or off" },
        { "extended_l2=on,compat=0.10", "Extended L2 entries need" },
        { "extended_l2=on,cluster_size=8k", "at least 16384 bytes" },
        { "lazy_refcounts=on,compat=0.10", "Lazy refcounts need" },
        { "compression_type=zstd,compat=0.10", "Other compression types than zlib need" },
        { "refcount_bits=8,compat=0.10", "Other refcount widths than 16 bits need" },
        { "data_file=d,compat=0.10", "External data files need" },
        { "data_file_raw=on", "requires data_file" },
        { "data_file_raw=on,data_file=d,backing_file=b", "cannot be used at the same time" },
        { "backing_fmt=raw", "without backing file" },
        { "preallocation=metadata,backing_file=b", "if extended_l2 is on" },
        { "bogus=1",
          "there is no option 'bogus'; there are backing_file, backing_fmt, cluster_size, compat, " },
        { "CLUSTER_SIZE=64k", "there is no option" },
        { "", "without a name" },
        { ",compat=1.1", "without a name" },
        { "compat=1.1,", "without a name" },
        { "=1", "without a name" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        g_auto(Qcow2CreateOptions) options = { 0 };
        g_autoptr(GError) error = NULL;
        qcow2_create_options_init(&options);
        g_assert_false(qcow2_create_options_parse(refused[i].text, &options, &error));
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
        g_test_message("%s: %s", refused[i].text, error->message);
        g_assert_nonnull(strstr(error->message, refused[i].words));
    }
}

static void test_encryption_is_not_supported(void)
{
    const char *const texts[] = { "encryption=on", "encrypt.format=luks,encrypt.key-secret=s" };

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_auto(Qcow2CreateOptions) options = { 0 };
        g_autoptr(GError) error = NULL;
        qcow2_create_options_init(&options);
        g_assert_false(qcow2_create_options_parse(texts[i], &options, &error));
        g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);
    }
}

/* A command that takes its defaults from a source: they are checked together with what was named. */
static void test_defaults_of_a_caller(void)
{
    g_auto(Qcow2CreateOptions) options = { 0 };
    g_autoptr(GError) error = NULL;

    qcow2_create_options_init(&options);
    options.cluster_size = 4096;
    g_assert_true(qcow2_create_options_parse("refcount_bits=1", &options, &error));
    g_assert_cmpuint(options.cluster_size, ==, 4096);
    g_assert_false(options.has_cluster_size);
    g_assert_false(qcow2_create_options_parse("extended_l2=on", &options, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
}

static void test_raw(void)
{
    g_auto(Qcow2CreateOptions) options = { 0 };
    g_autoptr(GError) error = NULL;

    qcow2_create_options_init(&options);
    g_assert_true(qcow2_create_options_parse_raw(NULL, &options, &error));
    g_assert_true(qcow2_create_options_parse_raw("size=5M,preallocation=full", &options, &error));
    g_assert_cmpuint(options.size, ==, 5 << 20);
    g_assert_cmpint(options.preallocation, ==, QCOW2_PREALLOCATION_FULL);
    g_assert_false(qcow2_create_options_parse_raw("preallocation=metadata", &options, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
    g_clear_error(&error);
    g_assert_false(qcow2_create_options_parse_raw("cluster_size=64k", &options, &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_INVALID);
    g_assert_cmpstr(
        error->message, ==,
        "there is no option 'cluster_size'; there are extent_size_hint, nocow, preallocation, size");
}

static void test_amend(void)
{
    g_auto(Qcow2CreateOptions) options = { 0 };
    g_autoptr(GError) error = NULL;

    qcow2_create_options_init(&options);
    g_assert_true(qcow2_create_options_read("compat=v2,size=1M", QCOW2_OPTIONS_AMEND, &options, &error));
    g_assert_true(options.has_version && options.version == 2 && options.has_size);
    g_assert_false(qcow2_create_options_read("cluster_size=4k", QCOW2_OPTIONS_AMEND, &options, &error));
    g_assert_nonnull(strstr(error->message, "only supported for image creation"));
    g_clear_error(&error);
    g_assert_false(qcow2_create_options_read("bogus=4k", QCOW2_OPTIONS_AMEND, &options, &error));
    g_assert_nonnull(strstr(error->message, "no option 'bogus'"));
}

static void test_print(void)
{
    g_auto(Qcow2CreateOptions) options = { 0 };

    parse("size=1M,compat=v3,lazy_refcounts=yes,backing_file=a,,b,backing_fmt=raw,refcount_bits=0x10",
          &options);
    g_autofree char *line = qcow2_create_options_print(&options, QCOW2_OPTIONS_CREATE);
    g_assert_cmpstr(line, ==,
                    "cluster_size=65536 extended_l2=off compression_type=zlib size=1048576 compat=v3"
                    " backing_file=a,,b backing_fmt=raw lazy_refcounts=yes refcount_bits=16");
    g_autofree char *raw = qcow2_create_options_print(&options, QCOW2_OPTIONS_CREATE_RAW);
    g_assert_cmpstr(raw, ==, "size=1048576");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/create-options/defaults", test_defaults);
    g_test_add_func("/create-options/every-option", test_every_option);
    g_test_add_func("/create-options/spelling", test_spelling);
    g_test_add_func("/create-options/refused", test_refused);
    g_test_add_func("/create-options/encryption-is-not-supported", test_encryption_is_not_supported);
    g_test_add_func("/create-options/defaults-of-a-caller", test_defaults_of_a_caller);
    g_test_add_func("/create-options/raw", test_raw);
    g_test_add_func("/create-options/amend", test_amend);
    g_test_add_func("/create-options/print", test_print);
    return g_test_run();
}
