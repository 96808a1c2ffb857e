/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Headers that replace one another with one write of their first sector. */
#include "format/header-switch.h"

#include <string.h>

#include "format/header-fields.h"

#define MAX_CLUSTER 4096u

static void make_header(unsigned version, unsigned cluster_bits, Qcow2Header *ret)
{
    *ret = (Qcow2Header) {
        .layout = qcow2_layout(version, cluster_bits, false, 4, false),
        .size = 1 << 20,
        .l1_offset = BIT(cluster_bits) * 3,
        .l1_entries = 2048,
        .reftable_offset = BIT(cluster_bits),
        .reftable_clusters = 1,
    };
}

static void set_name(Qcow2Header *header, size_t len, char letter)
{
    g_free(header->backing_name);
    header->backing_name = len > 0 ? g_strnfill(len, letter) : NULL;
}

static void assert_same(const Qcow2Header *a, const Qcow2Header *b)
{
    const uint32_t types[] = { QCOW2_EXT_BACKING_FORMAT, QCOW2_EXT_DATA_FILE, QCOW2_EXT_DELTA };

    g_assert_cmpuint(a->layout.version, ==, b->layout.version);
    g_assert_cmpstr(a->backing_name, ==, b->backing_name);
    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        GBytes *x = qcow2_header_find_ext(a, types[i]), *y = qcow2_header_find_ext(b, types[i]);
        g_assert_true((x == NULL) == (y == NULL));
        g_assert_true(!x || g_bytes_equal(x, y));
    }
}

/* The old header with the bytes past its sector that the new one brings must still be the old header. */
static bool switch_and_check(const uint8_t *old, Qcow2Header *header, uint8_t *ret, size_t len,
                             GError **error)
{
    g_auto(Qcow2Header) before = { 0 }, between = { 0 }, after = { 0 };
    uint8_t mixed[MAX_CLUSTER];
    g_autoptr(GError) bad = NULL;

    if (!qcow2_header_switch(old, header, ret, len, error)) {
        return false;
    }
    memcpy(mixed, ret, len);
    memcpy(mixed, old, QCOW2_HEADER_SECTOR);
    g_assert_true(qcow2_header_decode(old, len, &before, &bad));
    g_assert_true(qcow2_header_decode(mixed, len, &between, &bad));
    assert_same(&before, &between);
    g_assert_true(qcow2_header_decode(ret, len, &after, &bad));
    g_assert_no_error(bad);
    assert_same(header, &after);
    return true;
}

/* As QEMU lays it out: backing format, feature names past the sector, then the name. */
static void test_version(void)
{
    g_auto(Qcow2Header) header = { 0 };
    uint8_t old[MAX_CLUSTER], down[MAX_CLUSTER], up[MAX_CLUSTER];

    make_header(3, 12, &header);
    qcow2_header_set_ext(&header, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5);
    qcow2_header_set_feature_names(&header);
    set_name(&header, 100, 'n');
    g_assert_true(qcow2_header_encode(&header, old, sizeof(old), NULL));
    g_assert_cmpuint(header.backing_offset, ==, 528);

    header.layout.version = 2;
    qcow2_header_set_ext(&header, QCOW2_EXT_FEATURE_NAMES, NULL, 0);
    g_assert_true(switch_and_check(old, &header, down, sizeof(old), NULL));
    g_assert_cmpuint(header.backing_offset, ==, 528);    /* the name stays where it is */

    header.layout.version = 3;
    qcow2_header_set_feature_names(&header);
    g_assert_true(switch_and_check(down, &header, up, sizeof(old), NULL));
}

static void test_new_extension_cuts_feature_names(void)
{
    g_auto(Qcow2Header) header = { 0 };
    uint8_t old[MAX_CLUSTER], now[MAX_CLUSTER];
    const uint8_t bytes[24] = { 0 };

    make_header(3, 12, &header);
    qcow2_header_set_feature_names(&header);
    set_name(&header, 1000, 'n');
    g_assert_true(qcow2_header_encode(&header, old, sizeof(old), NULL));
    qcow2_header_set_ext(&header, QCOW2_EXT_DELTA, bytes, sizeof(bytes));
    g_assert_true(switch_and_check(old, &header, now, sizeof(old), NULL));
    GBytes *names = qcow2_header_find_ext(&header, QCOW2_EXT_FEATURE_NAMES);
    g_assert_nonnull(names);
    g_assert_cmpuint(g_bytes_get_size(names), <, 384);
}

static void test_no_room(void)
{
    g_auto(Qcow2Header) header = { 0 };
    g_autoptr(GError) error = NULL;
    uint8_t old[512], now[512];

    make_header(3, 9, &header);
    set_name(&header, 380, 'n');
    g_assert_true(qcow2_header_encode(&header, old, sizeof(old), NULL));
    set_name(&header, 393, 'm');
    g_assert_false(qcow2_header_switch(old, &header, now, sizeof(now), &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);
}

/* Two names of which only one fits at a time. */
static void test_no_room_beside(void)
{
    g_auto(Qcow2Header) header = { 0 };
    g_autoptr(GError) error = NULL;
    uint8_t old[1024], now[1024];

    make_header(3, 10, &header);
    set_name(&header, 800, 'n');
    g_assert_true(qcow2_header_encode(&header, old, sizeof(old), NULL));
    set_name(&header, 800, 'm');
    g_assert_false(qcow2_header_switch(old, &header, now, sizeof(now), &error));
    g_assert_error(error, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED);
}

static void change_at_random(GRand *rand, Qcow2Header *header)
{
    uint8_t bytes[200];

    memset(bytes, g_rand_int_range(rand, 'a', 'z'), sizeof(bytes));
    switch (g_rand_int_range(rand, 0, 5)) {
    case 0:
        set_name(header, (size_t) g_rand_int_range(rand, 0, 1024), (char) bytes[0]);
        break;
    case 1:
        header->layout.version = header->layout.version == 2 ? 3 : 2;
        qcow2_header_set_ext(header, QCOW2_EXT_FEATURE_NAMES, NULL, 0);
        break;
    case 2:
        qcow2_header_set_feature_names(header);
        break;
    case 3:
        qcow2_header_set_ext(header, QCOW2_EXT_DATA_FILE, g_rand_boolean(rand) ? bytes : NULL,
                             (size_t) g_rand_int_range(rand, 1, 200));
        break;
    default:
        qcow2_header_set_ext(header, QCOW2_EXT_DELTA, g_rand_boolean(rand) ? bytes : NULL,
                             (size_t) g_rand_int_range(rand, 1, 200));
    }
}

static void test_random(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    unsigned n_done = 0;

    for (unsigned i = 0; i < 300; i++) {
        g_auto(Qcow2Header) header = { 0 };
        uint8_t now[MAX_CLUSTER], next[MAX_CLUSTER];
        unsigned cluster_bits = (unsigned) g_rand_int_range(rand, 9, 13);
        size_t len = BIT(cluster_bits);
        make_header(3, cluster_bits, &header);
        g_assert_true(qcow2_header_encode(&header, now, len, NULL));
        for (unsigned step = 0; step < 20; step++) {
            g_auto(Qcow2Header) changed = { 0 };
            qcow2_header_copy(&header, &changed);
            change_at_random(rand, &changed);
            if (switch_and_check(now, &changed, next, len, NULL)) {
                qcow2_header_clear(&header);
                qcow2_header_copy(&changed, &header);
                memcpy(now, next, len);
                n_done++;
            }
        }
    }
    g_assert_cmpuint(n_done, >, 3000);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/header-switch/version", test_version);
    g_test_add_func("/header-switch/new-extension-cuts-feature-names", test_new_extension_cuts_feature_names);
    g_test_add_func("/header-switch/no-room", test_no_room);
    g_test_add_func("/header-switch/no-room-beside", test_no_room_beside);
    g_test_add_func("/header-switch/random", test_random);
    return g_test_run();
}
