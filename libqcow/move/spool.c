/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/spool.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "io/trial.h"
#include "util/error.h"
#include "util/progress.h"

#define BUFFER_SIZE (UINT64_C(128) << 10)

Qcow2Io *qcow2_spool_new(GError **error)
{
    return qcow2_io_scratch_new(error);
}

bool qcow2_spool_fill(Qcow2Io *spool, int fd, uint64_t *ret_len, Qcow2Progress *progress, GError **error)
{
    g_autofree uint8_t *buffer = g_malloc(BUFFER_SIZE);

    *ret_len = 0;
    for (;;) {
        ssize_t n = read(fd, buffer, BUFFER_SIZE);
        if (n < 0 && errno == EINTR) {
            n = 0;
            if (!qcow2_progress_check(progress, error)) {
                return false;
            }
            continue;
        }
        if (n < 0) {
            return qcow2_fail_errno(error, errno, "standard input");
        }
        if (n == 0) {
            return true;
        }
        if (!qcow2_progress_check(progress, error)
            || !qcow2_io_write_named(spool, *ret_len, buffer, (size_t)n, error)) {
            return false;
        }
        *ret_len += (uint64_t)n;
    }
}

bool qcow2_check_digest(Qcow2Io *io, uint64_t len_bytes, uint64_t cluster_size, Qcow2Progress *progress,
                        GError **error)
{
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree uint8_t *buffer = g_malloc(BUFFER_SIZE);
    uint8_t wanted[32], found[32];
    gsize digest_len = sizeof(found);

    if (len_bytes < 2 * cluster_size || len_bytes % cluster_size != 0) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "the stream was cut: it has %" PRIu64 " bytes, no whole number of"
                          " clusters",
                          len_bytes);
    }
    uint64_t end = len_bytes - cluster_size;
    for (uint64_t at = 0; at < end;) {
        size_t len = MIN(BUFFER_SIZE, end - at);
        if (!qcow2_progress_check(progress, error) || !qcow2_io_read(io, at, buffer, len, error)) {
            return false;
        }
        g_checksum_update(checksum, buffer, (gssize)len);
        at += len;
    }
    g_checksum_get_digest(checksum, found, &digest_len);
    if (!qcow2_io_read(io, end, wanted, sizeof(wanted), error)) {
        return false;
    }
    return memcmp(wanted, found, sizeof(found)) == 0
           || qcow2_fail(error, QCOW2_ERROR_INVALID,
                         "the stream was cut or damaged: its last cluster does not hold the SHA-256 of"
                         " all before it");
}
