/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A place that holds bytes: a file, an NBD export, memory. Back ends fill in one small table of calls;
 * recorders and fault injectors stack on any of them.
 *
 * Calls are synchronous and may be made from any thread at the same time. A read is whole or an error;
 * bytes past the end of the place read as zeros, because that is how QEMU reads a short image file.
 */
#ifndef QCOW2_IO_IO_H
#define QCOW2_IO_IO_H

#include "libqcow2.h"

typedef struct Qcow2Io Qcow2Io;

/** The first bytes of an asked-for range that are alike: data, or a hole that reads as zeros. */
typedef struct Qcow2IoExtent {
    uint64_t len_bytes;
    bool zero;
    bool hole;        /* nothing is allocated; a zero range need not be one */
} Qcow2IoExtent;

/** What tells that a place is the same, and unchanged, as some time ago. */
typedef struct Qcow2IoIdentity {
    bool known;       /* false: this back end cannot tell (NBD) */
    uint64_t device, inode;
    uint64_t size;
    int64_t mtime_sec, mtime_nsec, ctime_sec, ctime_nsec;
} Qcow2IoIdentity;

typedef enum {
    QCOW2_COPY_DONE,
    QCOW2_COPY_IMPOSSIBLE,   /* these two places cannot do it: fall back */
    QCOW2_COPY_FAILED,       /* with an error */
} Qcow2CopyOutcome;

typedef struct Qcow2IoOps {
    const char *protocol;    /* "file", "host_device", "nbd", "memory" */
    bool (*read)(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error);
    bool (*write)(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error);
    bool (*flush)(Qcow2Io *io, GError **error);
    bool (*get_size)(Qcow2Io *io, uint64_t *ret_size, GError **error);
    bool (*truncate)(Qcow2Io *io, uint64_t size, GError **error);

    /* The rest may be NULL: see the functions below for what happens then. */
    bool (*zero)(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error);
    bool (*extent)(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret, GError **error);
    Qcow2CopyOutcome (*clone_from)(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                   uint64_t len_bytes, GError **error);
    Qcow2CopyOutcome (*copy_from)(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                  uint64_t len_bytes, GError **error);
    void (*start_writeback)(Qcow2Io *io, uint64_t offset, uint64_t len_bytes);
    bool (*start_reading)(Qcow2Io *io, uint64_t offset, uint64_t len_bytes);
    bool (*identify)(Qcow2Io *io, Qcow2IoIdentity *ret, GError **error);
    bool (*has_writer)(Qcow2Io *io, bool *ret_has_writer, GError **error);
    Qcow2Io *(*reopen)(Qcow2Io *io, GError **error);
    bool (*get_actual_size)(Qcow2Io *io, uint64_t *ret_bytes);
    int (*get_fd)(Qcow2Io *io);
    void (*close)(Qcow2Io *io);    /* ends what the back end holds; its structure is freed afterwards */
} Qcow2IoOps;

/** The head of every back end's own structure. */
struct Qcow2Io {
    const Qcow2IoOps *ops;
    char *name;              /* as messages print it: a path or a URI */
    bool writable;
    gint ref_count;
};

/* For back ends: fills the head in; the first reference belongs to the caller. */
void qcow2_io_init(Qcow2Io *io, const Qcow2IoOps *ops, const char *name, bool writable);

Qcow2Io *qcow2_io_ref(Qcow2Io *io);
void qcow2_io_unref(Qcow2Io *io);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Io, qcow2_io_unref)

/* Each checks that the range fits 63 bits; error messages say "read N bytes at 0xOFFSET: cause". */
bool qcow2_io_read(Qcow2Io *io, uint64_t offset, void *buffer, size_t len_bytes, GError **error);
bool qcow2_io_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error);
bool qcow2_io_flush(Qcow2Io *io, GError **error);

/** qcow2_io_write_named: the same; errors begin with the name of the place, for callers that know no better
 * one. */
bool qcow2_io_write_named(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error);

/** qcow2_io_get_size: the size now; a growing file is asked each time. */
bool qcow2_io_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error);
bool qcow2_io_truncate(Qcow2Io *io, uint64_t size, GError **error);

/**
 * qcow2_io_zero: makes a range read as zeros; @may_unmap allows to give the space back. The place grows
 * as if zeros were written.
 */
bool qcow2_io_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error);

/** qcow2_io_extent: without support all bytes up to the end are data; past the end all is hole. */
bool qcow2_io_extent(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret, GError **error);

/* For back ends that cannot tell more than where the end is. */
bool qcow2_io_extent_by_size(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret,
                             GError **error);

/**
 * qcow2_io_clone_from: shares the extents of @source (FICLONERANGE).
 * qcow2_io_copy_from: lets the kernel copy (copy_file_range).
 *
 * IMPOSSIBLE says that nothing was written and that these places, or these alignments, never can.
 */
Qcow2CopyOutcome qcow2_io_clone_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                     uint64_t len_bytes, GError **error);
Qcow2CopyOutcome qcow2_io_copy_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                    uint64_t len_bytes, GError **error);

/** qcow2_io_start_writeback: a hint that this range is complete and a flush will follow. */
void qcow2_io_start_writeback(Qcow2Io *io, uint64_t offset, uint64_t len_bytes);

/** qcow2_io_start_reading: a hint that this range will be read soon; false when it is in memory, or nothing
 * can be done. */
bool qcow2_io_start_reading(Qcow2Io *io, uint64_t offset, uint64_t len_bytes);

/** qcow2_io_identify: known = false when the back end cannot tell. */
bool qcow2_io_identify(Qcow2Io *io, Qcow2IoIdentity *ret, GError **error);

/** qcow2_io_has_writer: does another process hold byte 101, QEMU's write permission? false over NBD. */
bool qcow2_io_has_writer(Qcow2Io *io, bool *ret_has_writer, GError **error);

/**
 * qcow2_io_reopen: the same place seen afresh: a file through the same descriptor, after its inode was
 * compared with that of its name; an NBD export through a new connection, which sees the size of now. With
 * a server that takes one client at a time @io is disconnected first, and fails from then on; no other call
 * may be running on it.
 * Errors: QCOW2_ERROR_CHANGED when the name now means another file.
 */
Qcow2Io *qcow2_io_reopen(Qcow2Io *io, GError **error);

/** qcow2_io_get_actual_size: bytes allocated on the host; false when not known. */
bool qcow2_io_get_actual_size(Qcow2Io *io, uint64_t *ret_bytes);

/** qcow2_io_can_grow: false for a block device or an NBD export, which have the size that they have. */
bool qcow2_io_can_grow(const Qcow2Io *io);

/** qcow2_io_get_fd: the descriptor of a file, or -1. */
int qcow2_io_get_fd(Qcow2Io *io);

#endif
