/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The laboratory's merges; the table that names them is in operations.c. */
#include "lab.h"

#include "ops/merge.h"
#include "util/error.h"

/* Where nothing records it. */
static const char *format_of(const char *path)
{
    return g_str_has_suffix(path, ".raw") ? "raw" : "qcow2";
}

bool lab_pull(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    const Qcow2PullOptions options = { 0 };
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    Qcow2MoveResult result;

    (void)subject;
    (void)which;
    return chain && qcow2_pull(chain, &options, &result, NULL, error);
}

/* The lowest layer becomes the backing file. */
bool lab_pull_to_base(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    const char *path = g_ptr_array_index(subject->paths, subject->paths->len - 1);
    const Qcow2PullOptions options = { .base = path, .base_format = format_of(path) };
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    Qcow2MoveResult result;

    (void)which;
    return chain && qcow2_pull(chain, &options, &result, NULL, error);
}

/* The layer below the image loses its backing file; what is above it reads the same. */
bool lab_pull_middle(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    const Qcow2PullOptions options = { 0 };
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    g_autoptr(Qcow2Chain) middle =
        chain && qcow2_chain_open_all(chain, error) ? qcow2_chain_tail(chain, 1, error) : NULL;
    Qcow2MoveResult result;

    (void)subject;
    (void)which;
    return middle && qcow2_pull(middle, &options, &result, NULL, error);
}

static bool rebase(const LabPlaces *places, const Qcow2RebaseOptions *options, GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    Qcow2MoveResult result;

    return chain && qcow2_rebase(chain, options, &result, NULL, error);
}

/* Over the layer after the next. */
static bool rebase_to_lower(const LabPlaces *places, const LabSubject *subject, bool name_only, bool compress,
                            GError **error)
{
    g_autofree char *path = g_path_get_basename(g_ptr_array_index(subject->paths, 2));
    const Qcow2RebaseOptions options = {
        .backing_name = path,
        .backing_format = format_of(path),
        .name_only = name_only,
        .compress = compress,
    };

    return rebase(places, &options, error);
}

bool lab_rebase(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return rebase_to_lower(places, subject, false, false, error);
}

bool lab_rebase_compressed(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return rebase_to_lower(places, subject, false, true, error);
}

bool lab_rebase_name(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return rebase_to_lower(places, subject, true, false, error);
}

bool lab_rebase_to_none(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    const Qcow2RebaseOptions options = { .backing_name = NULL };

    (void)subject;
    (void)which;
    return rebase(places, &options, error);
}

/* ---- Trim ------------------------------------------------------------------------------------------ */

static bool trim(const LabPlaces *places, bool shrink, GError **error)
{
    const Qcow2TrimOptions options = { .shrink = shrink };
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);
    Qcow2TrimResult result;

    return chain && qcow2_trim(chain, &options, &result, NULL, error);
}

bool lab_trim(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)subject;
    (void)which;
    return trim(places, false, error);
}

bool lab_trim_shrink(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)subject;
    (void)which;
    return trim(places, true, error);
}

/* ---- Commit ---------------------------------------------------------------------------------------- */

/* The layer that is this file; UINT_MAX: none is. */
static unsigned find_layer(const Qcow2Chain *chain, const char *path)
{
    for (unsigned i = 0; i < qcow2_chain_n_layers(chain); i++) {
        if (lab_same_file(qcow2_chain_layer(chain, i)->place->target, path)) {
            return i;
        }
    }
    return UINT_MAX;
}

/* Snapshots have to go on reading the same; @between: the layers between as well. */
static char **files_to_preserve(const Qcow2Merge *merge, bool between)
{
    GPtrArray *files = g_ptr_array_new();

    for (unsigned i = merge->top; i < merge->base; i++) {
        const Qcow2Layer *layer = qcow2_chain_layer(merge->chain, i);
        if (layer->image->header.n_snapshots > 0 || (between && i > merge->top)) {
            g_ptr_array_add(files, g_strdup(layer->place->target));
        }
    }
    g_ptr_array_add(files, NULL);
    return (char **)g_ptr_array_free(files, FALSE);
}

typedef enum { KEEP_IMAGE = 1 << 0, PRESERVE_BETWEEN = 1 << 1, WITH_BITMAPS = 1 << 2 } CommitFlags;

/* @top, @base: which of the subject's files. Other images of the folder are no part of it: force. */
static bool commit(const LabPlaces *places, const LabSubject *subject, unsigned top, unsigned base,
                   CommitFlags flags, GError **error)
{
    Qcow2CommitOptions options = {
        .keep_image = flags & KEEP_IMAGE, .bitmaps = flags & WITH_BITMAPS, .force = true,
    };
    g_auto(Qcow2CommitResult) result = { 0 };
    Qcow2Merge merge;

    qcow2_merge_init(&merge, &options, &result, NULL);
    merge.chain = lab_open(places, error);
    bool ok = merge.chain && qcow2_chain_open_all(merge.chain, error);
    if (ok) {
        merge.top = find_layer(merge.chain, g_ptr_array_index(subject->paths, top));
        merge.base = find_layer(merge.chain, g_ptr_array_index(subject->paths, base));
        bool is_chain = merge.top < merge.base && merge.base != UINT_MAX;
        options.preserve = is_chain ? files_to_preserve(&merge, flags & PRESERVE_BETWEEN) : NULL;
        ok = is_chain
           ? qcow2_merge_run(&merge, error)
           : qcow2_fail(error, QCOW2_ERROR_EXISTS, "that layer has left the chain already");
    }
    g_strfreev(options.preserve);
    qcow2_merge_clear(&merge);
    return ok;
}

bool lab_commit(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return commit(places, subject, 0, 1, 0, error);
}

bool lab_commit_bitmaps(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return commit(places, subject, 0, 1, WITH_BITMAPS, error);
}

bool lab_commit_keep(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return commit(places, subject, 0, 2, KEEP_IMAGE, error);
}

bool lab_commit_all(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return commit(places, subject, 0, 2, 0, error);
}

bool lab_commit_preserve(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return commit(places, subject, 0, 2, PRESERVE_BETWEEN, error);
}

/* The higher one of two between gets another backing file, and only when that holds what is read from it. */
bool lab_commit_preserve_two(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                             GError **error)
{
    (void)which;
    return commit(places, subject, 0, 3, PRESERVE_BETWEEN, error);
}

bool lab_commit_middle(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return commit(places, subject, 1, 2, 0, error);
}

bool lab_commit_middles(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error)
{
    (void)which;
    return commit(places, subject, 1, 3, 0, error);
}
