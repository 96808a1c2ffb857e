/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of merged layers that are deleted, and those that are not. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "move/output.h"
#include "ops/merge.h"
#include "util/error.h"

/* ---- Which ------------------------------------------------------------------------------------- */

bool qcow2_merge_is_deleted(const Qcow2Merge *merge, unsigned index)
{
    const Qcow2CommitOptions *options = merge->options;

    /* An image left as it was still reads through them. The top, too, may be preserved: for its snapshots. */
    return options->delete_merged && !(options->keep_image && merge->top == 0)
        && index >= MAX(merge->top, 1) && index < merge->base && !qcow2_merge_find_kept_layer(merge, index);
}

bool qcow2_merge_check_snapshots(const Qcow2Merge *merge, const char *name, const Qcow2Header *header,
                                 GError **error)
{
    return header->n_snapshots == 0 || merge->options->force
        || qcow2_fail(error, QCOW2_ERROR_IN_USE,
                      "'%s': --delete would delete its %u internal snapshots with it; --preserve %s"
                      " keeps the file, --force deletes all the same", name, header->n_snapshots, name);
}

bool qcow2_merge_check_delete(const Qcow2Merge *merge, GError **error)
{
    for (unsigned i = merge->top; i < merge->base; i++) {
        const Qcow2Layer *layer = qcow2_chain_layer(merge->chain, i);
        if (qcow2_merge_is_deleted(merge, i)
            && !qcow2_merge_check_snapshots(merge, layer->place->shown, &layer->image->header, error)) {
            return false;
        }
    }
    return true;
}

/* ---- Deleting ---------------------------------------------------------------------------------- */

static bool is_file(const Qcow2Place *place, const Qcow2IoIdentity *identity)
{
    struct stat st;

    return place->kind == QCOW2_PLACE_FILE && stat(place->target, &st) == 0 && S_ISREG(st.st_mode)
        && st.st_dev == identity->device && st.st_ino == identity->inode;
}

/* In this order: a link that leads nowhere is found again, a file without a name in the chain is not. */
static bool delete_file_and_link(Qcow2Merge *merge, const Qcow2Place *place, GError **error)
{
    g_autofree char *file = realpath(place->target, NULL);
    struct stat st;
    bool is_link = lstat(place->target, &st) == 0 && S_ISLNK(st.st_mode);

    if (!file || unlink(file) != 0 || (is_link && unlink(place->target) != 0)) {
        return qcow2_fail_errno(error, errno, "'%s': the merge is done, but deleting it failed",
                                place->shown);
    }
    g_ptr_array_add(merge->deleted, g_strdup(place->shown));
    if (is_link) {
        g_ptr_array_add(merge->deleted, g_strdup(file));
    }
    return qcow2_flush_folder_of(file, error) && (!is_link || qcow2_flush_folder_of(place->target, error));
}

/* Whoever made it may use it without the image; that cannot be seen. */
static void keep_data_file(Qcow2Merge *merge, const Qcow2Place *place, const char *name)
{
    g_autofree char *folder = qcow2_place_folder(place);
    bool is_whole = g_path_is_absolute(name) || !folder || *folder == '\0';

    g_ptr_array_add(merge->not_deleted, is_whole ? g_strdup(name) : g_build_filename(folder, name, NULL));
}

bool qcow2_merge_delete(Qcow2Merge *merge, const Qcow2Place *place, const Qcow2IoIdentity *identity,
                        const Qcow2Header *header, GError **error)
{
    if (!is_file(place, identity)) {
        g_ptr_array_add(merge->not_deleted, g_strdup(place->shown));
        return true;
    }
    if (!delete_file_and_link(merge, place, error)) {
        return false;
    }
    if (header->data_file) {
        keep_data_file(merge, place, header->data_file);
    }
    return true;
}
