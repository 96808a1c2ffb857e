/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a fuzz target defines: libFuzzer calls it, and so does replay.c. */
#ifndef QCOW2_TESTS_FUZZ_H
#define QCOW2_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
