/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What must be the same for going on with an interrupted copy. */
#include <string.h>
#include <sys/stat.h>

#include "ops/copy.h"
#include "util/error.h"

static bool add_identity(GString *text, const Qcow2IoIdentity *identity, const char *name, GError **error)
{
    if (!identity->known) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                          "'%s': it cannot be told whether it is the same as before, as it can of a file:"
                          " such a copy cannot be resumed",
                          name);
    }
    g_string_append_printf(text,
                           "file %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64 ".%09" PRId64 "\n",
                           identity->device, identity->inode, identity->size, identity->mtime_sec,
                           identity->mtime_nsec);
    return true;
}

static bool add_chain(GString *text, Qcow2Chain *chain, GError **error)
{
    if (!qcow2_chain_open_all(chain, error)) {
        return false;
    }
    for (unsigned i = 0; i < qcow2_chain_n_layers(chain); i++) {
        const Qcow2Layer *layer = qcow2_chain_layer(chain, i);
        const char *name = qcow2_chain_layer_name(chain, i);
        if (!qcow2_chain_open_data(chain, i, error) || !add_identity(text, &layer->identity, name, error)
            || (layer->has_data_identity && !add_identity(text, &layer->data_identity, name, error))) {
            return false;
        }
        /* The same file is another disk in another format, or from another offset on. */
        g_string_append_printf(text, "layer %d %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", layer->image->kind,
                               layer->place->raw_offset, layer->place->raw_size, layer->image->size);
    }
    return true;
}

static void add_options(GString *text, const Qcow2Copy *copy)
{
    const Qcow2CopyOptions *options = copy->options;
    const char *words[] = { options->output_format, options->create_options, options->backing_name,
                            options->backing_format };

    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        g_string_append_printf(text, "%zu %s\n", words[i] ? strlen(words[i]) : 0, words[i] ? words[i] : "");
    }
    g_string_append_printf(text, "%d %d %d %" PRIu64 " %" PRIu64 "\n", options->compress, options->salvage,
                           options->no_reflink, copy->sparse.min, copy->size);
}

/* Also which file is gone on with: a journal may be left over from another one. */
static bool add_part(GString *text, Qcow2Target *target, GError **error)
{
    Qcow2IoIdentity identity;

    if (!qcow2_io_identify(qcow2_target_io(target), &identity, error)) {
        return false;
    }
    g_string_append_printf(text, "part %" PRIu64 " %" PRIu64 "\n", identity.device, identity.inode);
    return true;
}

static bool add_sources(GString *text, const Qcow2Copy *copy, GError **error)
{
    for (size_t i = 0; i < copy->n_sources; i++) {
        g_string_append_printf(text, "state %s\n", copy->sources[i]->name);
        if (!add_chain(text, copy->sources[i]->chain, error)) {
            return false;
        }
    }
    return true;
}

/* A file that was made just now, or is shorter than it was, is not what a journal speaks of. */
static bool is_whole(Qcow2Target *target, uint64_t min_bytes, bool *ret, GError **error)
{
    uint64_t size;

    *ret = qcow2_output_was_there(qcow2_target_output(target));
    if (*ret) {
        if (!qcow2_io_get_size(qcow2_target_io(target), &size, error)) {
            return false;
        }
        *ret = size >= min_bytes;
    }
    return true;
}

/*
 * Bytes of a disk are where the guest has them in raw files, and in data files; how long a qcow2 image must
 * be is in its own record.
 */
static bool check_parts(Qcow2Copy *copy, const Qcow2Creation *creation, Qcow2Target *target,
                        Qcow2Target *data, GError **error)
{
    uint64_t end = copy->resume.guest_end;
    bool target_is_whole, data_is_whole = true;

    if (!is_whole(target, creation->raw ? end : 0, &target_is_whole, error)
        || (data && !is_whole(data, end, &data_is_whole, error))) {
        return false;
    }
    if (target_is_whole && data_is_whole) {
        return true;
    }
    copy->resume = (Qcow2JournalRecord) { 0 };
    return qcow2_journal_restart(copy->journal, error);
}

bool qcow2_copy_open_journal(Qcow2Copy *copy, const Qcow2Creation *creation, Qcow2Target *target,
                             Qcow2Target *data, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);

    if (!copy->options->resume) {
        return true;
    }
    if (!add_sources(text, copy, error)
        || (creation->backing && !add_chain(text, creation->backing, error))
        || !add_part(text, target, error) || (data && !add_part(text, data, error))) {
        return false;
    }
    add_options(text, copy);
    g_autofree char *digest = g_compute_checksum_for_string(G_CHECKSUM_SHA256, text->str, (gssize)text->len);
    g_autofree char *path =
        g_strconcat(qcow2_output_target(qcow2_target_output(target)), ".qcow-journal", NULL);
    copy->journal = qcow2_journal_open(path, digest, &copy->resume, error);
    return copy->journal && check_parts(copy, creation, target, data, error);
}

static void give_up(const Qcow2Copy *copy, Qcow2Target *target)
{
    Qcow2Output *output = target ? qcow2_target_output(target) : NULL;

    if (output && (copy->journal || !qcow2_output_was_there(output))) {
        qcow2_output_discard(output);
    }
}

void qcow2_copy_give_up(Qcow2Copy *copy, Qcow2Target *target, Qcow2Target *data)
{
    if (!copy->options->resume || (copy->journal && !qcow2_journal_is_empty(copy->journal))) {
        return;
    }
    if (copy->journal) {
        qcow2_journal_remove(copy->journal);
    }
    give_up(copy, target);
    give_up(copy, data);
}

bool qcow2_copy_publish(Qcow2Copy *copy, Qcow2Target *target, GError **error)
{
    if (!qcow2_copy_end(copy, error)) {
        return false;
    }
    /* Before the file gets its name: a journal that is left over would speak of a file that is no part. */
    if (copy->journal) {
        if (!qcow2_io_flush(qcow2_target_io(target), error)) {
            return false;
        }
        qcow2_journal_remove(copy->journal);
    }
    return qcow2_target_publish(target, error);
}
