/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a new image will be: in the line that qemu-img create prints, and as a header. */
#include <string.h>

#include "image/create-options.h"

/* ---- As text ----------------------------------------------------------------------------------- */

/* QEMU's order; what has a default is shown in any case. */
typedef struct Shown {
    const char *name, *value_by_default;
} Shown;

static const Shown qcow2_shown[] = {
    { "cluster_size", "65536" },
    { "extended_l2", "off" },
    { "preallocation", NULL },
    { "compression_type", "zlib" },
    { "size", NULL },
    { "compat", NULL },
    { "backing_file", NULL },
    { "backing_fmt", NULL },
    { "data_file", NULL },
    { "data_file_raw", NULL },
    { "lazy_refcounts", "off" },
    { "refcount_bits", "16" },
    { "nocow", NULL },
    { "extent_size_hint", NULL },
    { NULL },
};

static const Shown raw_shown[] = {
    { "size", NULL },
    { "nocow", NULL },
    { "preallocation", NULL },
    { "extent_size_hint", NULL },
    { NULL },
};

/* Numbers are shown as they were understood, everything else as it was given. */
static char *shown_value(const Qcow2CreateOptions *options, const Shown *shown)
{
    const char *given = options->given ? g_hash_table_lookup(options->given, shown->name) : NULL;
    const char *text = strcmp(shown->name, "backing_file") == 0  ? options->backing_file
                     : strcmp(shown->name, "backing_fmt") == 0   ? options->backing_format
                     : given                                     ? given
                                                                 : shown->value_by_default;

    if (strcmp(shown->name, "size") == 0) {
        return g_strdup_printf("%" G_GUINT64_FORMAT, options->size);
    }
    if (given && strcmp(shown->name, "cluster_size") == 0) {
        return g_strdup_printf("%" G_GUINT64_FORMAT, options->cluster_size);
    }
    if (given && strcmp(shown->name, "extent_size_hint") == 0) {
        return g_strdup_printf("%" G_GUINT64_FORMAT, options->extent_size_hint);
    }
    if (given && strcmp(shown->name, "refcount_bits") == 0) {
        return g_strdup_printf("%u", options->refcount_bits);
    }
    return g_strdup(text);
}

char *qcow2_create_options_print(const Qcow2CreateOptions *options, Qcow2OptionSet set)
{
    GString *line = g_string_new(NULL);
    const Shown *shown = set == QCOW2_OPTIONS_CREATE_RAW ? raw_shown : qcow2_shown;

    for (; shown->name; shown++) {
        g_autofree char *value = shown_value(options, shown);
        if (value) {
            g_auto(GStrv) parts = g_strsplit(value, ",", -1);
            g_autofree char *escaped = g_strjoinv(",,", parts);
            g_string_append_printf(line, "%s%s=%s", line->len ? " " : "", shown->name, escaped);
        }
    }
    return g_string_free(line, FALSE);
}

/* ---- As a header ------------------------------------------------------------------------------- */

static void set_features(const Qcow2CreateOptions *options, Qcow2Header *header)
{
    header->compression = options->compression;
    header->incompatible = (options->data_file ? QCOW2_INCOMPAT_DATA_FILE : 0)
                         | (options->compression != QCOW2_COMPRESSION_ZLIB ? QCOW2_INCOMPAT_COMPRESSION : 0)
                         | (options->extended_l2 ? QCOW2_INCOMPAT_EXTENDED_L2 : 0);
    header->compatible = options->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0;
    header->autoclear = options->data_file_raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0;
}

void qcow2_create_options_header(const Qcow2CreateOptions *options, Qcow2Header *ret)
{
    unsigned cluster_bits = (unsigned)__builtin_ctzll(options->cluster_size);
    unsigned refcount_order = (unsigned)__builtin_ctz(options->refcount_bits);

    *ret = (Qcow2Header) { 0 };
    ret->layout = qcow2_layout(options->version, cluster_bits, options->extended_l2, refcount_order,
                               options->data_file != NULL);
    ret->size = options->size;
    set_features(options, ret);
    ret->backing_name = g_strdup(options->backing_file);
    if (options->backing_format) {
        qcow2_header_set_ext(ret, QCOW2_EXT_BACKING_FORMAT, options->backing_format,
                             strlen(options->backing_format));
    }
    if (options->data_file) {
        qcow2_header_set_ext(ret, QCOW2_EXT_DATA_FILE, options->data_file, strlen(options->data_file));
    }
    if (options->version >= 3) {
        qcow2_header_set_feature_names(ret);
    }
}
