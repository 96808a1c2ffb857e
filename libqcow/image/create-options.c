/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/create-options.h"

#include <errno.h>
#include <stddef.h>

#include "util/bits.h"
#include "util/comma.h"
#include "util/error.h"

#define DEFAULT_CLUSTER_SIZE  (UINT64_C(64) << 10)
#define MIN_CLUSTER_SIZE      UINT64_C(512)
#define MAX_CLUSTER_SIZE      (UINT64_C(2) << 20)
#define MIN_SUBCLUSTER_SIZE   UINT64_C(512)
#define DEFAULT_REFCOUNT_BITS 16u
#define MAX_REFCOUNT_BITS     64u

void qcow2_create_options_init(Qcow2CreateOptions *options)
{
    *options = (Qcow2CreateOptions) {
        .cluster_size = DEFAULT_CLUSTER_SIZE,
        .version = 3,
        .refcount_bits = DEFAULT_REFCOUNT_BITS,
        .compression = QCOW2_COMPRESSION_ZLIB,
        .preallocation = QCOW2_PREALLOCATION_OFF,
    };
}

void qcow2_create_options_clear(Qcow2CreateOptions *options)
{
    g_clear_pointer(&options->backing_file, g_free);
    g_clear_pointer(&options->backing_format, g_free);
    g_clear_pointer(&options->data_file, g_free);
    g_clear_pointer(&options->given, g_hash_table_unref);
}

/* ---- The options that there are ---------------------------------------------------------------- */

/* What a word stands for; a list ends with NULL. */
typedef struct Word {
    const char *word;
    unsigned value;
} Word;

static const Word switch_words[] = {
    { "on", true }, { "yes", true }, { "true", true }, { "y", true },
    { "off", false }, { "no", false }, { "false", false }, { "n", false },
    { NULL, 0 },
};

static const Word version_words[] = { { "0.10", 2 }, { "1.1", 3 }, { "v2", 2 }, { "v3", 3 }, { NULL, 0 } };

static const Word compression_words[] = {
    { "zlib", QCOW2_COMPRESSION_ZLIB },
    { "zstd", QCOW2_COMPRESSION_ZSTD },
    { NULL, 0 },
};

static const Word preallocation_words[] = {
    { "off", QCOW2_PREALLOCATION_OFF },
    { "metadata", QCOW2_PREALLOCATION_METADATA },
    { "falloc", QCOW2_PREALLOCATION_FALLOC },
    { "full", QCOW2_PREALLOCATION_FULL },
    { NULL, 0 },
};

/* A raw file has no metadata. */
static const Word raw_preallocation_words[] = {
    { "off", QCOW2_PREALLOCATION_OFF },
    { "falloc", QCOW2_PREALLOCATION_FALLOC },
    { "full", QCOW2_PREALLOCATION_FULL },
    { NULL, 0 },
};

typedef enum { TYPE_STRING, TYPE_SIZE, TYPE_NUMBER, TYPE_SWITCH, TYPE_ENUM } Type;

typedef struct Option {
    const char *name;
    Type type;
    size_t value;             /* offset in Qcow2CreateOptions */
    size_t has;               /* likewise; a string says by itself that it is there */
    const Word *words;        /* SWITCH, ENUM */
} Option;

#define FIELD(name)        offsetof(Qcow2CreateOptions, name)
#define WITH_FLAG(name)    FIELD(name), FIELD(has_##name)

/* In alphabetical order: messages list them. */
static const Option qcow2_options[] = {
    { "backing_file", TYPE_STRING, FIELD(backing_file) },
    { "backing_fmt", TYPE_STRING, FIELD(backing_format) },
    { "cluster_size", TYPE_SIZE, WITH_FLAG(cluster_size) },
    { "compat", TYPE_ENUM, WITH_FLAG(version), version_words },
    { "compression_type", TYPE_ENUM, WITH_FLAG(compression), compression_words },
    { "data_file", TYPE_STRING, FIELD(data_file) },
    { "data_file_raw", TYPE_SWITCH, WITH_FLAG(data_file_raw), switch_words },
    { "extended_l2", TYPE_SWITCH, WITH_FLAG(extended_l2), switch_words },
    { "extent_size_hint", TYPE_SIZE, WITH_FLAG(extent_size_hint) },
    { "lazy_refcounts", TYPE_SWITCH, WITH_FLAG(lazy_refcounts), switch_words },
    { "nocow", TYPE_SWITCH, WITH_FLAG(nocow), switch_words },
    { "preallocation", TYPE_ENUM, WITH_FLAG(preallocation), preallocation_words },
    { "refcount_bits", TYPE_NUMBER, WITH_FLAG(refcount_bits) },
    { "size", TYPE_SIZE, WITH_FLAG(size) },
    { NULL },
};

static const Option raw_options[] = {
    { "extent_size_hint", TYPE_SIZE, WITH_FLAG(extent_size_hint) },
    { "nocow", TYPE_SWITCH, WITH_FLAG(nocow), switch_words },
    { "preallocation", TYPE_ENUM, WITH_FLAG(preallocation), raw_preallocation_words },
    { "size", TYPE_SIZE, WITH_FLAG(size) },
    { NULL },
};

static const Option amend_options[] = {
    { "backing_file", TYPE_STRING, FIELD(backing_file) },
    { "backing_fmt", TYPE_STRING, FIELD(backing_format) },
    { "compat", TYPE_ENUM, WITH_FLAG(version), version_words },
    { "data_file", TYPE_STRING, FIELD(data_file) },
    { "data_file_raw", TYPE_SWITCH, WITH_FLAG(data_file_raw), switch_words },
    { "lazy_refcounts", TYPE_SWITCH, WITH_FLAG(lazy_refcounts), switch_words },
    { "refcount_bits", TYPE_NUMBER, WITH_FLAG(refcount_bits) },
    { "size", TYPE_SIZE, WITH_FLAG(size) },
    { NULL },
};

static const Option *const option_sets[] = {
    [QCOW2_OPTIONS_CREATE] = qcow2_options,
    [QCOW2_OPTIONS_CREATE_RAW] = raw_options,
    [QCOW2_OPTIONS_AMEND] = amend_options,
};

/* ---- Values ------------------------------------------------------------------------------------ */

static bool fail_value(const Option *option, const char *value, const char *expected, GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_INVALID, "option '%s' does not take '%s'; it takes %s", option->name,
                      value, expected);
}

static bool parse_word(const Option *option, const char *value, unsigned *ret, GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);

    for (const Word *word = option->words; word->word; word++) {
        if (strcmp(word->word, value) == 0) {
            *ret = word->value;
            return true;
        }
        g_string_append_printf(known, "%s%s", known->len ? ", " : "", word->word);
    }
    return fail_value(option, value, option->type == TYPE_SWITCH ? "on or off" : known->str, error);
}

/* Hexadecimal with 0x and octal with 0 as well, as qemu-img does. */
static bool parse_number(const Option *option, const char *value, unsigned *ret, GError **error)
{
    char *end;

    errno = 0;
    guint64 number = g_ascii_strtoull(value, &end, 0);
    if (end == value || *end != '\0' || errno != 0 || strchr(value, '-') || number > UINT_MAX) {
        return fail_value(option, value, "a number", error);
    }
    *ret = (unsigned)number;
    return true;
}

static bool set_value(Qcow2CreateOptions *options, const Option *option, const char *value, GError **error)
{
    void *field = (char *)options + option->value;
    unsigned word = 0;

    switch (option->type) {
    case TYPE_STRING:
        g_free(*(char **)field);
        *(char **)field = g_strdup(value);
        return true;
    case TYPE_SIZE:
        if (!qcow2_parse_size(value, field, error)) {
            g_prefix_error(error, "option '%s': ", option->name);
            return false;
        }
        break;
    case TYPE_NUMBER:
        if (!parse_number(option, value, field, error)) {
            return false;
        }
        break;
    case TYPE_SWITCH:
        if (!parse_word(option, value, &word, error)) {
            return false;
        }
        *(bool *)field = word != 0;
        break;
    case TYPE_ENUM:      /* an enumeration is stored as an unsigned int */
        if (!parse_word(option, value, field, error)) {
            return false;
        }
        break;
    }
    *(bool *)((char *)options + option->has) = true;
    return true;
}

/* ---- The list ---------------------------------------------------------------------------------- */

static const Option *find_option(const Option *known, const char *name)
{
    for (const Option *option = known; option->name; option++) {
        if (strcmp(option->name, name) == 0) {
            return option;
        }
    }
    return NULL;
}

static bool fail_unknown(const Option *known, const char *name, GError **error)
{
    g_autoptr(GString) names = g_string_new(NULL);

    if (strcmp(name, "encryption") == 0 || g_str_has_prefix(name, "encrypt.")) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "option '%s': encryption is not supported yet",
                          name);
    }
    if (known == amend_options && find_option(qcow2_options, name)) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Invalid parameter '%s': This option is only supported for image creation", name);
    }
    for (const Option *option = known; option->name; option++) {
        g_string_append_printf(names, "%s%s", names->len ? ", " : "", option->name);
    }
    return qcow2_fail(error, QCOW2_ERROR_INVALID, "there is no option '%s'; there are %s", name, names->str);
}

/* What scripts of old still say: "encryption=off". */
static bool is_no_encryption(const char *name, const char *value)
{
    const Option option = { .name = name, .type = TYPE_SWITCH, .words = switch_words };
    unsigned is_on;

    return strcmp(name, "encryption") == 0 && parse_word(&option, value, &is_on, NULL) && !is_on;
}

static void remember(Qcow2CreateOptions *options, const char *name, const char *value)
{
    if (!options->given) {
        options->given = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    }
    g_hash_table_replace(options->given, g_strdup(name), g_strdup(value));
}

static bool parse_list(const char *text, const Option *known, Qcow2CreateOptions *options, GError **error)
{
    do {
        g_autofree char *word = qcow2_next_word(&text);
        char *equals = strchr(word, '=');
        const char *value = equals ? equals + 1 : "on";
        if (equals) {
            *equals = '\0';
        }
        if (*word == '\0') {
            return qcow2_fail(error, QCOW2_ERROR_INVALID,
                              "an option without a name; expected NAME=VALUE[,NAME=VALUE]");
        }
        const Option *option = find_option(known, word);
        if (known == qcow2_options && is_no_encryption(word, value)) {
            continue;
        }
        if (!option) {
            return fail_unknown(known, word, error);
        }
        if (!set_value(options, option, value, error)) {
            return false;
        }
        remember(options, word, value);
    } while (text);
    return true;
}

/* ---- Values against each other ----------------------------------------------------------------- */

static bool check_cluster_size(const Qcow2CreateOptions *options, GError **error)
{
    if (options->cluster_size < MIN_CLUSTER_SIZE || options->cluster_size > MAX_CLUSTER_SIZE
        || (options->cluster_size & (options->cluster_size - 1)) != 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Cluster size must be a power of two between %" PRIu64 " and %" PRIu64 "k",
                          MIN_CLUSTER_SIZE, MAX_CLUSTER_SIZE / 1024);
    }
    if (options->extended_l2 && options->cluster_size < MIN_SUBCLUSTER_SIZE * QCOW2_SUBCLUSTERS) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Extended L2 entries are only supported with cluster sizes of at"
                          " least %" PRIu64 " bytes",
                          MIN_SUBCLUSTER_SIZE * QCOW2_SUBCLUSTERS);
    }
    return true;
}

static bool check_refcount_bits(const Qcow2CreateOptions *options, GError **error)
{
    unsigned bits = options->refcount_bits;

    if (bits == 0 || bits > MAX_REFCOUNT_BITS || (bits & (bits - 1)) != 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Refcount width must be a power of two and may not exceed %u bits",
                          MAX_REFCOUNT_BITS);
    }
    return true;
}

/* What only version 3 can say. */
static bool check_version(const Qcow2CreateOptions *options, GError **error)
{
    bool other_counts = options->refcount_bits != DEFAULT_REFCOUNT_BITS;
    bool other_compression = options->compression != QCOW2_COMPRESSION_ZLIB;
    const char *what = options->extended_l2    ? "Extended L2 entries"
                     : options->lazy_refcounts ? "Lazy refcounts"
                     : options->data_file      ? "External data files"
                     : other_counts            ? "Other refcount widths than 16 bits"
                     : other_compression       ? "Other compression types than zlib"
                                               : NULL;

    if (options->version < 3 && what) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "%s need compatibility level 1.1 (compat=1.1)", what);
    }
    return true;
}

static bool check_files(const Qcow2CreateOptions *options, GError **error)
{
    if (options->backing_format && !options->backing_file) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Backing format cannot be used without backing file");
    }
    if (options->data_file_raw && !options->data_file) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "data_file_raw requires data_file");
    }
    if (options->data_file_raw && options->backing_file) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Backing file and data_file_raw cannot be used at the same time");
    }
    if (options->backing_file && options->preallocation != QCOW2_PREALLOCATION_OFF && !options->extended_l2) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Backing file and preallocation can only be used at the same time"
                          " if extended_l2 is on");
    }
    return true;
}

bool qcow2_create_options_check(const Qcow2CreateOptions *options, GError **error)
{
    return check_cluster_size(options, error) && check_refcount_bits(options, error)
        && check_version(options, error) && check_files(options, error);
}

bool qcow2_create_options_read(const char *text, Qcow2OptionSet set, Qcow2CreateOptions *options,
                               GError **error)
{
    return !text || parse_list(text, option_sets[set], options, error);
}

bool qcow2_create_options_parse(const char *text, Qcow2CreateOptions *options, GError **error)
{
    return qcow2_create_options_read(text, QCOW2_OPTIONS_CREATE, options, error)
        && qcow2_create_options_check(options, error);
}

bool qcow2_create_options_parse_raw(const char *text, Qcow2CreateOptions *options, GError **error)
{
    return qcow2_create_options_read(text, QCOW2_OPTIONS_CREATE_RAW, options, error);
}
