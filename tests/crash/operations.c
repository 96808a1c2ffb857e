/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the laboratory runs: a line in the table at the end, and a function that runs it with its arguments.
 */
#include "lab.h"

#include <inttypes.h>
#include <string.h>

const LabState *lab_snapshot(const LabSubject *subject, LabWhich which)
{
    guint n = subject->contents->states->len - 1;

    if (which == LAB_NONE || n == 0) {
        return NULL;
    }
    return lab_state(subject->contents, which == LAB_FIRST ? 1 : which == LAB_LAST ? n : (n + 1) / 2);
}

bool lab_applies(const LabOperation *operation, const LabSubject *subject)
{
    unsigned n_written = operation->n_below + (operation->n_below > 0 || operation->writes_data);

    return MAX(operation->n_below, operation->n_lower) < subject->files->len
        && n_written <= subject->n_in_memory
        && (operation->which == LAB_NONE || lab_snapshot(subject, operation->which));
}

static char *word_for(const LabSubject *subject, LabWhich which)
{
    return g_strconcat("id:", lab_snapshot(subject, which)->id, NULL);
}

static bool run_create(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);

    (void)subject;
    (void)which;
    return chain && qcow2_snapshot_create(chain, "created in the laboratory", error);
}

/* A name that makes the snapshot table longer than clusters of most sizes. */
static bool run_create_long(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                            GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    char name[5001];

    (void)subject;
    (void)which;
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    return chain && qcow2_snapshot_create(chain, name, error);
}

static bool run_apply(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    g_autofree char *word = word_for(subject, which);

    return chain && qcow2_snapshot_apply(chain, word, error);
}

static bool run_delete(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    g_autofree char *word = word_for(subject, which);

    return chain && qcow2_snapshot_delete(chain, word, error);
}

static bool run_rename(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    g_autofree char *word = word_for(subject, which);

    return chain && qcow2_snapshot_rename(chain, word, "renamed in the laboratory", error);
}

/* ---- Sizes and features ------------------------------------------------------------------------------- */

static bool resize(const LabPlaces *places, uint64_t size, const char *preallocation, GError **error)
{
    const Qcow2ResizeOptions options = { .size = size, .shrink = true, .preallocation = preallocation };
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);

    return chain && qcow2_resize(chain, &options, NULL, error);
}

static uint64_t disk_size(const LabSubject *subject)
{
    return lab_state(subject->contents, 0)->size;
}

/* By some clusters and a sector. */
static bool run_grow(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return resize(places, disk_size(subject) + 300 * 512 + 512, NULL, error);
}

/* With a longer L1 table, unless clusters are large. */
static bool run_grow_far(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return resize(places, disk_size(subject) + (UINT64_C(64) << 20), NULL, error);
}

static bool run_grow_preallocated(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                                  GError **error)
{
    (void)which;
    return resize(places, disk_size(subject) + 300 * 512, "full", error);
}

static bool run_shrink(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return resize(places, disk_size(subject) / 1024 * 512, NULL, error);
}

static bool run_shrink_to_a_sector(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                                   GError **error)
{
    (void)subject;
    (void)which;
    return resize(places, 512, NULL, error);
}

static bool amend(const LabPlaces *places, const char *options, GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);

    return chain && qcow2_amend(chain, options, NULL, error);
}

static bool run_amend_old(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)subject;
    (void)which;
    return amend(places, "compat=0.10,refcount_bits=16,lazy_refcounts=off", error);
}

static bool run_amend_new(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)subject;
    (void)which;
    return amend(places, "compat=1.1,lazy_refcounts=on", error);
}

static bool run_amend_wide(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)subject;
    (void)which;
    return amend(places, "compat=1.1,refcount_bits=64", error);
}

static bool run_amend_narrow(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                             GError **error)
{
    (void)subject;
    (void)which;
    return amend(places, "compat=1.1,refcount_bits=4", error);
}

/* Two changes: the version, and then the size. */
static bool run_amend_size(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    g_autofree char *options = g_strdup_printf("compat=1.1,size=%" PRIu64, disk_size(subject) + (1 << 20));

    (void)which;
    return amend(places, options, error);
}

/* ---- Operations that take a file ---------------------------------------------------------------------- */

/* Beside the image, once for all runs; lab_subject_load() removes that of another image of this name. */
static char *delta_file(const LabSubject *subject, LabWhich which, GError **error)
{
    const char *image = g_ptr_array_index(subject->paths, 0);
    Qcow2OpenOptions open_options = { .n_threads = 1 };
    const Qcow2ExportOptions export_options = { .cache = QCOW2_CACHE_UNSAFE };
    g_autofree char *path = g_strdup_printf("%s.delta-%d", image, which);
    g_autofree char *word = which == LAB_NONE ? g_strdup("@active") : word_for(subject, which);

    if (g_file_test(path, G_FILE_TEST_EXISTS)) {
        return g_steal_pointer(&path);
    }
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open(image, &open_options, error);
    g_autoptr(Qcow2State) from = chain ? qcow2_state_open(chain, "@empty", error) : NULL;
    g_autoptr(Qcow2State) to = from ? qcow2_state_open(chain, word, error) : NULL;
    bool ok = to && qcow2_export_delta(from, to, path, &export_options, NULL, NULL, error);
    return ok ? g_steal_pointer(&path) : NULL;
}

/* What the snapshot was becomes the active layer, and one more snapshot, from a file. */
static bool run_import(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    const Qcow2ImportOptions options = { .name = "imported in the laboratory", .force = true };
    g_autofree char *delta = delta_file(subject, which, error);
    g_autoptr(Qcow2Chain) chain = delta ? lab_open(places, error) : NULL;

    return chain && qcow2_import_delta(chain, delta, &options, NULL, NULL, error);
}

static bool run_vmstate_import(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                               GError **error)
{
    g_autofree char *path = g_strconcat(g_ptr_array_index(subject->paths, 0), ".vmstate", NULL);
    g_autofree char *word = word_for(subject, which);
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    g_autofree char *bytes = g_strnfill(100001, 'v');

    return chain
        && (g_file_test(path, G_FILE_TEST_EXISTS) || g_file_set_contents(path, bytes, -1, error))
        && qcow2_vmstate_import(chain, word, path, NULL, error);
}

static bool run_vmstate_drop(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                             GError **error)
{
    g_autofree char *word = word_for(subject, which);
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);

    return chain && qcow2_vmstate_drop(chain, word, error);
}

/* ---- Repair -------------------------------------------------------------------------------------------- */

static bool repair(const LabPlaces *places, Qcow2Repair what, GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    Qcow2CheckResult result;

    return chain && qcow2_repair(chain, what, NULL, NULL, &result, NULL, error);
}

static bool run_repair_leaks(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                             GError **error)
{
    (void)subject;
    (void)which;
    return repair(places, QCOW2_REPAIR_LEAKS, error);
}

static bool run_repair_all(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)subject;
    (void)which;
    return repair(places, QCOW2_REPAIR_ALL, error);
}

const LabOperation lab_operations[] = {
    { "create", run_create, .again = QCOW2_ERROR_EXISTS },
    { "create-long-name", run_create_long, .again = QCOW2_ERROR_EXISTS },
    { "apply-first", run_apply, LAB_FIRST, .again = LAB_SUCCEEDS },
    { "apply-middle", run_apply, LAB_MIDDLE, .again = LAB_SUCCEEDS },
    { "apply-last", run_apply, LAB_LAST, .again = LAB_SUCCEEDS },
    { "delete-first", run_delete, LAB_FIRST, .again = QCOW2_ERROR_NOT_FOUND },
    { "delete-middle", run_delete, LAB_MIDDLE, .again = QCOW2_ERROR_NOT_FOUND },
    { "delete-last", run_delete, LAB_LAST, .again = QCOW2_ERROR_NOT_FOUND },
    { "rename", run_rename, LAB_MIDDLE, .again = LAB_SUCCEEDS },
    { "resize-grow", run_grow, .writes_data = true, .again = LAB_SUCCEEDS },
    { "resize-grow-far", run_grow_far, .writes_data = true, .again = LAB_SUCCEEDS },
    { "resize-grow-preallocated", run_grow_preallocated, .writes_data = true, .again = QCOW2_ERROR_EXISTS },
    { "resize-shrink", run_shrink, .writes_data = true, .again = LAB_SUCCEEDS,
      .tidies_up = true },
    { "resize-shrink-to-a-sector", run_shrink_to_a_sector, .writes_data = true, .again = LAB_SUCCEEDS,
      .tidies_up = true },
    { "amend-old", run_amend_old, .again = LAB_SUCCEEDS },
    { "amend-new", run_amend_new, .again = LAB_SUCCEEDS, .may_tear = true },
    { "amend-wide", run_amend_wide, .again = LAB_SUCCEEDS },
    { "amend-narrow", run_amend_narrow, .again = LAB_SUCCEEDS },
    { "amend-size", run_amend_size, .writes_data = true, .again = LAB_SUCCEEDS },
    { "import-active", run_import, .again = QCOW2_ERROR_EXISTS },
    { "import-first", run_import, LAB_FIRST, .again = QCOW2_ERROR_EXISTS },
    { "bitmap-add", lab_bitmap_add, .again = QCOW2_ERROR_EXISTS, .sets_bitmaps = true },
    { "bitmap-remove", lab_bitmap_remove, .again = QCOW2_ERROR_NOT_FOUND, .sets_bitmaps = true },
    { "bitmap-clear", lab_bitmap_clear, .again = LAB_SUCCEEDS, .sets_bitmaps = true },
    { "bitmap-disable", lab_bitmap_disable, .again = LAB_SUCCEEDS, .sets_bitmaps = true },
    { "bitmap-merge", lab_bitmap_merge, .again = LAB_SUCCEEDS, .sets_bitmaps = true },
    { "bitmap-from-states", lab_bitmap_states, .again = QCOW2_ERROR_EXISTS, .sets_bitmaps = true },
    { "vmstate-import", run_vmstate_import, LAB_LAST, .again = LAB_SUCCEEDS },
    { "vmstate-drop", run_vmstate_drop, LAB_FIRST, .again = QCOW2_ERROR_EXISTS },
    { "pull", lab_pull, .n_lower = 1, .writes_data = true, .again = QCOW2_ERROR_EXISTS },
    { "pull-to-base", lab_pull_to_base, .n_lower = 2, .writes_data = true, .again = QCOW2_ERROR_EXISTS },
    { "pull-middle", lab_pull_middle, .n_below = 1, .n_lower = 2, .again = QCOW2_ERROR_EXISTS },
    { "rebase", lab_rebase, .n_lower = 2, .writes_data = true, .again = LAB_SUCCEEDS },
    { "rebase-compressed", lab_rebase_compressed, .n_lower = 2, .writes_data = true, .again = LAB_SUCCEEDS },
    { "rebase-name-only", lab_rebase_name, .n_lower = 2, .again = LAB_SUCCEEDS, .may_tear = true,
      .sets_bitmaps = true },   /* none: what the image reads as is said to be the same */
    { "rebase-to-none", lab_rebase_to_none, .n_lower = 1, .writes_data = true, .again = LAB_SUCCEEDS },
    { "commit", lab_commit, .n_below = 1, .again = LAB_SUCCEEDS },
    { "commit-bitmaps", lab_commit_bitmaps, .n_below = 1, .again = LAB_SUCCEEDS, .sets_bitmaps = true },
    { "commit-keep", lab_commit_keep, .n_below = 2, .again = LAB_SUCCEEDS },
    { "commit-all", lab_commit_all, .n_below = 2, .again = LAB_SUCCEEDS },
    { "commit-preserve", lab_commit_preserve, .n_below = 2, .again = LAB_SUCCEEDS },
    { "commit-preserve-two", lab_commit_preserve_two, .n_below = 3, .again = LAB_SUCCEEDS },
    { "commit-middle", lab_commit_middle, .n_below = 2, .again = QCOW2_ERROR_EXISTS },
    { "commit-middles", lab_commit_middles, .n_below = 3, .again = QCOW2_ERROR_EXISTS },
    { "trim", lab_trim, .again = LAB_SUCCEEDS, .may_tear = true, .tidies_up = true },
    { "trim-shrink", lab_trim_shrink, .again = LAB_SUCCEEDS, .may_tear = true, .tidies_up = true },
    { "repair-leaks", run_repair_leaks, .again = LAB_SUCCEEDS },
    { "repair-all", run_repair_all, .again = LAB_SUCCEEDS, .repairs = true },
    { NULL },
};
