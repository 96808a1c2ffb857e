/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the file back end share; nothing else includes this. */
#ifndef QCOW2_IO_FILE_H
#define QCOW2_IO_FILE_H

#include <sys/types.h>

#include "io/backends.h"

typedef struct Qcow2FileIo {
    Qcow2Io io;
    int fd;
    int direct_fd;            /* the same file opened with O_DIRECT; -1 without direct I/O */
    size_t direct_align;      /* of offsets, lengths and buffers on direct_fd; a power of two */
    Qcow2Cache cache;
    bool is_device;           /* a block device, otherwise a regular file */
    bool has_path;            /* io.name can be opened */
    gint flush_failed;        /* atomic */
} Qcow2FileIo;

/* file.c: all of a buffer, or an error; reading past the end gives zeros. */
bool qcow2_file_read_fd(int fd, uint64_t offset, void *buffer, size_t len_bytes, GError **error);
bool qcow2_file_write_fd(int fd, uint64_t offset, const void *buffer, size_t len_bytes, GError **error);
bool qcow2_file_get_size(Qcow2Io *io, uint64_t *ret_size, GError **error);

/* To be called after each change: what writethrough and directsync ask for. */
bool qcow2_file_after_write(Qcow2FileIo *file, GError **error);

/* file-direct.c */
bool qcow2_file_direct_open(Qcow2FileIo *file, const char *path, GError **error);
bool qcow2_file_direct_read(Qcow2FileIo *file, uint64_t offset, void *buffer, size_t len_bytes,
                            GError **error);
bool qcow2_file_direct_write(Qcow2FileIo *file, uint64_t offset, const void *buffer, size_t len_bytes,
                             GError **error);

/* file-space.c, file-copy.c, file-lock.c: entries of the table of calls */
bool qcow2_file_truncate(Qcow2Io *io, uint64_t size, GError **error);
bool qcow2_file_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error);
bool qcow2_file_extent(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, Qcow2IoExtent *ret, GError **error);
Qcow2CopyOutcome qcow2_file_clone_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                       uint64_t len_bytes, GError **error);
Qcow2CopyOutcome qcow2_file_copy_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                      uint64_t len_bytes, GError **error);
void qcow2_file_start_writeback(Qcow2Io *io, uint64_t offset, uint64_t len_bytes);
bool qcow2_file_start_reading(Qcow2Io *io, uint64_t offset, uint64_t len_bytes);
bool qcow2_file_has_writer(Qcow2Io *io, bool *ret_has_writer, GError **error);

/* file-stream.c: a descriptor that can only be written, in order */
Qcow2Io *qcow2_file_stream_new(int fd, const char *name, bool writable);

#endif
