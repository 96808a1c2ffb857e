/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Apply a delta to the active layer of an image; with a name, make the result a snapshot.
 *
 *   step                                                   a crash afterwards leaves
 *   1  a stream is spooled and its digest compared         the image as it was
 *   2  the active layer is compared with the delta's FROM  the image as it was
 *   3  data and tables go into new clusters; flush         the image as it was, its file perhaps longer
 *   4  one header write: L1, refcounts, snapshots, size    the image as it will be
 */
#include <string.h>
#include <unistd.h>

#include "format/delta-ext.h"
#include "image/bitmap-write.h"
#include "image/snapshot-write.h"
#include "move/in-place.h"
#include "move/spool.h"
#include "ops/changes.h"
#include "ops/rehearse.h"
#include "util/error.h"
#include "util/progress.h"

#define CHANGED "the active layer is not that state, or was changed since"

typedef struct Import {
    Qcow2Chain *chain;                /* of the image */
    Qcow2Image *image;
    const Qcow2ImportOptions *options;
    Qcow2Progress *progress;
    Qcow2Chain *delta;
    Qcow2Chain *stack;                /* the delta over the image */
    Qcow2DeltaExt ext;
    bool has_ext;
    Qcow2InPlaceResult result;
} Import;

static void clear_import(Import *import)
{
    g_clear_pointer(&import->stack, qcow2_chain_free);
    g_clear_pointer(&import->delta, qcow2_chain_free);
    qcow2_delta_ext_clear(&import->ext);
}

/* ---- The delta --------------------------------------------------------------------------------- */

static bool open_stream(Import *import, GError **error)
{
    Qcow2OpenOptions options = { .format = "qcow2",
                                 .untrusted = true,
                                 .n_threads = import->chain->options.n_threads };
    g_autoptr(Qcow2Io) spool = qcow2_spool_new(error);
    uint64_t len;

    if (!spool || !qcow2_spool_fill(spool, STDIN_FILENO, &len, import->progress, error)) {
        return false;
    }
    g_free(spool->name);
    spool->name = g_strdup("standard input");
    import->delta = qcow2_chain_open_io(spool, &options, error);
    if (!import->delta) {
        return false;
    }
    const Qcow2Header *header = &qcow2_chain_image(import->delta, 0)->header;
    if (!qcow2_check_digest(spool, len, header->layout.cluster_size, import->progress, error)) {
        g_prefix_error(error, "'standard input': ");
        return false;
    }
    return true;
}

static bool open_file(Import *import, const char *name, GError **error)
{
    Qcow2OpenOptions options = { .format = "qcow2",
                                 .n_threads = import->chain->options.n_threads,
                                 .warn = import->chain->options.warn,
                                 .warn_data = import->chain->options.warn_data };

    import->delta = qcow2_chain_open(name, &options, error);
    return import->delta != NULL;
}

static bool decode_ext(Import *import, GError **error)
{
    GBytes *bytes = qcow2_header_find_ext(&qcow2_chain_image(import->delta, 0)->header, QCOW2_EXT_DELTA);
    gsize len;

    if (!bytes) {
        return import->options->force
               || qcow2_fail(error, QCOW2_ERROR_INVALID,
                             "'%s': it does not say which state it starts from, as a delta of"
                             " qcow-export-delta does; --force applies it all the same",
                             qcow2_chain_layer_name(import->delta, 0));
    }
    const uint8_t *data = g_bytes_get_data(bytes, &len);
    if (!qcow2_delta_ext_decode(data, len, &import->ext, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(import->delta, 0));
        return false;
    }
    import->has_ext = true;
    return true;
}

/* A stream that was kept in a file can be cut like any other. */
static bool check_kept_stream(Import *import, GError **error)
{
    const Qcow2Image *image = qcow2_chain_image(import->delta, 0);
    uint64_t len;

    if (!import->has_ext || !(import->ext.flags & QCOW2_DELTA_HAS_DIGEST) || import->options->force) {
        return true;
    }
    if (!qcow2_io_get_size(image->file, &len, error)
        || !qcow2_check_digest(image->file, len, image->header.layout.cluster_size, import->progress,
                               error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(import->delta, 0));
        return false;
    }
    return true;
}

static bool open_delta(Import *import, const char *name, GError **error)
{
    return strcmp(name, "-") == 0 ? open_stream(import, error) && decode_ext(import, error)
                                  : open_file(import, name, error) && decode_ext(import, error)
                                    && check_kept_stream(import, error);
}

/* ---- Does it fit? ------------------------------------------------------------------------------ */

static bool same_moment(const Qcow2SnapshotEntry *entry, const Qcow2DeltaState *state)
{
    return entry->info.date_sec == state->date_sec && entry->info.date_nsec == state->date_nsec
        && entry->info.vm_clock_nsec == state->vm_clock_nsec && entry->info.disk_size == state->size;
}

/* Whether two states of the image have the same descriptors throughout. */
static bool is_unchanged(Import *import, const char *from_name, bool *ret_same, GError **error)
{
    g_autoptr(Qcow2State) from = qcow2_state_open(import->chain, from_name, error);
    g_autoptr(Qcow2State) active = from ? qcow2_state_open(import->chain, "@active", error) : NULL;
    Qcow2ChoiceOptions options = { .unit = 512, .not_aligned = true };

    if (!active) {
        return false;
    }
    qcow2_states_share_size(from, active);
    *ret_same = from->size == active->size;
    g_autoptr(Qcow2Choice) choice = *ret_same ? qcow2_choice_new(from, active, &options, error) : NULL;
    const GArray *extents = NULL;
    if (!*ret_same) {
        return true;
    }
    if (!choice || !qcow2_choice_next(choice, &extents, error)) {
        return false;
    }
    *ret_same = extents == NULL;
    return true;
}

static bool refuse_from(const Import *import, const char *why, GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "'%s': the delta leads from %s%s%s, and %s; --force applies it all the same",
                      qcow2_chain_layer_name(import->chain, 0),
                      import->ext.from.kind == QCOW2_DELTA_SNAPSHOT ? "snapshot '" : "",
                      import->ext.from.kind == QCOW2_DELTA_SNAPSHOT ? import->ext.from.name
                      : import->ext.from.kind == QCOW2_DELTA_EMPTY  ? "an empty disk"
                                                                    : "a state without a name",
                      import->ext.from.kind == QCOW2_DELTA_SNAPSHOT ? "'" : "", why);
}

/* An import gives its snapshot the date and clock of TO, so that several may have the same: any will do. */
static bool check_from_snapshot(Import *import, GError **error)
{
    bool any = false, same = false;

    for (guint i = 0; i < import->image->snapshots->len && !same; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(import->image->snapshots, Qcow2SnapshotEntry, i);
        if (!same_moment(entry, &import->ext.from)) {
            continue;
        }
        g_autofree char *name = g_strconcat("id:", entry->id, NULL);
        any = true;
        if (!is_unchanged(import, name, &same, error)) {
            return false;
        }
    }
    if (!any) {
        return refuse_from(import, "the image has no snapshot of that date, clock and size", error);
    }
    return same || refuse_from(import, CHANGED, error);
}

static bool check_from(Import *import, GError **error)
{
    const char *name;
    bool same;

    if (import->options->force) {
        return true;
    }
    switch (import->ext.from.kind) {
    case QCOW2_DELTA_SNAPSHOT:
        return check_from_snapshot(import, error);
    case QCOW2_DELTA_ACTIVE:
        return refuse_from(import, "an active layer cannot be recognised again", error);
    case QCOW2_DELTA_EMPTY:
    case QCOW2_DELTA_BACKING:
        break;
    }
    /* Nothing may be mapped; then the layer is what lies below it, or zeros. */
    name = import->ext.from.kind == QCOW2_DELTA_EMPTY ? "@empty" : "@backing";
    return is_unchanged(import, name, &same, error) && (same || refuse_from(import, CHANGED, error));
}

/* The same import a second time: its snapshot is there. */
static bool refuse_done(const Import *import, GError **error)
{
    const char *name = import->options->name;

    for (guint i = 0; name && i < import->image->snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(import->image->snapshots, Qcow2SnapshotEntry, i);
        if (strcmp(entry->name, name) != 0) {
            continue;
        }
        if (import->has_ext && import->ext.to.kind == QCOW2_DELTA_SNAPSHOT
            && same_moment(entry, &import->ext.to)) {
            return qcow2_fail(error, QCOW2_ERROR_EXISTS,
                              "'%s': the delta was imported already, as snapshot '%s'",
                              qcow2_chain_layer_name(import->chain, 0), name);
        }
        return qcow2_fail(error, QCOW2_ERROR_EXISTS, "'%s': a snapshot named '%s' is there already (id %s)",
                          qcow2_chain_layer_name(import->chain, 0), name, entry->id);
    }
    return true;
}

static bool check_image(const Import *import, GError **error)
{
    Qcow2Image *image = import->image;

    if (image->kind != QCOW2_IMAGE_QCOW2) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "a delta is imported into a qcow2 image; qcow-export-delta -O raw"
                          " changes raw files");
    }
    if (image->header.layout.has_data_file && import->options->name) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "an image with an external data file cannot have internal snapshots");
    }
    return qcow2_chain_open_data(import->chain, 0, error)
        && qcow2_image_check_readable(image, error)
        && qcow2_image_check_bitmaps(image, error);
}

/* ---- The work ---------------------------------------------------------------------------------- */

static bool add_snapshot(Import *import, Qcow2Batch *batch, GError **error)
{
    const Qcow2DeltaState *to = &import->ext.to;
    bool is_snapshot = import->has_ext && to->kind == QCOW2_DELTA_SNAPSHOT;
    int64_t now = g_get_real_time();
    /* TO's own moment, so that the next delta finds the place it starts from. */
    Qcow2Snapshot info = {
        .name = import->options->name,
        .date_sec = is_snapshot ? to->date_sec : (uint32_t)(now / G_USEC_PER_SEC),
        .date_nsec = is_snapshot ? to->date_nsec : (uint32_t)(now % G_USEC_PER_SEC * 1000),
        .vm_clock_nsec = is_snapshot ? to->vm_clock_nsec : 0,
    };

    return !import->options->name || qcow2_batch_add_snapshot(batch, import->image, &info, error);
}

static bool mark_bitmaps(Import *import, Qcow2Batch *batch, Qcow2Choice *choice, GError **error)
{
    g_autoptr(GArray) changes = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    uint64_t unit;

    return qcow2_image_bitmap_unit(import->image, &unit, error)
        && (unit == 0 || qcow2_list_choice(choice, unit, changes, error))
        && qcow2_batch_mark_bitmaps(batch, import->image, changes, error);
}

/* What cannot be all or nothing is refused before the first write. */
static bool prepare_data_file(Import *import, Qcow2Batch *batch, Qcow2State *to, Qcow2Choice *choice,
                              const Qcow2InPlaceOptions *options, GError **error)
{
    Qcow2Image *image = import->image;
    Qcow2InPlaceStats stats;
    uint64_t len;

    if (!image->header.layout.has_data_file) {
        return true;
    }
    if (!qcow2_in_place_plan(batch, image, to, choice, options, &stats, error)) {
        return false;
    }
    if (!qcow2_io_get_size(image->data, &len, error)
        || (len < to->size && !qcow2_io_truncate(image->data, to->size, error))) {
        g_prefix_error(error, "data file: ");
        return false;
    }
    return true;
}

static bool apply_in_batch(Import *import, Qcow2Progress *progress, bool commit, GError **error)
{
    g_autoptr(Qcow2State) from = qcow2_state_open(import->stack, "@backing", error);
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(import->stack, "@active", error) : NULL;
    Qcow2ChoiceOptions choice_options = {
        .unit = qcow2_in_place_unit(import->image),
        .n_threads = import->chain->options.n_threads,
    };
    Qcow2InPlaceOptions options = {
        .n_threads = import->chain->options.n_threads,
        .no_reflink = import->options->no_reflink,
        .own = import->chain,
    };

    if (!to) {
        return false;
    }
    qcow2_states_share_size(from, to);
    g_autoptr(Qcow2Choice) choice = qcow2_choice_new(from, to, &choice_options, error);
    g_autoptr(Qcow2Batch) batch = choice ? qcow2_batch_begin(import->image, error) : NULL;
    return batch && prepare_data_file(import, batch, to, choice, &options, error)
           && qcow2_in_place_apply(batch, import->image, to, choice, &options, &import->result,
                                   progress, error)
           && add_snapshot(import, batch, error) && mark_bitmaps(import, batch, choice, error)
           && (commit ? qcow2_batch_commit(batch, error) : qcow2_batch_rehearse(batch, error));
}

static bool rehearse(void *data, GError **error)
{
    return apply_in_batch(data, NULL, false, error);
}

static bool count_bytes(Import *import, uint64_t *ret_bytes, GError **error)
{
    g_autoptr(Qcow2State) from = qcow2_state_open(import->stack, "@backing", error);
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(import->stack, "@active", error) : NULL;
    Qcow2ChoiceOptions options = { .unit = qcow2_in_place_unit(import->image) };

    if (!to) {
        return false;
    }
    qcow2_states_share_size(from, to);
    g_autoptr(Qcow2Choice) choice = qcow2_choice_new(from, to, &options, error);
    return choice && qcow2_choice_count(choice, ret_bytes, error);
}

/* A Qcow2NeedFunc. */
static bool need(void *data, Qcow2NeedStep step, Qcow2Room *room, GError **error)
{
    Import *import = data;
    uint64_t size = MAX(import->image->size, qcow2_chain_image(import->delta, 0)->size), bytes = size;

    if (step == QCOW2_NEED_BY_REHEARSAL) {
        return qcow2_rehearse(import->image, rehearse, import, room, error);
    }
    return (step == QCOW2_NEED_BY_SIZE || count_bytes(import, &bytes, error))
        && qcow2_need_in_image(room, import->image, bytes, size, 1, error);
}

/*
 * A snapshot raises counts last of all, and of narrow ones some may not be able to grow. That is found out on
 * trial, so that not even an unused cluster is written by an import that must be refused.
 */
static bool apply(Import *import, GError **error)
{
    bool may_overflow = import->options->name && import->image->header.layout.refcount_order < 4;
    g_autoptr(Qcow2Room) room = qcow2_room_new();

    return (!may_overflow || qcow2_rehearse(import->image, rehearse, import, room, error))
        && qcow2_check_room(need, import, error)
        && apply_in_batch(import, import->progress, true, error);
}

/* QEMU neither resizes a version 2 image that has snapshots nor applies one of another size there. */
static bool check_size(const Import *import, GError **error)
{
    uint64_t size = qcow2_chain_image(import->delta, 0)->size;

    if (import->image->header.layout.version >= 3 || import->image->snapshots->len == 0
        || size == import->image->size) {
        return true;
    }
    return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "'%s': the delta has %" PRIu64 " bytes and the image %" PRIu64 ": a"
                      " version 2 image with snapshots cannot change its size (compat=1.1 can)",
                      qcow2_chain_layer_name(import->chain, 0), size, import->image->size);
}

static bool run(Import *import, const char *delta, GError **error)
{
    if (!check_image(import, error) || !qcow2_image_load_snapshots(import->image, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(import->chain, 0));
        return false;
    }
    if (!open_delta(import, delta, error) || !refuse_done(import, error) || !check_size(import, error)
        || !check_from(import, error)) {
        return false;
    }
    import->stack = qcow2_chain_stack(import->delta, 0, import->chain, error);
    if (!import->stack) {
        return false;
    }
    if (!apply(import, error)) {
        return qcow2_fail_unchanged(error, qcow2_chain_layer_name(import->chain, 0));
    }
    qcow2_image_cut_data(import->image);
    return true;
}

bool qcow2_import_delta(Qcow2Chain *chain, const char *delta, const Qcow2ImportOptions *options,
                        Qcow2ImportResult *ret_result, Qcow2Progress *progress, GError **error)
{
    static const Qcow2ImportOptions defaults = { 0 };
    Import import = {
        .chain = chain,
        .image = qcow2_chain_image(chain, 0),
        .options = options ? options : &defaults,
        .progress = progress,
    };
    bool ok = run(&import, delta, error);

    if (ok && ret_result) {
        const Qcow2InPlaceStats *stats = &import.result.stats;
        *ret_result = (Qcow2ImportResult) {
            .bytes = stats->bytes,
            .clusters = stats->data_clusters + stats->zero_clusters + stats->compressed_clusters,
            .data_clusters = stats->data_clusters,
            .zero_clusters = stats->zero_clusters,
            .compressed_clusters = stats->compressed_clusters,
            .bytes_copied = stats->moved.bytes_copied,
            .bytes_cloned = stats->moved.bytes_cloned,
            .virtual_size = import.image->size,
        };
    }
    clear_import(&import);
    if (ok) {
        qcow2_progress_finish(progress);
    }
    return ok;
}
