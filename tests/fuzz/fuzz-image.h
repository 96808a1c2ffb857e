/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes from a fuzzer as an image in memory. */
#ifndef QCOW2_TESTS_FUZZ_IMAGE_H
#define QCOW2_TESTS_FUZZ_IMAGE_H

#include "chain/chain.h"
#include "io/backends.h"

/* The names inside an image are not followed, and one thread makes a finding the same each time. */
static inline Qcow2Chain *fuzz_open(const uint8_t *data, size_t size)
{
    g_autoptr(Qcow2Io) io = qcow2_io_memory_new(data, size, "fuzz", false);
    Qcow2OpenOptions options = { .format = "qcow2", .untrusted = true, .n_threads = 1 };

    return qcow2_chain_open_io(io, &options, NULL);
}

#endif
