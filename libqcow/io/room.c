/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io/room.h"

#include <inttypes.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "io/trial.h"
#include "util/error.h"

typedef struct FileSystem {
    dev_t device;
    uint64_t needed, available;
    uint64_t largest;         /* what the file below needs of it */
    char *name;
} FileSystem;

struct Qcow2Room {
    GArray *file_systems;
    bool in_doubt;
};

static void clear_file_system(gpointer file_system)
{
    g_free(((FileSystem *)file_system)->name);
}

Qcow2Room *qcow2_room_new(void)
{
    Qcow2Room *room = g_new0(Qcow2Room, 1);

    room->file_systems = g_array_new(FALSE, FALSE, sizeof(FileSystem));
    g_array_set_clear_func(room->file_systems, clear_file_system);
    return room;
}

void qcow2_room_free(Qcow2Room *room)
{
    if (room) {
        g_array_unref(room->file_systems);
        g_free(room);
    }
}

bool qcow2_io_get_available(const Qcow2Io *io, uint64_t *ret_bytes)
{
    int fd = io->ops->get_fd ? io->ops->get_fd((Qcow2Io *)io) : -1;
    struct statvfs fs;

    /* Some network file systems do not say. */
    if (fd < 0 || fstatvfs(fd, &fs) != 0 || fs.f_blocks == 0) {
        return false;
    }
    /* The superuser may use what a file system keeps back. */
    *ret_bytes = (uint64_t)(geteuid() == 0 ? fs.f_bfree : fs.f_bavail) * fs.f_frsize;
    return true;
}

static FileSystem *find(Qcow2Room *room, dev_t device, uint64_t available)
{
    for (guint i = 0; i < room->file_systems->len; i++) {
        FileSystem *file_system = &g_array_index(room->file_systems, FileSystem, i);
        if (file_system->device == device) {
            return file_system;
        }
    }
    FileSystem file_system = { .device = device, .available = available };
    g_array_append_val(room->file_systems, file_system);
    return &g_array_index(room->file_systems, FileSystem, room->file_systems->len - 1);
}

/* NULL: it is none, or not known. */
static FileSystem *file_system_of(Qcow2Room *room, const Qcow2Io *io)
{
    int fd = io->ops->get_fd ? io->ops->get_fd((Qcow2Io *)io) : -1;
    uint64_t available;
    struct stat st;

    return !qcow2_io_is_trial(io) && fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)
                && qcow2_io_get_available(io, &available)
         ? find(room, st.st_dev, available) : NULL;
}

void qcow2_room_need(Qcow2Room *room, const Qcow2Io *io, uint64_t len_bytes)
{
    FileSystem *file_system = file_system_of(room, io);

    if (!file_system) {
        return;
    }
    file_system->needed += MIN(len_bytes, UINT64_MAX - file_system->needed);
    if (len_bytes >= file_system->largest) {
        file_system->largest = len_bytes;
        g_free(file_system->name);
        file_system->name = g_strdup(io->name);
    }
}

void qcow2_room_gain(Qcow2Room *room, const Qcow2Io *io, uint64_t len_bytes)
{
    FileSystem *file_system = file_system_of(room, io);

    if (file_system) {
        file_system->available += MIN(len_bytes, UINT64_MAX - file_system->available);
    }
}

void qcow2_room_doubt(Qcow2Room *room)
{
    room->in_doubt = true;
}

bool qcow2_room_check(const Qcow2Room *room, GError **error)
{
    for (guint i = 0; i < room->file_systems->len; i++) {
        const FileSystem *file_system = &g_array_index(room->file_systems, FileSystem, i);
        if (file_system->needed > file_system->available) {
            g_autofree char *needed = qcow2_format_size(file_system->needed);
            g_autofree char *available = qcow2_format_size(file_system->available);
            return qcow2_fail(error, QCOW2_ERROR_NO_SPACE,
                              "'%s': not enough space: %" PRIu64 " bytes (%s) are needed on its file system,"
                              " and %" PRIu64 " (%s) are free", file_system->name, file_system->needed,
                              needed, file_system->available, available);
        }
    }
    return error || !room->in_doubt;
}
