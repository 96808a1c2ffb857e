/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/mark.h"

#include <string.h>

#include "format/header-fields.h"
#include "format/header-switch.h"
#include "util/error.h"

/* The header cluster as it is, and as it shall be. */
typedef struct Marking {
    Qcow2Io *file;
    GByteArray *old;
    uint8_t *cluster;
} Marking;

static void clear_marking(Marking *marking)
{
    g_clear_pointer(&marking->old, g_byte_array_unref);
    g_clear_pointer(&marking->cluster, g_free);
}

/* Only what differs: the rest of the cluster may be a hole. */
static bool write_past_sector(const Marking *marking, GError **error)
{
    const uint8_t *old = marking->old->data, *bytes = marking->cluster;
    size_t start = QCOW2_HEADER_SECTOR, end = marking->old->len;

    while (start < end && old[start] == bytes[start]) {
        start++;
    }
    while (end > start && old[end - 1] == bytes[end - 1]) {
        end--;
    }
    return start == end || qcow2_io_write(marking->file, start, bytes + start, end - start, error);
}

/* What the old header does not use comes first; its sector switches to all of it. */
static bool switch_header(Marking *marking, Qcow2Header *header, GError **error)
{
    size_t len = marking->old->len;

    marking->cluster = g_try_malloc(len);
    if (!marking->cluster) {
        return qcow2_fail_memory(error, len, "the header");
    }
    return qcow2_header_switch(marking->old->data, header, marking->cluster, len, error)
        && write_past_sector(marking, error)
        && qcow2_io_flush(marking->file, error)
        && qcow2_image_publish_header(marking->file, marking->cluster, error);
}

/* Bytes of @name, which has more than @max, that end with a whole character where it is UTF-8. */
static size_t whole_characters(const char *name, size_t max)
{
    for (size_t len = max; len > 0 && max - len < 4; len--) {
        bool begins_character = ((uint8_t)name[len] & 0xc0) != 0x80;
        if (begins_character) {
            return len;
        }
    }
    return max;
}

void qcow2_header_mark_merged(Qcow2Header *header, const char *base)
{
    const size_t room = QCOW2_FEATURE_NAME_MAX - strlen("merged into  by qcow-commit");
    bool fits = strlen(base) <= room;
    size_t len = fits ? strlen(base) : whole_characters(base, room - strlen("..."));
    g_autofree char *name =
        g_strdup_printf("merged into %.*s%s by qcow-commit", (int)len, base, fits ? "" : "...");

    header->incompatible |= QCOW2_INCOMPAT_MERGED;
    qcow2_header_name_feature(header, QCOW2_INCOMPAT_MERGED, name);
}

bool qcow2_image_mark_merged(Qcow2Image *image, const char *base, bool *ret_marked, GError **error)
{
    Marking marking = { .file = image->file, .old = g_byte_array_new() };
    g_auto(Qcow2Header) header = { 0 };
    bool ok = true;

    *ret_marked = image->header.layout.version >= 3;
    if (*ret_marked) {
        ok = qcow2_image_read_header(image->file, &header, marking.old, error);
        if (ok) {
            qcow2_header_mark_merged(&header, base);
            ok = switch_header(&marking, &header, error);
        }
    }
    clear_marking(&marking);
    return ok;
}

static bool fail_unmarked(GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_EXISTS,
                      "the image is not marked as merged; it is as it should be already");
}

static bool read_cluster(Marking *marking, GError **error)
{
    uint8_t start[QCOW2_HEADER_SECTOR] = { 0 };
    uint64_t size, file_size;

    if (!qcow2_io_get_size(marking->file, &file_size, error)
        || !qcow2_io_read(marking->file, 0, start, MIN(sizeof(start), file_size), error)
        || !qcow2_header_cluster_size(start, sizeof(start), &size, error)) {
        return false;
    }
    g_byte_array_set_size(marking->old, (guint)size);
    return qcow2_io_read(marking->file, 0, marking->old->data, size, error);
}

static bool is_marked(const Marking *marking)
{
    return qcow2_load_be32(marking->old->data + FIELD_VERSION) >= 3
        && (qcow2_load_be64(marking->old->data + FIELD_INCOMPATIBLE) & QCOW2_INCOMPAT_MERGED);
}

/* The decoder refuses the mark, so that it looks at a copy without it. */
static bool decode_unmarked(Marking *marking, Qcow2Header *ret, GError **error)
{
    g_autofree uint8_t *copy = g_memdup2(marking->old->data, marking->old->len);

    if (is_marked(marking)) {
        uint64_t incompatible = qcow2_load_be64(copy + FIELD_INCOMPATIBLE);
        qcow2_store_be64(copy + FIELD_INCOMPATIBLE, incompatible & ~QCOW2_INCOMPAT_MERGED);
    }
    return qcow2_header_decode(copy, marking->old->len, ret, error);
}

bool qcow2_image_read_marked(Qcow2Io *file, Qcow2Header *ret, bool *ret_is_marked, GError **error)
{
    Marking marking = { .file = file, .old = g_byte_array_new() };
    bool ok = read_cluster(&marking, error) && decode_unmarked(&marking, ret, error);

    *ret_is_marked = ok && is_marked(&marking);
    clear_marking(&marking);
    return ok;
}

bool qcow2_image_unmark(Qcow2Io *file, GError **error)
{
    Marking marking = { .file = file, .old = g_byte_array_new() };
    g_auto(Qcow2Header) header = { 0 };
    bool ok = read_cluster(&marking, error) && (is_marked(&marking) || fail_unmarked(error))
           && decode_unmarked(&marking, &header, error);

    if (ok) {
        /* It is the user's again, and no commit goes on with it. */
        qcow2_header_set_ext(&header, QCOW2_EXT_MERGED, NULL, 0);
        qcow2_header_name_feature(&header, QCOW2_INCOMPAT_MERGED, NULL);
        ok = switch_header(&marking, &header, error);
    }
    clear_marking(&marking);
    return ok;
}
