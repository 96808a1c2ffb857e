/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A copy into an image that is there (qemu-img convert -n). Raw bytes are overwritten in place, those in an
 * external data file too: until the end they are a mixture, which the same copy completes. Of any other qcow2
 * image the active layer is changed, all or nothing, where its bytes differ from those of the source.
 */
#include <string.h>
#include <sys/stat.h>

#include "chain/naming.h"
#include "image/batch.h"
#include "image/bitmap-write.h"
#include "move/in-place.h"
#include "ops/changes.h"
#include "ops/copy.h"
#include "ops/export.h"
#include "ops/rehearse.h"
#include "util/error.h"
#include "util/progress.h"

static bool check_size(const Qcow2Copy *copy, uint64_t size, GError **error)
{
    return size >= copy->size
        || qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "'%s': output file is smaller than input file: it has %" PRIu64
                      " bytes, and %" PRIu64 " are to be copied",
                      copy->target, size, copy->size);
}

/* ---- Raw --------------------------------------------------------------------------------------- */

static bool is_regular(Qcow2Io *io, struct stat *ret)
{
    int fd = qcow2_io_get_fd(io);

    return fd >= 0 && fstat(fd, ret) == 0 && S_ISREG(ret->st_mode);
}

/*
 * What is written of a raw file: all of it, but for an offset and a size in its options. A disk has whole
 * sectors: a file that ends inside one gets longer when it is written.
 */
static bool find_part(const Qcow2Place *place, Qcow2Io *io, uint64_t *ret_size, GError **error)
{
    struct stat status;
    uint64_t len;

    if (!qcow2_io_get_size(io, &len, error)) {
        return false;
    }
    if (is_regular(io, &status)) {
        len = qcow2_align_up(len, QCOW2_SECTOR_SIZE);
    }
    uint64_t rest = len > place->raw_offset ? len - place->raw_offset : 0;
    *ret_size = place->raw_size == UINT64_MAX ? rest : place->raw_size;
    return *ret_size <= rest
        || qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "'%s': the size of %" PRIu64 " bytes at offset %" PRIu64 " is more than the file has",
                      place->shown, *ret_size, place->raw_offset);
}

/* What the file has is overwritten: all that has space there may be had again. */
static bool check_room_in_raw(const Qcow2Copy *copy, Qcow2Io *io, GError **error)
{
    struct stat status;
    bool is_file = is_regular(io, &status);
    const Qcow2CopyNeed need = {
        .copy = copy,
        .choice = copy->choice,
        .data = true,
        .freed = is_file ? (uint64_t)status.st_blocks * 512 : 0,
    };

    return !is_file || qcow2_copy_check_room(io, &need, 1, error);
}

static bool copy_to_raw(Qcow2Copy *copy, const Qcow2Place *place, GError **error)
{
    g_autoptr(Qcow2Target) target = qcow2_target_existing(place, copy->options->cache, error);
    bool needs_no_zeros = copy->options->target_is_zero && !qcow2_copy_is_all(copy);
    uint64_t size;

    copy->target_offset = place->raw_offset;
    return target && qcow2_target_trace(target, copy->options->trace, error)
        && find_part(place, qcow2_target_io(target), &size, error)
        && check_size(copy, size, error)
        && qcow2_copy_expect_bytes(copy, needs_no_zeros, error)
        && check_room_in_raw(copy, qcow2_target_io(target), error)
        && qcow2_copy_bytes(copy, qcow2_target_io(target), error)
        && qcow2_copy_publish(copy, target, error);
}

/* ---- qcow2 ------------------------------------------------------------------------------------- */

static Qcow2Chain *open_target(const Qcow2Copy *copy, GError **error)
{
    Qcow2OpenOptions options = {
        .format = copy->options->target_image_opts ? NULL : "qcow2",
        .writable = true,
        .untrusted = copy->options->untrusted,
        .image_opts = copy->options->target_image_opts,
        .cache = copy->options->cache,
        .trace = copy->options->trace,
        .n_threads = copy->first->options.n_threads,
        .warn = copy->options->warn,
        .warn_data = copy->options->warn_data,
    };

    g_autoptr(Qcow2Chain) chain = qcow2_chain_open(copy->target, &options, error);
    return chain && qcow2_chain_open_data(chain, 0, error) ? g_steal_pointer(&chain) : NULL;
}

/* Whether everybody finds the layers below that the chain has. */
static bool names_what_is_below(Qcow2Chain *chain, bool *ret, GError **error)
{
    const Qcow2Layer *layer = qcow2_chain_layer(chain, 0);
    bool exists;

    if (!layer->place->backing && !layer->below_was_given) {
        *ret = !layer->place->no_backing || !layer->image->header.backing_name;
        return true;
    }
    if (!qcow2_chain_open_below(chain, 0, &exists, error)) {
        return false;
    }
    g_autoptr(Qcow2Place) named = qcow2_backing_place(layer, NULL);
    *ret = named && qcow2_place_is_layer(named, chain, 1);
    return true;
}

/* What is left out since other layers hold it would be missing over those that the header names. */
static bool check_backing(Qcow2Chain *chain, GError **error)
{
    bool is_named;

    return names_what_is_below(chain, &is_named, error)
        && (is_named
            || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "'%s': an image is written to over the backing file that its header names; leave"
                          " \"backing\" out of the image name, or let qcow-rebase -u change the header first",
                          qcow2_chain_layer_name(chain, 0)));
}

/*
 * What the target shall read as: the source, then what the target holds already. A source that ends inside a
 * cluster of the target is joined with it; any other can be looked at as if it were as large.
 */
static Qcow2Chain *join_with_target(Qcow2Copy *copy, Qcow2State *target, GError **error)
{
    Qcow2JoinedPart parts[] = {
        { .state = copy->source, .len_bytes = copy->size },
        { .state = target, .start = copy->size, .len_bytes = target->size - copy->size },
    };
    Qcow2JoinedOptions options = { 0 };

    if (!qcow2_chain_open_all(copy->source->chain, error) || !qcow2_chain_open_all(target->chain, error)) {
        return NULL;
    }
    g_autoptr(Qcow2Io) io = qcow2_joined_new(parts, G_N_ELEMENTS(parts), &options, error);
    return io ? qcow2_joined_open(io, &copy->first->options, error) : NULL;
}

/* What bitmaps have to record; found before anything is overwritten. NULL: an error. */
static GArray *list_changes(Qcow2Image *image, Qcow2Choice *choice, GError **error)
{
    g_autoptr(GArray) changes = g_array_new(FALSE, FALSE, sizeof(Qcow2Range));
    uint64_t unit;

    return qcow2_image_bitmap_unit(image, &unit, error)
        && (unit == 0 || qcow2_list_choice(choice, unit, changes, error)) ? g_steal_pointer(&changes) : NULL;
}

/* Where the target changes, or all of the source's part of it. */
static Qcow2Choice *new_choice(const Qcow2Copy *copy, Qcow2State *from, Qcow2State *to, uint64_t unit,
                               bool everything, GError **error)
{
    Qcow2ChoiceOptions options = {
        .unit = unit,
        .compare_data = !everything,
        .progress = copy->progress,
        .everything = everything,
        .n_threads = copy->first->options.n_threads,
        .end = MIN(qcow2_align_up(copy->size, unit), to->size),
    };

    return qcow2_choice_new(from, to, &options, error);
}

/* The whole change of the image. */
typedef struct Change {
    Qcow2Copy *copy;
    Qcow2Image *image;
    Qcow2State *to;
    Qcow2Choice *choice;
    const GArray *recorded;       /* Qcow2Range; by the bitmaps */
    bool is_marked;               /* bits are set already */
} Change;

/* Before the bytes in a data file change. */
static bool marks_first(const Change *self)
{
    return self->recorded->len > 0 && self->image->header.layout.has_data_file;
}

/* All but the commit of the batch. */
static bool fill_batch(const Change *self, Qcow2Batch *batch, Qcow2Progress *progress, GError **error)
{
    Qcow2Copy *copy = self->copy;
    Qcow2InPlaceOptions options = {
        .n_threads = copy->first->options.n_threads,
        .no_reflink = copy->options->no_reflink,
        .compress = copy->options->compress,
        .map_zeros = qcow2_copy_is_all(copy),
        .overwrite_data = true,
    };
    Qcow2InPlaceResult result;

    if (!qcow2_in_place_apply(batch, self->image, self->to, self->choice, &options, &result, progress,
                              error)) {
        return false;
    }
    const Qcow2InPlaceStats *stats = &result.stats;
    copy->result.bytes = stats->bytes;
    copy->result.clusters = stats->data_clusters + stats->zero_clusters + stats->compressed_clusters;
    copy->result.bytes_copied = stats->moved.bytes_copied;
    copy->result.bytes_cloned = stats->moved.bytes_cloned;
    return qcow2_batch_mark_bitmaps(batch, self->image, self->recorded, error)
        && qcow2_copy_bitmaps(copy, batch, self->image, error);
}

/* A Qcow2RehearseFunc. */
static bool rehearse(void *data, GError **error)
{
    const Change *self = data;
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);

    return batch && fill_batch(self, batch, NULL, error) && qcow2_batch_rehearse(batch, error);
}

static void add_zeros(const GArray *extents, void *data)
{
    for (guint i = 0; i < extents->len; i++) {
        const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
        bool reads_zero =
            extent->kind == QCOW2_EXTENT_ZERO || extent->kind == QCOW2_EXTENT_UNALLOCATED;
        *(uint64_t *)data += reads_zero ? extent->len_bytes : 0;
    }
}

/* Zeros punch holes into a raw data file. They come where something else was, which had space. */
static bool add_holes(const Change *self, Qcow2Room *room, GError **error)
{
    bool is_raw = self->image->header.autoclear & QCOW2_AUTOCLEAR_RAW_DATA;
    uint64_t n_bytes = 0, actual;

    if (!is_raw || qcow2_copy_is_all(self->copy)) {
        return true;
    }
    qcow2_choice_rewind(self->choice);
    if (!qcow2_choice_each(self->choice, add_zeros, &n_bytes, error)) {
        return false;
    }
    if (qcow2_io_get_actual_size(self->image->data, &actual)) {
        n_bytes = MIN(n_bytes, actual);
    }
    qcow2_room_gain(room, self->image->data, n_bytes);
    return true;
}

/* Where bitmaps are marked first, what they had until then may be used for the rest. */
static bool add_marked(const Change *self, Qcow2Room *room, GError **error)
{
    uint64_t n_bytes = 0;

    if (marks_first(self) && !self->is_marked
        && !qcow2_copy_most_of_bitmaps(self->copy, self->image, &n_bytes, error)) {
        return false;
    }
    qcow2_room_gain(room, self->image->file, n_bytes);
    return true;
}

/* All that bitmaps take; where they are marked first, by two batches. */
static bool add_bitmaps(const Change *self, Qcow2Room *room, uint64_t *data_bytes, GError **error)
{
    Qcow2Image *image = self->image;
    uint64_t n_bytes;

    if (!qcow2_copy_most_of_bitmaps(self->copy, image, &n_bytes, error)) {
        return false;
    }
    if (!image->header.layout.has_data_file) {
        *data_bytes += n_bytes;
        return true;
    }
    qcow2_room_need(room, image->file, 2 * n_bytes);
    return !marks_first(self) || qcow2_need_in_image(room, image, 0, image->size, 1, error);
}

/* A Qcow2NeedFunc. */
static bool need(void *data, Qcow2NeedStep step, Qcow2Room *room, GError **error)
{
    const Change *self = data;
    uint64_t n_bytes = self->copy->size;

    if (step == QCOW2_NEED_BY_REHEARSAL) {
        return qcow2_rehearse(self->image, rehearse, data, room, error) && add_holes(self, room, error)
            && add_marked(self, room, error);
    }
    return (step == QCOW2_NEED_BY_SIZE || qcow2_choice_count(self->choice, &n_bytes, error))
        && add_bitmaps(self, room, &n_bytes, error)
        && qcow2_need_in_image(room, self->image, n_bytes, self->image->size, 1, error);
}

/* How small data becomes when it is compressed is known when it is done; in a data file it never is. */
static bool check_room(Change *self, GError **error)
{
    return (self->copy->options->compress && !self->image->header.layout.has_data_file)
        || qcow2_check_room(need, self, error);
}

/* A batch of its own, whose header write makes the bits real. */
static bool mark_bitmaps(Change *self, GError **error)
{
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);

    self->is_marked = batch && qcow2_batch_mark_bitmaps(batch, self->image, self->recorded, error)
                   && qcow2_batch_commit(batch, error);
    return self->is_marked;
}

/*
 * What is left is looked at again then, since only now it is known exactly. When it does not fit no data has
 * changed, and some bits too many are set.
 */
static bool mark_bitmaps_first(Change *self, GError **error)
{
    return !marks_first(self) || (mark_bitmaps(self, error) && check_room(self, error));
}

static bool make_change(Change *self, GError **error)
{
    Qcow2Progress *progress = self->copy->progress;
    uint64_t n_bytes;

    if (!check_room(self, error) || !mark_bitmaps_first(self, error)
        || !qcow2_choice_count(self->choice, &n_bytes, error)) {
        return false;
    }
    qcow2_progress_expect(progress, n_bytes);
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(self->image, error);
    return batch && fill_batch(self, batch, progress, error) && qcow2_copy_end(self->copy, error)
        && qcow2_batch_commit(batch, error);
}

static bool apply(Qcow2Copy *copy, Qcow2Chain *chain, Qcow2State *from, Qcow2State *to, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    uint64_t unit = qcow2_in_place_unit(image), old_size = to->size;
    bool is_all = qcow2_copy_is_all(copy);

    to->size = image->size;
    g_autoptr(Qcow2Choice) differing = new_choice(copy, from, to, unit, false, error);
    g_autoptr(Qcow2Choice) all =
        differing && is_all ? new_choice(copy, from, to, unit, true, error) : NULL;
    Qcow2Choice *choice = is_all ? all : differing;
    g_autoptr(GArray) recorded = differing && choice ? list_changes(image, differing, error) : NULL;
    Change change = { copy, image, to, choice, recorded, false };
    bool ok = recorded && make_change(&change, error);
    to->size = old_size;
    return ok;
}

static bool apply_source(Qcow2Copy *copy, Qcow2Chain *chain, GError **error)
{
    uint64_t unit = qcow2_in_place_unit(qcow2_chain_image(chain, 0));
    g_autoptr(Qcow2State) from = qcow2_state_open(chain, "@active", error);

    if (!from || !check_size(copy, from->size, error)) {
        return false;
    }
    if (copy->size == from->size || copy->size % unit == 0) {
        return apply(copy, chain, from, copy->source, error);
    }
    g_autoptr(Qcow2Chain) joined = join_with_target(copy, from, error);
    g_autoptr(Qcow2State) to = joined ? qcow2_state_open(joined, "@active", error) : NULL;
    return to && apply(copy, chain, from, to, error);
}

static bool copy_to_qcow2(Qcow2Copy *copy, GError **error)
{
    g_autoptr(Qcow2Chain) chain = open_target(copy, error);

    if (!chain) {
        return false;
    }
    if (qcow2_chain_image(chain, 0)->kind == QCOW2_IMAGE_RAW) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "'%s': it is no qcow2 image; to overwrite its bytes say driver=raw", copy->target);
    }
    if (!check_backing(chain, error)) {
        return false;
    }
    /* Data in a data file may have been overwritten already. */
    bool stays = !qcow2_chain_image(chain, 0)->header.layout.has_data_file;
    return apply_source(copy, chain, error) || (stays && qcow2_fail_unchanged(error, copy->target));
}

/* -O says it, raw by default; with --target-image-opts the target's own options do. */
static bool find_format(const Qcow2CopyOptions *options, const Qcow2Place *place, bool *ret_is_raw,
                        GError **error)
{
    const char *format = options->target_image_opts ? place->format
                       : options->output_format     ? options->output_format
                                                    : "raw";

    *ret_is_raw = format && strcmp(format, "raw") == 0;
    return !format || *ret_is_raw || strcmp(format, "qcow2") == 0
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "'%s': Unknown driver '%s': qcow2 and raw images can be written", place->shown, format);
}

bool qcow2_copy_to_existing(Qcow2Copy *copy, GError **error)
{
    const Qcow2CopyOptions *options = copy->options;
    bool is_raw;
    g_autoptr(Qcow2Place) place =
        qcow2_place_parse(copy->target, NULL, options->target_image_opts, error);

    if (!place || !find_format(options, place, &is_raw, error)
        || !qcow2_copy_refuse_source(copy, place, error)) {
        return false;
    }
    if (is_raw && options->compress) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Compression not supported for this file format");
    }
    if (is_raw && options->bitmaps) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Format driver 'raw' does not support bitmaps");
    }
    return is_raw ? copy_to_raw(copy, place, error) : copy_to_qcow2(copy, error);
}
