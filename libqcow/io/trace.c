/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One line of JSON for each call that changes a place, when it has ended. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "io/backends.h"
#include "io/stack.h"
#include "util/error.h"

typedef struct TraceIo {
    Qcow2StackIo stack;
    int fd;
    char *json_name;          /* the place's name, quoted */
} TraceIo;

/* A line is one write(), so that lines of several places and threads do not mix. */
static void print_line(Qcow2Io *io, const char *call, uint64_t offset, uint64_t len_bytes, gint64 start,
                       bool ok)
{
    TraceIo *trace = (TraceIo *) io;
    gint64 end = g_get_monotonic_time();
    g_autofree char *line = g_strdup_printf("{\"time_usec\": %" PRId64 ", \"file\": %s, \"call\": \"%s\", "
                                            "\"offset\": %" PRIu64 ", \"length\": %" PRIu64 ", "
                                            "\"usec\": %" PRId64 ", \"ok\": %s}\n",
                                            start, trace->json_name, call, offset, len_bytes, end - start,
                                            ok ? "true" : "false");

    /* A trace that cannot be written is no reason to fail what it traces. */
    ssize_t ignored = write(trace->fd, line, strlen(line));
    (void) ignored;
}

static bool trace_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    gint64 start = g_get_monotonic_time();
    bool ok = below->ops->write(below, offset, buffer, len_bytes, error);

    print_line(io, "write", offset, len_bytes, start, ok);
    return ok;
}

static bool trace_flush(Qcow2Io *io, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    gint64 start = g_get_monotonic_time();
    bool ok = below->ops->flush(below, error);

    print_line(io, "flush", 0, 0, start, ok);
    return ok;
}

static bool trace_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    gint64 start = g_get_monotonic_time();
    bool ok = below->ops->truncate(below, size, error);

    print_line(io, "truncate", size, 0, start, ok);
    return ok;
}

static bool trace_zero(Qcow2Io *io, uint64_t offset, uint64_t len_bytes, bool may_unmap, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    gint64 start = g_get_monotonic_time();
    bool ok = below->ops->zero(below, offset, len_bytes, may_unmap, error);

    print_line(io, "zero", offset, len_bytes, start, ok);
    return ok;
}

/* What turns out to be impossible has written nothing: the write that follows instead is the line. */
static Qcow2CopyOutcome trace_clone_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source,
                                         uint64_t source_offset, uint64_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    gint64 start = g_get_monotonic_time();
    Qcow2CopyOutcome outcome;

    outcome = below->ops->clone_from(below, offset, source, source_offset, len_bytes, error);
    if (outcome != QCOW2_COPY_IMPOSSIBLE) {
        print_line(io, "clone", offset, len_bytes, start, outcome == QCOW2_COPY_DONE);
    }
    return outcome;
}

static Qcow2CopyOutcome trace_copy_from(Qcow2Io *io, uint64_t offset, Qcow2Io *source, uint64_t source_offset,
                                        uint64_t len_bytes, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);
    gint64 start = g_get_monotonic_time();
    Qcow2CopyOutcome outcome;

    outcome = below->ops->copy_from(below, offset, source, source_offset, len_bytes, error);
    if (outcome != QCOW2_COPY_IMPOSSIBLE) {
        print_line(io, "copy", offset, len_bytes, start, outcome == QCOW2_COPY_DONE);
    }
    return outcome;
}

static void trace_close(Qcow2Io *io)
{
    TraceIo *trace = (TraceIo *) io;

    close(trace->fd);
    g_free(trace->json_name);
    qcow2_stack_close(io);
}

static Qcow2Io *trace_new(Qcow2Io *below, int fd)
{
    TraceIo *trace = g_new0(TraceIo, 1);
    Qcow2IoOps *ops = &trace->stack.ops;

    qcow2_stack_init(&trace->stack, below);
    trace->fd = fd;
    trace->json_name = qcow2_json_print(g_variant_new_take_string(qcow2_escape_name(below->name, -1)), NULL);
    ops->write = trace_write;
    ops->flush = trace_flush;
    ops->truncate = trace_truncate;
    ops->zero = ops->zero ? trace_zero : NULL;
    ops->clone_from = ops->clone_from ? trace_clone_from : NULL;
    ops->copy_from = ops->copy_from ? trace_copy_from : NULL;
    ops->close = trace_close;
    return &trace->stack.io;
}

Qcow2Io *qcow2_io_trace_new(Qcow2Io *below, const char *trace, GError **error)
{
    if (!trace) {
        return qcow2_io_ref(below);
    }
    /* Each place has a descriptor of its own; what is appended stays together. */
    int fd = open(trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) {
        qcow2_fail_errno(error, errno, "'%s': trace file", trace);
        return NULL;
    }
    return trace_new(below, fd);
}
