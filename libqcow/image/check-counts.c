/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/check-counts.h"

#include "format/refcount.h"

#define MIN_WIDTH 2u       /* bits of a count */
#define MAX_WIDTH 64u

/* Counts are packed into words, the first one in the lowest bits. */
typedef struct Chunk {
    uint64_t *words;       /* NULL: every cluster has the count @uniform */
    uint64_t uniform;
    unsigned width;
} Chunk;

struct Qcow2Counts {
    uint64_t start, end;
    Chunk *chunks;
    size_t n_chunks;
    size_t used, budget;   /* bytes */
    bool failed;
};

Qcow2Counts *qcow2_counts_new(uint64_t start, uint64_t end, size_t budget)
{
    Qcow2Counts *counts = g_new0(Qcow2Counts, 1);

    counts->start = start;
    counts->end = end;
    counts->budget = budget;
    counts->n_chunks = qcow2_div_round_up(end - start, QCOW2_COUNTS_CHUNK);
    counts->chunks = g_new0(Chunk, counts->n_chunks);
    return counts;
}

void qcow2_counts_free(Qcow2Counts *counts)
{
    if (!counts) {
        return;
    }
    for (size_t i = 0; i < counts->n_chunks; i++) {
        g_free(counts->chunks[i].words);
    }
    g_free(counts->chunks);
    g_free(counts);
}

uint64_t qcow2_counts_end(const Qcow2Counts *counts)
{
    return counts->end;
}

bool qcow2_counts_failed(const Qcow2Counts *counts)
{
    return counts->failed;
}

/* ---- Memory -------------------------------------------------------------------------------------- */

static size_t chunk_bytes(unsigned width)
{
    return QCOW2_COUNTS_CHUNK / 8 * width;
}

static void drop_words(Qcow2Counts *counts, Chunk *chunk)
{
    if (chunk->words) {
        counts->used -= chunk_bytes(chunk->width);
        g_clear_pointer(&chunk->words, g_free);
    }
}

static void give_up_upper_half(Qcow2Counts *counts)
{
    size_t keep = counts->n_chunks / 2;

    for (size_t i = keep; i < counts->n_chunks; i++) {
        drop_words(counts, &counts->chunks[i]);
    }
    counts->n_chunks = keep;
    counts->end = counts->start + keep * QCOW2_COUNTS_CHUNK;
}

/* NULL when chunk @index had to be given up. */
static uint64_t *new_words(Qcow2Counts *counts, size_t index, unsigned width)
{
    size_t len_bytes = chunk_bytes(width);

    while (index < counts->n_chunks) {
        bool affordable = counts->used + len_bytes <= counts->budget || counts->n_chunks == 1;
        uint64_t *words = affordable ? g_try_malloc(len_bytes) : NULL;
        if (words) {
            counts->used += len_bytes;
            return words;
        }
        if (counts->n_chunks == 1) {
            counts->failed = true;
            return NULL;
        }
        give_up_upper_half(counts);
    }
    return NULL;
}

/* ---- Fields -------------------------------------------------------------------------------------- */

static uint64_t field_max(unsigned width)
{
    return UINT64_MAX >> (64 - width);
}

/* A word whose fields all have this value. */
static uint64_t in_all_fields(unsigned width, uint64_t value)
{
    return UINT64_MAX / field_max(width) * value;
}

static uint64_t get_field(const Chunk *chunk, size_t index)
{
    size_t bit = index * chunk->width;

    return chunk->words ? (chunk->words[bit / 64] >> (bit % 64)) & field_max(chunk->width) : chunk->uniform;
}

static unsigned width_for(uint64_t value)
{
    unsigned width = MIN_WIDTH;

    while (width < MAX_WIDTH && value > field_max(width)) {
        width *= 2;
    }
    return width;
}

/* Gives the chunk words of their own, wide enough for @value. False when it had to be given up. */
static bool widen(Qcow2Counts *counts, size_t index, uint64_t value)
{
    Chunk *chunk = &counts->chunks[index];
    Chunk wide = { .width = width_for(value) };
    size_t n_words = chunk_bytes(wide.width) / sizeof(uint64_t);

    wide.words = new_words(counts, index, wide.width);
    if (!wide.words) {
        return false;
    }
    if (!chunk->words) {
        uint64_t word = in_all_fields(wide.width, chunk->uniform);
        for (size_t i = 0; i < n_words; i++) {
            wide.words[i] = word;
        }
    } else {
        size_t per_word = 64 / wide.width;
        for (size_t i = 0; i < n_words; i++) {
            uint64_t word = 0;
            for (size_t j = 0; j < per_word; j++) {
                word |= get_field(chunk, i * per_word + j) << (j * wide.width);
            }
            wide.words[i] = word;
        }
    }
    drop_words(counts, chunk);
    *chunk = wide;
    return true;
}

/* ---- Adding -------------------------------------------------------------------------------------- */

/*
 * Adds the fields of @addend to those of @word at once: below their top bits as numbers, which cannot carry
 * into the next field, and the top bits without carry. False, and nothing is added, when a field overflows.
 */
static bool add_fields(uint64_t *word, uint64_t addend, uint64_t top_bits)
{
    uint64_t before = *word;
    uint64_t sum = ((before & ~top_bits) + (addend & ~top_bits)) ^ ((before ^ addend) & top_bits);
    uint64_t carries = ((before & addend) | ((before | addend) & ~sum)) & top_bits;

    if (carries) {
        return false;
    }
    *word = sum;
    return true;
}

/* Returns how many of the fields got their weight before one would have overflown. */
static size_t add_while_it_fits(Chunk *chunk, size_t first, size_t n, uint64_t weight)
{
    unsigned width = chunk->width;
    size_t per_word = 64 / width;
    uint64_t addend = in_all_fields(width, weight);
    uint64_t top_bits = in_all_fields(width, BIT(width - 1));
    size_t done = 0;

    while (done < n) {
        size_t at = (first + done) % per_word;
        size_t here = MIN(per_word - at, n - done);
        uint64_t mask = (UINT64_MAX >> (64 - here * width)) << (at * width);
        if (!add_fields(&chunk->words[(first + done) / per_word], addend & mask, top_bits)) {
            break;
        }
        done += here;
    }
    return done;
}

static void add_to_chunk(Qcow2Counts *counts, size_t index, size_t first, size_t n, uint64_t weight)
{
    Chunk *chunk = &counts->chunks[index];

    if (!chunk->words) {
        if (n == QCOW2_COUNTS_CHUNK) {
            chunk->uniform += weight;
            return;
        }
        if (!widen(counts, index, chunk->uniform + weight)) {
            return;
        }
    }
    while (n > 0) {
        bool fits = weight <= field_max(chunk->width);
        size_t done = fits ? add_while_it_fits(chunk, first, n, weight) : 0;
        first += done;
        n -= done;
        if (n > 0 && !widen(counts, index, MAX(weight, field_max(chunk->width) + 1))) {
            return;
        }
    }
}

void qcow2_counts_add(Qcow2Counts *counts, uint64_t first, uint64_t n, uint64_t weight)
{
    uint64_t at = MAX(first, counts->start), end = first + n;

    while (at < MIN(end, counts->end)) {
        size_t index = (at - counts->start) >> QCOW2_COUNTS_CHUNK_BITS;
        size_t in_chunk = (at - counts->start) & (QCOW2_COUNTS_CHUNK - 1);
        size_t here = MIN(QCOW2_COUNTS_CHUNK - in_chunk, end - at);
        add_to_chunk(counts, index, in_chunk, here, weight);
        at += here;
    }
}

/* ---- Changing ------------------------------------------------------------------------------------ */

static void set_field(Chunk *chunk, size_t index, uint64_t value)
{
    size_t bit = index * chunk->width;
    uint64_t *word = &chunk->words[bit / 64];

    *word = (*word & ~(field_max(chunk->width) << (bit % 64))) | value << (bit % 64);
}

void qcow2_counts_set(Qcow2Counts *counts, uint64_t cluster, uint64_t count)
{
    size_t index = (cluster - counts->start) >> QCOW2_COUNTS_CHUNK_BITS;
    Chunk *chunk = &counts->chunks[index];

    if (!chunk->words || count > field_max(chunk->width)) {
        if (!widen(counts, index, MAX(count, chunk->words ? 0 : chunk->uniform))) {
            return;
        }
    }
    set_field(chunk, (cluster - counts->start) & (QCOW2_COUNTS_CHUNK - 1), count);
}

void qcow2_counts_cap(Qcow2Counts *counts, uint64_t max)
{
    for (size_t i = 0; i < counts->n_chunks; i++) {
        Chunk *chunk = &counts->chunks[i];
        if (!chunk->words) {
            chunk->uniform = MIN(chunk->uniform, max);
            continue;
        }
        for (size_t j = 0; j < QCOW2_COUNTS_CHUNK && field_max(chunk->width) > max; j++) {
            set_field(chunk, j, MIN(get_field(chunk, j), max));
        }
    }
}

/* ---- Reading ------------------------------------------------------------------------------------- */

static const Chunk *chunk_of(const Qcow2Counts *counts, uint64_t cluster, size_t *ret_index)
{
    *ret_index = (cluster - counts->start) & (QCOW2_COUNTS_CHUNK - 1);
    return &counts->chunks[(cluster - counts->start) >> QCOW2_COUNTS_CHUNK_BITS];
}

uint64_t qcow2_counts_get(const Qcow2Counts *counts, uint64_t cluster)
{
    size_t index;
    const Chunk *chunk = chunk_of(counts, cluster, &index);

    return get_field(chunk, index);
}

bool qcow2_counts_is_zero(const Qcow2Counts *counts, uint64_t first, size_t n)
{
    size_t index;
    const Chunk *chunk = chunk_of(counts, first, &index);

    if (!chunk->words) {
        return chunk->uniform == 0;
    }
    for (size_t i = 0; i < n; i++) {
        if (get_field(chunk, index + i) != 0) {
            return false;
        }
    }
    return true;
}

uint64_t qcow2_counts_max(const Qcow2Counts *counts)
{
    uint64_t max = 0;

    for (size_t i = 0; i < counts->n_chunks; i++) {
        const Chunk *chunk = &counts->chunks[i];
        if (!chunk->words) {
            max = MAX(max, chunk->uniform);
            continue;
        }
        for (size_t j = 0; j < QCOW2_COUNTS_CHUNK && max < field_max(chunk->width); j++) {
            max = MAX(max, get_field(chunk, j));
        }
    }
    return max;
}

/*
 * Nearly all images have refcounts of 16 bits and counts of few: a byte of counts becomes 2 to 8 bytes by
 * looking them up. Eight bytes are stored each time, of which the next ones overwrite what is too much.
 */
static void encode_16_bits(const Chunk *chunk, size_t n, uint8_t *room)
{
    unsigned width = chunk->width, per_byte = 8 / width;
    uint8_t spread[256][8] = { { 0 } };

    for (unsigned byte = 0; byte < 256; byte++) {
        for (unsigned i = 0; i < per_byte; i++) {
            qcow2_store_be16(&spread[byte][i * 2], (uint16_t)((byte >> (i * width)) & field_max(width)));
        }
    }
    for (size_t i = 0; i * 64 / width < n; i++) {
        uint64_t word = chunk->words[i];
        for (unsigned shift = 0; shift < 64; shift += 8, room += 2 * per_byte) {
            memcpy(room, spread[(word >> shift) & 0xff], 8);
        }
    }
}

bool qcow2_counts_encode(const Qcow2Counts *counts, const Qcow2Layout *layout, uint64_t first, size_t n,
                         uint8_t *room)
{
    uint64_t max = qcow2_refcount_max(layout);
    size_t index;
    const Chunk *chunk = chunk_of(counts, first, &index);

    if (!chunk->words) {
        if (chunk->uniform > max) {
            return false;
        }
        qcow2_refcount_fill(layout, room, 0, n, chunk->uniform);
        return true;
    }
    if (layout->refcount_order == 4 && chunk->width <= 8) {
        encode_16_bits(chunk, n, room);
        return true;
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t count = get_field(chunk, i);
        if (count > max) {
            return false;
        }
        qcow2_refcount_set(layout, room, i, count);
    }
    return true;
}
