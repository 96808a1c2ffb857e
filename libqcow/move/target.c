/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/target.h"

#include <sys/stat.h>

#include "io/backends.h"
#include "util/error.h"

struct Qcow2Target {
    Qcow2Output *output;      /* a regular file; NULL for what is written in place */
    Qcow2Io *io;
    char *shown;
};

static bool is_device(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0 && S_ISBLK(status.st_mode);
}

static Qcow2Io *open_in_place(const Qcow2Place *place, Qcow2Cache cache, GError **error)
{
    if (!qcow2_place_check_writable(place, error)) {
        return NULL;
    }
    if (place->kind == QCOW2_PLACE_NBD) {
        return qcow2_io_nbd_open(place->target, true, cache, 0, error);
    }
    Qcow2FileOptions options = {
        .writable = true,
        .cache = cache,
        .lock = true,
        .used = QCOW2_PERM_CONSISTENT_READ | QCOW2_PERM_WRITE | QCOW2_PERM_RESIZE,
        .shared = QCOW2_PERM_WRITE_UNCHANGED,
    };
    return qcow2_io_file_open(place->target, &options, error);
}

static Qcow2Target *new_target(const Qcow2Place *place)
{
    Qcow2Target *target = g_new0(Qcow2Target, 1);

    target->shown = g_strdup(place->shown);
    return target;
}

static bool is_new_file(const Qcow2Place *place)
{
    return place->kind == QCOW2_PLACE_FILE && !is_device(place->target);
}

/* Takes @output over, which may be NULL with an error. */
static Qcow2Target *target_of_output(const Qcow2Place *place, Qcow2Output *output)
{
    if (!output) {
        return NULL;
    }
    Qcow2Target *target = new_target(place);
    target->output = output;
    target->io = qcow2_io_ref(qcow2_output_io(output));
    return target;
}

Qcow2Target *qcow2_target_new(const Qcow2Place *place, Qcow2Cache cache, GError **error)
{
    return is_new_file(place) ? target_of_output(place, qcow2_output_new(place->target, true, cache, error))
                              : qcow2_target_existing(place, cache, error);
}

Qcow2Target *qcow2_target_resume(const Qcow2Place *place, Qcow2Cache cache, GError **error)
{
    if (!is_new_file(place)) {
        qcow2_fail(error, QCOW2_ERROR_INVALID,
                   "'%s': only a copy to a regular file can be resumed; what is written in place is"
                   " completed by the same command without --resume",
                   place->shown);
        return NULL;
    }
    return target_of_output(place, qcow2_output_resume(place->target, cache, error));
}

Qcow2Target *qcow2_target_existing(const Qcow2Place *place, Qcow2Cache cache, GError **error)
{
    g_autoptr(Qcow2Target) target = new_target(place);

    target->io = open_in_place(place, cache, error);
    if (!target->io) {
        g_prefix_error(error, "'%s': ", place->shown);
        return NULL;
    }
    return g_steal_pointer(&target);
}

bool qcow2_target_is_new(const Qcow2Target *target)
{
    return target->output != NULL;
}

Qcow2Output *qcow2_target_output(Qcow2Target *target)
{
    return target->output;
}

Qcow2Io *qcow2_target_io(Qcow2Target *target)
{
    return target->io;
}

bool qcow2_target_trace(Qcow2Target *target, const char *trace, GError **error)
{
    if (target->output && !qcow2_output_trace(target->output, trace, error)) {
        return false;
    }
    Qcow2Io *traced = target->output ? qcow2_io_ref(qcow2_output_io(target->output))
                                     : qcow2_io_trace_new(target->io, trace, error);
    if (traced) {
        qcow2_io_unref(target->io);
        target->io = traced;
    }
    return traced != NULL;
}

bool qcow2_target_publish(Qcow2Target *target, GError **error)
{
    if (target->output) {
        return qcow2_output_publish(target->output, error);
    }
    if (!qcow2_io_flush(target->io, error)) {
        g_prefix_error(error, "'%s': ", target->shown);
        return false;
    }
    return true;
}

void qcow2_target_free(Qcow2Target *target)
{
    if (target) {
        g_clear_pointer(&target->io, qcow2_io_unref);
        g_clear_pointer(&target->output, qcow2_output_free);
        g_free(target->shown);
        g_free(target);
    }
}
