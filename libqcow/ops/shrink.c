/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shrink: the file as small as it can be.
 *
 *   step                                                   a crash afterwards leaves
 *   1  clusters of data from the end are copied into free  the image as it was
 *      ones before it; new tables and counts; flush
 *   2  one header write; flush                             the image as it shall be, its file still long
 *   3  metadata that is left at the end, likewise;         the same
 *      the file is cut
 *   4  holes are punched where nothing is                  the same
 *
 * Steps 1 to 3 until nothing is gained any more. Streams that share a host cluster, or go on in the next one,
 * move together or not at all.
 */
#include "ops/shrink.h"

#include "format/l2.h"
#include "image/resize.h"
#include "image/rewrite-tables.h"
#include "image/snapshot-write.h"
#include "image/tables.h"
#include "util/error.h"
#include "util/progress.h"

/* Clusters that must stay together. */
typedef struct Group {
    uint64_t first, n;            /* host clusters */
    uint64_t to;                  /* where they go */
} Group;

typedef struct Shrink {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2Batch *batch;
    Qcow2Progress *progress;
    uint64_t n_clusters;          /* counted ones */
    uint64_t end;                 /* where the last one in use ends */
    uint64_t n_free;              /* before the one that is looked at, and not promised */
    uint64_t n_metadata;          /* behind it: they want to move in the end */
    uint64_t *is_data, *goes_on;  /* bits: guest data; its streams go on in the next cluster */
    uint64_t gain;                /* clusters by which the file can become shorter */
    GArray *groups;               /* Group, from the end on */
    uint64_t n_moved;
} Shrink;

static bool get_bit(const uint64_t *bits, uint64_t index)
{
    return bits[index / 64] >> index % 64 & 1;
}

static void set_bit(uint64_t *bits, uint64_t index)
{
    bits[index / 64] |= BIT(index % 64);
}

/* ---- What is where ----------------------------------------------------------------------------- */

static bool note_reference(const Qcow2Reference *reference, void *data, GError **error)
{
    Shrink *self = data;
    uint64_t first = reference->host_offset >> self->layout->cluster_bits;
    uint64_t last = (reference->host_offset + reference->len_bytes - 1) >> self->layout->cluster_bits;

    (void)error;
    for (uint64_t i = first; i <= last && i < self->n_clusters; i++) {
        set_bit(self->is_data, i);
        if (reference->compressed && i < last) {
            set_bit(self->goes_on, i);
        }
    }
    return true;
}

static bool note_table(uint64_t l1_index, uint64_t host_offset, const uint8_t *raw, void *data,
                       GError **error)
{
    (void)l1_index;
    (void)host_offset;
    return qcow2_each_reference(&((Shrink *)data)->image->header.layout, raw, note_reference, data, error);
}

static bool note_tables(Shrink *self, GError **error)
{
    Qcow2View view = qcow2_image_active_view(self->image);

    if (!qcow2_each_table(self->image, &view, note_table, self, error)) {
        return false;
    }
    for (guint i = 0; i < self->image->snapshots->len; i++) {
        const Qcow2SnapshotEntry *entry = &g_array_index(self->image->snapshots, Qcow2SnapshotEntry, i);
        if (!qcow2_image_snapshot_view(self->image, entry, &view, error)
            || !qcow2_each_table(self->image, &view, note_table, self, error)) {
            return false;
        }
    }
    return true;
}

static bool look_around(Shrink *self, GError **error)
{
    size_t len;

    self->n_clusters = qcow2_counts_cache_end(qcow2_batch_counts(self->batch));
    len = (self->n_clusters / 64 + 1) * 8;
    self->is_data = g_try_malloc0(len);
    self->goes_on = g_try_malloc0(len);
    if (!self->is_data || !self->goes_on) {
        return qcow2_fail_memory(error, 2 * len, "a bit for each cluster");
    }
    return note_tables(self, error);
}

/* ---- What moves -------------------------------------------------------------------------------- */

static bool is_free(const Shrink *self, uint64_t cluster, bool *ret_free, GError **error)
{
    uint64_t count;

    if (!qcow2_counts_cache_get(qcow2_batch_counts(self->batch), cluster, &count, error)) {
        return false;
    }
    *ret_free = count == 0;
    return true;
}

/* The next free run at or after *first, below @end. */
static bool next_free_run(const Shrink *self, uint64_t *first, uint64_t end, uint64_t *ret_n, GError **error)
{
    bool free = false;

    *ret_n = 0;
    for (; *first < end && !free; (*first)++) {
        if (!is_free(self, *first, &free, error)) {
            return false;
        }
    }
    if (!free) {
        return true;
    }
    (*first)--;
    for (; *first + *ret_n < end; (*ret_n)++) {
        if (!is_free(self, *first + *ret_n, &free, error)) {
            return false;
        }
        if (!free) {
            break;
        }
    }
    return true;
}

/* The group that ends at @last, which holds data. */
static Group group_at(const Shrink *self, uint64_t last)
{
    Group group = { last, 1, 0 };

    while (group.first > 0 && get_bit(self->goes_on, group.first - 1)) {
        group.first--;
        group.n++;
    }
    return group;
}

static bool count_free(Shrink *self, GError **error)
{
    bool free;

    for (uint64_t i = 0; i < self->n_clusters; i++) {
        if (!is_free(self, i, &free, error)) {
            return false;
        }
        self->n_free += free;
        self->end = free ? self->end : i + 1;
    }
    return true;
}

/* The lowest run of free clusters that is left for a group; it begins with *at. */
static bool find_place(Shrink *self, const Group *group, uint64_t *at, uint64_t *n, GError **error)
{
    while (*n < group->n && *at + *n < group->first) {
        *at += *n;
        if (!next_free_run(self, at, group->first, n, error)) {
            return false;
        }
        if (*n == 0) {
            break;
        }
    }
    return true;
}

/*
 * @last: where the data ends that comes next, from the end down. It stays when no place is before it, or
 * what is left is needed for the metadata that was passed over.
 */
static bool choose_group(Shrink *self, uint64_t last, uint64_t *at, uint64_t *n, bool *ret_chosen,
                         GError **error)
{
    Group group = group_at(self, last - 1);

    *ret_chosen = false;
    if (!find_place(self, &group, at, n, error)) {
        return false;
    }
    if (*n < group.n || *at + group.n > group.first || self->n_free < group.n + self->n_metadata) {
        return true;
    }
    *ret_chosen = true;
    group.to = *at;
    g_array_append_val(self->groups, group);
    self->n_free -= group.n;
    *at += group.n;
    *n -= group.n;
    return true;
}

/* From the end down, each group goes to the lowest place that is left. */
static bool choose_groups(Shrink *self, GError **error)
{
    uint64_t at = 0, n = 0, cluster = self->n_clusters, n_free = self->n_free;
    bool goes_on = true;

    while (cluster > 0 && goes_on) {
        if (get_bit(self->is_data, cluster - 1)) {
            if (!choose_group(self, cluster, &at, &n, &goes_on, error)) {
                return false;
            }
            cluster = goes_on ? g_array_index(self->groups, Group, self->groups->len - 1).first : cluster;
            continue;
        }
        bool free;
        if (!is_free(self, --cluster, &free, error)) {
            return false;
        }
        self->n_free -= free;
        self->n_metadata += !free;
    }
    self->gain = MIN(n_free, self->end - MIN(self->end, MAX(at, cluster)));
    return true;
}

/* ---- Moving ------------------------------------------------------------------------------------ */

static int compare_groups(const void *a, const void *b)
{
    const Group *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static const Group *find_group(const Shrink *self, uint64_t cluster)
{
    guint low = 0, high = self->groups->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        const Group *group = &g_array_index(self->groups, Group, middle);
        if (cluster < group->first) {
            high = middle;
        } else if (cluster >= group->first + group->n) {
            low = middle + 1;
        } else {
            return group;
        }
    }
    return NULL;
}

static bool copy_clusters(Qcow2Io *file, uint64_t to, uint64_t from, uint64_t len, GError **error)
{
    size_t step = MIN(len, UINT64_C(1) << 20);
    g_autofree uint8_t *buffer = g_try_malloc(step);

    if (!buffer) {
        return qcow2_fail_memory(error, step, "a copy buffer");
    }
    for (uint64_t done = 0; done < len; done += step) {
        size_t n = MIN(step, len - done);
        if (!qcow2_io_read(file, from + done, buffer, n, error)
            || !qcow2_io_write_named(file, to + done, buffer, n, error)) {
            return false;
        }
    }
    return true;
}

static bool copy_groups(Shrink *self, GError **error)
{
    unsigned bits = self->layout->cluster_bits;

    for (guint i = 0; i < self->groups->len; i++) {
        const Group *group = &g_array_index(self->groups, Group, i);
        if (!qcow2_batch_take_at(self->batch, group->to, group->n, error)
            || !copy_clusters(self->image->file, group->to << bits, group->first << bits, group->n << bits,
                              error)
            || !qcow2_progress_advance(self->progress, group->n << bits, error)) {
            return false;
        }
        self->n_moved += group->n;
    }
    return true;
}

static bool move_entry(Shrink *self, Qcow2RewrittenTable *table, uint8_t *entry, bool *changed,
                       GError **error)
{
    unsigned bits = self->layout->cluster_bits;
    uint64_t raw = qcow2_load_be64(entry), offset = raw & L2E_HOST_OFFSET, len = self->layout->cluster_size;
    Qcow2L2Entry decoded;

    if (raw & L2E_COMPRESSED) {
        if (!qcow2_l2_decode(self->layout, raw, 0, &decoded, error)) {
            return false;
        }
        offset = decoded.host_offset;
        len = decoded.stream_len;
    }
    const Group *group = offset ? find_group(self, offset >> bits) : NULL;
    if (!group) {
        return true;
    }
    /* The bits around the offset stay: both places begin in the same way in a cluster. */
    uint64_t fresh = offset - ((group->first - group->to) << bits);
    qcow2_store_be64(entry, raw - offset + fresh);
    *changed = true;
    return qcow2_batch_add(self->batch, fresh, len, (int)table->n_users, error)
        && qcow2_batch_add(self->batch, offset, len, -(int)table->n_users, error);
}

static bool move_entries(Qcow2RewrittenTable *table, bool *ret_changed, void *data, GError **error)
{
    Shrink *self = data;

    for (uint64_t i = 0; i < BIT(self->layout->l2_bits); i++) {
        if (!move_entry(self, table, table->bytes + i * self->layout->l2_entry_size, ret_changed, error)) {
            return false;
        }
    }
    return true;
}

/* Taking a cluster counted it once. Its references do so themselves, and narrow counts have no room. */
static bool settle_counts(Shrink *self, GError **error)
{
    unsigned bits = self->layout->cluster_bits;

    for (guint i = 0; i < self->groups->len; i++) {
        const Group *group = &g_array_index(self->groups, Group, i);
        if (!qcow2_batch_add(self->batch, group->to << bits, group->n << bits, -1, error)) {
            return false;
        }
    }
    return true;
}

static bool move_all(Shrink *self, GError **error)
{
    g_array_sort(self->groups, compare_groups);
    for (guint i = 0; i < self->groups->len; i++) {
        qcow2_progress_expect(self->progress,
                              g_array_index(self->groups, Group, i).n << self->layout->cluster_bits);
    }
    return copy_groups(self, error)
        && qcow2_batch_count_taken(self->batch, error)
        && settle_counts(self, error)
        && qcow2_batch_rewrite_tables(self->batch, self->image, move_entries, self, self->progress, error);
}

/*
 * New tables and counts go to the end at first, then to where the old ones were: qcow2_image_trim_back(). On
 * a full disk there may be no room for them. Nothing was flushed yet then, and the file stays as long as it
 * is.
 */
static bool move_if_possible(Shrink *self, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (move_all(self, &failure)) {
        return qcow2_batch_commit(self->batch, error);
    }
    if (!g_error_matches(failure, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE)) {
        g_propagate_error(error, g_steal_pointer(&failure));
        return false;
    }
    self->n_moved = 0;
    return true;
}

static void clear_shrink(Shrink *self)
{
    g_clear_pointer(&self->batch, qcow2_batch_free);
    g_clear_pointer(&self->groups, g_array_unref);
    g_clear_pointer(&self->is_data, g_free);
    g_clear_pointer(&self->goes_on, g_free);
}

static bool begin(Shrink *self, Qcow2Image *image, Qcow2Progress *progress, GError **error)
{
    *self = (Shrink) {
        .image = image,
        .layout = &image->header.layout,
        .batch = qcow2_batch_begin_low(image, error),
        .groups = g_array_new(FALSE, FALSE, sizeof(Group)),
        .progress = progress,
    };
    return self->batch && qcow2_image_load_snapshots(image, error);
}

static bool move_data(Qcow2Image *image, uint64_t *ret_n_moved, Qcow2Progress *progress, GError **error)
{
    Shrink self;
    bool ok = begin(&self, image, progress, error) && look_around(&self, error) && count_free(&self, error)
           && choose_groups(&self, error)
           && (self.groups->len == 0 || self.gain == 0 || move_if_possible(&self, error));

    *ret_n_moved = ok ? self.n_moved : 0;
    clear_shrink(&self);
    return ok;
}

/* ---- Giving back ------------------------------------------------------------------------------- */

static bool punch_free(Shrink *self, uint64_t *ret_bytes, GError **error)
{
    unsigned bits = self->layout->cluster_bits;
    uint64_t end = qcow2_counts_cache_end(qcow2_batch_counts(self->batch)), at = 0, n, size;

    if (!qcow2_io_get_size(self->image->file, &size, error)) {
        return false;
    }
    end = MIN(end, size >> bits);
    for (;; at += n) {
        if (!next_free_run(self, &at, end, &n, error)) {
            return false;
        }
        if (n == 0) {
            return true;
        }
        if (!qcow2_punch(self->image->file, at << bits, (at + n) << bits, ret_bytes, error)) {
            return false;
        }
    }
}

static bool give_back(Qcow2Image *image, uint64_t *ret_bytes, Qcow2Progress *progress, GError **error)
{
    Shrink self;

    *ret_bytes = 0;
    bool ok = begin(&self, image, progress, error) && punch_free(&self, ret_bytes, error)
           && qcow2_io_flush(image->file, error)
           && (!image->header.layout.has_data_file || qcow2_punch_data_file(image, ret_bytes, error));

    clear_shrink(&self);
    return ok;
}

bool qcow2_shrink(Qcow2Image *image, Qcow2TrimResult *result, Qcow2Progress *progress, GError **error)
{
    bool has_data = !image->header.layout.has_data_file;
    uint64_t size, before, n_moved = 0;

    if (!qcow2_io_get_size(image->file, &size, error)) {
        return false;
    }
    do {
        before = size;
        if ((has_data && !move_data(image, &n_moved, progress, error))
            || !qcow2_image_trim_back(image, true, before, error)
            || !qcow2_io_get_size(image->file, &size, error)) {
            return false;
        }
        result->clusters_moved += n_moved;
        result->bytes_moved += n_moved << image->header.layout.cluster_bits;
    } while (size < before);
    return give_back(image, &result->bytes_punched, progress, error);
}
