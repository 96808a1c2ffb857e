/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a fuzz target defines: libFuzzer calls it, and so does replay.c. */
#ifndef QCOW2_TESTS_FUZZ_H
#define QCOW2_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <glib.h>

/* A promise that was broken: libFuzzer keeps the input for an abort, and not for the trap of g_error(). */
#define fuzz_fail(...) \
    do { \
        g_printerr(__VA_ARGS__); \
        g_printerr("\n"); \
        abort(); \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
