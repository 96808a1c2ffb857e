/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/bitmap-bits.h"

#include "util/error.h"

#define NO_PAGE UINT64_MAX

struct Qcow2BitmapBits {
    Qcow2Image *image;
    Qcow2Batch *batch;
    unsigned granularity_bits;
    uint64_t disk_size, n_bits;
    uint64_t bits_per_page;       /* a page is a cluster of bits */
    uint64_t *table;              /* host order, one entry a page */
    uint32_t n_pages;
    uint8_t *page;                /* the page at hand */
    uint64_t page_index;          /* NO_PAGE: none is */
    bool page_changed;
    bool changed;                 /* the table needs to be written */
};

/* ---- Opening ----------------------------------------------------------------------------------- */

bool qcow2_bitmap_table_len(const Qcow2Layout *layout, uint64_t disk_size, unsigned granularity_bits,
                            uint32_t *ret_entries, GError **error)
{
    uint64_t n_bytes = qcow2_div_round_up(qcow2_div_round_up(disk_size, BIT(granularity_bits)), 8);

    if (n_bytes > QCOW2_MAX_BITMAP_BYTES) {
        return qcow2_fail(error, QCOW2_ERROR_INVALID,
                          "Too much space will be occupied by the bitmap. Use larger granularity");
    }
    *ret_entries = (uint32_t)qcow2_div_round_up(n_bytes, layout->cluster_size);
    return true;
}

static bool is_within(uint64_t offset, uint64_t start, uint64_t len_bytes)
{
    return offset >= start && offset - start < len_bytes;
}

/* Where no bitmap can be: what would be freed with it is not its own. */
static bool is_root(const Qcow2Header *header, uint64_t offset)
{
    return offset == 0 || is_within(offset, header->l1_offset, header->l1_entries * UINT64_C(8))
        || is_within(offset, header->reftable_offset,
                     header->reftable_clusters * header->layout.cluster_size)
        || is_within(offset, header->bitmap_directory_offset, header->bitmap_directory_size)
        || is_within(offset, header->crypt_offset, header->crypt_len)
        || (header->n_snapshots > 0 && offset == header->snapshots_offset);
}

static bool check_table(const Qcow2BitmapBits *bits, uint64_t file_size, GError **error)
{
    const Qcow2Header *header = &bits->image->header;

    for (uint32_t i = 0; i < bits->n_pages; i++) {
        uint64_t raw = bits->table[i], offset = raw & QCOW2_BITMAP_TABLE_OFFSET;
        const char *fault = raw & QCOW2_BITMAP_TABLE_RESERVED                  ? "sets reserved bits"
                          : offset == 0                                        ? NULL
                          : raw & QCOW2_BITMAP_TABLE_ONES                      ? "sets bit 0 beside an offset"
                          : !qcow2_is_cluster_aligned(&header->layout, offset) ? "is not cluster aligned"
                          : offset >= file_size                                ? "is past the end of the file"
                          : is_root(header, offset)                            ? "names other metadata"
                                                                               : NULL;
        if (fault) {
            return qcow2_corrupt(error, "bitmap table: entry %" PRIu32 ", 0x%016" PRIx64 ", %s", i, raw,
                                 fault);
        }
    }
    return true;
}

static bool load_table(Qcow2BitmapBits *bits, const Qcow2BitmapEntry *entry, GError **error)
{
    uint64_t len = entry->table_entries * UINT64_C(8), file_size;

    if (entry->table_entries != bits->n_pages) {
        return qcow2_corrupt(error, "its table has %" PRIu32 " entries, the size of the disk needs %" PRIu32,
                             entry->table_entries, bits->n_pages);
    }
    if (is_root(&bits->image->header, entry->table_offset)) {
        return qcow2_corrupt(error, "its table at 0x%" PRIx64 " is where other metadata is",
                             entry->table_offset);
    }
    if (!qcow2_io_get_size(bits->image->file, &file_size, error)
        || !qcow2_io_read(bits->image->file, entry->table_offset, bits->table, len, error)) {
        g_prefix_error(error, "bitmap table: ");
        return false;
    }
    for (uint32_t i = 0; i < bits->n_pages; i++) {
        bits->table[i] = GUINT64_FROM_BE(bits->table[i]);
    }
    return check_table(bits, file_size, error);
}

static void set_size(Qcow2BitmapBits *bits, uint64_t disk_size)
{
    bits->disk_size = disk_size;
    bits->n_bits = qcow2_div_round_up(disk_size, BIT(bits->granularity_bits));
}

Qcow2BitmapBits *qcow2_bitmap_bits_open(Qcow2Image *image, Qcow2Batch *batch, const Qcow2BitmapEntry *entry,
                                        uint64_t disk_size, GError **error)
{
    const Qcow2Layout *layout = &image->header.layout;
    g_autoptr(Qcow2BitmapBits) bits = g_new0(Qcow2BitmapBits, 1);

    bits->image = image;
    bits->batch = batch;
    bits->granularity_bits = entry->granularity_bits;
    bits->bits_per_page = layout->cluster_size * 8;
    bits->page_index = NO_PAGE;
    set_size(bits, disk_size);
    if (!qcow2_bitmap_table_len(layout, disk_size, entry->granularity_bits, &bits->n_pages, error)) {
        return NULL;
    }
    bits->table = g_try_new0(uint64_t, MAX(bits->n_pages, 1));
    bits->page = g_try_malloc(layout->cluster_size);
    if (!bits->table || !bits->page) {
        qcow2_fail_memory(error, bits->n_pages * UINT64_C(8) + layout->cluster_size, "a bitmap table");
        return NULL;
    }
    bits->changed = entry->table_offset == 0;
    if (!bits->changed && !load_table(bits, entry, error)) {
        g_prefix_error(error, "bitmap '%s': ", entry->name);
        return NULL;
    }
    return g_steal_pointer(&bits);
}

void qcow2_bitmap_bits_free(Qcow2BitmapBits *bits)
{
    if (bits) {
        g_free(bits->table);
        g_free(bits->page);
        g_free(bits);
    }
}

/* ---- Pages ------------------------------------------------------------------------------------- */

static uint64_t first_bit_of(const Qcow2BitmapBits *bits, uint64_t index)
{
    return index * bits->bits_per_page;
}

/* How many of a page's bits stand for a part of the disk. */
static uint64_t n_bits_of(const Qcow2BitmapBits *bits, uint64_t index)
{
    return MIN(bits->bits_per_page, bits->n_bits - first_bit_of(bits, index));
}

/* Bits past the end of the disk must be zero. */
static void clear_tail(uint8_t *page, uint64_t n_bits, uint64_t len_bytes)
{
    uint64_t n_bytes = qcow2_div_round_up(n_bits, 8);

    if (n_bits % 8 != 0) {
        page[n_bits / 8] &= (uint8_t)(BIT(n_bits % 8) - 1);
    }
    memset(page + n_bytes, 0, len_bytes - n_bytes);
}

static bool check_counts(const Qcow2BitmapBits *bits, uint64_t offset, uint64_t len_bytes, GError **error)
{
    const Qcow2Layout *layout = &bits->image->header.layout;
    Qcow2CountsCache *counts = qcow2_batch_counts(bits->batch);
    uint64_t n = qcow2_div_round_up(len_bytes, layout->cluster_size), count;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t cluster = (offset >> layout->cluster_bits) + i;
        if (!qcow2_counts_cache_get(counts, cluster, &count, error)) {
            return false;
        }
        if (count != 1 || cluster == 0) {
            return qcow2_corrupt(error, "the cluster of a bitmap at 0x%" PRIx64 " has refcount %" PRIu64
                                 " and is not the bitmap's alone; run qcow-check -r all",
                                 cluster << layout->cluster_bits, count);
        }
    }
    return true;
}

bool qcow2_bitmap_bits_check_counts(Qcow2BitmapBits *bits, const Qcow2BitmapEntry *entry, GError **error)
{
    for (uint32_t i = 0; i < bits->n_pages; i++) {
        uint64_t offset = bits->table[i] & QCOW2_BITMAP_TABLE_OFFSET;
        if (offset != 0 && !check_counts(bits, offset, bits->image->header.layout.cluster_size, error)) {
            return false;
        }
    }
    return entry->table_offset == 0
        || check_counts(bits, entry->table_offset, entry->table_entries * UINT64_C(8), error);
}

/* What this batch took counts from here on, so that it can be given back. */
static bool release(const Qcow2BitmapBits *bits, uint64_t offset, uint64_t len_bytes, GError **error)
{
    return qcow2_batch_count_taken(bits->batch, error) && check_counts(bits, offset, len_bytes, error)
        && qcow2_batch_add(bits->batch, offset, len_bytes, -1, error);
}

/* Gives the cluster of a page back; the page is @raw then. */
static bool replace_entry(Qcow2BitmapBits *bits, uint64_t index, uint64_t raw, GError **error)
{
    uint64_t old = bits->table[index] & QCOW2_BITMAP_TABLE_OFFSET;

    if (bits->table[index] == raw) {
        return true;
    }
    bits->table[index] = raw;
    bits->changed = true;
    return old == 0 || release(bits, old, bits->image->header.layout.cluster_size, error);
}

static bool is_filled_with(const uint8_t *page, uint64_t len_bytes, uint8_t byte)
{
    return page[0] == byte && memcmp(page, page + 1, len_bytes - 1) == 0;
}

/* A page of equal bits needs no cluster; one that the disk does not fill has zeros at its end. */
static bool write_page(Qcow2BitmapBits *bits, GError **error)
{
    uint64_t len = bits->image->header.layout.cluster_size, raw;

    if (!bits->page_changed) {
        return true;
    }
    bits->page_changed = false;
    if (is_filled_with(bits->page, len, 0)) {
        raw = 0;
    } else if (is_filled_with(bits->page, len, 0xff)) {
        raw = QCOW2_BITMAP_TABLE_ONES;
    } else {
        raw = qcow2_batch_take(bits->batch, 1, error);
        if (raw == 0 || !qcow2_batch_write(bits->batch, raw, bits->page, len, error)) {
            return false;
        }
    }
    return replace_entry(bits, bits->page_index, raw, error);
}

static bool load_page(Qcow2BitmapBits *bits, uint64_t index, GError **error)
{
    uint64_t len = bits->image->header.layout.cluster_size, raw = bits->table[index];
    uint64_t offset = raw & QCOW2_BITMAP_TABLE_OFFSET;

    if (bits->page_index == index) {
        return true;
    }
    if (!write_page(bits, error)) {
        return false;
    }
    bits->page_index = NO_PAGE;
    if (offset == 0) {
        memset(bits->page, raw & QCOW2_BITMAP_TABLE_ONES ? 0xff : 0, len);
    } else if (!qcow2_io_read(bits->image->file, offset, bits->page, len, error)) {
        g_prefix_error(error, "bitmap data: ");
        return false;
    }
    clear_tail(bits->page, n_bits_of(bits, index), len);
    bits->page_index = index;
    return true;
}

/* ---- Reading ----------------------------------------------------------------------------------- */

static bool is_set(const uint8_t *page, uint64_t bit)
{
    return page[bit / 8] >> (bit % 8) & 1;
}

/* The first bit of [from, n) that is @value, or n. */
static uint64_t find_bit(const uint8_t *page, uint64_t from, uint64_t n, bool value)
{
    uint8_t boring = value ? 0 : 0xff;

    while (from < n && is_set(page, from) != value) {
        from += from % 8 == 0 && page[from / 8] == boring ? 8 : 1;
    }
    return MIN(from, n);
}

bool qcow2_bitmap_bits_next(Qcow2BitmapBits *bits, uint64_t from, Qcow2Range *ret, GError **error)
{
    uint64_t bit = from >> bits->granularity_bits;

    *ret = (Qcow2Range) { bits->disk_size, bits->disk_size };
    while (from < bits->disk_size && bit < bits->n_bits) {
        uint64_t index = bit / bits->bits_per_page, start = first_bit_of(bits, index);
        uint64_t n = n_bits_of(bits, index);
        if (bits->page_index != index && bits->table[index] == 0) {
            bit = start + n;
            continue;
        }
        if (!load_page(bits, index, error)) {
            return false;
        }
        uint64_t first = find_bit(bits->page, bit - start, n, true);
        if (first < n) {
            uint64_t end = find_bit(bits->page, first, n, false);
            ret->start = MAX(from, (start + first) << bits->granularity_bits);
            ret->end = MIN(bits->disk_size, (start + end) << bits->granularity_bits);
            return true;
        }
        bit = start + n;
    }
    return true;
}

/* ---- Changing ---------------------------------------------------------------------------------- */

static bool set_in_page(Qcow2BitmapBits *bits, uint64_t index, uint64_t first, uint64_t end, GError **error)
{
    if (!load_page(bits, index, error)) {
        return false;
    }
    for (uint64_t i = first; i < end;) {
        uint64_t n = MIN(8 - i % 8, end - i);
        uint8_t mask = (uint8_t)((BIT(n) - 1) << (i % 8));
        bits->page_changed |= (bits->page[i / 8] & mask) != mask;
        bits->page[i / 8] |= mask;
        i += n;
    }
    return true;
}

static bool set_page(Qcow2BitmapBits *bits, uint64_t index, GError **error)
{
    if (bits->page_index == index) {
        bits->page_index = NO_PAGE;
        bits->page_changed = false;
    }
    return replace_entry(bits, index, QCOW2_BITMAP_TABLE_ONES, error);
}

bool qcow2_bitmap_bits_set(Qcow2BitmapBits *bits, Qcow2Range range, GError **error)
{
    uint64_t bit = range.start >> bits->granularity_bits;
    uint64_t end = qcow2_div_round_up(MIN(range.end, bits->disk_size), BIT(bits->granularity_bits));

    while (range.start < range.end && bit < end) {
        uint64_t index = bit / bits->bits_per_page, start = first_bit_of(bits, index);
        uint64_t part_end = MIN(end, start + bits->bits_per_page);
        bool whole = part_end - bit == bits->bits_per_page;
        if (!(whole ? set_page(bits, index, error)
                    : set_in_page(bits, index, bit - start, part_end - start, error))) {
            return false;
        }
        bit = part_end;
    }
    return true;
}

bool qcow2_bitmap_bits_clear(Qcow2BitmapBits *bits, GError **error)
{
    bits->page_index = NO_PAGE;
    bits->page_changed = false;
    for (uint32_t i = 0; i < bits->n_pages; i++) {
        if (!replace_entry(bits, i, 0, error)) {
            return false;
        }
    }
    return true;
}

/* The page in which the smaller disk ends: bits past that end are zeros, before and after. */
static bool cut_page(Qcow2BitmapBits *bits, uint64_t n_bits, GError **error)
{
    uint64_t index = n_bits / bits->bits_per_page, kept = n_bits % bits->bits_per_page;

    if (kept == 0 || bits->table[index] == 0) {
        return true;
    }
    if (!load_page(bits, index, error)) {
        return false;
    }
    clear_tail(bits->page, kept, bits->image->header.layout.cluster_size);
    bits->page_changed = true;
    return true;
}

bool qcow2_bitmap_bits_resize(Qcow2BitmapBits *bits, uint64_t disk_size, GError **error)
{
    uint64_t n_bits = qcow2_div_round_up(disk_size, BIT(bits->granularity_bits));
    uint32_t n_pages;

    if (!qcow2_bitmap_table_len(&bits->image->header.layout, disk_size, bits->granularity_bits, &n_pages,
                                error)
        || !write_page(bits, error)) {
        return false;
    }
    for (uint32_t i = n_pages; i < bits->n_pages; i++) {
        if (!replace_entry(bits, i, 0, error)) {
            return false;
        }
    }
    if (!cut_page(bits, MIN(n_bits, bits->n_bits), error) || !write_page(bits, error)) {
        return false;
    }
    bits->page_index = NO_PAGE;
    uint64_t *table = g_try_new0(uint64_t, MAX(n_pages, 1));
    if (!table) {
        return qcow2_fail_memory(error, n_pages * UINT64_C(8), "a bitmap table");
    }
    memcpy(table, bits->table, MIN(n_pages, bits->n_pages) * sizeof(*table));
    g_free(bits->table);
    bits->table = table;
    bits->changed |= n_pages != bits->n_pages;
    bits->n_pages = n_pages;
    set_size(bits, disk_size);
    return true;
}

/* ---- Storing ----------------------------------------------------------------------------------- */

bool qcow2_bitmap_bits_store(Qcow2BitmapBits *bits, Qcow2BitmapEntry *entry, GError **error)
{
    uint64_t len = bits->n_pages * UINT64_C(8), old = entry->table_offset;

    if (!write_page(bits, error)) {
        return false;
    }
    if (!bits->changed) {
        return true;
    }
    g_autofree uint64_t *raw = g_try_new(uint64_t, MAX(bits->n_pages, 1));
    if (!raw) {
        return qcow2_fail_memory(error, len, "a bitmap table");
    }
    for (uint32_t i = 0; i < bits->n_pages; i++) {
        raw[i] = GUINT64_TO_BE(bits->table[i]);
    }
    if (!qcow2_batch_take_for(bits->batch, len, &entry->table_offset, error)
        || !qcow2_batch_write(bits->batch, entry->table_offset, raw, len, error)
        || (old != 0 && !release(bits, old, entry->table_entries * UINT64_C(8), error))) {
        return false;
    }
    entry->table_entries = bits->n_pages;
    bits->changed = false;
    return true;
}

bool qcow2_bitmap_bits_drop(Qcow2BitmapBits *bits, Qcow2BitmapEntry *entry, GError **error)
{
    if (!qcow2_bitmap_bits_clear(bits, error)) {
        return false;
    }
    uint64_t old = entry->table_offset, len = entry->table_entries * UINT64_C(8);
    entry->table_offset = 0;
    entry->table_entries = 0;
    return old == 0 || release(bits, old, len, error);
}
