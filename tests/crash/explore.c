/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "explore.h"

#include <inttypes.h>

#include "util/bits.h"

#define MAX_FRUITLESS 64u     /* random states in a row that were seen before: there are hardly any others */
#define MAX_TEARS     3u
#define MIN_STATES    8u      /* of each epoch, however little there is to vary */
#define PER_MILLE     1000

typedef struct Explorer {
    const LabExploration *what;
    GHashTable *seen;         /* hashes of states */
    GArray *pending;          /* guint */
    GArray *pieces;           /* LabPiece */
    guint at;
    bool finished, stopped;
    guint64 n_states, quota;  /* of all; for this epoch */
} Explorer;

static const Qcow2Record *record_of(const Explorer *explorer, guint index)
{
    return &g_array_index(explorer->what->records, Qcow2Record, index);
}

static guint below(const Explorer *explorer, guint end)
{
    return (guint)g_rand_int_range(explorer->what->random, 0, (gint32)end);
}

static bool is_over(const Explorer *explorer)
{
    gint64 deadline = explorer->what->deadline;

    return explorer->stopped || explorer->quota == 0 || (deadline > 0 && g_get_monotonic_time() > deadline);
}

/* ---- One state --------------------------------------------------------------------------------- */

static LabDisk *disk_of(const Explorer *explorer, const Qcow2Record *record)
{
    return explorer->what->disks[record->place];
}

static void put_pieces(const Explorer *explorer)
{
    for (guint i = 0; i < explorer->pieces->len; i++) {
        const LabPiece *piece = &g_array_index(explorer->pieces, LabPiece, i);
        const Qcow2Record *record = record_of(explorer, piece->record);
        if (piece->whole) {
            lab_disk_apply(disk_of(explorer, record), record);
        } else {
            lab_disk_apply_sectors(disk_of(explorer, record), record, piece->first, piece->n);
        }
    }
}

/* More must hold when the operation has returned: such states are others, even with the same bytes. */
static bool is_new(Explorer *explorer)
{
    uint64_t hash = explorer->finished;

    for (unsigned i = 0; i < explorer->what->n_disks; i++) {
        hash = hash * UINT64_C(0x9e3779b97f4a7c15) + lab_disk_hash(explorer->what->disks[i]);
    }
    return g_hash_table_add(explorer->seen, g_memdup2(&hash, sizeof(hash)));
}

/* Builds the state of the chosen pieces, shows it unless it was seen before, and takes it back. */
static bool visit(Explorer *explorer)
{
    LabCrash crash = {
        .at = explorer->at,
        .finished = explorer->finished,
        .pending = explorer->pending,
        .pieces = explorer->pieces,
    };

    put_pieces(explorer);
    bool new = is_new(explorer);
    if (new) {
        explorer->n_states++;
        explorer->quota--;
        explorer->stopped = !explorer->what->visit(&crash, explorer->what->data);
    }
    for (unsigned i = 0; i < explorer->what->n_disks; i++) {
        lab_disk_back_to(explorer->what->disks[i], 0);
    }
    g_array_set_size(explorer->pieces, 0);
    return new;
}

/* ---- Choosing pieces ----------------------------------------------------------------------------- */

static void add_whole(Explorer *explorer, guint i)
{
    LabPiece piece = { .record = g_array_index(explorer->pending, guint, i), .whole = true };

    g_array_append_val(explorer->pieces, piece);
}

/* The first sectors, or some here and there: disks keep no order within a request. */
static void add_torn(Explorer *explorer, guint i)
{
    guint index = g_array_index(explorer->pending, guint, i);
    const Qcow2Record *record = record_of(explorer, index);
    uint64_t n = lab_record_sectors(record);

    if (record->kind == QCOW2_RECORD_TRUNCATE || n < 2) {
        add_whole(explorer, i);
        return;
    }
    LabPiece piece = { .record = index, .n = 1 + below(explorer, (guint)n - 1) };
    if (below(explorer, 2) == 0) {
        g_array_append_val(explorer->pieces, piece);
        return;
    }
    for (piece.first = 0, piece.n = 1; piece.first < n; piece.first++) {
        if (below(explorer, 2) == 0) {
            g_array_append_val(explorer->pieces, piece);
        }
    }
}

static void choose_prefix(Explorer *explorer, guint n, bool tear_last)
{
    for (guint i = 0; i < n; i++) {
        if (tear_last && i == n - 1) {
            add_torn(explorer, i);
        } else {
            add_whole(explorer, i);
        }
    }
}

/* Each record is there with this chance; a few of those that are not are there in part. */
static void choose_some(Explorer *explorer, guint per_mille)
{
    guint tears = below(explorer, MAX_TEARS + 1);

    for (guint i = 0; i < explorer->pending->len; i++) {
        if (below(explorer, PER_MILLE) < per_mille) {
            add_whole(explorer, i);
        } else if (tears > 0 && below(explorer, 2) == 0) {
            add_torn(explorer, i);
            tears--;
        }
    }
}

static void shuffle(Explorer *explorer)
{
    GArray *pieces = explorer->pieces;

    for (guint i = pieces->len; i > 1; i--) {
        guint other = below(explorer, i);
        LabPiece swapped = g_array_index(pieces, LabPiece, other);
        g_array_index(pieces, LabPiece, other) = g_array_index(pieces, LabPiece, i - 1);
        g_array_index(pieces, LabPiece, i - 1) = swapped;
    }
}

static void choose_at_random(Explorer *explorer)
{
    guint n = explorer->pending->len;
    guint few = 1 + below(explorer, 3);

    switch (below(explorer, 5)) {
    case 0:
        choose_prefix(explorer, below(explorer, n + 1), true);
        break;
    case 1:
        choose_some(explorer, PER_MILLE * (n > few ? n - few : 0) / n);
        break;
    case 2:
        choose_some(explorer, PER_MILLE * few / n);
        break;
    default:
        choose_some(explorer, below(explorer, PER_MILLE));
        break;
    }
    if (below(explorer, 2) == 0) {
        shuffle(explorer);
    }
}

/* ---- Epochs: between two flushes ------------------------------------------------------------------- */

static void visit_epoch(Explorer *explorer)
{
    guint n = explorer->pending->len;
    guint64 step = 1 + n / MAX(1, explorer->quota / 2);
    guint fruitless = 0;

    for (guint64 k = 0; k < n && !is_over(explorer); k += step) {
        choose_prefix(explorer, (guint)k, false);
        visit(explorer);
    }
    if (!is_over(explorer)) {
        choose_prefix(explorer, n, false);
        visit(explorer);
    }
    while (n > 0 && fruitless < MAX_FRUITLESS && !is_over(explorer)) {
        choose_at_random(explorer);
        fruitless = visit(explorer) ? 0 : fruitless + 1;
    }
}

/* A flush of one place says nothing about the others. */
static void settle(Explorer *explorer, unsigned place)
{
    guint kept = 0;

    for (guint i = 0; i < explorer->pending->len; i++) {
        guint index = g_array_index(explorer->pending, guint, i);
        const Qcow2Record *record = record_of(explorer, index);
        if (record->place == place) {
            lab_disk_apply(disk_of(explorer, record), record);
            lab_disk_settle(disk_of(explorer, record));
        } else {
            g_array_index(explorer->pending, guint, kept++) = index;
        }
    }
    g_array_set_size(explorer->pending, kept);
}

/* How much there is to vary before each flush and after the last record, in all. */
static guint64 sum_weights(const GArray *records)
{
    guint64 sum = 1;

    for (guint i = 0; i < records->len; i++) {
        sum += 1 + (g_array_index(records, Qcow2Record, i).kind == QCOW2_RECORD_FLUSH);
    }
    return sum;
}

static void explore(Explorer *explorer)
{
    const LabExploration *what = explorer->what;
    guint64 weights_left = sum_weights(what->records);

    for (guint i = 0; i <= what->records->len && !explorer->stopped; i++) {
        const Qcow2Record *record = i < what->records->len ? record_of(explorer, i) : NULL;
        if (record && record->kind != QCOW2_RECORD_FLUSH) {
            g_array_append_val(explorer->pending, i);
            continue;
        }
        /* What small epochs leave is for those that come after them. */
        guint64 weight = 1 + explorer->pending->len;
        explorer->at = i;
        explorer->finished = !record;
        explorer->quota = MAX(MIN_STATES, (what->max_states - MIN(what->max_states, explorer->n_states))
                                              * weight / MAX(weight, weights_left));
        weights_left -= MIN(weight, weights_left);
        visit_epoch(explorer);
        for (unsigned place = 0; place < what->n_disks; place++) {
            if (!record || record->place == place) {
                settle(explorer, place);
            }
        }
    }
}

guint64 lab_explore(const LabExploration *exploration)
{
    Explorer explorer = { .what = exploration };

    explorer.seen = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    explorer.pending = g_array_new(FALSE, FALSE, sizeof(guint));
    explorer.pieces = g_array_new(FALSE, FALSE, sizeof(LabPiece));
    explore(&explorer);
    g_array_unref(explorer.pieces);
    g_array_unref(explorer.pending);
    g_hash_table_unref(explorer.seen);
    return explorer.n_states;
}

/* ---- Words --------------------------------------------------------------------------------------- */

static void describe_record(GString *text, const GArray *records, guint index)
{
    static const char *const names[] = {
        [QCOW2_RECORD_WRITE] = "write", [QCOW2_RECORD_FLUSH] = "flush", [QCOW2_RECORD_TRUNCATE] = "truncate",
        [QCOW2_RECORD_ZERO] = "zero",
    };
    const Qcow2Record *record = &g_array_index(records, Qcow2Record, index);

    g_string_append_printf(text, "%u: %s %u 0x%" PRIx64 "+0x%" PRIx64, index, names[record->kind],
                           record->place, record->offset, record->len_bytes);
}

char *lab_crash_describe(const LabCrash *crash, const GArray *records)
{
    GString *text = g_string_new(NULL);

    g_string_append_printf(text, "crash before record %u of %u%s, %u under way, on the disk:", crash->at,
                           records->len, crash->finished ? " (finished)" : "", crash->pending->len);
    for (guint i = 0; i < crash->pieces->len && i < 40; i++) {
        const LabPiece *piece = &g_array_index(crash->pieces, LabPiece, i);
        g_string_append(text, "\n  ");
        describe_record(text, records, piece->record);
        if (!piece->whole) {
            g_string_append_printf(text, " sectors %" PRIu64 "+%" PRIu64, piece->first, piece->n);
        }
    }
    return g_string_free(text, FALSE);
}
