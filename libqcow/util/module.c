/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"
#include "util/module.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"

/* The folder that this code was loaded from; NULL when the loader does not know a path. */
static char *own_folder(void)
{
    Dl_info info;

    /*
     * In a program that holds the library statically this is the program's argv[0]. A bare name was found
     * through $PATH: looking into the working directory for it would load whatever lies there.
     */
    if (!dladdr((void *) (uintptr_t) own_folder, &info) || !info.dli_fname || !strchr(info.dli_fname, '/')) {
        return NULL;
    }
    return g_path_get_dirname(info.dli_fname);
}

/*
 * Where modules can be, first choice first. The variable is for test programs, which hold the library
 * statically and lie in another folder of the build tree.
 */
static GStrv module_folders(void)
{
    GPtrArray *folders = g_ptr_array_new();
    const char *chosen = secure_getenv("QCOW2_MODULE_DIR");
    g_autofree char *own = own_folder();

    if (chosen) {
        g_ptr_array_add(folders, g_strdup(chosen));
    }
    if (own) {
        g_ptr_array_add(folders, g_strdup(own));
        g_ptr_array_add(folders, g_build_filename(own, "libqcow2", NULL));
    }
    g_ptr_array_add(folders, g_strdup(QCOW2_MODULE_DIR));
    g_ptr_array_add(folders, NULL);
    return (GStrv) g_ptr_array_free(folders, FALSE);
}

static char *find_module(const char *file_name)
{
    g_auto(GStrv) folders = module_folders();

    for (size_t i = 0; folders[i]; i++) {
        g_autofree char *path = g_build_filename(folders[i], file_name, NULL);
        if (g_file_test(path, G_FILE_TEST_IS_REGULAR)) {
            return g_steal_pointer(&path);
        }
    }
    return NULL;
}

void *qcow2_module_symbol(const char *module, const char *symbol, GError **error)
{
    g_autofree char *file_name = g_strdup_printf("libqcow2-%s.so", module);
    g_autofree char *path = find_module(file_name);
    void *address = NULL;

    if (!path) {
        qcow2_fail(error, QCOW2_ERROR_FAILED, "module %s is not installed in %s", file_name,
                   QCOW2_MODULE_DIR);
        return NULL;
    }
    /* It stays, since what it gives out points into it. */
    void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) {
        qcow2_fail(error, QCOW2_ERROR_FAILED, "module %s: %s", path, dlerror());
        return NULL;
    }
    address = dlsym(handle, symbol);
    if (!address) {
        qcow2_fail(error, QCOW2_ERROR_FAILED, "module %s has no %s: it belongs to another version", path,
                   symbol);
    }
    dlclose(handle);
    return address;
}
