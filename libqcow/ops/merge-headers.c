/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The headers that a commit writes in the end are laid out before it begins: with clusters of 512 bytes a
 * long name has no room, and the base would be overwritten by then.
 */
#include <string.h>

#include "chain/naming.h"
#include "format/header-switch.h"
#include "image/mark.h"
#include "ops/merge.h"
#include "util/error.h"

/* A header that is laid out anew, again and again, without a write. */
typedef struct Trial {
    GByteArray *cluster;
    Qcow2Header header;
} Trial;

static void clear_trial(Trial *trial)
{
    g_clear_pointer(&trial->cluster, g_byte_array_unref);
    qcow2_header_clear(&trial->header);
}

static bool begin_trial(const Qcow2Merge *merge, unsigned index, Trial *ret, GError **error)
{
    Qcow2Io *file = qcow2_chain_image(merge->chain, index)->file;

    *ret = (Trial) { .cluster = g_byte_array_new() };
    return qcow2_image_read_header(file, &ret->header, ret->cluster, error);
}

static bool lay_out(Trial *trial, GError **error)
{
    size_t len = trial->cluster->len;
    g_autofree uint8_t *next = g_try_malloc(len);

    if (!next) {
        return qcow2_fail_memory(error, len, "the header");
    }
    if (!qcow2_header_switch(trial->cluster->data, &trial->header, next, len, error)) {
        return false;
    }
    memcpy(trial->cluster->data, next, len);
    return true;
}

static void set_backing(const Qcow2Merge *merge, const char *name, Trial *trial)
{
    g_free(trial->header.backing_name);
    trial->header.backing_name = g_strdup(name);
    qcow2_header_set_ext(&trial->header, QCOW2_EXT_BACKING_FORMAT, merge->base_format,
                         strlen(merge->base_format));
}

static bool set_base(const Qcow2Merge *merge, unsigned index, Trial *trial, GError **error)
{
    g_autofree char *name = qcow2_chain_backing_name(merge->chain, index, merge->base, error);

    if (name) {
        set_backing(merge, name, trial);
    }
    return name != NULL;
}

static bool finish_trial(const char *name, Trial *trial, bool ok, GError **error)
{
    clear_trial(trial);
    if (!ok) {
        g_prefix_error(error, "nothing was written: '%s': ", name);
    }
    return ok;
}

/* What names base then. */
static bool try_above(const Qcow2Merge *merge, GError **error)
{
    unsigned above = MAX(merge->top, 1) - 1;
    Trial trial;
    bool ok = begin_trial(merge, above, &trial, error)
           && (!qcow2_merge_renames(merge, above) || set_base(merge, above, &trial, error));

    if (ok && merge->note) {
        gsize len;
        const void *bytes = g_bytes_get_data(merge->note, &len);
        qcow2_header_set_ext(&trial.header, QCOW2_EXT_MERGED, bytes, len);
    }
    ok = ok && lay_out(&trial, error);
    if (ok && merge->note) {
        qcow2_header_set_ext(&trial.header, QCOW2_EXT_MERGED, NULL, 0);
        ok = lay_out(&trial, error);
    }
    return finish_trial(qcow2_chain_layer_name(merge->chain, above), &trial, ok, error);
}

static bool try_noted(const Qcow2Merge *merge, unsigned index, GError **error)
{
    Trial trial;
    bool ok = begin_trial(merge, index, &trial, error);

    if (ok) {
        qcow2_header_set_ext(&trial.header, QCOW2_EXT_MERGED, merge->id, QCOW2_MERGE_ID_LEN);
        ok = lay_out(&trial, error);
    }
    if (ok && qcow2_merge_is_repointed(merge, index)) {
        ok = set_base(merge, index, &trial, error) && lay_out(&trial, error);
    }
    if (ok && qcow2_merge_is_retired(merge, index) && trial.header.layout.version >= 3) {
        const Qcow2Place *place = qcow2_chain_layer(merge->chain, merge->base)->place;
        g_autofree char *base = g_path_get_basename(place->target);
        qcow2_header_mark_merged(&trial.header, base);
        ok = lay_out(&trial, error);
    }
    return finish_trial(qcow2_chain_layer_name(merge->chain, index), &trial, ok, error);
}

static bool try_kept(const Qcow2Merge *merge, const Qcow2Dependent *dependent, GError **error)
{
    Trial trial = { .cluster = g_byte_array_new() };
    Qcow2Io *file = qcow2_chain_image(dependent->chain, 0)->file;
    bool ok = qcow2_image_read_header(file, &trial.header, trial.cluster, error);

    if (ok) {
        set_backing(merge, dependent->backing_name, &trial);
        ok = lay_out(&trial, error);
    }
    return finish_trial(qcow2_chain_layer_name(dependent->chain, 0), &trial, ok, error);
}

static bool check_headers(const Qcow2Merge *merge, GError **error)
{
    for (guint i = 0; i < merge->kept->len; i++) {
        const Qcow2Dependent *dependent = g_ptr_array_index(merge->kept, i);
        if (dependent->after && dependent->backing_name && !try_kept(merge, dependent, error)) {
            return false;
        }
    }
    for (unsigned i = merge->top; i < merge->base; i++) {
        if (qcow2_merge_is_noted(merge, i) && !try_noted(merge, i, error)) {
            return false;
        }
    }
    bool is_left_alone = merge->top == 0 && (merge->options->keep_image || !qcow2_merge_renames(merge, 0));
    return is_left_alone || try_above(merge, error);
}

bool qcow2_merge_lay_out_note(Qcow2Merge *merge, GError **error)
{
    qcow2_merge_make_note(merge, false);
    if (check_headers(merge, NULL)) {
        return true;
    }
    qcow2_merge_make_note(merge, true);
    return check_headers(merge, error);
}
