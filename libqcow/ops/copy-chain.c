/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy a whole chain, file by file, from the lowest one on. Each copy has all that its original has, but for
 * the name of the file below it.
 *
 *   step, for each layer                                a crash afterwards leaves
 *   1  copy its bytes into a file under another name    the copies below it, and a temporary file
 *   2  let it say the name of the copy below it         the same
 *   3  prove that nothing changed; flush, rename        one more copy, which reads as its original
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "image/batch.h"
#include "ops/copy.h"
#include "ops/export.h"
#include "util/error.h"
#include "util/progress.h"

typedef struct ChainCopy {
    Qcow2Chain *chain;
    const char *folder;
    const Qcow2CopyOptions *options;
    Qcow2Progress *progress;
    GPtrArray *names;             /* char *: of each layer's copy, without the folder */
    GHashTable *used;             /* all names, also of data files */
    Qcow2Witness *witness;
    Qcow2CopyResult result;
} ChainCopy;

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

static bool name_layers(ChainCopy *self, GError **error)
{
    for (unsigned i = 0; i < qcow2_chain_n_layers(self->chain); i++) {
        const Qcow2Place *place = qcow2_chain_layer(self->chain, i)->place;
        g_autofree char *export_name =
            place->kind == QCOW2_PLACE_NBD
                ? name_export(place->target, i, qcow2_chain_image(self->chain, i)) : NULL;
        char *name = take_name(self, export_name ? export_name : place->target, error);
        if (!name) {
            return false;
        }
        g_ptr_array_add(self->names, name);
    }
    return true;
}

/* QEMU takes what stands before a colon for a protocol. */
static char *name_in_header(const char *name)
{
    return strchr(name, ':') ? g_strconcat("./", name, NULL) : g_strdup(name);
}

/* ---- Bytes ------------------------------------------------------------------------------------- */

/* All of @io, which ends at any byte. */
static bool copy_place(ChainCopy *self, Qcow2Io *io, Qcow2Output *output, GError **error)
{
    Qcow2OpenOptions options = self->chain->options;
    uint64_t len;

    options.format = "raw";
    options.writable = false;
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open_io(io, &options, error);
    g_autoptr(Qcow2State) state = chain ? qcow2_state_open(chain, "@active", error) : NULL;
    Qcow2Copy copy = {
        .source = state,
        .first = chain,
        .options = self->options,
        .sparse = qcow2_sparse_rule(4096),
        .share_first = !self->options->no_reflink,
        .progress = self->progress,
    };
    if (!state || !qcow2_io_get_size(io, &len, error)
        || !qcow2_copy_bytes(&copy, qcow2_output_io(output), true, error)
        || !qcow2_io_truncate(qcow2_output_io(output), len, error)) {
        return false;
    }
    self->result.bytes_copied += copy.result.bytes_copied;
    self->result.bytes_cloned += copy.result.bytes_cloned;
    self->result.output_size += len;
    return true;
}

static bool copy_layer(ChainCopy *self, unsigned index, Qcow2Output *output, GError **error)
{
    const Qcow2Layer *layer = qcow2_chain_layer(self->chain, index);

    if (layer->place->raw_offset == 0 && layer->place->raw_size == UINT64_MAX) {
        return copy_place(self, layer->image->file, output, error);
    }
    return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "'%s': a layer that is a part of a raw file cannot be copied by its name",
                      layer->place->shown);
}

static Qcow2Output *new_output(ChainCopy *self, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(self->folder, name, NULL);
    bool allowed = qcow2_refuse_layer(self->chain, path, error);
    g_autoptr(Qcow2Output) output = allowed ? qcow2_output_new(path, true, self->options->cache, error)
                                            : NULL;

    return output && qcow2_output_trace(output, self->options->trace, error) ? g_steal_pointer(&output)
                                                                             : NULL;
}

static bool publish(ChainCopy *self, Qcow2Output *output, GError **error)
{
    return qcow2_witness_end(self->witness, error) && qcow2_progress_check(self->progress, error)
        && qcow2_output_publish(output, error);
}

static bool copy_data_file(ChainCopy *self, unsigned index, char **ret_name, GError **error)
{
    const Qcow2Layer *layer = qcow2_chain_layer(self->chain, index);

    *ret_name = NULL;
    if (!qcow2_chain_open_data(self->chain, index, error)) {
        return false;
    }
    if (layer->image->data == layer->image->file) {
        return true;
    }
    g_autofree char *name = take_name(self, layer->image->data->name, error);
    g_autoptr(Qcow2Output) output = name ? new_output(self, name, error) : NULL;
    if (!output || !copy_place(self, layer->image->data, output, error) || !publish(self, output, error)) {
        return false;
    }
    *ret_name = g_steal_pointer(&name);
    return true;
}

/* ---- Names in the header ----------------------------------------------------------------------- */

/* Changes only what is not yet as it should be; NULL: no such name. */
static void set_names(Qcow2Batch *batch, const char *backing_name, const char *backing_format,
                      const char *data_name)
{
    Qcow2Header *header = qcow2_batch_header(batch);

    if (backing_name && g_strcmp0(header->backing_name, backing_name) != 0) {
        g_free(header->backing_name);
        header->backing_name = g_strdup(backing_name);
        qcow2_batch_relay_header(batch);
    }
    if (backing_name && g_strcmp0(header->backing_format, backing_format) != 0) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_BACKING_FORMAT, backing_format, strlen(backing_format));
    }
    if (data_name && g_strcmp0(header->data_file, data_name) != 0) {
        qcow2_batch_set_ext(batch, QCOW2_EXT_DATA_FILE, data_name, strlen(data_name));
    }
}

static bool is_named_so(const Qcow2Header *header, const char *backing_name, const char *backing_format,
                        const char *data_name)
{
    return (!backing_name
            || (g_strcmp0(header->backing_name, backing_name) == 0
                && g_strcmp0(header->backing_format, backing_format) == 0))
        && (!data_name || g_strcmp0(header->data_file, data_name) == 0);
}

static bool repoint(ChainCopy *self, unsigned index, Qcow2Io *io, const char *data_name, GError **error)
{
    const Qcow2Image *original = qcow2_chain_image(self->chain, index);
    bool has_below = index + 1 < qcow2_chain_n_layers(self->chain);
    const Qcow2Image *below = has_below ? qcow2_chain_image(self->chain, index + 1) : NULL;
    g_autofree char *backing_name = below ? name_in_header(g_ptr_array_index(self->names, index + 1)) : NULL;
    const char *backing_format = below && below->kind == QCOW2_IMAGE_RAW ? "raw" : "qcow2";
    Qcow2OpenOptions options = { .format = "qcow2", .writable = true, .untrusted = true };

    if (original->kind == QCOW2_IMAGE_RAW
        || is_named_so(&original->header, backing_name, backing_format, data_name)) {
        return true;
    }
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open_io(io, &options, error);
    g_autoptr(Qcow2Batch) batch =
        chain ? qcow2_batch_begin(qcow2_chain_image(chain, 0), error) : NULL;
    if (!batch) {
        return false;
    }
    set_names(batch, backing_name, backing_format, data_name);
    return qcow2_batch_commit(batch, error);
}

/* ---- All of it --------------------------------------------------------------------------------- */

static bool copy_one(ChainCopy *self, unsigned index, GError **error)
{
    g_autofree char *data_name = NULL;
    g_autoptr(Qcow2Output) output = NULL;

    return copy_data_file(self, index, &data_name, error)
        && (output = new_output(self, g_ptr_array_index(self->names, index), error))
        && copy_layer(self, index, output, error)
        && repoint(self, index, qcow2_output_io(output), data_name, error)
        && publish(self, output, error);
}

static bool copy_all(ChainCopy *self, Qcow2CopyChainFunc func, void *data, GError **error)
{
    if (mkdir(self->folder, 0777) < 0 && errno != EEXIST) {
        return qcow2_fail_errno(error, errno, "'%s'", self->folder);
    }
    for (unsigned i = qcow2_chain_n_layers(self->chain); i-- > 0;) {
        if (!copy_one(self, i, error)) {
            g_prefix_error(error, "layer [%u]: ", i);
            return false;
        }
        if (func) {
            func(qcow2_chain_layer_name(self->chain, i), g_ptr_array_index(self->names, i), data);
        }
    }
    return true;
}

bool qcow2_copy_chain(Qcow2Chain *chain, const char *folder, const Qcow2CopyOptions *options,
                      Qcow2CopyChainFunc func, void *data, Qcow2CopyResult *ret_result,
                      Qcow2Progress *progress, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GHashTable) used = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    ChainCopy self = {
        .chain = chain,
        .folder = folder,
        .options = options,
        .progress = progress,
        .names = names,
        .used = used,
    };
    g_autoptr(Qcow2State) state = NULL;

    if (!qcow2_chain_open_all(chain, error) || !name_layers(&self, error)
        || !(state = qcow2_state_open(chain, "@active", error))) {
        return false;
    }
    g_autoptr(Qcow2Witness) witness = qcow2_witness_begin(&state, 1, error);
    self.witness = witness;
    if (!witness || !copy_all(&self, func, data, error)) {
        return false;
    }
    self.result.virtual_size = state->size;
    *ret_result = self.result;
    qcow2_progress_finish(progress);
    return true;
}
