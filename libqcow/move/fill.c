/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "move/fill.h"

#include "util/error.h"
#include "util/progress.h"

/* A flush costs time, and doing so much again does, too. */
#define NOTE_BYTES (UINT64_C(64) << 20)

bool qcow2_fill_count(const Qcow2Fill *fill, GError **error)
{
    const GArray *extents = NULL;

    do {
        if (!qcow2_progress_check(fill->progress, error)
            || !qcow2_choice_next(fill->choice, &extents, error)) {
            return false;
        }
        if (extents) {
            qcow2_overlay_expect(fill->overlay, extents);
        }
    } while (extents);
    return qcow2_overlay_lay_out(fill->overlay, error);
}

typedef struct Target {
    Qcow2Fill *fill;
    Qcow2Io *io;
    Qcow2JournalRecord settled;   /* what is moved, if perhaps not flushed */
    uint64_t noted;               /* guest offset */
} Target;

static bool put(const GArray *extents, void *data, GError **error)
{
    const Target *target = data;

    return qcow2_overlay_write(target->fill->overlay, target->io, extents, error);
}

static bool can_share(const GArray *extents, void *data)
{
    const Target *target = data;

    return qcow2_overlay_can_share(target->fill->overlay, target->io, extents);
}

static bool save(Target *target, GError **error)
{
    target->noted = target->settled.guest_end;
    return qcow2_overlay_save(target->fill->overlay, target->io, error)
        && qcow2_journal_note(target->fill->journal, &target->settled, error);
}

static bool note(uint64_t guest_end, void *data, GError **error)
{
    Target *target = data;
    Qcow2JournalRecord settled = { .guest_end = guest_end };

    if (!qcow2_overlay_settle(target->fill->overlay, target->io, &settled.position, error)) {
        return false;
    }
    target->settled = settled;
    return guest_end - target->noted < NOTE_BYTES || save(target, error);
}

/* What the user stops is gone on with where it was; after a failed write or flush nothing is vouched for. */
static bool walk(const Qcow2Walk *how, const Qcow2Sink *sink, Target *target, GError **error)
{
    if (qcow2_walk(how, sink, error)) {
        return true;
    }
    if (error && g_error_matches(*error, QCOW2_ERROR, QCOW2_ERROR_CANCELLED)
        && target->settled.guest_end > target->noted) {
        save(target, NULL);
    }
    return false;
}

bool qcow2_fill_restore(Qcow2Fill *fill, Qcow2Io *io, GError **error)
{
    bool fits = false;

    if (!fill->journal) {
        return true;
    }
    if (fill->resume->guest_end > 0
        && !qcow2_overlay_restore(fill->overlay, io, &fill->resume->position, fill->resume->guest_end, &fits,
                                  error)) {
        return false;
    }
    fill->resumed_bytes = fits ? fill->resume->guest_end : 0;
    return (fits || (qcow2_journal_restart(fill->journal, error) && qcow2_io_truncate(io, 0, error)))
        && (!fill->data || qcow2_io_truncate(fill->data, fill->resumed_bytes, error));
}

bool qcow2_fill_write(Qcow2Fill *fill, Qcow2Io *io, uint64_t *ret_len, GError **error)
{
    if (fill->data && !qcow2_io_truncate(fill->data, fill->data_size, error)) {
        return false;
    }
    Target target = { .fill = fill, .io = io, .noted = fill->resumed_bytes };
    const Qcow2Walk how = {
        .choice = fill->choice,
        .holes = fill->holes,
        .start = fill->resumed_bytes,
        .n_threads = fill->n_threads,
        .progress = fill->progress,
    };
    const Qcow2Sink sink = {
        .put = put,
        .can_share = fill->share_first ? can_share : NULL,
        .note = fill->journal ? note : NULL,
        .data = &target,
    };

    qcow2_choice_rewind(fill->choice);
    return walk(&how, &sink, &target, error) && qcow2_overlay_finish(fill->overlay, io, ret_len, error);
}
