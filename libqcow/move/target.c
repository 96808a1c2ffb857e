/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/target.h"

#include <sys/stat.h>

#include "io/backends.h"
#include "move/output.h"

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

static bool open_target(Qcow2Target *target, const Qcow2Place *place, Qcow2Cache cache, GError **error)
{
    if (place->kind == QCOW2_PLACE_FILE && !is_device(place->target)) {
        target->output = qcow2_output_new(place->target, true, cache, error);
        target->io = target->output ? qcow2_io_ref(qcow2_output_io(target->output)) : NULL;
        return target->output != NULL;
    }
    target->io = open_in_place(place, cache, error);
    if (!target->io) {
        g_prefix_error(error, "'%s': ", place->shown);
    }
    return target->io != NULL;
}

Qcow2Target *qcow2_target_new(const Qcow2Place *place, Qcow2Cache cache, GError **error)
{
    g_autoptr(Qcow2Target) target = g_new0(Qcow2Target, 1);

    target->shown = g_strdup(place->shown);
    return open_target(target, place, cache, error) ? g_steal_pointer(&target) : NULL;
}

Qcow2Io *qcow2_target_io(Qcow2Target *target)
{
    return target->io;
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
