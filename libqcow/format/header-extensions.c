/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/header-extensions.h"

#include "util/error.h"

#define EXT_HEADER_LEN 8u        /* type and length */
#define BITMAPS_EXT_LEN 24u
#define CRYPT_EXT_LEN 16u

/* An entry of the feature name table: type of the feature, bit, name padded with zeros. */
#define FEATURE_ENTRY_LEN 48u
#define FEATURE_INCOMPATIBLE 0
#define FEATURE_COMPATIBLE 1
#define FEATURE_AUTOCLEAR 2

static void header_ext_clear(void *data)
{
    Qcow2HeaderExt *ext = data;

    g_bytes_unref(ext->data);
}

static void append_ext(Qcow2Header *header, uint32_t type, const void *data, size_t len_bytes)
{
    Qcow2HeaderExt ext = { .type = type, .data = g_bytes_new(data, len_bytes) };

    if (!header->extensions) {
        header->extensions = g_array_new(FALSE, FALSE, sizeof(Qcow2HeaderExt));
        g_array_set_clear_func(header->extensions, header_ext_clear);
    }
    g_array_append_val(header->extensions, ext);
}

/* ---- What known extensions say ------------------------------------------------------------------- */

/* @data is NULL when the extension goes. */
static void take_ext(Qcow2Header *header, uint32_t type, const uint8_t *data, size_t len_bytes)
{
    bool has_data;

    switch (type) {
    case QCOW2_EXT_BACKING_FORMAT:
        g_free(header->backing_format);
        header->backing_format = len_bytes > 0 && data[0] ? g_strndup((const char *) data, len_bytes) : NULL;
        break;
    case QCOW2_EXT_DATA_FILE:
        g_free(header->data_file);
        header->data_file = data ? g_strndup((const char *) data, len_bytes) : NULL;
        break;
    case QCOW2_EXT_ENCRYPTION:
        has_data = len_bytes == CRYPT_EXT_LEN;
        header->crypt_offset = has_data ? qcow2_load_be64(data) : 0;
        header->crypt_len = has_data ? qcow2_load_be64(data + 8) : 0;
        break;
    case QCOW2_EXT_BITMAPS:
        has_data = len_bytes == BITMAPS_EXT_LEN && (header->autoclear & QCOW2_AUTOCLEAR_BITMAPS);
        header->has_bitmaps = has_data;
        header->n_bitmaps = has_data ? qcow2_load_be32(data) : 0;
        header->bitmap_directory_size = has_data ? qcow2_load_be64(data + 8) : 0;
        header->bitmap_directory_offset = has_data ? qcow2_load_be64(data + 16) : 0;
        break;
    default:
        break;
    }
}

static bool check_bitmaps(const Qcow2Header *header, uint32_t reserved, GError **error)
{
    if (!header->has_bitmaps) {
        return true;   /* without the autoclear bit its contents mean nothing, and QEMU does not look */
    }
    if (reserved != 0) {
        return qcow2_corrupt(error, "bitmaps extension: reserved bytes 4-7 are 0x%08" PRIx32 ", not 0",
                             reserved);
    }
    if (header->n_bitmaps == 0 || header->n_bitmaps > QCOW2_MAX_BITMAPS) {
        return qcow2_corrupt(error, "bitmaps extension: nb_bitmaps is %" PRIu32 ", not 1 to %u",
                             header->n_bitmaps, QCOW2_MAX_BITMAPS);
    }
    if (header->bitmap_directory_size > QCOW2_MAX_BITMAP_DIRECTORY_BYTES) {
        return qcow2_corrupt(error, "bitmaps extension: bitmap_directory_size is %" PRIu64
                             " bytes, the limit is %" PRIu64,
                             header->bitmap_directory_size, QCOW2_MAX_BITMAP_DIRECTORY_BYTES);
    }
    if (!qcow2_is_cluster_aligned(&header->layout, header->bitmap_directory_offset)
        || !qcow2_range_fits(header->bitmap_directory_offset, header->bitmap_directory_size)) {
        return qcow2_corrupt(error, "bitmaps extension: bitmap_directory_offset 0x%" PRIx64
                             " is not cluster aligned, or too large", header->bitmap_directory_offset);
    }
    return true;
}

static bool check_crypt(const Qcow2Header *header, GError **error)
{
    if (header->crypt != QCOW2_CRYPT_LUKS) {
        return qcow2_corrupt(error, "encryption extension: crypt_method is %u, only LUKS (%u) has one",
                             header->crypt, QCOW2_CRYPT_LUKS);
    }
    if (!qcow2_is_cluster_aligned(&header->layout, header->crypt_offset)
        || !qcow2_range_fits(header->crypt_offset, header->crypt_len)) {
        return qcow2_corrupt(error, "encryption extension: offset 0x%" PRIx64 ", length 0x%" PRIx64
                             " is not cluster aligned, or too large",
                             header->crypt_offset, header->crypt_len);
    }
    return true;
}

static bool check_len(const char *name, size_t len_bytes, size_t len_wanted, GError **error)
{
    if (len_bytes != len_wanted) {
        return qcow2_corrupt(error, "%s extension: length is %zu bytes, not %zu",
                             name, len_bytes, len_wanted);
    }
    return true;
}

static bool decode_ext(Qcow2Header *header, uint32_t type, const uint8_t *data, size_t len_bytes,
                       GError **error)
{
    if (type == QCOW2_EXT_BACKING_FORMAT && len_bytes > QCOW2_MAX_BACKING_FORMAT) {
        return qcow2_corrupt(error, "backing format extension: length is %zu bytes, the limit is %u",
                             len_bytes, QCOW2_MAX_BACKING_FORMAT);
    }
    if ((type == QCOW2_EXT_BITMAPS && !check_len("bitmaps", len_bytes, BITMAPS_EXT_LEN, error))
        || (type == QCOW2_EXT_ENCRYPTION && !check_len("encryption", len_bytes, CRYPT_EXT_LEN, error))) {
        return false;
    }

    append_ext(header, type, data, len_bytes);
    take_ext(header, type, data, len_bytes);

    return (type != QCOW2_EXT_BITMAPS || check_bitmaps(header, qcow2_load_be32(data + 4), error))
        && (type != QCOW2_EXT_ENCRYPTION || check_crypt(header, error));
}

/* ---- The area ------------------------------------------------------------------------------------ */

typedef struct ExtWalk {
    const uint8_t *cluster;
    uint64_t offset, end;        /* @offset: of the next extension */
    uint32_t type;               /* of the extension just met */
    uint64_t data_offset;
    uint32_t len_bytes;
} ExtWalk;

/* False at the end of the area, which needs no end mark, and with @error where it makes no sense. */
static bool next_ext(ExtWalk *walk, GError **error)
{
    uint64_t offset = walk->offset;

    if (offset >= walk->end) {
        return false;
    }
    if (walk->end - offset < EXT_HEADER_LEN) {
        return qcow2_corrupt(error, "header extension at 0x%" PRIx64
                             ": its head passes the end of the extensions at 0x%" PRIx64, offset, walk->end);
    }
    walk->type = qcow2_load_be32(walk->cluster + offset);
    walk->len_bytes = qcow2_load_be32(walk->cluster + offset + 4);
    walk->data_offset = offset + EXT_HEADER_LEN;
    if (walk->len_bytes > walk->end - walk->data_offset) {
        return qcow2_corrupt(error, "header extension at 0x%" PRIx64 ": type 0x%08" PRIx32
                             ", length 0x%" PRIx32 " passes the end of the extensions at 0x%" PRIx64,
                             offset, walk->type, walk->len_bytes, walk->end);
    }
    walk->offset = walk->data_offset + qcow2_align_up(walk->len_bytes, 8);
    return walk->type != QCOW2_EXT_END;
}

bool qcow2_header_decode_extensions(Qcow2Header *header, const uint8_t *cluster, uint64_t start, uint64_t end,
                                    GError **error)
{
    ExtWalk walk = { .cluster = cluster, .offset = start, .end = end };
    GError *walk_error = NULL;

    while (next_ext(&walk, &walk_error)) {
        if (!decode_ext(header, walk.type, cluster + walk.data_offset, walk.len_bytes, error)) {
            return false;
        }
    }
    if (walk_error) {
        g_propagate_error(error, walk_error);
        return false;
    }
    return true;
}

/* Appends the names that @table has for bits of @mask; returns the bits without one. */
static uint64_t name_bits(GString *names, const uint8_t *table, size_t len_bytes, uint64_t mask)
{
    for (; len_bytes >= FEATURE_ENTRY_LEN; table += FEATURE_ENTRY_LEN, len_bytes -= FEATURE_ENTRY_LEN) {
        const char *name = (const char *) table + 2;

        if (name[0] != '\0' && table[0] == FEATURE_INCOMPATIBLE && table[1] < 64 && (mask & BIT(table[1]))) {
            g_autofree char *shown = qcow2_escape_name(name, (gssize) strnlen(name, QCOW2_FEATURE_NAME_MAX));
            g_string_append_printf(names, "%s%s", names->len ? ", " : "", shown);
            mask &= ~BIT(table[1]);
        }
    }
    return mask;
}

char *qcow2_header_name_features(const uint8_t *cluster, uint64_t start, uint64_t end, uint64_t mask)
{
    GString *names = g_string_new(NULL);
    ExtWalk walk = { .cluster = cluster, .offset = start, .end = end };

    while (next_ext(&walk, NULL)) {
        if (walk.type == QCOW2_EXT_FEATURE_NAMES) {
            mask = name_bits(names, cluster + walk.data_offset, walk.len_bytes, mask);
        }
    }
    if (mask) {
        g_string_append_printf(names, "%sUnknown incompatible feature: %" PRIx64,
                               names->len ? ", " : "", mask);
    }
    return g_string_free(names, FALSE);
}

/* ---- One extension of a header ------------------------------------------------------------------- */

void qcow2_header_set_ext(Qcow2Header *header, uint32_t type, const void *data, size_t len_bytes)
{
    bool replaced = false;

    /* From the end, since the last one counts: it keeps its place, and earlier ones of its type go. */
    for (guint i = header->extensions ? header->extensions->len : 0; i-- > 0;) {
        Qcow2HeaderExt *ext = &g_array_index(header->extensions, Qcow2HeaderExt, i);

        if (ext->type != type) {
            continue;
        }
        if (data && !replaced) {
            g_bytes_unref(ext->data);
            ext->data = g_bytes_new(data, len_bytes);
            replaced = true;
        } else {
            g_array_remove_index(header->extensions, i);
        }
    }
    if (data && !replaced) {
        append_ext(header, type, data, len_bytes);
    }
    take_ext(header, type, data, data ? len_bytes : 0);
}

GBytes *qcow2_header_find_ext(const Qcow2Header *header, uint32_t type)
{
    for (guint i = header->extensions ? header->extensions->len : 0; i-- > 0;) {
        const Qcow2HeaderExt *ext = &g_array_index(header->extensions, Qcow2HeaderExt, i);

        if (ext->type == type) {
            return ext->data;
        }
    }
    return NULL;
}

/* ---- The feature name table ---------------------------------------------------------------------- */

typedef struct FeatureName {
    uint8_t type, bit;
    const char *name;
} FeatureName;

/* What the features known here are called, for readers that do not know them. */
static const FeatureName feature_names[] = {
    { FEATURE_INCOMPATIBLE, 0, "dirty bit" },
    { FEATURE_INCOMPATIBLE, 1, "corrupt bit" },
    { FEATURE_INCOMPATIBLE, 2, "external data file" },
    { FEATURE_INCOMPATIBLE, 3, "compression type" },
    { FEATURE_INCOMPATIBLE, 4, "extended L2 entries" },
    { FEATURE_COMPATIBLE, 0, "lazy refcounts" },
    { FEATURE_AUTOCLEAR, 0, "bitmaps" },
    { FEATURE_AUTOCLEAR, 1, "raw external data" },
};

void qcow2_header_set_feature_names(Qcow2Header *header)
{
    uint8_t table[G_N_ELEMENTS(feature_names)][FEATURE_ENTRY_LEN] = { 0 };

    for (size_t i = 0; i < G_N_ELEMENTS(feature_names); i++) {
        table[i][0] = feature_names[i].type;
        table[i][1] = feature_names[i].bit;
        g_strlcpy((char *) table[i] + 2, feature_names[i].name, QCOW2_FEATURE_NAME_MAX);
    }
    qcow2_header_set_ext(header, QCOW2_EXT_FEATURE_NAMES, table, sizeof(table));
}

void qcow2_header_name_feature(Qcow2Header *header, uint64_t mask, const char *name)
{
    GBytes *old = qcow2_header_find_ext(header, QCOW2_EXT_FEATURE_NAMES);
    g_autoptr(GByteArray) table = g_byte_array_new();
    uint8_t entry[FEATURE_ENTRY_LEN] = { FEATURE_INCOMPATIBLE, (uint8_t)__builtin_ctzll(mask) };
    gsize len = 0;
    const uint8_t *entries = old ? g_bytes_get_data(old, &len) : NULL;

    /* First, so that it stays where a long table has to be cut. */
    if (name) {
        memcpy(entry + 2, name, strnlen(name, QCOW2_FEATURE_NAME_MAX));
        g_byte_array_append(table, entry, sizeof(entry));
    }
    for (gsize i = 0; i + FEATURE_ENTRY_LEN <= len; i += FEATURE_ENTRY_LEN) {
        if (entries[i] != entry[0] || entries[i + 1] != entry[1]) {
            g_byte_array_append(table, entries + i, FEATURE_ENTRY_LEN);
        }
    }
    qcow2_header_set_ext(header, QCOW2_EXT_FEATURE_NAMES, table->len ? table->data : NULL, table->len);
}
