/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Internal snapshots as files: each state is the delta from the one before it, backed by that one's file. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "move/output.h"
#include "ops/vmstate.h"
#include "util/error.h"
#include "util/progress.h"

#define MAX_NAME_BYTES 180u      /* of a snapshot's name in a file name, which may have 255 in all */

typedef struct Externalize {
    Qcow2Chain *chain;
    const char *folder;
    const Qcow2ExternalizeOptions *options;
    Qcow2Progress *progress;
    GPtrArray *states;            /* Qcow2State, in table order, the active layer last */
    GPtrArray *files;             /* char *: file names without folder */
    GPtrArray *vmstate_files;     /* char * or NULL */
    GPtrArray *made;              /* char *: full names of what was written, for taking it away again */
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

static bool write_vmstate(Externalize *self, guint index, GError **error)
{
    const char *name = g_ptr_array_index(self->vmstate_files, index);

    if (!name) {
        return true;
    }
    g_autofree char *path = g_build_filename(self->folder, name, NULL);
    g_autoptr(Qcow2Output) output = qcow2_output_new(path, false, QCOW2_CACHE_WRITEBACK, error);
    if (!output || !qcow2_output_trace(output, self->chain->options.trace, error)
        || !qcow2_vmstate_write(g_ptr_array_index(self->states, index), qcow2_output_io(output),
                                self->progress, error)
        || !qcow2_output_publish(output, error)) {
        return false;
    }
    g_ptr_array_add(self->made, g_steal_pointer(&path));
    return true;
}

static bool write_delta(Externalize *self, guint index, const char *backing_name, const char *backing_format,
                        GError **error)
{
    g_autofree char *path = g_build_filename(self->folder, g_ptr_array_index(self->files, index), NULL);
    g_autoptr(Qcow2State) base = NULL;
    Qcow2State *from = index > 0 ? g_ptr_array_index(self->states, index - 1) : NULL;
    Qcow2ExportOptions options = {
        .backing_name = backing_name,
        .backing_format = backing_format,
        .no_reflink = self->options->no_reflink,
        .trace = self->chain->options.trace,
    };

    if (!from) {
        from = base = qcow2_state_open(self->chain, backing_name ? "@backing" : "@empty", error);
    }
    if (!from
        || !qcow2_export_delta(from, g_ptr_array_index(self->states, index), path, &options, NULL,
                               self->progress, error)) {
        return false;
    }
    g_ptr_array_add(self->made, g_steal_pointer(&path));
    return true;
}

static bool write_all(Externalize *self, GError **error)
{
    g_autofree char *first_name = NULL;
    const char *first_format;

    if (!first_backing(self, &first_name, &first_format, error)) {
        return false;
    }
    for (guint i = 0; i < self->states->len; i++) {
        const char *name = i > 0 ? g_ptr_array_index(self->files, i - 1) : first_name;
        if (!write_delta(self, i, name, i > 0 ? "qcow2" : first_format, error)
            || !write_vmstate(self, i, error)) {
            return false;
        }
    }
    return true;
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

bool qcow2_externalize(Qcow2Chain *chain, const char *folder, const Qcow2ExternalizeOptions *options,
                       Qcow2ExternalizeFunc func, void *data, Qcow2Progress *progress, GError **error)
{
    g_autoptr(GPtrArray) states = g_ptr_array_new_with_free_func(free_state);
    g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) vmstate_files = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) made = g_ptr_array_new_with_free_func(g_free);
    Externalize self = {
        .chain = chain, .folder = folder, .options = options, .progress = progress,
        .states = states, .files = files, .vmstate_files = vmstate_files, .made = made,
    };

    if (!list_states(&self, error)) {
        return false;
    }
    bool made_folder = mkdir(folder, 0777) == 0;
    if (!made_folder && errno != EEXIST) {
        return qcow2_fail_errno(error, errno, "'%s'", folder);
    }
    if (write_all(&self, error)) {
        report(&self, func, data);
        qcow2_progress_finish(progress);
        return true;
    }
    for (guint i = 0; i < made->len; i++) {
        unlink(g_ptr_array_index(made, i));
    }
    if (made_folder) {
        rmdir(folder);
    }
    return false;
}
