/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ops/rehearse.h"

#include "chain/chain.h"
#include "io/trial.h"

bool qcow2_check_room(Qcow2NeedFunc func, void *data, GError **error)
{
    for (Qcow2NeedStep step = QCOW2_NEED_BY_SIZE; step <= QCOW2_NEED_BY_REHEARSAL; step++) {
        g_autoptr(Qcow2Room) room = qcow2_room_new();
        bool is_last = step == QCOW2_NEED_BY_REHEARSAL;
        if (!func(data, step, room, error)) {
            return false;
        }
        if (qcow2_room_check(room, is_last ? error : NULL)) {
            return true;
        }
    }
    return false;
}

/* Metadata that is written when states of up to @size bytes change, at most. */
static uint64_t need_tables(const Qcow2Image *image, uint64_t size, uint64_t n_states)
{
    const Qcow2Layout *layout = &image->header.layout;
    uint64_t cluster_size = layout->cluster_size;

    if (image->kind == QCOW2_IMAGE_RAW) {
        return 0;
    }
    uint64_t n_clusters = qcow2_div_round_up(size, cluster_size);
    uint64_t n_l2 = qcow2_div_round_up(n_clusters, BIT(layout->l2_bits));
    uint64_t n_l1 = qcow2_div_round_up(n_l2 * sizeof(uint64_t), cluster_size);
    /* Counts of all that there is and of what comes, their table, and what both of them count. */
    uint64_t n_counted = 2 * n_clusters + (n_l2 + n_l1) * (n_states + 1);
    uint64_t n_blocks = qcow2_div_round_up(n_counted, BIT(layout->refblock_bits)) + 2;

    return ((n_l2 + n_l1) * n_states + 2 * n_blocks) * cluster_size;
}

/* A device or an export does not get longer. */
static bool check_end(Qcow2Room *room, Qcow2Image *image, uint64_t needed, GError **error)
{
    uint64_t size;

    if (image->kind == QCOW2_IMAGE_RAW || qcow2_io_can_grow(image->file) || qcow2_io_is_trial(image->file)) {
        return true;
    }
    g_autoptr(Qcow2Batch) batch = qcow2_batch_begin(image, error);
    if (!batch || !qcow2_io_get_size(image->file, &size, error)) {
        return false;
    }
    size = qcow2_align_down(size, image->header.layout.cluster_size);
    if (needed > size - MIN(size, qcow2_batch_end(batch))) {
        qcow2_room_doubt(room);
    }
    return true;
}

bool qcow2_need_in_image(Qcow2Room *room, Qcow2Image *image, uint64_t data_bytes, uint64_t size,
                         uint64_t n_states, GError **error)
{
    uint64_t tables = need_tables(image, size, n_states);
    bool has_data_file = image->data && image->data != image->file;

    qcow2_room_need(room, has_data_file ? image->data : image->file, data_bytes);
    qcow2_room_need(room, image->file, tables);
    return check_end(room, image, tables + (has_data_file ? 0 : data_bytes), error);
}

/* ---- Rehearsals -------------------------------------------------------------------------------- */

/* An image whose places are on trial for a while. */
typedef struct Rehearsal {
    Qcow2Image *image;
    Qcow2Io *file, *data;     /* its own ones */
} Rehearsal;

static bool begin(Rehearsal *self, Qcow2Image *image, GError **error)
{
    bool has_data_file = image->data && image->data != image->file;
    g_autoptr(Qcow2Io) file = qcow2_io_trial_new(image->file, error);
    g_autoptr(Qcow2Io) data = file && has_data_file ? qcow2_io_trial_new(image->data, error) : NULL;

    if (!file || (has_data_file && !data)) {
        return false;
    }
    *self = (Rehearsal) { .image = image, .file = image->file, .data = image->data };
    image->data = has_data_file ? g_steal_pointer(&data) : image->data ? qcow2_io_ref(file) : NULL;
    image->file = g_steal_pointer(&file);
    return true;
}

/* What a rehearsal takes itself is given back before it is asked how much is free. */
static void end(Rehearsal *self, Qcow2Room *room, bool *ret_is_known)
{
    Qcow2Image *image = self->image;
    Qcow2TrialSums file = { 0 }, data = { 0 };

    (void)qcow2_io_trial_get(image->file, &file);
    if (self->data && self->data != self->file) {
        (void)qcow2_io_trial_get(image->data, &data);
    }
    *ret_is_known = !file.scratch_failed && !data.scratch_failed;
    g_clear_pointer(&image->data, qcow2_io_unref);
    g_clear_pointer(&image->file, qcow2_io_unref);
    image->file = self->file;
    image->data = self->data;
    qcow2_room_need(room, image->file, file.needed);
    if (data.below) {
        qcow2_room_need(room, image->data, data.needed);
    }
}

bool qcow2_rehearse(Qcow2Image *image, Qcow2RehearseFunc func, void *data, Qcow2Room *room, GError **error)
{
    Rehearsal rehearsal;
    bool is_known;

    if (!begin(&rehearsal, image, NULL)) {
        return true;
    }
    bool ok = func(data, error);
    end(&rehearsal, room, &is_known);
    if (!ok && !is_known) {
        g_clear_error(error);
        return true;
    }
    return ok;
}

bool qcow2_rehearse_alone(Qcow2Image *image, Qcow2RehearseAloneFunc func, void *data, Qcow2Room *room,
                          GError **error)
{
    const Qcow2OpenOptions options = {
        .format = "qcow2", .force_share = true, .n_threads = image->n_threads,
    };
    Rehearsal rehearsal;
    bool is_known;

    if (!begin(&rehearsal, image, NULL)) {
        return true;
    }
    g_autoptr(Qcow2Chain) alone = qcow2_chain_open_io(image->file, &options, error);
    if (alone && image->data && image->data != image->file) {
        qcow2_chain_image(alone, 0)->data = qcow2_io_ref(image->data);
    }
    bool ok = alone && func(qcow2_chain_image(alone, 0), data, error);
    end(&rehearsal, room, &is_known);
    if (!ok && !is_known) {
        g_clear_error(error);
        return true;
    }
    return ok;
}
