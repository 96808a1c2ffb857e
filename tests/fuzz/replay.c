/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a fuzz target over files that are kept, in every build and without libFuzzer, so that what was
 * found once stays found. The arguments are files and folders. Prints TAP: a point for each file, since
 * a target has no verdict but to survive.
 */
#include "fuzz/fuzz.h"

#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static bool replay_file(const char *path, unsigned number)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *bytes = NULL;
    g_autofree char *name = g_path_get_basename(path);
    size_t len_bytes;

    if (!g_file_get_contents(path, &bytes, &len_bytes, &error)) {
        printf("not ok %u - %s: %s\n", number, name, error->message);
        return false;
    }

    /* Said first, so that the log names the file that ends the program. */
    printf("# %s\n", path);
    fflush(stdout);
    LLVMFuzzerTestOneInput((const uint8_t *) bytes, len_bytes);
    printf("ok %u - replay: %s\n", number, name);
    return true;
}

static void add_files(GPtrArray *files, const char *path)
{
    g_autoptr(GDir) folder = g_dir_open(path, 0, NULL);
    const char *name;

    if (!folder) {
        g_ptr_array_add(files, g_strdup(path));
        return;
    }
    while ((name = g_dir_read_name(folder))) {
        g_autofree char *below = g_build_filename(path, name, NULL);
        add_files(files, below);
    }
}

static int compare_paths(const void *a, const void *b)
{
    return g_strcmp0(*(char *const *) a, *(char *const *) b);
}

int main(int argc, char **argv)
{
    g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(g_free);
    bool ok = true;

    for (int i = 1; i < argc; i++) {
        add_files(files, argv[i]);
    }
    g_ptr_array_sort(files, compare_paths);
    printf("1..%u\n", files->len);
    for (unsigned i = 0; i < files->len; i++) {
        ok &= replay_file(g_ptr_array_index(files, i), i + 1);
    }
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
