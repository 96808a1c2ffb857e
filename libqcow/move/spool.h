/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An unlinked file in $TMPDIR, for a stream that must be known whole before any of it is used. */
#ifndef QCOW2_MOVE_SPOOL_H
#define QCOW2_MOVE_SPOOL_H

#include "io/io.h"

Qcow2Io *qcow2_spool_new(GError **error);

/** qcow2_spool_fill: copies @fd up to its end; @ret_len: how many bytes there were. */
bool qcow2_spool_fill(Qcow2Io *spool, int fd, uint64_t *ret_len, Qcow2Progress *progress, GError **error);

/** qcow2_check_digest: the last cluster of a delta's stream holds the SHA-256 of all before it. */
bool qcow2_check_digest(Qcow2Io *io, uint64_t len_bytes, uint64_t cluster_size, Qcow2Progress *progress,
                        GError **error);

#endif
