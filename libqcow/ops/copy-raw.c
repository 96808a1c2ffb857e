/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A copy as raw bytes: into a new file, a block device, an NBD export, or a file that is there. */
#include "image/reserve.h"
#include "ops/copy.h"
#include "util/error.h"
#include "util/progress.h"

/* A flush costs time, and doing so much again does, too. */
#define NOTE_BYTES (UINT64_C(64) << 20)

typedef struct RawCopy {
    Qcow2Copy *copy;
    Qcow2Io *target;
    Qcow2Mover *mover;
    bool tried_sharing, shares;
    uint64_t done, noted;         /* guest offsets: what is moved, and what of it is flushed */
} RawCopy;

static bool put(const GArray *extents, void *data, GError **error)
{
    RawCopy *raw = data;

    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (!qcow2_mover_add(raw->mover, extent, raw->copy->target_offset + extent->guest_offset, error)) {
            return false;
        }
    }
    return qcow2_mover_drain(raw->mover, error);
}

/* Tried with what comes first, where it belongs. */
static bool can_share(const GArray *extents, void *data)
{
    RawCopy *raw = data;

    for (guint i = 0; i < extents->len && !raw->tried_sharing; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        if (extent->kind == QCOW2_EXTENT_DATA) {
            raw->shares =
                qcow2_mover_can_share(raw->mover, extent, raw->copy->target_offset + extent->guest_offset);
            raw->tried_sharing = true;
        }
    }
    return raw->shares;
}

static bool save(RawCopy *raw, GError **error)
{
    Qcow2JournalRecord record = { .guest_end = raw->done };

    raw->noted = raw->done;
    return qcow2_io_flush(raw->target, error) && qcow2_journal_note(raw->copy->journal, &record, error);
}

static bool note(uint64_t guest_end, void *data, GError **error)
{
    RawCopy *raw = data;

    raw->done = guest_end;
    return raw->done - raw->noted < NOTE_BYTES || save(raw, error);
}

static bool walk(RawCopy *raw, GError **error)
{
    const Qcow2Copy *copy = raw->copy;
    g_autoptr(Qcow2ReaderPool) readers = qcow2_reader_pool_new();
    Qcow2HoleRules holes = { copy->source, copy->sparse, copy->first->options.n_threads, readers };
    Qcow2Walk walk = {
        .choice = copy->choice,
        .holes = copy->sparse.block > 0 ? &holes : NULL,
        .start = copy->resume.guest_end,
        .n_threads = copy->first->options.n_threads,
        .progress = copy->progress,
    };
    Qcow2Sink sink = {
        .put = put,
        .can_share = copy->share_first ? can_share : NULL,
        .note = copy->journal ? note : NULL,
        .data = raw,
    };

    if (qcow2_walk(&walk, &sink, error)) {
        return true;
    }
    /* What the user stops is gone on with where it was; after a failed flush nothing is vouched for. */
    if (error && g_error_matches(*error, QCOW2_ERROR, QCOW2_ERROR_CANCELLED) && raw->done > raw->noted) {
        save(raw, NULL);
    }
    return false;
}

/* All of it, but for what an interrupted copy has done. */
static bool expect(Qcow2Copy *copy, GError **error)
{
    const GArray *extents = NULL;
    uint64_t start = copy->resume.guest_end, n_bytes = 0;

    do {
        if (!qcow2_progress_check(copy->progress, error)
            || !qcow2_choice_next(copy->choice, &extents, error)) {
            return false;
        }
        for (guint i = 0; extents && i < extents->len; i++) {
            const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
            uint64_t end = qcow2_extent_end(extent);
            n_bytes += end > start ? end - MAX(start, extent->guest_offset) : 0;
        }
    } while (extents);
    qcow2_choice_rewind(copy->choice);
    copy->result.bytes = n_bytes;
    qcow2_progress_expect(copy->progress, n_bytes);
    return true;
}

bool qcow2_copy_expect_bytes(Qcow2Copy *copy, bool is_zero, GError **error)
{
    Qcow2ChoiceOptions options = {
        .unit = QCOW2_SECTOR_SIZE,
        .n_threads = copy->first->options.n_threads,
        .not_aligned = true,
        .everything = !is_zero,
        .end = is_zero ? 0 : copy->size,
    };

    copy->target_is_zero = is_zero;
    copy->nothing = qcow2_state_open(copy->source->chain, "@empty", error);
    copy->choice = copy->nothing ? qcow2_choice_new(copy->nothing, copy->source, &options, error) : NULL;
    return copy->choice && expect(copy, error);
}

void qcow2_copy_forget_bytes(Qcow2Copy *copy)
{
    g_clear_pointer(&copy->choice, qcow2_choice_free);
    g_clear_pointer(&copy->nothing, qcow2_state_free);
}

bool qcow2_copy_bytes(Qcow2Copy *copy, Qcow2Io *target, GError **error)
{
    Qcow2MoverOptions options = {
        .n_threads = copy->first->options.n_threads,
        .no_reflink = copy->options->no_reflink,
        .source_in_use = copy->first->options.force_share,
        .sparse = copy->sparse,
        .target_is_zero = copy->target_is_zero,
        .keep_space = qcow2_copy_is_all(copy),
    };
    g_autoptr(Qcow2Mover) mover = qcow2_mover_new(copy->source, target, &options, copy->progress);
    RawCopy raw = { .copy = copy, .target = target, .mover = mover, .noted = copy->resume.guest_end };

    if (!walk(&raw, error)) {
        return false;
    }
    Qcow2MoverStats stats = qcow2_mover_get_stats(mover);
    copy->result.bytes_copied = stats.bytes_copied;
    copy->result.bytes_cloned = stats.bytes_cloned;
    copy->result.bytes_resumed = copy->resume.guest_end;
    return true;
}

/* ---- A new file, or what is treated as one ----------------------------------------------------- */

static Qcow2Preallocation preallocation(const Qcow2Copy *copy, const Qcow2Creation *creation)
{
    bool is_off = creation->options.preallocation == QCOW2_PREALLOCATION_OFF;

    return is_off && qcow2_copy_is_all(copy) ? QCOW2_PREALLOCATION_FALLOC : creation->options.preallocation;
}

/* What an interrupted copy wrote behind what its journal vouches for has to be a hole again. */
static bool cut_part(const Qcow2Copy *copy, Qcow2Target *target, GError **error)
{
    Qcow2Io *io = qcow2_target_io(target);

    if (copy->journal && !qcow2_io_truncate(io, copy->resume.guest_end, error)) {
        g_prefix_error(error, "'%s': ", io->name);
        return false;
    }
    return true;
}

/* A device must have room for it; a file gets its size, and the space that was asked for. */
static bool prepare(const Qcow2Copy *copy, const Qcow2Creation *creation, Qcow2Target *target, GError **error)
{
    Qcow2Io *io = qcow2_target_io(target);
    uint64_t done = copy->resume.guest_end;
    bool ok = qcow2_io_truncate(io, copy->size, error)
           && (!qcow2_target_is_new(target)
               || qcow2_reserve(io, done, copy->size, preallocation(copy, creation), copy->progress, error));

    if (!ok) {
        g_prefix_error(error, "'%s': ", io->name);
    }
    return ok;
}

/* A device has the size that it has, which is looked at when it gets that of the disk. */
static bool check_room(const Qcow2Copy *copy, const Qcow2Creation *creation, Qcow2Target *target,
                       GError **error)
{
    Qcow2Preallocation mode = preallocation(copy, creation);
    bool reserves = mode == QCOW2_PREALLOCATION_FALLOC || mode == QCOW2_PREALLOCATION_FULL;
    uint64_t start = copy->resume.guest_end;
    const Qcow2CopyNeed need = {
        .copy = copy,
        .choice = copy->choice,
        .certain = reserves ? copy->size - start : 0,
        .data = !reserves,
        .start = start,
    };

    return !qcow2_target_is_new(target)
        || qcow2_copy_check_room(qcow2_target_io(target), &need, 1, error);
}

bool qcow2_copy_to_new_raw(Qcow2Copy *copy, const Qcow2Creation *creation, GError **error)
{
    g_autoptr(Qcow2Target) target = qcow2_creation_target(creation, creation->place, error);

    copy->result.output_size = copy->size;
    bool ok = target && qcow2_copy_open_journal(copy, creation, target, NULL, error)
           && qcow2_copy_expect_bytes(copy, qcow2_target_is_new(target), error)
           && cut_part(copy, target, error) && check_room(copy, creation, target, error)
           && prepare(copy, creation, target, error)
           && qcow2_copy_bytes(copy, qcow2_target_io(target), error)
           && qcow2_copy_publish(copy, target, error);

    if (!ok) {
        qcow2_copy_give_up(copy, target, NULL);
    }
    return ok;
}
