/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From L1 tables to L2 tables, each read once however many L1 tables share it. */
#include "format/l2.h"
#include "image/check-pass.h"
#include "util/pool.h"
#include "util/progress.h"

/* L2 tables that are kept at a time: 12 MiB. An image with more is gone through in parts. */
#define MAX_TABLES ((guint)1 << 19)

/* L2 tables in one read, or parts of it, and how much may lie between two of them. */
#define MAX_READ (UINT64_C(256) << 10)
#define MAX_GAP  4096u

/* Over a network each read waits for a round trip. */
#define NETWORK_THREADS 16u

/* What threads may take for tables and runs. */
#define MAX_THREAD_MEMORY (UINT64_C(24) << 20)

/*
 * Tables at impossible offsets are counted as QEMU counts them, but they overlap: beyond so many of them
 * time would no longer follow the size of the file.
 */
#define MAX_UNALIGNED 1024u

/* ---- Finding tables ------------------------------------------------------------------------------ */

typedef struct Collector {
    Qcow2CheckPass *pass;
    GArray *tables;           /* Qcow2TableRef */
    uint64_t from, until;     /* tables at these offsets are wanted */
    bool judges;              /* L1 entries have not been judged in this window */
} Collector;

static int compare_tables(const void *a, const void *b)
{
    const Qcow2TableRef *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Sorts, and makes one of those that are the same. */
static void tidy(GArray *tables)
{
    Qcow2TableRef *list = (Qcow2TableRef *)(void *)tables->data;
    bool is_sorted = true;
    guint n = 0;

    for (guint i = 1; i < tables->len && is_sorted; i++) {
        is_sorted = list[i - 1].offset <= list[i].offset;
    }
    if (!is_sorted) {
        g_array_sort(tables, compare_tables);
    }
    for (guint i = 0; i < tables->len; i++) {
        if (n > 0 && list[n - 1].offset == list[i].offset) {
            list[n - 1].weight += list[i].weight;
            list[n - 1].active += list[i].active;
        } else {
            list[n++] = list[i];
        }
    }
    g_array_set_size(tables, n);
}

static void keep_table(Collector *collector, const Qcow2TableRef *table)
{
    if (table->offset < collector->from || table->offset >= collector->until) {
        return;
    }
    if (collector->tables->len == MAX_TABLES) {
        tidy(collector->tables);
        if (collector->tables->len > MAX_TABLES / 2) {
            /* Too many: the upper ones come in a later part. */
            collector->until = g_array_index(collector->tables, Qcow2TableRef, MAX_TABLES / 2).offset;
            g_array_set_size(collector->tables, MAX_TABLES / 2);
            if (table->offset >= collector->until) {
                return;
            }
        }
    }
    g_array_append_vals(collector->tables, table, 1);
}

static bool judge_l1_entry(const Collector *collector, const Qcow2Span *span, uint64_t at, uint64_t raw,
                           GError **error)
{
    Qcow2CheckPass *pass = collector->pass;
    uint64_t offset = raw & L1E_OFFSET;

    if (pass->first && (raw & L1E_RESERVED)) {
        qcow2_check_corrupt(pass, span->weight, "ERROR found L1 entry with reserved bits set: %" PRIx64, raw);
    }
    if (pass->first && !qcow2_is_cluster_aligned(pass->layout, offset)) {
        qcow2_check_corrupt(pass, span->weight, "ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; "
                            "L1 entry corrupted", offset);
    }
    if (span->active == 0 || offset == 0) {
        return true;
    }
    Qcow2FlaggedEntry flagged = {
        .is_l1 = true,
        .l1_index = (at - pass->header->l1_offset) / 8,
        .raw = raw,
        .count = span->active,
    };
    return qcow2_check_copied(pass, &flagged, error);
}

static bool take_l1_entries(const Qcow2Span *span, uint64_t offset, const uint8_t *entries, size_t n,
                            void *data, GError **error)
{
    Collector *collector = data;

    for (size_t i = 0; i < n; i++) {
        uint64_t raw = qcow2_load_be64(entries + i * 8);
        if (raw == 0) {
            continue;
        }
        if (collector->judges && !judge_l1_entry(collector, span, offset + i * 8, raw, error)) {
            return false;
        }
        Qcow2TableRef table = { raw & L1E_OFFSET, span->weight, span->active };
        keep_table(collector, &table);
    }
    return qcow2_progress_check(collector->pass->progress, error);
}

bool qcow2_check_visit_tables(Qcow2CheckPass *pass, Qcow2TablesFunc func, GError **error)
{
    Collector collector = { .pass = pass, .judges = func == qcow2_check_tables };

    while (collector.from != UINT64_MAX) {
        g_autoptr(GArray) tables = NULL;
        collector.until = UINT64_MAX;
        if (pass->tables && !collector.judges) {
            tables = g_array_ref(pass->tables);
        } else {
            collector.tables = tables = g_array_new(FALSE, FALSE, sizeof(Qcow2TableRef));
            if (!qcow2_spans_read(pass->file, pass->l1_spans, take_l1_entries, &collector, error)) {
                return false;
            }
            tidy(tables);
        }
        if (collector.judges && collector.from == 0 && collector.until == UINT64_MAX) {
            g_clear_pointer(&pass->tables, g_array_unref);
            pass->tables = g_array_ref(tables);
        }
        if (!func(pass, (const Qcow2TableRef *)(void *)tables->data, tables->len, error)) {
            return false;
        }
        collector.judges = false;
        collector.from = collector.until;
    }
    return true;
}

/* ---- Reading tables ------------------------------------------------------------------------------ */

typedef struct TableReader {
    Qcow2CheckPass *pass;
    const Qcow2TableRef *tables;
    size_t n_tables;
    bool asks_for_holes;      /* more tables than the file has bytes for: most of them are holes */

    GMutex mutex;             /* for all below, for the counts, and for pass->result */
    size_t next;              /* first table that nobody has taken */
    size_t n_unaligned;
    GArray *unhealthy;        /* size_t, indices of tables */
} TableReader;

/* What one thread works with. */
typedef struct TableWorker {
    TableReader *reader;
    uint8_t *buffer;
    size_t room;
    Qcow2TableScan scan;
    size_t first, n;          /* the tables that were taken */
} TableWorker;

/* Can table @index, which is not the first, be read together with those from @first on? */
static bool is_side_by_side(const TableWorker *worker, size_t first, size_t index)
{
    const Qcow2Layout *layout = worker->reader->pass->layout;
    const Qcow2TableRef *tables = worker->reader->tables;

    return qcow2_is_cluster_aligned(layout, tables[first].offset | tables[index].offset)
        && tables[index].offset - tables[index - 1].offset <= layout->cluster_size + MAX_GAP
        && tables[index].offset + layout->cluster_size - tables[first].offset <= worker->room;
}

/* Takes tables that lie side by side. False when none are left. */
static bool take_tables(TableWorker *worker)
{
    TableReader *reader = worker->reader;

    g_mutex_lock(&reader->mutex);
    size_t first = reader->next, end = first;
    while (end < reader->n_tables && (end == first || is_side_by_side(worker, first, end))) {
        end++;
    }
    reader->next = end;
    g_mutex_unlock(&reader->mutex);

    worker->first = first;
    worker->n = end - first;
    return worker->n > 0;
}

static void add_scan(const TableReader *reader, const Qcow2TableRef *table, const Qcow2TableScan *scan)
{
    Qcow2CheckPass *pass = reader->pass;

    for (size_t i = 0; i < scan->n_runs; i++) {
        qcow2_counts_add(pass->counts, scan->runs[i].first, scan->runs[i].n, table->weight);
    }
    if (pass->first) {
        pass->result.allocated_clusters += scan->allocated * table->active;
        pass->result.fragmented_clusters += scan->fragmented * table->active;
        pass->result.compressed_clusters += scan->compressed * table->active;
    }
}

static void scan_table(TableWorker *worker, size_t index, const uint8_t *raw)
{
    TableReader *reader = worker->reader;
    const Qcow2TableRef *table = &reader->tables[index];
    bool is_healthy = qcow2_check_scan_table(reader->pass, table, raw, &worker->scan);

    g_mutex_lock(&reader->mutex);
    if (is_healthy) {
        add_scan(reader, table, &worker->scan);
    } else {
        g_array_append_val(reader->unhealthy, index);
    }
    g_mutex_unlock(&reader->mutex);
}

/* A table that is nothing but zeros has nothing to count. */
static bool is_hole(const TableReader *reader, uint64_t offset, uint64_t len_bytes, bool *ret, GError **error)
{
    Qcow2IoExtent extent;

    *ret = offset >= reader->pass->file_size;
    if (*ret || !reader->asks_for_holes) {
        return true;
    }
    if (!qcow2_io_extent(reader->pass->file, offset, len_bytes, &extent, error)) {
        return false;
    }
    *ret = extent.zero && extent.len_bytes >= len_bytes;
    return true;
}

static bool may_look_at(TableReader *reader, const Qcow2TableRef *table)
{
    if (qcow2_is_cluster_aligned(reader->pass->layout, table->offset)) {
        return true;
    }
    g_mutex_lock(&reader->mutex);
    bool may = reader->n_unaligned++ < MAX_UNALIGNED;
    g_mutex_unlock(&reader->mutex);
    return may;
}

static bool read_tables(TableWorker *worker, GError **error)
{
    const TableReader *reader = worker->reader;
    const Qcow2TableRef *first = &reader->tables[worker->first], *last = first + worker->n - 1;
    uint64_t table_len = reader->pass->layout->cluster_size;
    size_t len_bytes = last->offset + table_len - first->offset;
    bool hole;

    if (!is_hole(reader, first->offset, len_bytes, &hole, error)) {
        return false;
    }
    if (!hole && may_look_at(worker->reader, first)) {
        if (!qcow2_io_read(reader->pass->file, first->offset, worker->buffer, len_bytes, error)) {
            g_prefix_error(error, "L2 table: ");
            return false;
        }
        for (const Qcow2TableRef *table = first; table <= last; table++) {
            const uint8_t *raw = worker->buffer + (table->offset - first->offset);
            scan_table(worker, (size_t)(table - reader->tables), raw);
        }
    }
    return qcow2_progress_advance(reader->pass->progress, worker->n * table_len, error);
}

static bool work(size_t index, void *data, GError **error)
{
    TableReader *reader = data;
    const Qcow2Layout *layout = reader->pass->layout;
    TableWorker worker = { .reader = reader, .room = MAX(MAX_READ, layout->cluster_size) };
    g_autofree uint8_t *buffer = g_try_malloc(worker.room);
    g_autofree Qcow2Run *runs = g_try_new(Qcow2Run, BIT(layout->l2_bits));

    (void)index;
    if (!buffer || !runs) {
        return qcow2_fail_memory(error, worker.room + (sizeof(Qcow2Run) << layout->l2_bits), "L2 tables");
    }
    worker.buffer = buffer;
    worker.scan.runs = runs;
    while (take_tables(&worker)) {
        if (!read_tables(&worker, error)) {
            return false;
        }
    }
    return true;
}

/* ---- Looking at tables --------------------------------------------------------------------------- */

static unsigned number_of_threads(const Qcow2CheckPass *pass)
{
    bool is_network = qcow2_io_get_fd(pass->file) < 0;
    uint64_t memory = MAX(MAX_READ, pass->layout->cluster_size) + (sizeof(Qcow2Run) << pass->layout->l2_bits);
    unsigned wanted = is_network ? MAX(NETWORK_THREADS, pass->n_threads) : pass->n_threads;

    return (unsigned)MIN(wanted, MAX(MAX_THREAD_MEMORY / memory, 1));
}

static bool is_larger_than_file(const Qcow2CheckPass *pass, size_t n)
{
    uint64_t actual_size;

    return qcow2_io_get_actual_size(pass->file, &actual_size)
        && n * pass->layout->cluster_size > actual_size;
}

static int compare_indices(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return x < y ? -1 : x > y;
}

static bool look_closely(TableReader *reader, GError **error)
{
    uint64_t table_len = reader->pass->layout->cluster_size;
    g_autofree uint8_t *buffer = g_try_malloc(table_len);

    if (!buffer) {
        return qcow2_fail_memory(error, table_len, "an L2 table");
    }
    g_array_sort(reader->unhealthy, compare_indices);
    for (guint i = 0; i < reader->unhealthy->len; i++) {
        const Qcow2TableRef *table = &reader->tables[g_array_index(reader->unhealthy, size_t, i)];
        if (reader->pass->unhealthy) {
            g_array_append_vals(reader->pass->unhealthy, table, 1);
        }
        if (!qcow2_io_read(reader->pass->file, table->offset, buffer, table_len, error)) {
            g_prefix_error(error, "L2 table: ");
            return false;
        }
        if (!qcow2_check_table_closely(reader->pass, table, buffer, error)) {
            return false;
        }
    }
    return true;
}

bool qcow2_check_tables(Qcow2CheckPass *pass, const Qcow2TableRef *tables, size_t n, GError **error)
{
    g_autoptr(GArray) unhealthy = g_array_new(FALSE, FALSE, sizeof(size_t));
    TableReader reader = {
        .pass = pass,
        .tables = tables,
        .n_tables = n,
        .asks_for_holes = is_larger_than_file(pass, n),
        .unhealthy = unhealthy,
    };
    unsigned n_threads = (unsigned)MIN(number_of_threads(pass), MAX(n, 1));

    for (size_t i = 0; i < n; i++) {
        qcow2_check_refer(pass, tables[i].offset, pass->layout->cluster_size, tables[i].weight);
    }
    qcow2_progress_expect(pass->progress, n * pass->layout->cluster_size);
    g_mutex_init(&reader.mutex);
    bool ok = qcow2_parallel_for(n_threads, n_threads, work, &reader, error);
    g_mutex_clear(&reader.mutex);
    return ok && look_closely(&reader, error);
}
