/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The refcounts in the file. Spec: "Host cluster management". */
#include "format/refcount.h"
#include "image/check-pass.h"
#include "util/pool.h"

#define REFTABLE_RESERVED (~QCOW2_REFTABLE_OFFSET)

/* ---- The table ----------------------------------------------------------------------------------- */

bool qcow2_check_read_reftable(Qcow2CheckPass *pass, GError **error)
{
    uint64_t offset = pass->header->reftable_offset;
    uint64_t len_bytes = pass->header->reftable_clusters * pass->layout->cluster_size;

    /* What lies past the end of the file reads as zeros: no blocks. */
    len_bytes = offset < pass->file_size ? MIN(len_bytes, qcow2_align_up(pass->file_size - offset, 8)) : 0;
    pass->n_reftable = len_bytes / 8;
    pass->reftable = g_try_malloc(MAX(len_bytes, 8));
    if (!pass->reftable) {
        return qcow2_fail_memory(error, len_bytes, "the refcount table");
    }
    if (!qcow2_io_read(pass->file, offset, pass->reftable, len_bytes, error)) {
        g_prefix_error(error, "refcount table: ");
        return false;
    }
    for (size_t i = 0; i < pass->n_reftable; i++) {
        pass->reftable[i] = GUINT64_FROM_BE(pass->reftable[i]);
    }
    return true;
}

/* Where the block of this index is: 0 where there is none, and UINT64_MAX where none can be. */
static uint64_t block_offset(const Qcow2CheckPass *pass, uint64_t index)
{
    uint64_t offset = index < pass->n_reftable ? pass->reftable[index] & QCOW2_REFTABLE_OFFSET : 0;

    bool is_possible = qcow2_is_cluster_aligned(pass->layout, offset)
                    && qcow2_range_fits(offset, pass->layout->cluster_size);
    return is_possible ? offset : UINT64_MAX;
}

bool qcow2_check_has_refcount(const Qcow2CheckPass *pass, uint64_t cluster)
{
    return cluster < pass->wanted_end
        || block_offset(pass, cluster >> pass->layout->refblock_bits) != UINT64_MAX;
}

/* ---- Reading counts ------------------------------------------------------------------------------ */

size_t qcow2_check_chunk_len(const Qcow2CheckPass *pass)
{
    return (QCOW2_COUNTS_CHUNK << pass->layout->refcount_order) / 8;
}

bool qcow2_check_has_refcounts(const Qcow2CheckPass *pass, uint64_t first)
{
    unsigned bits = pass->layout->refblock_bits;
    uint64_t index = first >> bits;
    uint64_t end = MIN(((first + QCOW2_COUNTS_CHUNK - 1) >> bits) + 1, pass->n_reftable);

    while (index < end && pass->reftable[index] == 0) {
        index++;
    }
    return index < end;
}

/* Parts of blocks that follow each other in the file and in memory are read at once. */
typedef struct PendingRead {
    uint64_t offset;
    uint8_t *room;
    size_t len_bytes;
} PendingRead;

static bool finish_read(const Qcow2CheckPass *pass, PendingRead *pending, GError **error)
{
    size_t len_bytes = pending->len_bytes;

    pending->len_bytes = 0;
    if (len_bytes > 0 && !qcow2_io_read(pass->file, pending->offset, pending->room, len_bytes, error)) {
        g_prefix_error(error, "refcount block: ");
        return false;
    }
    return true;
}

bool qcow2_check_read_chunk(const Qcow2CheckPass *pass, uint64_t first, uint8_t *room, bool *ret_unreadable,
                            GError **error)
{
    const Qcow2Layout *layout = pass->layout;
    uint64_t block_len = BIT(layout->refblock_bits);           /* counts */
    uint64_t step = MIN(QCOW2_COUNTS_CHUNK, block_len);
    size_t step_bytes = (step << layout->refcount_order) / 8;
    PendingRead pending = { 0 };

    *ret_unreadable = false;
    for (uint64_t at = first; at < first + QCOW2_COUNTS_CHUNK; at += step, room += step_bytes) {
        uint64_t offset = block_offset(pass, at >> layout->refblock_bits);
        if (offset == 0 || offset >= pass->file_size) {
            *ret_unreadable |= offset == UINT64_MAX;
            memset(room, 0, step_bytes);
            continue;
        }
        offset += ((at & (block_len - 1)) << layout->refcount_order) / 8;
        if (pending.len_bytes > 0 && offset == pending.offset + pending.len_bytes
            && room == pending.room + pending.len_bytes) {
            pending.len_bytes += step_bytes;
            continue;
        }
        if (!finish_read(pass, &pending, error)) {
            return false;
        }
        pending = (PendingRead) { offset, room, step_bytes };
    }
    return finish_read(pass, &pending, error);
}

bool qcow2_check_read_refcount(const Qcow2CheckPass *pass, uint64_t cluster, uint64_t *ret_count,
                               GError **error)
{
    const Qcow2Layout *layout = pass->layout;
    uint64_t offset = block_offset(pass, cluster >> layout->refblock_bits);
    uint64_t bit = (cluster & (BIT(layout->refblock_bits) - 1)) << layout->refcount_order;
    uint8_t bytes[8];

    if (cluster < pass->wanted_end) {
        *ret_count = qcow2_counts_get(pass->wanted, cluster);
        return true;
    }
    *ret_count = 0;
    if (offset == 0 || offset == UINT64_MAX || offset >= pass->file_size) {
        return true;
    }
    /* Eight bytes that are aligned hold the whole count. */
    if (!qcow2_io_read(pass->file, offset + bit / 64 * 8, bytes, sizeof(bytes), error)) {
        g_prefix_error(error, "refcount block: ");
        return false;
    }
    *ret_count = qcow2_refcount_get(layout, bytes, (bit % 64) >> layout->refcount_order);
    return true;
}

/* ---- Counts of exactly 1 ------------------------------------------------------------------------- */

/* Bits for counts of 16 bits, which most images have: four at a time. */
static uint64_t single_bits_of_16(const uint8_t *counts)
{
    const uint64_t low = UINT64_C(0x7fff7fff7fff7fff), ones = UINT64_C(0x0001000100010001);
    uint64_t bits = 0;

    for (unsigned i = 0; i < 64; i += 4, counts += 8) {
        uint64_t four = qcow2_load_be64(counts) ^ ones;
        /* The top bit of each field says whether it is zero now; no carry leaves a field. */
        uint64_t is_zero = ~(((four & low) + low) | four | low) >> 15;
        /* The first count is in the highest field. */
        uint64_t nibble = ((is_zero >> 48) & 1) | ((is_zero >> 31) & 2) | ((is_zero >> 14) & 4)
                        | ((is_zero << 3) & 8);
        bits |= nibble << i;
    }
    return bits;
}

static uint64_t single_bits(const Qcow2Layout *layout, const uint8_t *block, size_t index)
{
    uint64_t bits = 0;

    if (layout->refcount_order == 4) {
        return single_bits_of_16(block + index * 2);
    }
    for (unsigned i = 0; i < 64; i++) {
        bits |= (uint64_t)(qcow2_refcount_get(layout, block, index + i) == 1) << i;
    }
    return bits;
}

static void note_single_wanted(const Qcow2CheckPass *pass, uint64_t first, uint64_t *words)
{
    size_t n = MIN(QCOW2_COUNTS_CHUNK, pass->flags_end - first);

    if (qcow2_counts_is_zero(pass->wanted, first, n)) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        words[i / 64] |= (uint64_t)(qcow2_counts_get(pass->wanted, first + i) == 1) << (i % 64);
    }
}

static bool note_single_in_chunk(size_t index, void *data, GError **error)
{
    Qcow2CheckPass *pass = data;
    uint64_t first = pass->flags_start + index * QCOW2_COUNTS_CHUNK;
    uint64_t *words = pass->single + index * (QCOW2_COUNTS_CHUNK / 64);

    if (pass->wanted) {
        note_single_wanted(pass, first, words);
        return true;
    }
    if (!qcow2_check_has_refcounts(pass, first)) {
        return true;
    }
    g_autofree uint8_t *block = g_try_malloc(qcow2_check_chunk_len(pass));
    bool unreadable;

    if (!block) {
        return qcow2_fail_memory(error, qcow2_check_chunk_len(pass), "refcounts");
    }
    if (!qcow2_check_read_chunk(pass, first, block, &unreadable, error)) {
        return false;
    }
    for (size_t i = 0; i < QCOW2_COUNTS_CHUNK / 64; i++) {
        words[i] = single_bits(pass->layout, block, i * 64);
    }
    return true;
}

bool qcow2_check_note_single(Qcow2CheckPass *pass, GError **error)
{
    size_t n_chunks = qcow2_div_round_up(pass->flags_end - pass->flags_start, QCOW2_COUNTS_CHUNK);

    g_free(pass->single);
    /* Zeros that come from the system cost nothing where they are left alone, in a large and sparse file. */
    pass->single = g_try_malloc0(MAX(n_chunks, 1) * (QCOW2_COUNTS_CHUNK / 8));
    if (!pass->single) {
        return qcow2_fail_memory(error, n_chunks * (QCOW2_COUNTS_CHUNK / 8), "a bit for each cluster");
    }
    return qcow2_parallel_for(pass->n_threads, n_chunks, note_single_in_chunk, pass, error);
}

bool qcow2_check_flags_agree(const Qcow2CheckPass *pass, uint64_t first, uint64_t n, bool copied)
{
    uint64_t at = MAX(first, pass->flags_start), end = MIN(first + n, pass->flags_end);
    uint64_t expected = copied ? UINT64_MAX : 0;

    while (at < end) {
        uint64_t bit = at - pass->flags_start;
        uint64_t here = MIN(64 - bit % 64, end - at);
        uint64_t mask = (UINT64_MAX >> (64 - here)) << (bit % 64);
        if ((pass->single[bit / 64] ^ expected) & mask) {
            return false;
        }
        at += here;
    }
    return true;
}

/* ---- The blocks themselves ----------------------------------------------------------------------- */

static void check_entry(Qcow2CheckPass *pass, size_t index)
{
    uint64_t raw = pass->reftable[index], offset = raw & QCOW2_REFTABLE_OFFSET;

    if (raw & REFTABLE_RESERVED) {
        pass->needs_rebuild = true;
        qcow2_check_corrupt(pass, 1, "ERROR refcount table entry %zu has reserved bits set", index);
    } else if (!qcow2_is_cluster_aligned(pass->layout, offset)) {
        pass->needs_rebuild = true;
        qcow2_check_corrupt(pass, 1, "ERROR refcount block %zu is not cluster aligned; refcount table entry "
                            "corrupted", index);
    } else if (offset >> pass->layout->cluster_bits >= pass->n_clusters) {
        qcow2_check_corrupt(pass, 1, "%s refcount block %zu is outside image", qcow2_check_verb(pass), index);
    }
}

uint64_t qcow2_check_refblock_cluster(const Qcow2Layout *layout, uint64_t raw)
{
    uint64_t offset = raw & QCOW2_REFTABLE_OFFSET;

    if (raw == 0 || (raw & REFTABLE_RESERVED) || !qcow2_is_cluster_aligned(layout, offset)) {
        return UINT64_MAX;
    }
    return offset >> layout->cluster_bits;
}

void qcow2_check_refblocks(Qcow2CheckPass *pass)
{
    uint64_t max = qcow2_refcount_max(pass->layout);

    for (size_t i = 0; i < pass->n_reftable; i++) {
        uint64_t cluster = qcow2_check_refblock_cluster(pass->layout, pass->reftable[i]);
        if (pass->first && pass->reftable[i] != 0) {
            check_entry(pass, i);
        }
        if (cluster >= pass->n_clusters) {
            continue;
        }
        qcow2_check_refer(pass, cluster << pass->layout->cluster_bits, pass->layout->cluster_size, 1);
        if (cluster < pass->start || cluster >= qcow2_counts_end(pass->counts)) {
            continue;
        }
        uint64_t count = MIN(qcow2_counts_get(pass->counts, cluster), max);
        if (count != 1) {
            pass->needs_rebuild = true;
            qcow2_check_corrupt(pass, 1, "ERROR refcount block %zu refcount=%" PRIu64, i, count);
        }
    }
}
