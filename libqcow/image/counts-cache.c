/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/counts-cache.h"

#include "format/refcount.h"
#include "util/error.h"

#define MAX_CACHED \
    (UINT64_C(128) << 20) /* bytes of blocks in memory; more are written early and read again */

typedef struct Block {
    uint64_t index;
    uint8_t *bytes;
    bool dirty;               /* differs from what is in the file at its place */
    GList link;               /* in the order of use, the latest first */
} Block;

/* Where a block is: as it was, and, once it is changed, its new place. */
typedef struct Slot {
    uint64_t old_offset;      /* 0: none */
    uint64_t new_offset;      /* 0: unchanged, or without a place yet */
    bool changed;
} Slot;

struct Qcow2CountsCache {
    Qcow2Image *image;
    const Qcow2Layout *layout;
    Qcow2PlaceFunc place;
    void *place_data;
    GArray *slots;            /* Slot */
    GHashTable *blocks;       /* index -> Block */
    GQueue used;
    Block *last;              /* the block used last: most uses follow each other */
    uint64_t n_freed;
};

static void free_block(gpointer data)
{
    Block *block = data;

    g_free(block->bytes);
    g_free(block);
}

static bool read_table(Qcow2CountsCache *cache, GError **error)
{
    const Qcow2Header *header = &cache->image->header;
    uint64_t len = (uint64_t)header->reftable_clusters << header->layout.cluster_bits;
    g_autofree uint8_t *raw = g_try_malloc(len);

    if (!raw && len > 0) {
        return qcow2_fail_memory(error, len, "the refcount table");
    }
    if (!qcow2_io_read(cache->image->file, header->reftable_offset, raw, len, error)) {
        g_prefix_error(error, "refcount table: ");
        return false;
    }
    g_array_set_size(cache->slots, (guint)(len / 8));
    for (uint64_t i = 0; i < len / 8; i++) {
        uint64_t offset = qcow2_load_be64(raw + i * 8) & QCOW2_REFTABLE_OFFSET;
        if (!qcow2_is_cluster_aligned(cache->layout, offset)) {
            return qcow2_corrupt(error,
                                 "refcount table entry %" PRIu64 ": block offset 0x%" PRIx64
                                 " is not a multiple of the"
                                 " cluster size; run qcow-check",
                                 i, offset);
        }
        g_array_index(cache->slots, Slot, i).old_offset = offset;
    }
    return true;
}

static Qcow2CountsCache *new_cache(Qcow2Image *image, const Qcow2Layout *layout, Qcow2PlaceFunc place,
                                   void *data)
{
    Qcow2CountsCache *cache = g_new0(Qcow2CountsCache, 1);

    cache->image = image;
    cache->layout = layout;
    cache->place = place;
    cache->place_data = data;
    cache->slots = g_array_new(FALSE, TRUE, sizeof(Slot));
    cache->blocks = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, free_block);
    g_queue_init(&cache->used);
    return cache;
}

Qcow2CountsCache *qcow2_counts_cache_new(Qcow2Image *image, Qcow2PlaceFunc place, void *data, GError **error)
{
    g_autoptr(Qcow2CountsCache) cache = new_cache(image, &image->header.layout, place, data);

    return read_table(cache, error) ? g_steal_pointer(&cache) : NULL;
}

void qcow2_counts_cache_free(Qcow2CountsCache *cache)
{
    if (!cache) {
        return;
    }
    g_hash_table_unref(cache->blocks);
    g_array_unref(cache->slots);
    g_free(cache);
}

/* ---- Blocks ------------------------------------------------------------------------------------ */

static Slot *slot_of(Qcow2CountsCache *cache, uint64_t index)
{
    if (index >= cache->slots->len) {
        g_array_set_size(cache->slots, (guint)(index + 1));
    }
    return &g_array_index(cache->slots, Slot, index);
}

static bool write_block(Qcow2CountsCache *cache, Block *block, GError **error)
{
    uint64_t offset = slot_of(cache, block->index)->new_offset;

    if (!qcow2_io_write(cache->image->file, offset, block->bytes, cache->layout->cluster_size, error)) {
        g_prefix_error(error, "refcount block: ");
        return false;
    }
    block->dirty = false;
    return true;
}

static void forget_block(Qcow2CountsCache *cache, Block *block)
{
    g_queue_unlink(&cache->used, &block->link);
    if (cache->last == block) {
        cache->last = NULL;
    }
    g_hash_table_remove(cache->blocks, &block->index);
}

/* Makes room: the block that was not used for the longest time goes, into its new place if it changed. */
static bool evict(Qcow2CountsCache *cache, GError **error)
{
    if (g_hash_table_size(cache->blocks) * cache->layout->cluster_size < MAX_CACHED) {
        return true;
    }
    Block *block = g_queue_peek_tail(&cache->used);
    Slot *slot = slot_of(cache, block->index);
    if (block->dirty && slot->new_offset == 0) {
        uint64_t offset = cache->place(cache->place_data, error);
        if (offset == 0) {
            return false;
        }
        slot_of(cache, block->index)->new_offset = offset;
    }
    if (block->dirty && !write_block(cache, block, error)) {
        return false;
    }
    forget_block(cache, block);
    return true;
}

static Block *load_block(Qcow2CountsCache *cache, uint64_t index, GError **error)
{
    const Slot *slot = slot_of(cache, index);
    uint64_t offset = slot->new_offset ? slot->new_offset : slot->old_offset;
    g_autofree uint8_t *bytes = g_try_malloc0(cache->layout->cluster_size);

    if (!bytes) {
        qcow2_fail_memory(error, cache->layout->cluster_size, "a refcount block");
        return NULL;
    }
    if (offset != 0
        && !qcow2_io_read(cache->image->file, offset, bytes, cache->layout->cluster_size, error)) {
        g_prefix_error(error, "refcount block %" PRIu64 ": ", index);
        return NULL;
    }
    Block *block = g_new0(Block, 1);
    block->index = index;
    block->bytes = g_steal_pointer(&bytes);
    block->link.data = block;
    g_hash_table_insert(cache->blocks, &block->index, block);
    g_queue_push_head_link(&cache->used, &block->link);
    return block;
}

static Block *get_block(Qcow2CountsCache *cache, uint64_t index, GError **error)
{
    if (cache->last && cache->last->index == index) {
        return cache->last;
    }
    Block *block = g_hash_table_lookup(cache->blocks, &index);
    if (block) {
        g_queue_unlink(&cache->used, &block->link);
        g_queue_push_head_link(&cache->used, &block->link);
    } else {
        block = evict(cache, error) ? load_block(cache, index, error) : NULL;
    }
    cache->last = block;
    return block;
}

static uint64_t index_in_block(const Qcow2CountsCache *cache, uint64_t cluster)
{
    return cluster & (BIT(cache->layout->refblock_bits) - 1);
}

/* The part of [first, first + n) that lies in first's block. */
static uint64_t part_in_block(const Qcow2CountsCache *cache, uint64_t first, uint64_t n)
{
    return MIN(n, BIT(cache->layout->refblock_bits) - index_in_block(cache, first));
}

/* ---- Counts ------------------------------------------------------------------------------------ */

bool qcow2_counts_cache_get(Qcow2CountsCache *cache, uint64_t cluster, uint64_t *ret_count, GError **error)
{
    uint64_t index = cluster >> cache->layout->refblock_bits;

    *ret_count = 0;
    if (index >= cache->slots->len) {
        return true;
    }
    const Block *block = get_block(cache, index, error);
    if (!block) {
        return false;
    }
    *ret_count = qcow2_refcount_get(cache->layout, block->bytes, index_in_block(cache, cluster));
    return true;
}

static bool fail_count(const Qcow2CountsCache *cache, uint64_t cluster, uint64_t count, int delta,
                       GError **error)
{
    if (delta < 0) {
        return qcow2_corrupt(error,
                             "the refcount of the cluster at 0x%" PRIx64 " is %" PRIu64
                             ", too low for its references;"
                             " run qcow-check -r all",
                             cluster << cache->layout->cluster_bits, count);
    }
    return qcow2_fail(
        error, QCOW2_ERROR_UNSUPPORTED,
        "the refcount of the cluster at 0x%" PRIx64 " is %" PRIu64 " and cannot"
        " grow: refcounts of this image have %u bits; widen them with qcow-amend -o refcount_bits",
        cluster << cache->layout->cluster_bits, count, 1u << cache->layout->refcount_order);
}

static bool add_in_block(Qcow2CountsCache *cache, uint64_t first, uint64_t n, int delta, GError **error)
{
    Block *block = get_block(cache, first >> cache->layout->refblock_bits, error);
    uint64_t max = qcow2_refcount_max(cache->layout), index = index_in_block(cache, first);

    if (!block) {
        return false;
    }
    block->dirty = true;
    slot_of(cache, block->index)->changed = true;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t count = qcow2_refcount_get(cache->layout, block->bytes, index + i);
        if (delta < 0 ? count < (uint64_t)-delta : max - count < (uint64_t)delta) {
            return fail_count(cache, first + i, count, delta, error);
        }
        cache->n_freed += count + (uint64_t)(int64_t)delta == 0;
        qcow2_refcount_set(cache->layout, block->bytes, index + i, count + (uint64_t)(int64_t)delta);
    }
    return true;
}

bool qcow2_counts_cache_add(Qcow2CountsCache *cache, uint64_t first, uint64_t n, int delta, GError **error)
{
    while (n > 0) {
        uint64_t part = part_in_block(cache, first, n);
        if (!add_in_block(cache, first, part, delta, error)) {
            return false;
        }
        first += part;
        n -= part;
    }
    return true;
}

bool qcow2_counts_cache_run(Qcow2CountsCache *cache, uint64_t first, uint64_t n, bool *ret_is_one,
                            uint64_t *ret_n, GError **error)
{
    uint64_t index = first >> cache->layout->refblock_bits;
    uint64_t part = part_in_block(cache, first, n), i = 1;

    *ret_is_one = false;
    *ret_n = part;
    if (index >= cache->slots->len) {
        return true;
    }
    const Block *block = get_block(cache, index, error);
    if (!block) {
        return false;
    }
    uint64_t start = index_in_block(cache, first);
    *ret_is_one = qcow2_refcount_get(cache->layout, block->bytes, start) == 1;
    while (i < part && (qcow2_refcount_get(cache->layout, block->bytes, start + i) == 1) == *ret_is_one) {
        i++;
    }
    *ret_n = i;
    return true;
}

uint64_t qcow2_counts_cache_n_freed(const Qcow2CountsCache *cache)
{
    return cache->n_freed;
}

uint64_t qcow2_counts_cache_end(const Qcow2CountsCache *cache)
{
    uint64_t n = cache->slots->len;

    while (n > 0 && g_array_index(cache->slots, Slot, n - 1).old_offset == 0
           && !g_array_index(cache->slots, Slot, n - 1).changed) {
        n--;
    }
    return n << cache->layout->refblock_bits;
}

uint64_t qcow2_counts_cache_n_blocks(const Qcow2CountsCache *cache)
{
    uint64_t n = cache->slots->len;

    while (n > 0 && qcow2_counts_cache_block(cache, n - 1) == 0) {
        n--;
    }
    return n;
}

uint64_t qcow2_counts_cache_block(const Qcow2CountsCache *cache, uint64_t index)
{
    const Slot *slot = &g_array_index(cache->slots, Slot, index);

    return slot->new_offset ? slot->new_offset : slot->old_offset;
}

bool qcow2_counts_cache_is_changed(const Qcow2CountsCache *cache)
{
    for (guint i = 0; i < cache->slots->len; i++) {
        if (g_array_index(cache->slots, Slot, i).changed) {
            return true;
        }
    }
    return false;
}

bool qcow2_counts_cache_touch(Qcow2CountsCache *cache, uint64_t index, GError **error)
{
    Block *block = get_block(cache, index, error);

    if (!block) {
        return false;
    }
    block->dirty = true;
    slot_of(cache, index)->changed = true;
    return true;
}

/* ---- Another width ----------------------------------------------------------------------------- */

/* What happens to the non-zero counts of a block, one after the other. */
typedef bool (*CountFunc)(uint64_t cluster, uint64_t count, Qcow2CountsCache *to, GError **error);

static bool check_count(uint64_t cluster, uint64_t count, Qcow2CountsCache *to, GError **error)
{
    return count <= qcow2_refcount_max(to->layout)
        || qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED,
                      "Cannot decrease refcount entry width to %u bits: Cluster at offset 0x%" PRIx64
                      " has a refcount of %" PRIu64, 1u << to->layout->refcount_order,
                      cluster << to->layout->cluster_bits, count);
}

static bool copy_count(uint64_t cluster, uint64_t count, Qcow2CountsCache *to, GError **error)
{
    Block *block = get_block(to, cluster >> to->layout->refblock_bits, error);

    if (!block) {
        return false;
    }
    block->dirty = true;
    slot_of(to, block->index)->changed = true;
    qcow2_refcount_set(to->layout, block->bytes, index_in_block(to, cluster), count);
    return true;
}

/* Each block is looked at once and then forgotten. */
static bool each_count(Qcow2CountsCache *cache, CountFunc func, Qcow2CountsCache *to, GError **error)
{
    unsigned bits = cache->layout->refblock_bits;

    for (uint64_t i = 0; i < cache->slots->len; i++) {
        Block *block = slot_of(cache, i)->old_offset ? get_block(cache, i, error) : NULL;
        if (!block) {
            if (slot_of(cache, i)->old_offset) {
                return false;
            }
            continue;
        }
        for (uint64_t j = 0; j < BIT(bits); j++) {
            uint64_t count = qcow2_refcount_get(cache->layout, block->bytes, j);
            if (count != 0 && !func((i << bits) + j, count, to, error)) {
                return false;
            }
        }
        forget_block(cache, block);
    }
    return true;
}

Qcow2CountsCache *qcow2_counts_cache_convert(Qcow2CountsCache *cache, const Qcow2Layout *layout,
                                             GError **error)
{
    g_autoptr(Qcow2CountsCache) to = new_cache(cache->image, layout, cache->place, cache->place_data);
    bool narrower = layout->refcount_order < cache->layout->refcount_order;

    if ((narrower && !each_count(cache, check_count, to, error))
        || !each_count(cache, copy_count, to, error)) {
        return NULL;
    }
    for (guint i = 0; i < cache->slots->len; i++) {
        uint64_t offset = slot_of(cache, i)->old_offset;
        if (offset != 0 && !qcow2_counts_cache_add(to, offset >> layout->cluster_bits, 1, -1, error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&to);
}

/* ---- Writing ----------------------------------------------------------------------------------- */

/* A block without any count is none: zeros are what a missing one says. Changed blocks are in memory. */
static bool is_empty(const Qcow2CountsCache *cache, uint64_t index)
{
    const Block *block = g_hash_table_lookup(cache->blocks, &index);

    return block && block->bytes[0] == 0
        && memcmp(block->bytes, block->bytes + 1, cache->layout->cluster_size - 1) == 0;
}

/* First what is released, since that may leave a block without any count. */
static bool release_old(Qcow2CountsCache *cache, uint64_t *n_done, GError **error)
{
    for (guint i = 0; i < cache->slots->len; i++) {
        uint64_t old_offset = slot_of(cache, i)->old_offset;
        if (!slot_of(cache, i)->changed || old_offset == 0) {
            continue;
        }
        slot_of(cache, i)->old_offset = 0;
        (*n_done)++;
        if (!qcow2_counts_cache_add(cache, old_offset >> cache->layout->cluster_bits, 1, -1, error)) {
            return false;
        }
    }
    return true;
}

bool qcow2_counts_cache_place_all(Qcow2CountsCache *cache, uint64_t *ret_placed, GError **error)
{
    *ret_placed = 0;
    if (!release_old(cache, ret_placed, error)) {
        return false;
    }
    for (guint i = 0; i < cache->slots->len; i++) {
        const Slot *slot = slot_of(cache, i);
        if (!slot->changed || slot->new_offset != 0 || is_empty(cache, i)) {
            continue;
        }
        uint64_t offset = cache->place(cache->place_data, error);
        if (offset == 0) {
            return false;
        }
        slot_of(cache, i)->new_offset = offset;
        (*ret_placed)++;
    }
    return true;
}

bool qcow2_counts_cache_write(Qcow2CountsCache *cache, uint64_t table_offset, uint64_t table_clusters,
                              GError **error)
{
    uint64_t len = table_clusters << cache->layout->cluster_bits;
    g_autofree uint8_t *raw = g_try_malloc0(len);
    GHashTableIter iter;
    gpointer value;

    if (!raw) {
        return qcow2_fail_memory(error, len, "the refcount table");
    }
    g_hash_table_iter_init(&iter, cache->blocks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Block *block = value;
        bool has_place = slot_of(cache, block->index)->new_offset != 0;
        if (block->dirty && has_place && !write_block(cache, block, error)) {
            return false;
        }
    }
    for (guint i = 0; i < MIN(cache->slots->len, len / 8); i++) {
        const Slot *slot = &g_array_index(cache->slots, Slot, i);
        qcow2_store_be64(raw + i * 8, slot->new_offset ? slot->new_offset : slot->old_offset);
    }
    if (!qcow2_io_write(cache->image->file, table_offset, raw, len, error)) {
        g_prefix_error(error, "refcount table: ");
        return false;
    }
    return true;
}
