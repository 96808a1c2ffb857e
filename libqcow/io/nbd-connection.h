/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One connection to an NBD server, and the thread that serves it. */
#ifndef QCOW2_IO_NBD_CONNECTION_H
#define QCOW2_IO_NBD_CONNECTION_H

#include "io/io.h"

typedef struct Qcow2NbdConnection Qcow2NbdConnection;

/** What the server says about the export. */
typedef struct Qcow2NbdExport {
    uint64_t size;
    uint64_t min_block, max_block;    /* 0: not said */
    bool read_only, multi_conn;
    bool can_flush, can_fua, can_zero, can_extents;
} Qcow2NbdExport;

typedef enum {
    QCOW2_NBD_READ,
    QCOW2_NBD_WRITE,
    QCOW2_NBD_ZERO,
    QCOW2_NBD_FLUSH,
    QCOW2_NBD_EXTENTS,
} Qcow2NbdKind;

/** One command; offsets and lengths keep to the block sizes of the export. */
typedef struct Qcow2NbdRequest {
    Qcow2NbdKind kind;
    uint64_t offset, len_bytes;
    void *read_into;                  /* READ */
    const void *write_from;           /* WRITE */
    bool fua;                         /* WRITE, ZERO: on stable storage when it ends */
    bool keep_allocated;              /* ZERO */
    GArray *extents;                  /* EXTENTS: gets the answer, Qcow2IoExtent from @offset on */
} Qcow2NbdRequest;

/** qcow2_nbd_connection_new: starts to connect; NULL with an error only when no thread can be made. */
Qcow2NbdConnection *qcow2_nbd_connection_new(const char *uri, GError **error);

/** qcow2_nbd_connection_free: ends the connection, whatever it is doing; no request may be running. */
void qcow2_nbd_connection_free(Qcow2NbdConnection *connection);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2NbdConnection, qcow2_nbd_connection_free)

/**
 * qcow2_nbd_connection_wait: waits until requests can be made.
 * @timeout_usec: -1 for as long as connecting takes
 * Errors: QCOW2_ERROR_IO with the reason.
 */
bool qcow2_nbd_connection_wait(Qcow2NbdConnection *connection, gint64 timeout_usec,
                               Qcow2NbdExport *ret_export, GError **error);

/** qcow2_nbd_connection_load: requests that are running; UINT_MAX while or when it cannot take any. */
unsigned qcow2_nbd_connection_load(Qcow2NbdConnection *connection);

/**
 * qcow2_nbd_connection_run: makes one request and waits for the answer; from any thread.
 * @ret_errnum: the error as the server gave it, ENOTCONN when the connection was lost
 */
bool qcow2_nbd_connection_run(Qcow2NbdConnection *connection, Qcow2NbdRequest *request, int *ret_errnum,
                              GError **error);

#endif
