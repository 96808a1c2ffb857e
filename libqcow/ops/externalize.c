/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Internal snapshots as files: each state is the delta from the one before it, backed by that one's file. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "move/output.h"
#include "ops/export.h"
#include "ops/vmstate.h"
#include "util/error.h"
#include "util/progress.h"

#define MAX_NAME_BYTES 180u      /* of a snapshot's name in a file name, which may have 255 in all */

typedef struct Externalize {
    Qcow2Chain *chain;
    const char *folder;
    const Qcow2ExternalizeOptions *options;
    Qcow2Progress *progress;
    Qcow2State *base;             /* what the first file is the change from */
    GPtrArray *states;            /* Qcow2State, in table order, the active layer last */
    GPtrArray *files;             /* char *: file names without folder */
    GPtrArray *vmstate_files;     /* char * or NULL */
    GPtrArray *outputs;           /* Qcow2Output of files */
    GPtrArray *vmstate_outputs;   /* Qcow2Output of those vmstate_files that there are */
} Externalize;

static void free_state(gpointer state)
{
    qcow2_state_free(state);
}

/*
 * What has a meaning in a path is escaped, and so is what has one in an image name: QEMU takes what stands
 * before a colon for a protocol.
 */
static char *file_stem(const char *name)
{
    GString *stem = g_string_new(NULL);

    for (const char *p = name; *p && stem->len < MAX_NAME_BYTES; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c == 0x7f || strchr("/%:\\", c)) {
            g_string_append_printf(stem, "%%%02X", c);
        } else {
            g_string_append_c(stem, (char)c);
        }
    }
    return g_string_free(stem, FALSE);
}

static bool add_state(Externalize *self, const char *name, GError **error)
{
    Qcow2State *state = qcow2_state_open(self->chain, name, error);

    if (!state) {
        return false;
    }
    g_ptr_array_add(self->states, state);
    if (state->kind != QCOW2_STATE_SNAPSHOT) {
        g_ptr_array_add(self->files, g_strdup("active.qcow2"));
        g_ptr_array_add(self->vmstate_files, NULL);
        return true;
    }
    g_autofree char *stem = file_stem(state->snapshot_name);
    g_ptr_array_add(self->files, g_strdup_printf("%04u-%s.qcow2", self->states->len, stem));
    g_ptr_array_add(self->vmstate_files, state->info.vm_state_size > 0
                                             ? g_strdup_printf("%04u-%s.vmstate", self->states->len, stem)
                                             : NULL);
    return true;
}

static bool list_states(Externalize *self, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(self->chain, 0);

    if (!qcow2_image_load_snapshots(image, error)) {
        g_prefix_error(error, "'%s': ", qcow2_chain_layer_name(self->chain, 0));
        return false;
    }
    /* The table is read again for each state: take the ids before. */
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < image->snapshots->len; i++) {
        g_ptr_array_add(names,
                        g_strconcat("id:", g_array_index(image->snapshots, Qcow2SnapshotEntry, i).id, NULL));
    }
    for (guint i = 0; i < names->len; i++) {
        if (!add_state(self, g_ptr_array_index(names, i), error)) {
            return false;
        }
    }
    return add_state(self, "@active", error);
}

/* The image's own backing file as seen from another folder, and its format. */
static bool first_backing(Externalize *self, char **ret_name, const char **ret_format, GError **error)
{
    bool exists;

    *ret_name = NULL;
    *ret_format = NULL;
    if (!qcow2_chain_open_below(self->chain, 0, &exists, error)) {
        return false;
    }
    if (!exists) {
        return true;
    }
    const Qcow2Layer *below = qcow2_chain_layer(self->chain, 1);
    bool is_path =
        below->place->kind == QCOW2_PLACE_FILE && strcmp(below->place->shown, below->place->target) == 0;
    *ret_name = is_path ? realpath(below->place->target, NULL) : strdup(below->place->shown);
    *ret_format = below->image->kind == QCOW2_IMAGE_RAW ? "raw" : "qcow2";
    return *ret_name || qcow2_fail_errno(error, errno, "'%s'", below->place->target);
}

/* ---- The files --------------------------------------------------------------------------------- */

static bool open_output(Externalize *self, const char *name, GPtrArray *outputs, GError **error)
{
    g_autofree char *path = g_build_filename(self->folder, name, NULL);

    if (self->options->overwrite && !qcow2_refuse_layer(self->chain, path, error)) {
        return false;
    }
    Qcow2Output *output = qcow2_output_new(path, self->options->overwrite, QCOW2_CACHE_WRITEBACK, error);
    if (!output) {
        return false;
    }
    g_ptr_array_add(outputs, output);
    return qcow2_output_trace(output, self->chain->options.trace, error);
}

/* All of them first: that one cannot be made should be known before the work. */
static bool open_outputs(Externalize *self, GError **error)
{
    for (guint i = 0; i < self->states->len; i++) {
        const char *vmstate_file = g_ptr_array_index(self->vmstate_files, i);
        if (!open_output(self, g_ptr_array_index(self->files, i), self->outputs, error)
            || (vmstate_file && !open_output(self, vmstate_file, self->vmstate_outputs, error))) {
            return false;
        }
    }
    return true;
}

static bool write_delta(Externalize *self, guint index, const char *backing_name, const char *backing_format,
                        GError **error)
{
    const char *name = g_ptr_array_index(self->files, index);
    Qcow2ExportOptions options = {
        .backing_name = backing_name,
        .backing_format = backing_format,
        .no_reflink = self->options->no_reflink,
    };
    Qcow2Export job = {
        .from = index > 0 ? g_ptr_array_index(self->states, index - 1) : self->base,
        .to = g_ptr_array_index(self->states, index),
        .options = &options,
        .output = name,
        .progress = self->progress,
    };
    g_auto(Qcow2Header) header = { 0 };

    qcow2_states_share_size(job.from, job.to);
    return qcow2_export_header(&job, false, &header, error)
        && qcow2_export_fill(&job, &header, qcow2_output_io(g_ptr_array_index(self->outputs, index)), error);
}

static bool write_all(Externalize *self, const char *first_backing, const char *first_format, GError **error)
{
    guint n_vmstates = 0;

    for (guint i = 0; i < self->states->len; i++) {
        const char *name = i > 0 ? g_ptr_array_index(self->files, i - 1) : first_backing;
        if (!write_delta(self, i, name, i > 0 ? "qcow2" : first_format, error)) {
            return false;
        }
        if (g_ptr_array_index(self->vmstate_files, i)
            && !qcow2_vmstate_write(g_ptr_array_index(self->states, i),
                                    qcow2_output_io(g_ptr_array_index(self->vmstate_outputs, n_vmstates++)),
                                    self->progress, error)) {
            return false;
        }
    }
    return qcow2_progress_check(self->progress, error);
}

/* @ret_n: how many are under their names */
static bool publish(GPtrArray *outputs, guint *ret_n, GError **error)
{
    for (*ret_n = 0; *ret_n < outputs->len; (*ret_n)++) {
        if (!qcow2_output_publish(g_ptr_array_index(outputs, *ret_n), error)) {
            return false;
        }
    }
    return true;
}

static void remove_published(const GPtrArray *outputs, guint n)
{
    for (guint i = 0; i < n; i++) {
        unlink(qcow2_output_target(g_ptr_array_index(outputs, i)));
    }
}

/* A file that replaced another one stays when a later one fails: the old one is gone. */
static bool publish_all(Externalize *self, GError **error)
{
    guint n_vmstates, n_files = 0;
    bool ok = publish(self->vmstate_outputs, &n_vmstates, error) && publish(self->outputs, &n_files, error);

    if (!ok && !self->options->overwrite) {
        remove_published(self->vmstate_outputs, n_vmstates);
        remove_published(self->outputs, n_files);
    }
    return ok;
}

static bool write_chain(Externalize *self, GError **error)
{
    g_autofree char *backing = NULL;
    const char *format;

    if (!first_backing(self, &backing, &format, error) || !open_outputs(self, error)) {
        return false;
    }
    g_autoptr(Qcow2State) base = qcow2_state_open(self->chain, backing ? "@backing" : "@empty", error);
    g_autoptr(Qcow2Witness) witness =
        base ? qcow2_witness_begin((Qcow2State **)self->states->pdata, self->states->len, error) : NULL;

    self->base = base;
    bool ok = witness && write_all(self, backing, format, error) && qcow2_witness_end(witness, error)
           && publish_all(self, error);
    if (!ok && witness) {
        qcow2_witness_explain(witness, error);
    }
    return ok;
}

static void report(const Externalize *self, Qcow2ExternalizeFunc func, void *data)
{
    for (guint i = 0; func && i < self->states->len; i++) {
        const Qcow2State *state = g_ptr_array_index(self->states, i);
        Qcow2ExternalFile file = {
            .state = state->snapshot_name ? state->snapshot_name : "@active",
            .file = g_ptr_array_index(self->files, i),
            .vmstate_file = g_ptr_array_index(self->vmstate_files, i),
        };
        func(&file, data);
    }
}

static void free_output(gpointer output)
{
    qcow2_output_free(output);
}

bool qcow2_externalize(Qcow2Chain *chain, const char *folder, const Qcow2ExternalizeOptions *options,
                       Qcow2ExternalizeFunc func, void *data, Qcow2Progress *progress, GError **error)
{
    g_autoptr(GPtrArray) states = g_ptr_array_new_with_free_func(free_state);
    g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) vmstate_files = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) outputs = g_ptr_array_new_with_free_func(free_output);
    g_autoptr(GPtrArray) vmstate_outputs = g_ptr_array_new_with_free_func(free_output);
    Externalize self = {
        .chain = chain, .folder = folder, .options = options, .progress = progress,
        .states = states, .files = files, .vmstate_files = vmstate_files,
        .outputs = outputs, .vmstate_outputs = vmstate_outputs,
    };

    if (!list_states(&self, error)) {
        return false;
    }
    bool made_folder = mkdir(folder, 0777) == 0;
    if (!made_folder && errno != EEXIST) {
        return qcow2_fail_errno(error, errno, "'%s'", folder);
    }
    if (write_chain(&self, error)) {
        report(&self, func, data);
        qcow2_progress_finish(progress);
        return true;
    }
    g_ptr_array_set_size(outputs, 0);     /* before their folder goes */
    g_ptr_array_set_size(vmstate_outputs, 0);
    if (made_folder) {
        rmdir(folder);
    }
    return false;
}
