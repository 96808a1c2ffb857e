/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* L2 tables with nothing wrong in them, as runs of host clusters. Spec: "Cluster mapping". */
#include "format/l2.h"
#include "image/check-pass.h"

/* The table at hand. */
typedef struct Scan {
    const Qcow2CheckPass *pass;
    const Qcow2Layout *layout;
    const uint8_t *raw;
    size_t n_entries;
    bool judges_flags;            /* the active layer reaches the table */
    uint64_t next_in_file;        /* where the next cluster of an unfragmented disk would be; 0: anywhere */
    Qcow2TableScan *ret;
} Scan;

static uint64_t entry_at(const Scan *scan, size_t index)
{
    return qcow2_load_be64(scan->raw + index * scan->layout->l2_entry_size);
}

static uint64_t bitmap_at(const Scan *scan, size_t index)
{
    return scan->layout->extended_l2 ? qcow2_load_be64(scan->raw + index * 16 + 8) : 0;
}

/* No subcluster is both allocated and zero. */
static bool is_sound_bitmap(uint64_t bitmap)
{
    return ((bitmap >> 32) & bitmap) == 0;
}

static void add_run(Qcow2TableScan *ret, uint64_t first, uint64_t n)
{
    Qcow2Run *last = ret->n_runs ? &ret->runs[ret->n_runs - 1] : NULL;

    if (last && last->first + last->n == first) {
        last->n += n;
    } else {
        ret->runs[ret->n_runs++] = (Qcow2Run) { first, n };
    }
}

/* How many entries from @index on follow each other in the file; they differ in nothing else. */
static size_t run_length(const Scan *scan, size_t index, size_t max)
{
    uint64_t step = scan->layout->cluster_size, expected = entry_at(scan, index) + step;
    size_t n = 1;

    if (!scan->layout->extended_l2) {
        const uint8_t *raw = scan->raw + index * 8;
        while (n < max && qcow2_load_be64(raw + n * 8) == expected) {
            expected += step;
            n++;
        }
        return n;
    }
    while (n < max && entry_at(scan, index + n) == expected && is_sound_bitmap(bitmap_at(scan, index + n))) {
        expected += step;
        n++;
    }
    return n;
}

static size_t zero_length(const Scan *scan, size_t index)
{
    size_t n = 1, max = scan->n_entries - index;
    const uint8_t *raw = scan->raw + index * scan->layout->l2_entry_size;
    size_t words = scan->layout->l2_entry_size / 8;
    uint64_t word = 0;

    while (n < max) {
        for (size_t i = 0; i < words; i++) {
            uint64_t part;
            memcpy(&part, raw + (n * words + i) * 8, sizeof(part));
            word |= part;
        }
        if (word != 0) {
            break;
        }
        n++;
    }
    return n;
}

static bool scan_compressed(Scan *scan, uint64_t raw, uint64_t bitmap)
{
    Qcow2L2Entry entry;
    unsigned cluster_bits = scan->layout->cluster_bits;

    if (scan->layout->has_data_file || bitmap != 0 || (raw & L2E_COPIED)
        || qcow2_l2_reserved(scan->layout, raw) != 0
        || !qcow2_l2_decode(scan->layout, raw, 0, &entry, NULL)
        || entry.host_offset + entry.stream_len > scan->pass->file_size) {
        return false;
    }
    /* Not joined with the run before: several streams share a cluster, and each of them counts. */
    uint64_t first = entry.host_offset >> cluster_bits;
    uint64_t last = (entry.host_offset + entry.stream_len - 1) >> cluster_bits;
    scan->ret->runs[scan->ret->n_runs++] = (Qcow2Run) { first, last - first + 1 };
    scan->ret->allocated++;
    scan->ret->compressed++;
    scan->ret->fragmented++;    /* the unit of reading is larger than that of writing */
    return true;
}

/* A run of entries with a host cluster each. Returns how many they are; 0 for a closer look. */
static size_t scan_allocated(Scan *scan, size_t index, uint64_t raw)
{
    const Qcow2CheckPass *pass = scan->pass;
    uint64_t offset = raw & L2E_HOST_OFFSET, cluster_size = scan->layout->cluster_size;
    uint64_t first = offset >> scan->layout->cluster_bits;
    bool in_file = !scan->layout->has_data_file, copied = raw & L2E_COPIED;
    uint64_t end_of_offsets = in_file ? pass->file_size : L2E_HOST_OFFSET + 1;

    if (!qcow2_is_cluster_aligned(scan->layout, offset) || offset >= end_of_offsets) {
        return 0;
    }
    uint64_t max = MIN(scan->n_entries - index, qcow2_div_round_up(end_of_offsets - offset, cluster_size));
    size_t n = run_length(scan, index, max);
    if (scan->judges_flags && !(in_file ? qcow2_check_flags_agree(pass, first, n, copied) : copied)) {
        return 0;
    }
    if (in_file) {
        add_run(scan->ret, first, n);
    }
    scan->ret->allocated += n;
    scan->ret->fragmented += scan->next_in_file != 0 && offset != scan->next_in_file;
    scan->next_in_file = offset + n * cluster_size;
    return n;
}

/* Returns how many entries from @index on are sound and dealt with; 0 for a closer look. */
static size_t scan_entries(Scan *scan, size_t index)
{
    uint64_t raw = entry_at(scan, index), bitmap = bitmap_at(scan, index);

    if (raw == 0 && bitmap == 0) {
        return zero_length(scan, index);
    }
    if (raw & L2E_COMPRESSED) {
        return scan_compressed(scan, raw, bitmap) ? 1 : 0;
    }
    if (qcow2_l2_reserved(scan->layout, raw) != 0 || !is_sound_bitmap(bitmap)) {
        return 0;
    }
    bool is_zero = raw & L2E_ZERO;
    bool at_start_of_data_file = scan->layout->has_data_file && (raw & L2E_COPIED) && !is_zero;
    if ((raw & L2E_HOST_OFFSET) == 0 && !at_start_of_data_file) {
        return (uint32_t)bitmap == 0 ? 1 : 0;    /* nothing is allocated, nor a subcluster */
    }
    return scan_allocated(scan, index, raw);
}

bool qcow2_check_scan_table(const Qcow2CheckPass *pass, const Qcow2TableRef *table, const uint8_t *raw,
                            Qcow2TableScan *ret)
{
    Scan scan = {
        .pass = pass,
        .layout = pass->layout,
        .raw = raw,
        .n_entries = BIT(pass->layout->l2_bits),
        .judges_flags = qcow2_check_judges_flags(pass, table),
        .ret = ret,
    };

    *ret = (Qcow2TableScan) { .runs = ret->runs };
    for (size_t i = 0; i < scan.n_entries;) {
        size_t n = scan_entries(&scan, i);
        if (n == 0) {
            return false;
        }
        i += n;
    }
    return true;
}
