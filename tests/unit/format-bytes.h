/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tests of the format share: numbers put into bytes, and pieces of QEMU's images. */
#ifndef QCOW2_TESTS_FORMAT_BYTES_H
#define QCOW2_TESTS_FORMAT_BYTES_H

#include "util/bits.h"

static inline void put_be(uint8_t *bytes, size_t offset, unsigned width, uint64_t value)
{
    for (unsigned i = 0; i < width; i++) {
        bytes[offset + i] = (uint8_t) (value >> (8 * (width - 1 - i)));
    }
}

/* tests/images/format/NAME, see the README there. */
static inline uint8_t *load_piece(const char *name, size_t *ret_len)
{
    g_autofree char *path = g_test_build_filename(G_TEST_DIST, "images", "format", name, NULL);
    g_autoptr(GError) error = NULL;
    char *bytes = NULL;

    g_file_get_contents(path, &bytes, ret_len, &error);
    g_assert_no_error(error);
    return (uint8_t *) bytes;
}

/* That @error is of QCOW2_ERROR and @code and tells @part, which NULL leaves open. */
static inline void assert_error_tells(const GError *error, int code, const char *part)
{
    g_assert_nonnull(error);
    g_assert_cmpint(error->code, ==, code);
    if (part && !strstr(error->message, part)) {
        g_error("the message \"%s\" does not tell \"%s\"", error->message, part);
    }
}

#endif
