/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The places that there are, and how to get one. */
#ifndef QCOW2_IO_BACKENDS_H
#define QCOW2_IO_BACKENDS_H

#include "io/io.h"

/* QEMU's permissions: byte 100+n is locked for each one held, byte 200+n for each one not shared. */
typedef enum {
    QCOW2_PERM_CONSISTENT_READ = 1 << 0,
    QCOW2_PERM_WRITE           = 1 << 1,
    QCOW2_PERM_WRITE_UNCHANGED = 1 << 2,
    QCOW2_PERM_RESIZE          = 1 << 3,
    QCOW2_PERM_ALL             = 15,
} Qcow2Perm;

typedef struct Qcow2FileOptions {
    bool writable;
    bool create_exclusive;   /* makes a new file; fails when the name exists; mode 0666 less umask */
    Qcow2Cache cache;        /* none and directsync: direct I/O, through aligned buffers */
    bool lock;               /* take the locks below, and refuse what conflicts */
    Qcow2Perm used;          /* permissions to hold */
    Qcow2Perm shared;        /* permissions that others may hold; ALL for --force-share */
} Qcow2FileOptions;

/**
 * qcow2_io_file_open: a regular file or block device.
 *
 * Errors: QCOW2_ERROR_NOT_FOUND; QCOW2_ERROR_IN_USE, worded as QEMU does ("Failed to get \"write\" lock";
 * "Is another process using the image [FILE]?"); QCOW2_ERROR_IO.
 */
Qcow2Io *qcow2_io_file_open(const char *path, const Qcow2FileOptions *options, GError **error);

/**
 * qcow2_io_file_lock: takes locks on a file that was opened without, once its format is known.
 * Other back ends have none: true. Errors: as qcow2_io_file_open().
 */
bool qcow2_io_file_lock(Qcow2Io *io, Qcow2Perm used, Qcow2Perm shared, GError **error);

/** qcow2_io_file_from_fd: takes @fd over; @name is for messages. Pipes can only be written, in order. */
Qcow2Io *qcow2_io_file_from_fd(int fd, const char *name, bool writable);

/**
 * qcow2_io_file_extent_size_hint: bytes in which XFS was asked to allocate the file, as qemu-img create asks;
 * 0 for none, or where there is no such thing.
 */
uint64_t qcow2_io_file_extent_size_hint(Qcow2Io *io);

/** qcow2_io_file_set_extent_size_hint: asks XFS for it; other file systems fail. @bytes fit 32 bits. */
bool qcow2_io_file_set_extent_size_hint(Qcow2Io *io, uint64_t bytes, GError **error);

/**
 * qcow2_io_file_may_share: whether the file system of @io could share extents with @source, tried with an
 * unnamed file there; true when that cannot be found out.
 */
bool qcow2_io_file_may_share(Qcow2Io *io, Qcow2Io *source);

/** qcow2_io_file_set_nocow: asks a file system that copies on write not to, while the file is empty. */
void qcow2_io_file_set_nocow(Qcow2Io *io);

/** qcow2_io_memory_new: @len_bytes of @bytes are copied; NULL starts with zeros. Grows when written. */
Qcow2Io *qcow2_io_memory_new(const void *bytes, size_t len_bytes, const char *name, bool writable);

/** qcow2_io_memory_peek: the bytes now; valid until the next write. */
const uint8_t *qcow2_io_memory_peek(Qcow2Io *io, size_t *ret_len_bytes);

/**
 * qcow2_io_nbd_open:
 * @uri: nbd://, nbds://, nbd+unix://, nbds+unix://, nbd+vsock://, nbds+vsock://
 * @cache: none means nothing here; writethrough and directsync make each write final (FUA or a flush)
 * @n_connections: at most this many are opened; 0 chooses. Without the server's promise that a flush on
 *                 one connection covers all (multi-conn) there is one for writing
 *
 * A server that has neither flush nor FUA is refused for writing, except with the cache mode unsafe.
 *
 * Errors: QCOW2_ERROR_IO with the server's words; QCOW2_ERROR_UNSUPPORTED for a server that cannot do what
 * is asked; QCOW2_ERROR_FAILED without the NBD module.
 */
Qcow2Io *qcow2_io_nbd_open(const char *uri, bool writable, Qcow2Cache cache, unsigned n_connections,
                           GError **error);

/** What a recorder saw, in order. */
typedef enum {
    QCOW2_RECORD_WRITE,
    QCOW2_RECORD_FLUSH,
    QCOW2_RECORD_TRUNCATE,
    QCOW2_RECORD_ZERO,
} Qcow2RecordKind;

typedef struct Qcow2Record {
    Qcow2RecordKind kind;
    unsigned place;               /* which of the recorders that share the list */
    uint64_t offset, len_bytes;   /* TRUNCATE: the new size in offset */
    GBytes *bytes;                /* WRITE only */
} Qcow2Record;

/**
 * qcow2_io_recorder_new: passes all calls on to @below and keeps a list of what changes it; takes a
 * reference of its own to @below, as the two below do.
 * Kernel copies are reported as impossible, so that every byte goes through write().
 */
Qcow2Io *qcow2_io_recorder_new(Qcow2Io *below);

/**
 * qcow2_io_recorder_new_beside: a recorder for another place that adds to the list of @first, so that the
 * list tells in which order an operation changed several files. The places are numbered from 0, which is
 * @first.
 */
Qcow2Io *qcow2_io_recorder_new_beside(Qcow2Io *below, Qcow2Io *first);

/** qcow2_io_recorder_get: the records so far, of type Qcow2Record; valid until the next call. */
const GArray *qcow2_io_recorder_get(Qcow2Io *io);

/**
 * qcow2_io_trace_new: passes all calls on, and appends one JSON line to the file @trace for each that changes
 * something or flushes. Without a name it is @below again.
 */
Qcow2Io *qcow2_io_trace_new(Qcow2Io *below, const char *trace, GError **error);

typedef enum {
    QCOW2_FAULT_READ     = 1 << 0,
    QCOW2_FAULT_WRITE    = 1 << 1,   /* zero() counts as one */
    QCOW2_FAULT_FLUSH    = 1 << 2,
    QCOW2_FAULT_TRUNCATE = 1 << 3,
} Qcow2FaultCalls;

/**
 * qcow2_io_fault_new: passes all calls on, but the call number @n (from 0) among @calls fails with
 * @errnum; with @short_len a write does its first half before it fails, as a full disk does.
 */
Qcow2Io *qcow2_io_fault_new(Qcow2Io *below, Qcow2FaultCalls calls, uint64_t n, int errnum, bool short_len);

/** qcow2_io_fault_count: how many of the chosen calls were made so far. */
uint64_t qcow2_io_fault_count(Qcow2Io *io);

#endif
