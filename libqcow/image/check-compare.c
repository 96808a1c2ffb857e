/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The references that were counted against the refcounts in the file. */
#include "format/refcount.h"
#include "image/check-pass.h"
#include "util/pool.h"
#include "util/progress.h"

typedef enum {
    CHUNK_UNUSED,     /* as the file says: nothing is used */
    CHUNK_EQUAL,      /* as the file says, with something used */
    CHUNK_DIFFERS,
} ChunkVerdict;

typedef struct Comparison {
    Qcow2CheckPass *pass;
    uint8_t *verdicts;    /* ChunkVerdict */
    uint64_t highest;     /* last cluster in use, as far as known */
    bool again;           /* now saying what is repaired; everything was reported and counted before */
} Comparison;

static uint64_t first_of_chunk(const Qcow2CheckPass *pass, size_t index)
{
    return pass->start + index * QCOW2_COUNTS_CHUNK;
}

/* Clusters of a chunk that are compared. */
static size_t len_of_chunk(const Qcow2CheckPass *pass, size_t index)
{
    uint64_t end = MIN(qcow2_counts_end(pass->counts), pass->n_clusters);

    return MIN(QCOW2_COUNTS_CHUNK, end - first_of_chunk(pass, index));
}

/* ---- All chunks, quickly ------------------------------------------------------------------------- */

static bool same_counts(const Qcow2CheckPass *pass, const uint8_t *in_file, const uint8_t *counted, size_t n)
{
    size_t n_bits = n << pass->layout->refcount_order;

    if (memcmp(in_file, counted, n_bits / 8) != 0) {
        return false;
    }
    /* The last counts may share a byte with those of clusters past the end. */
    for (size_t i = (n_bits / 8 * 8) >> pass->layout->refcount_order; i < n; i++) {
        if (qcow2_refcount_get(pass->layout, in_file, i) != qcow2_refcount_get(pass->layout, counted, i)) {
            return false;
        }
    }
    return true;
}

static bool judge_chunk(size_t index, void *data, GError **error)
{
    Comparison *comparison = data;
    const Qcow2CheckPass *pass = comparison->pass;
    uint64_t first = first_of_chunk(pass, index);
    size_t n = len_of_chunk(pass, index), len_bytes = qcow2_check_chunk_len(pass);

    if (!qcow2_check_has_refcounts(pass, first) && qcow2_counts_is_zero(pass->counts, first, n)) {
        comparison->verdicts[index] = CHUNK_UNUSED;
        return qcow2_progress_advance(pass->progress, len_bytes, error);
    }
    g_autofree uint8_t *room = g_try_malloc(2 * len_bytes + QCOW2_COUNTS_SLACK);
    bool unreadable;

    if (!room) {
        return qcow2_fail_memory(error, 2 * len_bytes, "refcounts");
    }
    if (!qcow2_check_read_chunk(pass, first, room, &unreadable, error)) {
        return false;
    }
    if (unreadable || !qcow2_counts_encode(pass->counts, pass->layout, first, n, room + len_bytes)
        || !same_counts(pass, room, room + len_bytes, n)) {
        comparison->verdicts[index] = CHUNK_DIFFERS;
    } else {
        bool is_unused = qcow2_counts_is_zero(pass->counts, first, n);
        comparison->verdicts[index] = is_unused ? CHUNK_UNUSED : CHUNK_EQUAL;
    }
    return qcow2_progress_advance(pass->progress, len_bytes, error);
}

/* ---- Chunks that differ, cluster by cluster ------------------------------------------------------ */

/* Returns the count that a refcount can hold. */
static uint64_t report_overflow(Qcow2CheckPass *pass, uint64_t cluster)
{
    uint64_t max = qcow2_refcount_max(pass->layout), n_references = qcow2_counts_get(pass->counts, cluster);

    if (n_references > max) {
        qcow2_check_corrupt(pass, n_references - max, "ERROR: overflow cluster offset=0x%" PRIx64,
                            cluster << pass->layout->cluster_bits);
        qcow2_check_found(pass, QCOW2_FINDING_EXPLANATION, 0,
                          "Use qemu-img amend to increase the refcount entry width or qemu-img convert to "
                          "create a clean copy if the image cannot be opened for writing");
    }
    return MIN(n_references, max);
}

/* As qemu-img does, which compares once to find out whether it can repair and once to do it. */
static void say_again(Qcow2CheckPass *pass, uint64_t cluster, uint64_t refcount, uint64_t n_references)
{
    bool repairs = refcount > n_references || qcow2_check_repairs(pass);

    qcow2_check_found(pass, QCOW2_FINDING_EXPLANATION, 0,
                      "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
                      repairs ? "Repairing" : "ERROR", cluster, refcount, n_references);
}

static void compare_cluster(Comparison *comparison, uint64_t cluster, uint64_t refcount)
{
    Qcow2CheckPass *pass = comparison->pass;

    if (comparison->again) {
        uint64_t n_references = qcow2_counts_get(pass->counts, cluster);
        n_references = MIN(n_references, qcow2_refcount_max(pass->layout));
        if (refcount != n_references) {
            say_again(pass, cluster, refcount, n_references);
        }
        return;
    }
    uint64_t n_references = report_overflow(pass, cluster);

    if (refcount > 0 || n_references > 0) {
        comparison->highest = cluster;
    }
    if (refcount != n_references) {
        bool leaked = refcount > n_references;
        pass->needs_rebuild |= refcount == 0;
        qcow2_check_found(pass, leaked ? QCOW2_FINDING_LEAK : QCOW2_FINDING_CORRUPTION, 1,
                          "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
                          leaked ? "Leaked" : "ERROR", cluster, refcount, n_references);
    }
}

/* QEMU says this of each cluster that the block has counts for; once is enough. */
static void report_unreadable(Qcow2CheckPass *pass, uint64_t first, size_t n)
{
    qcow2_check_found(pass, QCOW2_FINDING_CHECK_ERROR, n,
                      "Can't get refcount for cluster %" PRIu64 ": Input/output error", first);
    for (size_t i = 0; i < n; i++) {
        report_overflow(pass, first + i);
    }
}

static bool compare_chunk(Comparison *comparison, size_t index, GError **error)
{
    Qcow2CheckPass *pass = comparison->pass;
    uint64_t first = first_of_chunk(pass, index);
    uint64_t block_len = BIT(pass->layout->refblock_bits);
    size_t n = len_of_chunk(pass, index);
    g_autofree uint8_t *in_file = g_try_malloc(qcow2_check_chunk_len(pass));
    bool unreadable;

    if (!in_file) {
        return qcow2_fail_memory(error, qcow2_check_chunk_len(pass), "refcounts");
    }
    if (!qcow2_check_read_chunk(pass, first, in_file, &unreadable, error)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (unreadable && !qcow2_check_has_refcount(pass, first + i)) {
            size_t n_in_block = MIN(n - i, block_len - ((first + i) & (block_len - 1)));
            report_unreadable(pass, first + i, n_in_block);
            i += n_in_block - 1;
        } else {
            compare_cluster(comparison, first + i, qcow2_refcount_get(pass->layout, in_file, i));
        }
    }
    return qcow2_progress_check(pass->progress, error);
}

static uint64_t last_in_use(const Qcow2CheckPass *pass, size_t index)
{
    uint64_t first = first_of_chunk(pass, index), cluster = first + len_of_chunk(pass, index) - 1;

    while (cluster > first && qcow2_counts_get(pass->counts, cluster) == 0) {
        cluster--;
    }
    return cluster;
}

static bool report_chunks(Comparison *comparison, size_t n_chunks, GError **error)
{
    for (size_t i = 0; i < n_chunks; i++) {
        if (comparison->verdicts[i] == CHUNK_DIFFERS) {
            if (!compare_chunk(comparison, i, error)) {
                return false;
            }
        } else if (comparison->verdicts[i] == CHUNK_EQUAL) {
            comparison->highest = last_in_use(comparison->pass, i);
        }
    }
    return true;
}

bool qcow2_check_compare(Qcow2CheckPass *pass, GError **error)
{
    uint64_t end = MIN(qcow2_counts_end(pass->counts), pass->n_clusters);
    size_t n_chunks = qcow2_div_round_up(end - pass->start, QCOW2_COUNTS_CHUNK);
    g_autofree uint8_t *verdicts = g_malloc0(n_chunks);
    Comparison comparison = { .pass = pass, .verdicts = verdicts, .highest = UINT64_MAX };

    qcow2_progress_expect(pass->progress, n_chunks * qcow2_check_chunk_len(pass));
    if (!qcow2_parallel_for(pass->n_threads, n_chunks, judge_chunk, &comparison, error)
        || !report_chunks(&comparison, n_chunks, error)) {
        return false;
    }
    comparison.again = true;
    if (pass->source->repair && !pass->needs_rebuild && !report_chunks(&comparison, n_chunks, error)) {
        return false;
    }
    if (comparison.highest != UINT64_MAX) {
        pass->result.image_end_offset = (comparison.highest + 1) << pass->layout->cluster_bits;
    }
    return true;
}
