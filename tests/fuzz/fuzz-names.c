/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The names of images, as a user gives them and as a header or the note of a commit records them, and what a
 * header of any format names. What is understood must mean the same once more, and have only places that can
 * be opened; two names in the input are compared as NBD addresses.
 */
#include <string.h>

#include "chain/mentions.h"
#include "chain/nbd-address.h"
#include "format/peek.h"
#include "fuzz/fuzz.h"

static void check_same(const Qcow2Place *a, const Qcow2Place *b)
{
    g_assert_true(!a == !b);
    if (!a) {
        return;
    }
    g_assert_cmpint(a->kind, ==, b->kind);
    g_assert_cmpstr(a->target, ==, b->target);
    g_assert_cmpstr(a->shown, ==, b->shown);
    g_assert_cmpstr(a->format, ==, b->format);
    g_assert_cmpuint(a->raw_offset, ==, b->raw_offset);
    g_assert_cmpuint(a->raw_size, ==, b->raw_size);
    g_assert_true(a->no_backing == b->no_backing);
    check_same(a->backing, b->backing);
    check_same(a->data_file, b->data_file);
}

static void check_place(const Qcow2Place *place)
{
    g_assert_nonnull(place->target);
    g_assert_nonnull(place->shown);
    g_assert_true(place->kind == QCOW2_PLACE_FILE || place->kind == QCOW2_PLACE_NBD);
    g_assert_false(place->no_backing && place->backing);
}

static void try_name(const char *name, const char *folder, bool image_opts)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2Place) place = qcow2_place_parse(name, folder, image_opts, &error);
    g_autoptr(Qcow2Place) again = qcow2_place_parse(name, folder, image_opts, NULL);
    g_autoptr(Qcow2Place) copy = qcow2_place_copy(place);

    g_assert_true(!place == !!error);
    check_same(place, again);
    check_same(place, copy);
    if (place) {
        check_place(place);
    } else {
        g_assert_true(error->domain == QCOW2_ERROR);
    }
}

static void try_mentions(const char *name)
{
    bool is_clear;
    g_autoptr(GPtrArray) places = qcow2_places_mentioned(name, "/nowhere", &is_clear);

    for (guint i = 0; i < places->len; i++) {
        check_place(g_ptr_array_index(places, i));
    }
}

static void try_peek(const uint8_t *data, size_t size)
{
    uint8_t start[QCOW2_HEADER_PEEK] = { 0 };
    Qcow2Peek peek;

    memcpy(start, data, MIN(size, sizeof(start)));
    if (qcow2_peek_header(start, &peek)) {
        g_assert_cmpuint(peek.name_offset, >, 0);
        g_assert_cmpuint(peek.name_len, >, 0);
        g_assert_cmpuint(peek.name_len, <=, QCOW2_MAX_BACKING_NAME);
        g_assert_true(peek.is_qcow2 || peek.incompatible == 0);
    }
    if (peek.area_len > 0) {
        g_autofree uint8_t *area = g_malloc0(peek.area_len);
        memcpy(area, data, MIN(size, peek.area_len));
        g_autofree char *data_file = qcow2_peek_data_file(area, &peek);
        g_assert_cmpuint(peek.area_len, <=, BIT(QCOW2_MAX_CLUSTER_BITS));
        g_assert_true(!data_file || strlen(data_file) < peek.area_len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *name = g_strndup((const char *)data, size);
    size_t len = strlen(name);
    g_autofree char *other = len < size ? g_strndup((const char *)data + len + 1, size - len - 1) : NULL;

    try_peek(data, size);
    try_name(name, "/nowhere", false);
    try_name(name, NULL, false);
    try_name(name, "/nowhere", true);
    try_mentions(name);
    if (other) {
        g_assert_true(qcow2_nbd_is_same_export(name, other) == qcow2_nbd_is_same_export(other, name));
    }
    return 0;
}
