/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "images.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "util/error.h"

#define MAX_CRASH_STATE 40u   /* of those that the exploration finds, one that an image starts from */

static bool unpack(const char *from, const char *to, GError **error)
{
    gzFile file = gzopen(from, "rb");
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    uint8_t buffer[65536];
    int n = -1;

    while (file && (n = gzread(file, buffer, sizeof(buffer))) > 0) {
        g_byte_array_append(bytes, buffer, (guint)n);
    }
    if (file) {
        gzclose(file);
    }
    if (n < 0) {
        return qcow2_fail(error, QCOW2_ERROR_IO, "'%s' cannot be read", from);
    }
    return g_file_set_contents_full(to, (const char *)bytes->data, bytes->len, G_FILE_SET_CONTENTS_NONE,
                                    0644, error);
}

/* gzread() also reads what is not packed. */
static bool unpack_folder(const char *folder, const char *to, GError **error)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, error);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *from = g_build_filename(folder, name, NULL);
        g_autofree char *path = g_build_filename(to, name, NULL);
        if (g_str_has_suffix(path, ".gz")) {
            path[strlen(path) - strlen(".gz")] = '\0';
        }
        if (g_file_test(from, G_FILE_TEST_IS_REGULAR) && !unpack(from, path, error)) {
            return false;
        }
    }
    return dir != NULL;
}

static gint compare_subjects(gconstpointer a, gconstpointer b)
{
    return strcmp((*(LabSubject *const *)a)->name, (*(LabSubject *const *)b)->name);
}

static bool load_folder(const char *folder, const char *pattern, GPtrArray *subjects, GError **error)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, error);
    const size_t suffix_len = strlen(".qcow2");
    const char *file;

    while (dir && (file = g_dir_read_name(dir))) {
        g_autofree char *name =
            g_strdup_printf("%s/%.*s", folder, (int)(MAX(strlen(file), suffix_len) - suffix_len), file);
        g_autofree char *path = g_build_filename(folder, file, NULL);
        if (!g_str_has_suffix(file, ".qcow2") || (pattern && !g_pattern_match_simple(pattern, name))) {
            continue;
        }
        LabSubject *subject = lab_subject_load(name, path, error);
        if (!subject) {
            g_prefix_error(error, "%s: ", path);
            return false;
        }
        g_ptr_array_add(subjects, subject);
    }
    return dir != NULL;
}

static void free_subject(gpointer subject)
{
    lab_subject_free(subject);
}

GPtrArray *lab_images_load(const char *const folders[], const char *pattern, GError **error)
{
    g_autoptr(GPtrArray) subjects = g_ptr_array_new_with_free_func(free_subject);

    for (size_t i = 0; folders[i]; i++) {
        g_autofree char *name = g_path_get_basename(folders[i]);
        g_mkdir_with_parents(name, 0755);
        if (!unpack_folder(folders[i], name, error) || !load_folder(name, pattern, subjects, error)) {
            return NULL;
        }
    }
    g_ptr_array_sort(subjects, compare_subjects);
    return g_steal_pointer(&subjects);
}

/* ---- Images with a past ----------------------------------------------------------------------------- */

static const LabOperation *any_operation(const LabSubject *subject, GRand *random)
{
    const LabOperation *chosen = NULL;
    gint32 n = 0;

    for (const LabOperation *operation = lab_operations; operation->name; operation++) {
        if (lab_applies(operation, subject) && g_rand_int_range(random, 0, ++n) == 0) {
            chosen = operation;
        }
    }
    return chosen;
}

/* Where the exploration of states ends. */
typedef struct Stop {
    const LabCase *lab_case;
    guint left;               /* states until then */
    const char *path;         /* gets the state */
    bool reached;
    GError **error;
} Stop;

static bool save_last(const LabCrash *crash, void *data)
{
    Stop *stop = data;

    (void)crash;
    if (stop->left-- > 0) {
        return true;
    }
    stop->reached = true;
    lab_disk_save(stop->lab_case->disks[0], stop->path, stop->error);
    return false;
}

/* What an undisturbed run leaves, or, half of the time, what a crash leaves in the middle of it. */
static bool run_on_copy(const LabSubject *subject, const LabOperation *operation, GRand *random,
                        const char *path, bool *ret_crashed, GError **error)
{
    const LabQemu no_qemu = { NULL, 0 };
    g_autoptr(LabCase) lab_case = lab_case_new(operation, subject, &no_qemu, g_rand_int(random));
    guint n_states = (guint)g_rand_int_range(random, 0, 2 * MAX_CRASH_STATE);
    GError *cause = NULL;
    Stop stop = { .lab_case = lab_case, .left = n_states, .path = path, .error = &cause };

    lab_case_visit(lab_case, MAX_CRASH_STATE, 0, save_last, &stop);
    *ret_crashed = stop.reached;
    if (!stop.reached) {
        lab_disk_save(lab_case->disks[0], path, &cause);
    }
    if (cause) {
        g_propagate_error(error, cause);
    }
    return cause == NULL;
}

LabSubject *lab_subject_with_past(const LabSubject *subject, guint n_operations, GRand *random,
                                  GError **error)
{
    g_autofree char *path = g_strconcat(g_ptr_array_index(subject->paths, 0), ".past", NULL);
    g_autoptr(GString) name = g_string_new(subject->name);
    g_autoptr(LabSubject) past = NULL;

    for (guint i = 0; i < n_operations; i++) {
        const LabSubject *from = past ? past : subject;
        const LabOperation *operation = any_operation(from, random);
        bool crashed;
        if (!run_on_copy(from, operation, random, path, &crashed, error)) {
            return NULL;
        }
        g_string_append_printf(name, "+%s%s", operation->name, crashed ? " (crashed)" : "");
        g_clear_pointer(&past, lab_subject_free);
        past = lab_subject_load(name->str, path, error);
        if (!past) {
            g_prefix_error(error, "%s: ", name->str);
            return NULL;
        }
    }
    return g_steal_pointer(&past);
}
