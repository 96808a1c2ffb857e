/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A copy as a new qcow2 image, perhaps with an external data file.
 *
 *   step                                             a crash afterwards leaves
 *   1  make both under other names, fill them        what was there before, and temporary files
 *   2  flush; the data file gets its name            the same, with the new data file
 *   3  flush; the image gets its name                the copy
 */
#include "move/fill.h"
#include "ops/copy.h"
#include "util/error.h"

/* Where it goes. */
typedef struct CopyTarget {
    Qcow2Target *image;
    Qcow2Target *data;        /* NULL: the image holds the data */
} CopyTarget;

static Qcow2Preallocation preallocation(const Qcow2Copy *copy, const Qcow2Creation *creation)
{
    bool is_off = creation->options.preallocation == QCOW2_PREALLOCATION_OFF;

    return is_off && qcow2_copy_is_all(copy) ? QCOW2_PREALLOCATION_FALLOC : creation->options.preallocation;
}

/* A raw data file is only then the disk, byte for byte, when every cluster is mapped. */
static bool maps_everything(const Qcow2Copy *copy, const Qcow2Creation *creation)
{
    return creation->options.data_file_raw
        || (preallocation(copy, creation) != QCOW2_PREALLOCATION_OFF && !copy->options->compress
            && !creation->options.backing_file);
}

static bool check(const Qcow2Copy *copy, const Qcow2Creation *creation, GError **error)
{
    bool preallocates = creation->options.preallocation != QCOW2_PREALLOCATION_OFF;

    if (copy->options->compress && preallocates) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Compression and preallocation not supported at the same time");
    }
    if (copy->options->compress && creation->data_place) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "a copy with an external data file cannot be compressed");
    }
    if (copy->options->resume && (preallocates || qcow2_copy_is_all(copy))) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "a copy to a qcow2 image with preallocation, or with -S 0, cannot be resumed");
    }
    return true;
}

static Qcow2Overlay *new_overlay(Qcow2Copy *copy, const Qcow2Creation *creation, const CopyTarget *target,
                                 GError **error)
{
    const Qcow2CopyOptions *options = copy->options;
    bool has_backing = creation->options.backing_file != NULL;
    Qcow2OverlayOptions overlay_options = {
        .compress = options->compress,
        .n_threads = copy->first->options.n_threads,
        .no_reflink = options->no_reflink,
        .source_in_use = copy->first->options.force_share,
        .unpack = true,
        .sparse = copy->sparse,
        .zeros_are_nothing = !has_backing,
        .map_zeros = maps_everything(copy, creation),
        .resume_end = copy->resume.guest_end,
        .map_gaps = has_backing && creation->options.preallocation != QCOW2_PREALLOCATION_OFF,
        .data = target->data ? qcow2_target_io(target->data) : NULL,
        .target_is_dirty = !qcow2_target_is_new(target->data ? target->data : target->image),
    };
    g_auto(Qcow2Header) header = { 0 };

    qcow2_create_options_header(&creation->options, &header);
    return qcow2_overlay_new(copy->source, &header, &overlay_options, copy->progress, error);
}

/* What the target must hold: over a backing file that what differs from it, by its bytes. */
static Qcow2Choice *new_choice(Qcow2Copy *copy, const Qcow2Creation *creation, Qcow2State *from,
                               GError **error)
{
    g_auto(Qcow2Header) header = { 0 };
    bool has_backing = creation->options.backing_file != NULL;

    qcow2_create_options_header(&creation->options, &header);
    Qcow2ChoiceOptions options = {
        /* A compressed cluster is always a whole one. */
        .unit = copy->options->compress ? header.layout.cluster_size : qcow2_overlay_unit(&header),
        .compare_data = has_backing,
        .progress = copy->progress,
        .n_threads = copy->first->options.n_threads,
        .everything = maps_everything(copy, creation),
    };
    return qcow2_choice_new(from, copy->source, &options, error);
}

/* In what is compressed they are found on the way; version 2 has no word for them over a backing file. */
static bool looks_for_zeros(const Qcow2Copy *copy, const Qcow2Creation *creation)
{
    bool no_word = creation->options.version < 3 && creation->options.backing_file;

    return copy->sparse.block > 0 && !copy->options->compress && !no_word
        && preallocation(copy, creation) == QCOW2_PREALLOCATION_OFF;
}

static bool reserves_space(const Qcow2Copy *copy, const Qcow2Creation *creation)
{
    Qcow2Preallocation mode = preallocation(copy, creation);

    return (mode == QCOW2_PREALLOCATION_FALLOC || mode == QCOW2_PREALLOCATION_FULL)
        && !copy->options->compress;
}

/*
 * Of streams it is not known how long they get. In a file, tables for which only zeros are found are holes;
 * on a device their place is cleared.
 */
static bool check_room(const Qcow2Copy *copy, const Qcow2Creation *creation, const CopyTarget *target,
                       const Qcow2Fill *fill, GError **error)
{
    Qcow2Io *io = qcow2_target_io(target->data ? target->data : target->image);
    Qcow2Range data = qcow2_overlay_data(fill->overlay);
    bool reserves = reserves_space(copy, creation);
    uint64_t tables = target->data || qcow2_target_is_new(target->image) ? 0 : data.start;
    uint64_t reserved = target->data ? copy->size : data.end;
    const Qcow2CopyNeed need = {
        .copy = copy,
        .choice = fill->choice,
        .certain = reserves ? reserved : tables,
        .data = !reserves && !copy->options->compress,
        .start = fill->resumed_bytes,
    };

    qcow2_choice_rewind(fill->choice);
    return qcow2_copy_check_room(io, &need, 1, error);
}

static bool write_image(Qcow2Copy *copy, const Qcow2Creation *creation, const CopyTarget *target,
                        Qcow2Choice *choice, GError **error)
{
    Qcow2Io *io = qcow2_target_io(target->image);
    Qcow2Preallocation mode = preallocation(copy, creation);
    g_autoptr(Qcow2ReaderPool) readers = qcow2_reader_pool_new();
    Qcow2HoleRules holes = { copy->source, copy->sparse, copy->first->options.n_threads, readers };
    g_autoptr(Qcow2Overlay) overlay = new_overlay(copy, creation, target, error);
    Qcow2Fill fill = {
        .overlay = overlay,
        .choice = choice,
        .progress = copy->progress,
        .holes = looks_for_zeros(copy, creation) ? &holes : NULL,
        .n_threads = copy->first->options.n_threads,
        .share_first = copy->share_first,
        .journal = copy->journal,
        .resume = &copy->resume,
        .data = target->data ? qcow2_target_io(target->data) : NULL,
        .data_size = copy->size,
    };

    if (!overlay || !qcow2_fill_count(&fill, error) || !qcow2_fill_restore(&fill, io, error)
        || !check_room(copy, creation, target, &fill, error)
        || (!qcow2_target_is_new(target->image) && !qcow2_overlay_clear_tables(overlay, io, error))
        || (reserves_space(copy, creation) && !qcow2_overlay_reserve(overlay, io, mode, error))
        || !qcow2_fill_write(&fill, io, &copy->result.output_size, error)) {
        return false;
    }
    copy->result.bytes_resumed = fill.resumed_bytes;
    Qcow2OverlayStats stats = qcow2_overlay_get_stats(overlay);
    copy->result.bytes = stats.bytes;
    copy->result.clusters = stats.data_clusters + stats.zero_clusters + stats.compressed_clusters;
    copy->result.bytes_copied = stats.moved.bytes_copied;
    copy->result.bytes_cloned = stats.moved.bytes_cloned;
    copy->result.bytes_passed_through = stats.bytes_passed_through;
    return true;
}

bool qcow2_copy_to_new_qcow2(Qcow2Copy *copy, const Qcow2Creation *creation, GError **error)
{
    if (!check(copy, creation, error)) {
        return false;
    }
    Qcow2Chain *from_chain = creation->backing ? creation->backing : copy->source->chain;
    const char *from_name = creation->backing ? "@active" : "@empty";
    g_autoptr(Qcow2State) from = qcow2_state_open(from_chain, from_name, error);
    /* The targets first: that they cannot be made should be known before the work. */
    const Qcow2Place *data_place = creation->data_place;
    g_autoptr(Qcow2Target) data =
        from && data_place ? qcow2_creation_target(creation, data_place, error) : NULL;
    g_autoptr(Qcow2Target) image =
        from && (data || !data_place) ? qcow2_creation_target(creation, creation->place, error) : NULL;
    g_autoptr(Qcow2Choice) choice = image ? new_choice(copy, creation, from, error) : NULL;
    const CopyTarget target = { image, data };

    bool ok = choice && qcow2_copy_open_journal(copy, creation, image, data, error)
           && write_image(copy, creation, &target, choice, error)
           && qcow2_copy_bitmaps_to_new(copy, qcow2_target_io(image), &copy->result.output_size, error)
           && (!data || (qcow2_copy_end(copy, error) && qcow2_target_publish(data, error)))
           && qcow2_copy_publish(copy, image, error);

    if (!ok) {
        qcow2_copy_give_up(copy, image, data);
    }
    return ok;
}
