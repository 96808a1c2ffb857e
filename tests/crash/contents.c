/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "contents.h"

#include <inttypes.h>
#include <string.h>

#include "image/bitmaps.h"
#include "state/state.h"
#include "util/error.h"

static void free_state(gpointer data)
{
    LabState *state = data;

    g_free(state->id);
    g_free(state->name);
    g_free(state->times);
    g_clear_pointer(&state->offsets, g_array_unref);
    g_clear_pointer(&state->bytes, g_byte_array_unref);
    g_free(state);
}

static void free_bitmap(gpointer data)
{
    LabBitmap *bitmap = data;

    g_free(bitmap->name);
    g_clear_pointer(&bitmap->bits, g_byte_array_unref);
    g_free(bitmap);
}

void lab_contents_free(LabContents *contents)
{
    if (contents) {
        g_ptr_array_unref(contents->states);
        g_ptr_array_unref(contents->bitmaps);
        g_free(contents);
    }
}

/* ---- Reading states ------------------------------------------------------------------------------ */

static bool is_zero(const uint8_t *bytes, uint64_t len_bytes)
{
    return len_bytes == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, len_bytes - 1) == 0);
}

/* The part of [start, end) that has not been read yet, in whole blocks, as far as the state has them. */
static bool read_blocks(Qcow2State *state, uint64_t start, uint64_t end, uint64_t *read_until, LabState *ret,
                        GError **error)
{
    uint64_t first = MAX(*read_until, qcow2_align_down(start, LAB_BLOCK));
    uint64_t last = MIN(state->size, qcow2_align_up(end, LAB_BLOCK));
    guint had = ret->bytes->len;

    if (first >= last) {
        return true;
    }
    *read_until = last;
    g_byte_array_set_size(ret->bytes, had + (guint)qcow2_align_up(last - first, LAB_BLOCK));
    uint8_t *bytes = ret->bytes->data + had;
    memset(bytes + (last - first), 0, ret->bytes->len - had - (last - first));
    if (!qcow2_state_read(state, first, bytes, last - first, error)) {
        return false;
    }
    for (uint64_t offset = first; offset < last; offset += LAB_BLOCK) {
        uint8_t *block = bytes + (offset - first);
        if (!is_zero(block, LAB_BLOCK)) {
            if (ret->bytes->data + had != block) {
                memcpy(ret->bytes->data + had, block, LAB_BLOCK);
            }
            had += LAB_BLOCK;
            g_array_append_val(ret->offsets, offset);
        }
    }
    g_byte_array_set_size(ret->bytes, had);
    return true;
}

static bool read_range(Qcow2State *state, uint64_t start, uint64_t end, LabState *ret, GError **error)
{
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(Qcow2Extent));
    uint64_t window = qcow2_state_window(state), read_until = start;

    for (uint64_t at = start; at < end; at += MIN(window, end - at)) {
        Qcow2Range range = { at, at + MIN(window, end - at) };
        if (!qcow2_state_resolve(state, &range, 1, QCOW2_NO_STOP, extents, error)) {
            return false;
        }
        for (guint i = 0; i < extents->len; i++) {
            const Qcow2Extent *extent = &g_array_index(extents, Qcow2Extent, i);
            bool zero = extent->kind == QCOW2_EXTENT_ZERO || extent->kind == QCOW2_EXTENT_UNALLOCATED;
            uint64_t extent_end = qcow2_extent_end(extent);
            if (!zero && !read_blocks(state, extent->guest_offset, extent_end, &read_until, ret, error)) {
                return false;
            }
        }
    }
    return true;
}

/* VM state lies behind the last L2 table that the disk needs; seen so, it is a part of a larger disk. */
static bool read_state(Qcow2Chain *chain, const char *name, LabState *ret, GError **error)
{
    g_autoptr(Qcow2State) state = qcow2_state_open(chain, name, error);

    if (!state) {
        return false;
    }
    /* Whether clusters were moved or lost shows in ciphertext as well. */
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    image->header.crypt = QCOW2_CRYPT_NONE;
    ret->size = state->size;
    ret->offsets = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    ret->bytes = g_byte_array_new();
    if (!read_range(state, 0, ret->size, ret, error)) {
        return false;
    }
    uint64_t coverage = qcow2_l2_coverage(&image->header.layout);
    uint64_t start = qcow2_div_round_up(ret->size, coverage) * coverage;
    state->size = state->view.size = start + ret->vm_state_size;
    return read_range(state, start, state->size, ret, error);
}

static bool read_snapshot(Qcow2Chain *chain, const Qcow2SnapshotEntry *entry, LabState *ret, GError **error)
{
    const Qcow2Snapshot *info = &entry->info;
    g_autofree char *word = g_strconcat("id:", entry->id, NULL);

    ret->id = g_strdup(entry->id);
    ret->name = g_strdup(entry->name);
    ret->times = g_strdup_printf("%" PRIu32 ".%09" PRIu32 " clock %" PRIu64 " icount %" PRIu64,
                                 info->date_sec, info->date_nsec, info->vm_clock_nsec, info->icount);
    ret->vm_state_size = info->vm_state_size;
    return read_state(chain, word, ret, error);
}

static bool read_states(Qcow2Chain *chain, GPtrArray *states, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    LabState *active = g_new0(LabState, 1);

    g_ptr_array_add(states, active);
    if (!qcow2_image_load_snapshots(image, error) || !read_state(chain, "@active", active, error)) {
        return false;
    }
    for (guint i = 0; i < image->snapshots->len; i++) {
        LabState *state = g_new0(LabState, 1);
        g_ptr_array_add(states, state);
        if (!read_snapshot(chain, &g_array_index(image->snapshots, Qcow2SnapshotEntry, i), state, error)) {
            return false;
        }
    }
    return true;
}

/* ---- Reading bitmaps ----------------------------------------------------------------------------- */

static bool read_bits(Qcow2Image *image, const Qcow2BitmapEntry *entry, GByteArray *bits, GError **error)
{
    uint64_t cluster_size = image->header.layout.cluster_size;

    g_byte_array_set_size(bits, (guint)(entry->table_entries * cluster_size));
    for (uint32_t i = 0; i < entry->table_entries; i++) {
        uint64_t raw;
        if (!qcow2_io_read(image->file, entry->table_offset + i * 8, &raw, 8, error)) {
            return false;
        }
        raw = GUINT64_FROM_BE(raw);
        memset(bits->data + i * cluster_size, raw & QCOW2_BITMAP_TABLE_ONES ? 0xff : 0, cluster_size);
        if ((raw & QCOW2_BITMAP_TABLE_OFFSET)
            && !qcow2_io_read(image->file, raw & QCOW2_BITMAP_TABLE_OFFSET, bits->data + i * cluster_size,
                              cluster_size, error)) {
            return false;
        }
    }
    uint64_t n_bits = qcow2_div_round_up(image->size, BIT(entry->granularity_bits));
    if (bits->len < qcow2_div_round_up(n_bits, 8)) {
        return qcow2_corrupt(error, "the bitmap '%s' is too short for the disk", entry->name);
    }
    g_byte_array_set_size(bits, (guint)qcow2_div_round_up(n_bits, 8));
    if (n_bits % 8 != 0) {
        bits->data[bits->len - 1] &= (uint8_t)(BIT(n_bits % 8) - 1);
    }
    return true;
}

static bool read_bitmaps(Qcow2Image *image, GPtrArray *bitmaps, GError **error)
{
    g_autoptr(GArray) entries = qcow2_image_read_bitmaps(image, error);

    for (guint i = 0; entries && i < entries->len; i++) {
        const Qcow2BitmapEntry *entry = &g_array_index(entries, Qcow2BitmapEntry, i);
        LabBitmap *bitmap = g_new0(LabBitmap, 1);
        g_ptr_array_add(bitmaps, bitmap);
        bitmap->name = g_strdup(entry->name);
        bitmap->enabled = entry->flags & QCOW2_BITMAP_AUTO;
        bitmap->granularity = BIT(entry->granularity_bits);
        if (!(entry->flags & QCOW2_BITMAP_IN_USE)) {
            bitmap->bits = g_byte_array_new();
            if (!read_bits(image, entry, bitmap->bits, error)) {
                return false;
            }
        }
    }
    return entries != NULL;
}

LabContents *lab_contents_read(Qcow2Chain *chain, GError **error)
{
    g_autoptr(LabContents) contents = g_new0(LabContents, 1);
    Qcow2Image *image = qcow2_chain_image(chain, 0);

    contents->states = g_ptr_array_new_with_free_func(free_state);
    contents->bitmaps = g_ptr_array_new_with_free_func(free_bitmap);
    return read_states(chain, contents->states, error) && read_bitmaps(image, contents->bitmaps, error)
         ? g_steal_pointer(&contents) : NULL;
}

/* ---- Comparing ----------------------------------------------------------------------------------- */

static const uint8_t no_bytes[LAB_BLOCK];

/* The block at @offset; blocks are asked for in rising order, and @at is where the search stands. */
static const uint8_t *block_at(const LabState *state, uint64_t offset, guint *at)
{
    while (*at < state->offsets->len && g_array_index(state->offsets, uint64_t, *at) < offset) {
        (*at)++;
    }
    bool is_there = *at < state->offsets->len && g_array_index(state->offsets, uint64_t, *at) == offset;
    return is_there ? state->bytes->data + *at * LAB_BLOCK : no_bytes;
}

bool lab_state_reads(const LabState *state, const uint8_t *bytes, uint64_t len_bytes)
{
    guint at = 0;

    if (len_bytes != state->size) {
        return false;
    }
    for (uint64_t offset = 0; offset < len_bytes; offset += LAB_BLOCK) {
        if (memcmp(bytes + offset, block_at(state, offset, &at), MIN(LAB_BLOCK, len_bytes - offset)) != 0) {
            return false;
        }
    }
    return true;
}

/* A disk that became smaller has fewer of the bits. */
static void keep_bits(LabBitmap *bitmap, const LabBitmap *before, uint64_t disk_size)
{
    uint64_t n = qcow2_div_round_up(disk_size, bitmap->granularity);

    for (guint i = 0; i < MIN(bitmap->bits->len, before->bits->len); i++) {
        uint8_t mask = n / 8 == i ? (uint8_t)(BIT(n % 8) - 1) : 0xff;
        bitmap->bits->data[i] |= before->bits->data[i] & mask;
    }
}

static void require_bits(LabBitmap *bitmap, const LabBitmap *before, const LabState *now,
                         const LabState *then)
{
    guint at_now = 0, at_then = 0;

    keep_bits(bitmap, before, now->size);
    for (uint64_t offset = 0; offset < now->size; offset += LAB_BLOCK) {
        const uint8_t *a = block_at(now, offset, &at_now), *b = block_at(then, offset, &at_then);
        for (uint64_t i = 0; a != b && i < MIN(LAB_BLOCK, now->size - offset); i++) {
            if (a[i] != b[i]) {
                uint64_t bit = (offset + i) / bitmap->granularity;
                bitmap->bits->data[bit / 8] |= (uint8_t)BIT(bit % 8);
            }
        }
    }
}

void lab_contents_require_bits(LabContents *after, const LabContents *before)
{
    for (guint i = 0; i < after->bitmaps->len && i < before->bitmaps->len; i++) {
        LabBitmap *bitmap = g_ptr_array_index(after->bitmaps, i);
        const LabBitmap *old = g_ptr_array_index(before->bitmaps, i);
        if (bitmap->enabled && bitmap->bits && old->bits) {
            require_bits(bitmap, old, lab_state(after, 0), lab_state(before, 0));
        }
    }
}

static bool same_blocks(const LabState *a, const LabState *b)
{
    guint n = a->offsets->len;

    return n == b->offsets->len
        && (n == 0 || (memcmp(a->offsets->data, b->offsets->data, n * sizeof(uint64_t)) == 0
                       && memcmp(a->bytes->data, b->bytes->data, n * LAB_BLOCK) == 0));
}

/* Where the bytes differ first. */
static char *compare_blocks(const char *name, const LabState *expected, const LabState *found)
{
    guint at_expected = 0, at_found = 0;
    const uint8_t *a = no_bytes, *b = no_bytes;
    uint64_t offset = 0, i = 0;

    if (same_blocks(expected, found)) {
        return NULL;
    }
    for (;; offset += LAB_BLOCK) {
        a = block_at(expected, offset, &at_expected);
        b = block_at(found, offset, &at_found);
        if (memcmp(a, b, LAB_BLOCK) != 0) {
            break;
        }
    }
    while (a[i] == b[i]) {
        i++;
    }
    return g_strdup_printf("'%s' reads 0x%02x at 0x%" PRIx64 ", not 0x%02x", name, b[i], offset + i, a[i]);
}

static char *match_state(const LabState *expected, const LabState *found, bool exact_times)
{
    const char *name = expected->id ? expected->id : "@active";

    if (g_strcmp0(expected->id, found->id) != 0 || g_strcmp0(expected->name, found->name) != 0) {
        return g_strdup_printf("snapshot '%s' has id '%s', or another name", name, found->id);
    }
    if (exact_times && g_strcmp0(expected->times, found->times) != 0) {
        return g_strdup_printf("'%s' was taken %s, not %s", name, found->times, expected->times);
    }
    if (expected->size != found->size || expected->vm_state_size != found->vm_state_size) {
        return g_strdup_printf(
            "'%s' has 0x%" PRIx64 " bytes and a VM state of 0x%" PRIx64 ", not 0x%" PRIx64 " and 0x%" PRIx64,
            name, found->size, found->vm_state_size, expected->size, expected->vm_state_size);
    }
    return compare_blocks(name, expected, found);
}

static char *match_bitmap(const LabBitmap *expected, const LabBitmap *found, bool exact)
{
    if (strcmp(expected->name, found->name) != 0 || expected->enabled != found->enabled
        || expected->granularity != found->granularity) {
        return g_strdup_printf("the bitmap '%s' is '%s', or has other properties", expected->name,
                               found->name);
    }
    if (!expected->bits || !found->bits) {
        return expected->bits ? g_strdup_printf("the bitmap '%s' is in use", expected->name) : NULL;
    }
    if (expected->bits->len != found->bits->len) {
        return g_strdup_printf("the bitmap '%s' has another length", expected->name);
    }
    for (guint i = 0; i < expected->bits->len; i++) {
        uint8_t missing = expected->bits->data[i] & (uint8_t)~found->bits->data[i];
        uint8_t more = found->bits->data[i] & (uint8_t)~expected->bits->data[i];
        if (missing || (more && (exact || !expected->enabled))) {
            return g_strdup_printf("the bitmap '%s' has 0x%02x as byte 0x%x, not 0x%02x", expected->name,
                                   found->bits->data[i], i, expected->bits->data[i]);
        }
    }
    return NULL;
}

static char *match_bitmaps(const LabContents *expected, const LabContents *found, bool exact)
{
    char *why = NULL;

    if (expected->bitmaps->len != found->bitmaps->len) {
        return g_strdup_printf("%u bitmaps, not %u", found->bitmaps->len, expected->bitmaps->len);
    }
    for (guint i = 0; i < expected->bitmaps->len && !why; i++) {
        why = match_bitmap(g_ptr_array_index(expected->bitmaps, i), g_ptr_array_index(found->bitmaps, i),
                           exact);
    }
    return why;
}

static char *match_states(const LabContents *expected, const LabContents *found, guint first,
                          bool exact_times)
{
    char *why = NULL;

    if (expected->states->len != found->states->len) {
        return g_strdup_printf("%u snapshots, not %u", found->states->len - 1, expected->states->len - 1);
    }
    for (guint i = first; i < expected->states->len && !why; i++) {
        why = match_state(lab_state(expected, i), lab_state(found, i), exact_times);
    }
    return why;
}

char *lab_contents_match(const LabContents *expected, const LabContents *found, bool exact_times,
                         bool exact_bits)
{
    char *why = match_states(expected, found, 0, exact_times);

    return why ? why : match_bitmaps(expected, found, exact_bits);
}

char *lab_contents_match_kept(const LabContents *snapshots, const LabContents *bits,
                              const LabContents *found)
{
    char *why = match_states(snapshots, found, 1, true);

    return why ? why : match_bitmaps(bits, found, false);
}
