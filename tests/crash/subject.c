/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images to start from, and what QEMU says about images. */
#include "lab.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "chain/chain.h"

static void unref_bytes(gpointer bytes)
{
    g_bytes_unref(bytes);
}

static bool load_files(LabSubject *subject, Qcow2Chain *chain, GError **error)
{
    if (!qcow2_chain_open_all(chain, error)) {
        return false;
    }
    for (unsigned i = 0; i < qcow2_chain_n_layers(chain); i++) {
        const char *path = qcow2_chain_layer(chain, i)->place->target;
        char *bytes;
        gsize len;
        if (!g_file_get_contents(path, &bytes, &len, error)) {
            return false;
        }
        g_ptr_array_add(subject->paths, g_strdup(path));
        g_ptr_array_add(subject->files, g_bytes_new_take(bytes, len));
        bool has_data_file = qcow2_chain_image(chain, i)->header.layout.has_data_file;
        const char *name = qcow2_chain_image(chain, i)->header.backing_name;
        subject->has_long_names = subject->has_long_names || (name && strpbrk(name, "/:"));
        if (!has_data_file && subject->n_in_memory == i) {
            subject->n_in_memory++;
        }
    }
    return true;
}

static void remove_deltas(const char *path)
{
    for (int which = LAB_NONE; which <= LAB_LAST; which++) {
        g_autofree char *delta = g_strdup_printf("%s.delta-%d", path, which);
        unlink(delta);
    }
}

LabSubject *lab_subject_load(const char *name, const char *path, GError **error)
{
    g_autoptr(LabSubject) subject = g_new0(LabSubject, 1);
    Qcow2OpenOptions options = { .format = "qcow2", .n_threads = 1 };
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open(path, &options, error);

    subject->name = g_strdup(name);
    subject->paths = g_ptr_array_new_with_free_func(g_free);
    subject->files = g_ptr_array_new_with_free_func(unref_bytes);
    if (!chain || !load_files(subject, chain, error)
        || !qcow2_check(chain, NULL, NULL, &subject->check, NULL, error)) {
        return NULL;
    }
    remove_deltas(path);
    subject->has_data_file = qcow2_chain_image(chain, 0)->header.layout.has_data_file;
    subject->encrypted = qcow2_chain_image(chain, 0)->header.crypt != QCOW2_CRYPT_NONE;
    subject->contents = lab_contents_read(chain, error);
    return subject->contents ? g_steal_pointer(&subject) : NULL;
}

void lab_subject_free(LabSubject *subject)
{
    if (!subject) {
        return;
    }
    g_free(subject->name);
    g_ptr_array_unref(subject->paths);
    g_ptr_array_unref(subject->files);
    g_clear_pointer(&subject->contents, lab_contents_free);
    g_free(subject);
}

/* ---- QEMU ---------------------------------------------------------------------------------------- */

/* Runs in the image's folder, where QEMU looks for a data file; NULL when it ends with one of two statuses.
 */
static char *run_qemu(const LabQemu *qemu, const char *path, const char *const words[], int good,
                      int also_good)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *output = NULL, *errors = NULL, *line = NULL;
    g_autoptr(GError) error = NULL;
    int status;

    g_ptr_array_add(argv, (gpointer)qemu->img);
    for (size_t i = 0; words[i]; i++) {
        g_ptr_array_add(argv, (gpointer)words[i]);
    }
    g_ptr_array_add(argv, NULL);
    if (!g_spawn_sync(folder, (char **) argv->pdata, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &output, &errors,
                      &status, &error)) {
        return g_strdup(error->message);
    }
    if (WIFEXITED(status) && (WEXITSTATUS(status) == good || WEXITSTATUS(status) == also_good)) {
        return NULL;
    }
    line = g_strjoinv(" ", (char **)argv->pdata);
    return g_strdup_printf("%s: status 0x%x\n%s%s", line, (unsigned)status, output, errors);
}

char *lab_qemu_check(const LabQemu *qemu, const char *path, bool may_leak)
{
    g_autofree char *file = g_path_get_basename(path);
    const char *const words[] = { "check", "-f", "qcow2", file, NULL };

    return run_qemu(qemu, path, words, 0, may_leak ? 3 : 0);
}

static char *copy_file(const char *from, const char *to)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *bytes = NULL;
    gsize len;
    bool ok = g_file_get_contents(from, &bytes, &len, &error)
           && g_file_set_contents_full(to, bytes, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0644, &error);

    return ok ? NULL : g_strdup(error->message);
}

/* convert -l gives a snapshot the size of the active layer: a copy is resized, where QEMU can do that. */
static char *resize_copy(const LabQemu *qemu, const char *path, const char *copy, uint64_t size,
                         bool *ret_resized)
{
    g_autofree char *file = g_path_get_basename(copy);
    g_autofree char *words_size = g_strdup_printf("%" PRIu64, size);
    const char *const words[] = { "resize", "-q", "-f", "qcow2", "--shrink", file, words_size, NULL };
    char *why = copy_file(path, copy);
    g_autofree char *refusal = why ? NULL : run_qemu(qemu, copy, words, 0, 0);

    *ret_resized = !refusal;
    return why;
}

static char *compare_raw(const char *path, const LabState *state)
{
    g_autofree char *bytes = NULL;
    g_autoptr(GError) error = NULL;
    gsize len;

    if (!g_file_get_contents(path, &bytes, &len, &error)) {
        return g_strdup(error->message);
    }
    return lab_state_reads(state, (const uint8_t *)bytes, len)
         ? NULL : g_strdup_printf("QEMU reads '%s' otherwise", state->id ? state->name : "@active");
}

static char *convert(const LabQemu *qemu, const char *path, const LabState *state)
{
    g_autofree char *raw = g_strconcat(path, ".raw", NULL);
    g_autofree char *file = g_path_get_basename(path), *raw_file = g_path_get_basename(raw);
    g_autofree char *snapshot = g_strconcat("snapshot.id=", state->id, NULL);
    const char *const words[] = {
        "convert", "-f", "qcow2", "-O", "raw", file, raw_file, state->id ? "-l" : NULL, snapshot, NULL,
    };
    char *why = run_qemu(qemu, path, words, 0, 0);

    why = why ? why : compare_raw(raw, state);
    unlink(raw);
    return why;
}

static char *match_state(const LabQemu *qemu, const char *path, const LabState *active, const LabState *state)
{
    g_autofree char *copy = g_strconcat(path, ".copy", NULL);
    bool resized;

    if (state->size == active->size) {
        return convert(qemu, path, state);
    }
    char *why = resize_copy(qemu, path, copy, state->size, &resized);
    if (!why && resized) {
        why = convert(qemu, copy, state);
    }
    unlink(copy);
    return why;
}

char *lab_qemu_match(const LabQemu *qemu, const char *path, const LabContents *expected)
{
    char *why = NULL;

    for (guint i = 0; i < expected->states->len && !why; i++) {
        why = match_state(qemu, path, lab_state(expected, 0), lab_state(expected, i));
    }
    return why;
}
