/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Missing space is found before the first write, as far as it can be known. A copy is never refused that
 * could fit: what is certain is space that is set aside, and data that holds no zeros, cannot be shared and
 * is stored as it is. Only where all data may be too much is it looked at, until it certainly is.
 */
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "io/backends.h"
#include "io/room.h"
#include "ops/copy.h"
#include "util/error.h"

/* <linux/magic.h> has it only since Linux 5.19. */
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

typedef struct Search {
    const Qcow2CopyNeed *need;    /* the one at hand */
    Qcow2Io *target;
    uint64_t found, limit;    /* bytes */
    Qcow2Io *last;            /* the source that was asked last, and whether it may share: */
    bool last_may_share;
} Search;

/* What a file system compresses takes less than its length. */
static bool stores_as_it_is(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0
        && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC || fs.f_type == TMPFS_MAGIC);
}

static bool is_regular(int fd)
{
    struct stat status;

    return fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

static bool may_share(Search *search, Qcow2Io *source)
{
    if (search->need->copy->options->no_reflink) {
        return false;
    }
    if (search->last != source) {
        search->last = source;
        search->last_may_share = qcow2_io_file_may_share(search->target, source);
    }
    return search->last_may_share;
}

/* Zeros are looked for only in what is cheap to read; of other data it is not known how much is left out. */
static uint64_t certain_bytes(Search *search, const Qcow2Extent *extent)
{
    const Qcow2Copy *copy = search->need->copy;
    uint64_t start = search->need->start, end = qcow2_extent_end(extent);

    if (extent->kind != QCOW2_EXTENT_DATA || end <= start
        || (copy->sparse.block > 0 && !qcow2_is_cheap_to_read(copy->source, extent))
        || may_share(search, qcow2_chain_image(copy->source->chain, extent->layer)->data)) {
        return 0;
    }
    return end - MAX(start, extent->guest_offset);
}

static bool fail(const Qcow2Io *target, uint64_t needed, uint64_t available, GError **error)
{
    g_autofree char *needed_text = qcow2_format_size(needed);
    g_autofree char *available_text = qcow2_format_size(available);

    return qcow2_fail(error, QCOW2_ERROR_NO_SPACE,
                      "'%s': not enough space: at least %" PRIu64 " bytes (%s) are needed, and %" PRIu64
                      " (%s) are free", target->name, needed, needed_text, available, available_text);
}

static void add_certain(const GArray *extents, void *data)
{
    Search *search = data;

    for (guint i = 0; i < extents->len; i++) {
        search->found += certain_bytes(search, &g_array_index(extents, Qcow2Extent, i));
    }
}

static bool put(const GArray *extents, void *data, GError **error)
{
    Search *search = data;

    add_certain(extents, search);
    return search->found <= search->limit || fail(search->target, search->found, search->limit, error);
}

static bool look_at_data(Search *search, GError **error)
{
    const Qcow2Copy *copy = search->need->copy;
    g_autoptr(Qcow2ReaderPool) readers = qcow2_reader_pool_new();
    Qcow2HoleRules holes = { copy->source, copy->sparse, copy->first->options.n_threads, readers };
    Qcow2Walk walk = {
        .choice = search->need->choice,
        .holes = copy->sparse.block > 0 ? &holes : NULL,
        .start = search->need->start,
        .n_threads = copy->first->options.n_threads,
        .progress = copy->progress,
    };
    Qcow2Sink sink = { .put = put, .data = search };
    bool ok = qcow2_walk(&walk, &sink, error);

    qcow2_choice_rewind(search->need->choice);
    return ok;
}

/* By metadata all data counts, the zeros in it too; looking at the data leaves them out. */
static bool for_each_data(Search *search, const Qcow2CopyNeed *needs, size_t n_needs, bool by_metadata,
                          GError **error)
{
    for (size_t i = 0; i < n_needs; i++) {
        search->need = &needs[i];
        bool ok = !needs[i].data
               || (by_metadata ? qcow2_choice_each(needs[i].choice, add_certain, search, error)
                               : look_at_data(search, error));
        if (!ok) {
            return false;
        }
    }
    return true;
}

bool qcow2_copy_check_room(Qcow2Io *target, const Qcow2CopyNeed *needs, size_t n_needs, GError **error)
{
    Search search = { .target = target };
    int fd = qcow2_io_get_fd(target);
    bool is_file = is_regular(fd);

    if (is_file ? !qcow2_io_get_available(target, &search.limit)
                : !qcow2_io_get_size(target, &search.limit, error)) {
        return is_file;    /* some file systems do not say */
    }
    for (size_t i = 0; i < n_needs; i++) {
        search.found += needs[i].certain;
        search.limit += needs[i].freed;
    }
    if (search.found > search.limit) {
        return fail(target, search.found, search.limit, error);
    }
    if (is_file && !stores_as_it_is(fd)) {
        return true;
    }
    Search most = search;
    return for_each_data(&most, needs, n_needs, true, error)
        && (most.found <= search.limit || for_each_data(&search, needs, n_needs, false, error));
}
