/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy a whole chain, file by file, from the lowest one on. Each copy has all that its original has, but for
 * the name of the file below it.
 *
 *   step                                                a crash afterwards leaves
 *   1  choose the names, look at all layers             nothing
 *      for each layer:
 *   2  copy its bytes into a file under another name    the copies below it, and a temporary file
 *   3  let it say the name of the copy below it         the same
 *   4  prove that nothing changed; flush, rename        one more copy, which reads as its original
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "image/batch.h"
#include "ops/copy.h"
#include "ops/export.h"
#include "util/error.h"
#include "util/progress.h"

/* One file of the chain, as the raw bytes that it is. */
typedef struct ChainFile {
    Qcow2Chain *chain;
    Qcow2State *state;
    uint64_t len_bytes;           /* it ends at any byte */
    Qcow2Copy copy;
} ChainFile;

/* What is known of a layer before anything is written. */
typedef struct ChainLayer {
    char *name, *data_name;       /* of the copies, without the folder; NULL: no data file */
    ChainFile image, data;
} ChainLayer;

typedef struct ChainCopy {
    Qcow2Chain *chain;
    const char *folder;
    const Qcow2CopyOptions *options;
    Qcow2Progress *progress;
    ChainLayer *layers;
    GHashTable *used;             /* all names */
    Qcow2Witness *witness;
    Qcow2CopyResult result;
} ChainCopy;

static Qcow2Image *image_of(const ChainCopy *self, unsigned index)
{
    return qcow2_chain_image(self->chain, index);
}

static unsigned n_layers(const ChainCopy *self)
{
    return qcow2_chain_n_layers(self->chain);
}

/* ---- Names ------------------------------------------------------------------------------------- */

static char *take_name(ChainCopy *self, const char *path, GError **error)
{
    g_autofree char *name = g_path_get_basename(path);

    if (g_hash_table_contains(self->used, name)) {
        qcow2_fail(error, QCOW2_ERROR_INVALID,
                   "two files of the chain are called '%s', and both would be copied to that name", name);
        return NULL;
    }
    g_hash_table_add(self->used, g_strdup(name));
    return g_steal_pointer(&name);
}

/* An NBD export is called as its URI says; the default export has no name, and gets one here. */
static char *name_export(const char *uri, unsigned index, const Qcow2Image *image)
{
    g_autoptr(GUri) parts = g_uri_parse(uri, G_URI_FLAGS_NONE, NULL);
    g_autofree char *name = parts ? g_path_get_basename(g_uri_get_path(parts)) : g_strdup("/");

    return *name != '/' && *name != '.' ? g_steal_pointer(&name)
         : g_strdup_printf("layer-%u.%s", index, image->kind == QCOW2_IMAGE_RAW ? "raw" : "qcow2");
}

static bool name_layer(ChainCopy *self, unsigned index, GError **error)
{
    const Qcow2Place *place = qcow2_chain_layer(self->chain, index)->place;
    g_autofree char *export_name = place->kind == QCOW2_PLACE_NBD
                                     ? name_export(place->target, index, image_of(self, index)) : NULL;

    self->layers[index].name = take_name(self, export_name ? export_name : place->target, error);
    return self->layers[index].name != NULL;
}

static bool name_data_file(ChainCopy *self, unsigned index, GError **error)
{
    const Qcow2Image *image = image_of(self, index);

    if (!qcow2_chain_open_data(self->chain, index, error)) {
        return false;
    }
    if (image->data == image->file) {
        return true;
    }
    self->layers[index].data_name = take_name(self, image->data->name, error);
    return self->layers[index].data_name != NULL;
}

static bool name_files(ChainCopy *self, GError **error)
{
    for (unsigned i = 0; i < n_layers(self); i++) {
        if (!name_layer(self, i, error)) {
            return false;
        }
    }
    for (unsigned i = 0; i < n_layers(self); i++) {
        if (!name_data_file(self, i, error)) {
            return false;
        }
    }
    return true;
}

/* QEMU takes what stands before a colon for a protocol. */
static char *name_in_header(const char *name)
{
    return strchr(name, ':') ? g_strconcat("./", name, NULL) : g_strdup(name);
}

/* ---- Bytes ------------------------------------------------------------------------------------- */

static void clear_file(ChainFile *file)
{
    qcow2_copy_forget_bytes(&file->copy);
    g_clear_pointer(&file->state, qcow2_state_free);
    g_clear_pointer(&file->chain, qcow2_chain_free);
}

/* All of @io. */
static bool plan_file(ChainCopy *self, Qcow2Io *io, ChainFile *file, GError **error)
{
    Qcow2OpenOptions options = self->chain->options;

    options.format = "raw";
    options.writable = false;
    file->chain = qcow2_chain_open_io(io, &options, error);
    file->state = file->chain ? qcow2_state_open(file->chain, "@active", error) : NULL;
    file->copy = (Qcow2Copy) {
        .source = file->state,
        .first = file->chain,
        .options = self->options,
        .sparse = qcow2_sparse_rule(4096),
        .share_first = !self->options->no_reflink,
        .progress = self->progress,
    };
    return file->state && qcow2_io_get_size(io, &file->len_bytes, error)
        && qcow2_copy_expect_bytes(&file->copy, true, error);
}

static bool plan_files(ChainCopy *self, GError **error)
{
    for (unsigned i = 0; i < n_layers(self); i++) {
        const Qcow2Image *image = image_of(self, i);
        ChainLayer *layer = &self->layers[i];
        if (!plan_file(self, image->file, &layer->image, error)
            || (layer->data_name && !plan_file(self, image->data, &layer->data, error))) {
            return false;
        }
    }
    return true;
}

static bool copy_file(ChainCopy *self, ChainFile *file, Qcow2Output *output, GError **error)
{
    Qcow2Io *io = qcow2_output_io(output);

    if (!qcow2_copy_bytes(&file->copy, io, error) || !qcow2_io_truncate(io, file->len_bytes, error)) {
        return false;
    }
    self->result.bytes += file->copy.result.bytes;
    self->result.bytes_copied += file->copy.result.bytes_copied;
    self->result.bytes_cloned += file->copy.result.bytes_cloned;
    self->result.output_size += file->len_bytes;
    return true;
}

static Qcow2Output *new_output(ChainCopy *self, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(self->folder, name, NULL);
    g_autoptr(Qcow2Output) output = qcow2_output_new(path, true, self->options->cache, error);

    return output && qcow2_output_trace(output, self->options->trace, error) ? g_steal_pointer(&output)
                                                                             : NULL;
}

static void add_need(const ChainCopy *self, GArray *needs, const ChainFile *file, const char *name)
{
    Qcow2CopyNeed need = { .copy = &file->copy, .choice = file->copy.choice, .data = true };
    g_autofree char *path = g_build_filename(self->folder, name, NULL);
    struct stat old;

    need.freed = stat(path, &old) == 0 && S_ISREG(old.st_mode) ? (uint64_t)old.st_blocks * 512 : 0;
    g_array_append_val(needs, need);
}

/* For all files, before the first one is written; @output: one of them, since it is a file that says it. */
static bool check_room(const ChainCopy *self, Qcow2Output *output, GError **error)
{
    g_autoptr(GArray) needs = g_array_new(FALSE, FALSE, sizeof(Qcow2CopyNeed));

    for (unsigned i = 0; i < n_layers(self); i++) {
        const ChainLayer *layer = &self->layers[i];
        add_need(self, needs, &layer->image, layer->name);
        if (layer->data_name) {
            add_need(self, needs, &layer->data, layer->data_name);
        }
    }
    return qcow2_copy_check_room(qcow2_output_io(output), (const Qcow2CopyNeed *)(const void *)needs->data,
                                 needs->len, error);
}

/* The first one made is that of the lowest layer, which makes the same file again. */
static bool check_room_in_folder(ChainCopy *self, GError **error)
{
    g_autoptr(Qcow2Output) output = new_output(self, self->layers[n_layers(self) - 1].name, error);

    return output && check_room(self, output, error);
}

static bool publish(ChainCopy *self, Qcow2Output *output, GError **error)
{
    return qcow2_witness_end(self->witness, error) && qcow2_progress_check(self->progress, error)
        && qcow2_output_publish(output, error);
}

static bool copy_data_file(ChainCopy *self, unsigned index, GError **error)
{
    ChainLayer *layer = &self->layers[index];

    if (!layer->data_name) {
        return true;
    }
    g_autoptr(Qcow2Output) output = new_output(self, layer->data_name, error);
    return output && copy_file(self, &layer->data, output, error) && publish(self, output, error);
}

/* ---- Names in the header ----------------------------------------------------------------------- */

/* Changes only what is not yet as it should be; NULL: nothing is below, no data file. */
static void set_names(Qcow2Batch *batch, const char *backing_name, const char *backing_format,
                      const char *data_name)
{
    Qcow2Header *header = qcow2_batch_header(batch);
    size_t format_len = backing_format ? strlen(backing_format) : 0;

    if (g_strcmp0(header->backing_name, backing_name) != 0) {
        g_free(header->backing_name);
        header->backing_name = g_strdup(backing_name);
        qcow2_batch_relay_header(batch);
    }
    if (g_strcmp0(header->backing_format, backing_format) != 0) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_BACKING_FORMAT, backing_format, format_len);
    }
    if (data_name && g_strcmp0(header->data_file, data_name) != 0) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_DATA_FILE, data_name, strlen(data_name));
    }
}

/* What the header of a copy must say. It may name a file that the chain was opened without. */
typedef struct NewNames {
    char *backing_name;           /* NULL: nothing is below */
    const char *backing_format, *data_name;
} NewNames;

static NewNames find_names(const ChainCopy *self, unsigned index)
{
    bool has_below = index + 1 < n_layers(self);
    bool is_raw = has_below && image_of(self, index + 1)->kind == QCOW2_IMAGE_RAW;

    return (NewNames) {
        .backing_name = has_below ? name_in_header(self->layers[index + 1].name) : NULL,
        .backing_format = !has_below ? NULL : is_raw ? "raw" : "qcow2",
        .data_name = self->layers[index].data_name,
    };
}

static bool must_rename(const Qcow2Image *image, const NewNames *names)
{
    const Qcow2Header *header = &image->header;

    return image->kind != QCOW2_IMAGE_RAW
        && (g_strcmp0(header->backing_name, names->backing_name) != 0
            || (names->backing_name
                && g_strcmp0(header->backing_format, names->backing_format) != 0)
            || (names->data_name && g_strcmp0(header->data_file, names->data_name) != 0));
}

static bool write_names(Qcow2Io *io, const NewNames *names, GError **error)
{
    Qcow2OpenOptions options = { .format = "qcow2", .writable = true, .untrusted = true };
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open_io(io, &options, error);
    g_autoptr(Qcow2Batch) batch =
        chain ? qcow2_batch_begin(qcow2_chain_image(chain, 0), error) : NULL;

    if (!batch) {
        return false;
    }
    set_names(batch, names->backing_name, names->backing_format, names->data_name);
    return qcow2_batch_commit(batch, error);
}

static bool repoint(const ChainCopy *self, unsigned index, Qcow2Io *io, GError **error)
{
    NewNames names = find_names(self, index);
    bool ok = !must_rename(image_of(self, index), &names) || write_names(io, &names, error);

    g_free(names.backing_name);
    return ok;
}

/* ---- Before anything is written ---------------------------------------------------------------- */

static bool check_path(const ChainCopy *self, const char *name, GError **error)
{
    g_autofree char *path = name ? g_build_filename(self->folder, name, NULL) : NULL;

    return !path || qcow2_refuse_layer(self->chain, path, error);
}

/* A header that must say another name has to be one that may be written. */
static bool check_header(const ChainCopy *self, unsigned index, GError **error)
{
    const Qcow2Image *image = image_of(self, index);
    bool is_marked = image->header.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    NewNames names = find_names(self, index);
    bool ok = !is_marked || !must_rename(image, &names);

    g_free(names.backing_name);
    return ok
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "'%s': its copy has to name other files, and it cannot be written, since it is marked"
                      " dirty or corrupt; run qcow-check -r all",
                      qcow2_chain_layer_name(self->chain, index));
}

static bool check_layer(const ChainCopy *self, unsigned index, GError **error)
{
    const Qcow2Place *place = qcow2_chain_layer(self->chain, index)->place;

    if (place->raw_offset != 0 || place->raw_size != UINT64_MAX) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "'%s': a layer that is a part of a raw file cannot be copied by its name",
                          place->shown);
    }
    return check_path(self, self->layers[index].name, error)
        && check_path(self, self->layers[index].data_name, error) && check_header(self, index, error);
}

static bool check_layers(const ChainCopy *self, GError **error)
{
    for (unsigned i = 0; i < n_layers(self); i++) {
        if (!check_layer(self, i, error)) {
            g_prefix_error(error, "layer [%u]: ", i);
            return false;
        }
    }
    return true;
}

/* ---- All of it --------------------------------------------------------------------------------- */

static bool copy_one(ChainCopy *self, unsigned index, GError **error)
{
    ChainLayer *layer = &self->layers[index];
    g_autoptr(Qcow2Output) output = NULL;

    return copy_data_file(self, index, error)
        && (output = new_output(self, layer->name, error))
        && copy_file(self, &layer->image, output, error)
        && repoint(self, index, qcow2_output_io(output), error)
        && publish(self, output, error);
}

static bool copy_all(ChainCopy *self, Qcow2CopyChainFunc func, void *data, GError **error)
{
    if (mkdir(self->folder, 0777) < 0 && errno != EEXIST) {
        return qcow2_fail_errno(error, errno, "'%s'", self->folder);
    }
    if (!check_room_in_folder(self, error)) {
        return false;
    }
    for (unsigned i = n_layers(self); i-- > 0;) {
        if (!copy_one(self, i, error)) {
            g_prefix_error(error, "layer [%u]: ", i);
            return false;
        }
        if (func) {
            func(qcow2_chain_layer_name(self->chain, i), self->layers[i].name, data);
        }
    }
    return true;
}

static bool copy_chain(ChainCopy *self, Qcow2CopyChainFunc func, void *data, GError **error)
{
    g_autoptr(Qcow2State) state = NULL;

    if (!name_files(self, error) || !check_layers(self, error)
        || !(state = qcow2_state_open(self->chain, "@active", error))) {
        return false;
    }
    g_autoptr(Qcow2Witness) witness = qcow2_witness_begin(&state, 1, error);
    self->witness = witness;
    self->result.virtual_size = state->size;
    return witness && plan_files(self, error) && copy_all(self, func, data, error);
}

static void free_layers(ChainCopy *self)
{
    for (unsigned i = 0; i < n_layers(self); i++) {
        clear_file(&self->layers[i].image);
        clear_file(&self->layers[i].data);
        g_free(self->layers[i].name);
        g_free(self->layers[i].data_name);
    }
    g_free(self->layers);
}

bool qcow2_copy_chain(Qcow2Chain *chain, const char *folder, const Qcow2CopyOptions *options,
                      Qcow2CopyChainFunc func, void *data, Qcow2CopyResult *ret_result,
                      Qcow2Progress *progress, GError **error)
{
    g_autoptr(GHashTable) used = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    ChainCopy self = {
        .chain = chain, .folder = folder, .options = options, .progress = progress, .used = used,
    };

    if (!qcow2_chain_open_all(chain, error)) {
        return false;
    }
    self.layers = g_new0(ChainLayer, n_layers(&self));
    bool ok = copy_chain(&self, func, data, error);
    free_layers(&self);
    if (ok) {
        *ret_result = self.result;
        qcow2_progress_finish(progress);
    }
    return ok;
}
