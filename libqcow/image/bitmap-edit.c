/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/bitmap-edit.h"

#include <string.h>

#include "image/bitmaps.h"
#include "util/error.h"

struct Qcow2BitmapEdit {
    Qcow2Batch *batch;
    Qcow2Image *image;
    GArray *entries;          /* Qcow2BitmapEntry */
    uint64_t disk_size;       /* as it will be, whole sectors */
    bool changed;
};

static Qcow2BitmapEntry *entry_at(const Qcow2BitmapEdit *edit, guint index)
{
    return &g_array_index(edit->entries, Qcow2BitmapEntry, index);
}

static bool is_in_use(const Qcow2BitmapEntry *entry)
{
    return entry->flags & QCOW2_BITMAP_IN_USE;
}

static bool is_tracking(const Qcow2BitmapEntry *entry)
{
    return (entry->flags & QCOW2_BITMAP_AUTO) && !is_in_use(entry);
}

/* ---- Beginning --------------------------------------------------------------------------------- */

static uint64_t sectors(uint64_t size)
{
    return qcow2_align_down(size, QCOW2_SECTOR_SIZE);
}

/* The size of the disk when the batch's bitmaps were written: an earlier edit has given them the new one. */
static uint64_t written_size(const Qcow2BitmapEdit *edit)
{
    const Qcow2Header *now = qcow2_batch_header(edit->batch), *before = &edit->image->header;
    bool edited = now->bitmap_directory_offset != before->bitmap_directory_offset;

    return edited ? now->size : before->size;
}

static bool load_entries(Qcow2BitmapEdit *edit, GError **error)
{
    Qcow2Header header = *qcow2_batch_header(edit->batch);    /* borrows what the batch's owns */
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);

    header.size = written_size(edit);
    edit->entries = qcow2_read_bitmap_directory(edit->image->file, &header, error);
    for (guint i = 0; edit->entries && i < edit->entries->len; i++) {
        const Qcow2BitmapEntry *entry = entry_at(edit, i);
        if (!g_hash_table_add(names, entry->name)) {
            return qcow2_corrupt(error, "bitmap directory: two bitmaps are called '%s'", entry->name);
        }
        if (entry->extra_data_len > 0) {
            return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                              "bitmap '%s': Bitmap extra data is not supported", entry->name);
        }
    }
    return edit->entries != NULL;
}

static int compare_tables(const void *a, const void *b)
{
    const Qcow2BitmapEntry *const *x = a, *const *y = b;

    return (*x)->table_offset < (*y)->table_offset ? -1 : (*x)->table_offset > (*y)->table_offset;
}

/* Tables that overlap could be read any number of times, and freed twice. */
static bool check_tables_apart(const Qcow2BitmapEdit *edit, GError **error)
{
    g_autoptr(GPtrArray) sorted = g_ptr_array_new();

    for (guint i = 0; i < edit->entries->len; i++) {
        g_ptr_array_add(sorted, entry_at(edit, i));
    }
    g_ptr_array_sort(sorted, compare_tables);
    for (guint i = 1; i < sorted->len; i++) {
        const Qcow2BitmapEntry *a = sorted->pdata[i - 1], *b = sorted->pdata[i];
        if (b->table_offset - a->table_offset < a->table_entries * UINT64_C(8)) {
            return qcow2_corrupt(error, "the tables of bitmaps '%s' and '%s' overlap at 0x%" PRIx64, a->name,
                                 b->name, b->table_offset);
        }
    }
    return true;
}

/* All tables are looked at before anything is written. */
static bool check_tables(Qcow2BitmapEdit *edit, GError **error)
{
    if (!check_tables_apart(edit, error) || !qcow2_batch_count_taken(edit->batch, error)) {
        return false;
    }
    for (guint i = 0; i < edit->entries->len; i++) {
        const Qcow2BitmapEntry *entry = entry_at(edit, i);
        if (is_in_use(entry)) {
            continue;
        }
        g_autoptr(Qcow2BitmapBits) bits =
            qcow2_bitmap_bits_open(edit->image, edit->batch, entry, sectors(written_size(edit)), error);
        if (!bits) {
            return false;
        }
        if (!qcow2_bitmap_bits_check_counts(bits, entry, error)) {
            g_prefix_error(error, "bitmap '%s': ", entry->name);
            return false;
        }
    }
    return true;
}

static bool resize_bitmap(Qcow2BitmapEdit *edit, Qcow2BitmapEntry *entry, uint64_t old_size, GError **error)
{
    g_autoptr(Qcow2BitmapBits) bits =
        qcow2_bitmap_bits_open(edit->image, edit->batch, entry, old_size, error);
    Qcow2Range gained = { old_size, edit->disk_size };

    edit->changed = true;
    return bits && qcow2_bitmap_bits_resize(bits, edit->disk_size, error)
        && (!is_tracking(entry) || qcow2_bitmap_bits_set(bits, gained, error))
        && qcow2_bitmap_bits_store(bits, entry, error);
}

static bool follow_size(Qcow2BitmapEdit *edit, GError **error)
{
    uint64_t old_size = sectors(written_size(edit));

    for (guint i = 0; edit->disk_size != old_size && i < edit->entries->len; i++) {
        Qcow2BitmapEntry *entry = entry_at(edit, i);
        if (edit->disk_size == 0) {
            return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "a disk of 0 bytes cannot have bitmaps");
        }
        if (!is_in_use(entry) && !resize_bitmap(edit, entry, old_size, error)) {
            g_prefix_error(error, "bitmap '%s': ", entry->name);
            return false;
        }
    }
    return true;
}

Qcow2BitmapEdit *qcow2_bitmap_edit_new(Qcow2Batch *batch, Qcow2Image *image, GError **error)
{
    g_autoptr(Qcow2BitmapEdit) edit = g_new0(Qcow2BitmapEdit, 1);

    edit->batch = batch;
    edit->image = image;
    edit->disk_size = sectors(qcow2_batch_header(batch)->size);
    if (!load_entries(edit, error) || !check_tables(edit, error) || !follow_size(edit, error)) {
        return NULL;
    }
    return g_steal_pointer(&edit);
}

void qcow2_bitmap_edit_free(Qcow2BitmapEdit *edit)
{
    if (edit) {
        g_clear_pointer(&edit->entries, g_array_unref);
        g_free(edit);
    }
}

uint64_t qcow2_bitmap_edit_size(const Qcow2BitmapEdit *edit)
{
    return edit->disk_size;
}

/* ---- Finding ----------------------------------------------------------------------------------- */

static bool find(const Qcow2BitmapEdit *edit, const char *name, guint *ret_index)
{
    for (guint i = 0; i < edit->entries->len; i++) {
        if (strcmp(entry_at(edit, i)->name, name) == 0) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

const Qcow2BitmapEntry *qcow2_bitmap_edit_find(const Qcow2BitmapEdit *edit, const char *name)
{
    guint index;

    return find(edit, name, &index) ? entry_at(edit, index) : NULL;
}

static Qcow2BitmapEntry *find_usable(const Qcow2BitmapEdit *edit, const char *name, GError **error)
{
    guint index;

    if (!find(edit, name, &index)) {
        qcow2_fail(error, QCOW2_ERROR_NOT_FOUND, "Dirty bitmap '%s' not found", name);
        return NULL;
    }
    if (is_in_use(entry_at(edit, index))) {
        qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                   "Bitmap '%s' is inconsistent and cannot be used; qcow-bitmap --remove deletes it", name);
        return NULL;
    }
    return entry_at(edit, index);
}

bool qcow2_bitmap_edit_check(const Qcow2BitmapEdit *edit, const char *name, GError **error)
{
    return find_usable(edit, name, error) != NULL;
}

static Qcow2BitmapBits *open_bits(const Qcow2BitmapEdit *edit, const Qcow2BitmapEntry *entry, GError **error)
{
    return qcow2_bitmap_bits_open(edit->image, edit->batch, entry, edit->disk_size, error);
}

static bool store_bits(Qcow2BitmapEdit *edit, Qcow2BitmapBits *bits, Qcow2BitmapEntry *entry, GError **error)
{
    uint64_t before = entry->table_offset;

    if (!qcow2_bitmap_bits_store(bits, entry, error)) {
        return false;
    }
    edit->changed |= entry->table_offset != before;
    return true;
}

/* ---- Bitmaps ----------------------------------------------------------------------------------- */

static bool check_name(const Qcow2BitmapEdit *edit, const char *name, GError **error)
{
    guint index;

    if (name[0] == '\0') {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Bitmap name cannot be empty");
    }
    return !find(edit, name, &index)
        || qcow2_fail(error, QCOW2_ERROR_EXISTS, "Bitmap already exists: %s", name);
}

static bool check_new(const Qcow2BitmapEdit *edit, const char *name, unsigned granularity_bits,
                      GError **error)
{
    uint32_t table_len;

    if (qcow2_batch_header(edit->batch)->layout.version < 3) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "Cannot store dirty bitmaps in qcow2 v2 files");
    }
    if (granularity_bits > QCOW2_MAX_GRANULARITY_BITS) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Granularity exceeds maximum (%" PRIu64 " bytes)",
                          BIT(QCOW2_MAX_GRANULARITY_BITS));
    }
    if (granularity_bits < QCOW2_MIN_GRANULARITY_BITS) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Granularity is under minimum (%" PRIu64 " bytes)",
                          BIT(QCOW2_MIN_GRANULARITY_BITS));
    }
    if (edit->disk_size == 0) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "a disk of 0 bytes cannot have bitmaps");
    }
    if (!qcow2_bitmap_table_len(&edit->image->header.layout, edit->disk_size, granularity_bits, &table_len,
                                error)) {
        return false;
    }
    if (strlen(name) > QCOW2_MAX_BITMAP_NAME) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID, "Name length exceeds maximum (%u characters)",
                          QCOW2_MAX_BITMAP_NAME);
    }
    return edit->entries->len < QCOW2_MAX_BITMAPS
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "Maximum number of persistent bitmaps is already reached");
}

bool qcow2_bitmap_edit_add(Qcow2BitmapEdit *edit, const char *name, unsigned granularity_bits, bool enabled,
                           GError **error)
{
    Qcow2BitmapEntry entry = {
        .flags = enabled ? QCOW2_BITMAP_AUTO : 0,
        .granularity_bits = granularity_bits,
    };

    if (!check_name(edit, name, error)) {
        return false;
    }
    if (!check_new(edit, name, granularity_bits, error)) {
        g_prefix_error(error, "Can't make bitmap '%s' persistent in '%s': ", name, edit->image->file->name);
        return false;
    }
    g_autoptr(Qcow2BitmapBits) bits = open_bits(edit, &entry, error);
    if (!bits || !store_bits(edit, bits, &entry, error)) {
        return false;
    }
    entry.name = g_strdup(name);
    g_array_append_val(edit->entries, entry);
    return true;
}

/* One in use may have a table of another size: it was not there when the disk changed. */
static bool drop(Qcow2BitmapEdit *edit, Qcow2BitmapEntry *entry, GError **error)
{
    const Qcow2Layout *layout = &edit->image->header.layout;
    uint64_t bits_per_entry = layout->cluster_size * 8;
    uint64_t size = entry->table_entries * bits_per_entry << entry->granularity_bits;
    g_autoptr(GError) fault = NULL;
    g_autoptr(Qcow2BitmapBits) bits =
        qcow2_bitmap_bits_open(edit->image, edit->batch, entry, size, &fault);

    /* A table that cannot be believed is left behind, a leak: only so can such a bitmap go. */
    if (!bits && g_error_matches(fault, QCOW2_ERROR, QCOW2_ERROR_CORRUPT)) {
        return true;
    }
    if (!bits) {
        g_propagate_error(error, g_steal_pointer(&fault));
        return false;
    }
    return qcow2_bitmap_bits_drop(bits, entry, error);
}

bool qcow2_bitmap_edit_remove(Qcow2BitmapEdit *edit, const char *name, GError **error)
{
    guint index;

    if (!find(edit, name, &index)) {
        return qcow2_fail(error, QCOW2_ERROR_NOT_FOUND, "Dirty bitmap '%s' not found", name);
    }
    if (!drop(edit, entry_at(edit, index), error)) {
        return false;
    }
    g_array_remove_index(edit->entries, index);
    edit->changed = true;
    return true;
}

bool qcow2_bitmap_edit_clear(Qcow2BitmapEdit *edit, const char *name, GError **error)
{
    Qcow2BitmapEntry *entry = find_usable(edit, name, error);
    g_autoptr(Qcow2BitmapBits) bits = entry ? open_bits(edit, entry, error) : NULL;

    return bits && qcow2_bitmap_bits_clear(bits, error) && store_bits(edit, bits, entry, error);
}

bool qcow2_bitmap_edit_enable(Qcow2BitmapEdit *edit, const char *name, bool enabled, GError **error)
{
    Qcow2BitmapEntry *entry = find_usable(edit, name, error);

    if (!entry) {
        return false;
    }
    edit->changed |= enabled != is_tracking(entry);
    entry->flags = (entry->flags & ~(uint32_t)QCOW2_BITMAP_AUTO) | (enabled ? QCOW2_BITMAP_AUTO : 0);
    return true;
}

/* ---- Bits -------------------------------------------------------------------------------------- */

static bool set_ranges(Qcow2BitmapEdit *edit, Qcow2BitmapEntry *entry, const GArray *ranges, GError **error)
{
    g_autoptr(Qcow2BitmapBits) bits = open_bits(edit, entry, error);

    for (guint i = 0; bits && i < ranges->len; i++) {
        if (!qcow2_bitmap_bits_set(bits, g_array_index(ranges, Qcow2Range, i), error)) {
            return false;
        }
    }
    return bits && store_bits(edit, bits, entry, error);
}

bool qcow2_bitmap_edit_set(Qcow2BitmapEdit *edit, const char *name, const GArray *ranges, GError **error)
{
    Qcow2BitmapEntry *entry = find_usable(edit, name, error);

    return entry && set_ranges(edit, entry, ranges, error);
}

bool qcow2_bitmap_edit_merge(Qcow2BitmapEdit *edit, const char *name, Qcow2BitmapBits *source,
                             GError **error)
{
    Qcow2BitmapEntry *entry = find_usable(edit, name, error);
    g_autoptr(Qcow2BitmapBits) bits = entry ? open_bits(edit, entry, error) : NULL;
    Qcow2Range range = { 0, 0 };

    if (!bits) {
        return false;
    }
    do {
        if (!qcow2_bitmap_bits_next(source, range.end, &range, error)
            || !qcow2_bitmap_bits_set(bits, range, error)) {
            return false;
        }
    } while (range.start < range.end);
    return store_bits(edit, bits, entry, error);
}

bool qcow2_bitmap_edit_mark(Qcow2BitmapEdit *edit, const GArray *ranges, GError **error)
{
    for (guint i = 0; ranges->len > 0 && i < edit->entries->len; i++) {
        Qcow2BitmapEntry *entry = entry_at(edit, i);
        if (is_tracking(entry) && !set_ranges(edit, entry, ranges, error)) {
            g_prefix_error(error, "bitmap '%s': ", entry->name);
            return false;
        }
    }
    return true;
}

Qcow2BitmapBits *qcow2_bitmap_edit_read(Qcow2BitmapEdit *edit, const char *name, GError **error)
{
    Qcow2BitmapEntry *entry = find_usable(edit, name, error);

    return entry ? qcow2_bitmap_bits_open(edit->image, NULL, entry, edit->disk_size, error) : NULL;
}

/* ---- Ending ------------------------------------------------------------------------------------ */

static bool free_directory(Qcow2BitmapEdit *edit, GError **error)
{
    const Qcow2Header *header = qcow2_batch_header(edit->batch);

    return qcow2_batch_count_taken(edit->batch, error)
        && qcow2_batch_add(edit->batch, header->bitmap_directory_offset, header->bitmap_directory_size, -1,
                           error);
}

bool qcow2_bitmap_edit_is_changed(const Qcow2BitmapEdit *edit)
{
    return edit->changed;
}

bool qcow2_bitmap_edit_finish(Qcow2BitmapEdit *edit, GError **error)
{
    Qcow2Header *header = qcow2_batch_header(edit->batch);
    uint8_t ext[QCOW2_BITMAPS_EXT_LEN];
    uint64_t offset;

    if (!edit->changed) {
        return true;
    }
    g_autoptr(GByteArray) bytes = qcow2_bitmap_directory_encode(edit->entries, error);
    if (!bytes || !free_directory(edit, error)
        || !qcow2_batch_take_for(edit->batch, bytes->len, &offset, error)
        || !qcow2_batch_write(edit->batch, offset, bytes->data, bytes->len, error)) {
        return false;
    }
    edit->changed = false;
    if (edit->entries->len == 0) {
        header->autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
        qcow2_batch_set_ext(edit->batch, QCOW2_EXT_BITMAPS, NULL, 0);
        return true;
    }
    header->autoclear |= QCOW2_AUTOCLEAR_BITMAPS;    /* before the extension: it vouches for it */
    qcow2_bitmaps_ext_encode(edit->entries->len, offset, bytes->len, ext);
    qcow2_batch_set_ext(edit->batch, QCOW2_EXT_BITMAPS, ext, sizeof(ext));
    return true;
}
