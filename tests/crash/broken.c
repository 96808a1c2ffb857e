/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The test of the test: orders that lose data in a crash, made of a good one. Each must be caught. */
#include "lab.h"

#include <inttypes.h>

#define NOT_FOUND G_MAXUINT

static const Qcow2Record *record_at(const GArray *records, guint i)
{
    return &g_array_index(records, Qcow2Record, i);
}

static void append(GArray *records, const Qcow2Record *record)
{
    Qcow2Record copy = *record;

    copy.bytes = copy.bytes ? g_bytes_ref(copy.bytes) : NULL;
    g_array_append_val(records, copy);
}

/* The last write that begins with the file. */
static guint find_header_write(const GArray *records)
{
    for (guint i = records->len; i > 0; i--) {
        if (record_at(records, i - 1)->kind == QCOW2_RECORD_WRITE && record_at(records, i - 1)->offset == 0) {
            return i - 1;
        }
    }
    return NOT_FOUND;
}

static void publish_first(const GArray *records, guint header, GArray *broken)
{
    append(broken, record_at(records, header));
    for (guint i = 0; i < records->len; i++) {
        if (i != header) {
            append(broken, record_at(records, i));
        }
    }
}

static void never_flush(const GArray *records, guint header, GArray *broken)
{
    (void)header;
    for (guint i = 0; i < records->len; i++) {
        if (record_at(records, i)->kind != QCOW2_RECORD_FLUSH) {
            append(broken, record_at(records, i));
        }
    }
}

/* Everything before it is flushed, the header is not. */
static void flush_too_early(const GArray *records, guint header, GArray *broken)
{
    for (guint i = 0; i < records->len; i++) {
        if (i < header || i == header || record_at(records, i)->kind != QCOW2_RECORD_FLUSH) {
            append(broken, record_at(records, i));
        }
    }
}

/* Between the L1 table's offset, the refcount table's and the snapshot table's. */
static void split_header(const GArray *records, guint header, GArray *broken)
{
    static const gsize cuts[] = { 0, 48, 60, 72 };

    for (guint i = 0; i < records->len; i++) {
        const Qcow2Record *record = record_at(records, i);
        if (i != header) {
            append(broken, record);
            continue;
        }
        for (size_t k = 0; k < G_N_ELEMENTS(cuts); k++) {
            gsize end = k + 1 < G_N_ELEMENTS(cuts) ? cuts[k + 1] : record->len_bytes;
            Qcow2Record piece = *record;
            piece.offset = cuts[k];
            piece.len_bytes = end - cuts[k];
            piece.bytes = g_bytes_new_from_bytes(record->bytes, cuts[k], piece.len_bytes);
            g_array_append_val(broken, piece);
        }
    }
}

typedef struct LabBreak {
    const char *name;
    void (*make)(const GArray *records, guint header, GArray *broken);
    bool shows_only_in_contents;
    bool tears;
} LabBreak;

static const LabBreak breaks[] = {
    { "the header is written before what it names", publish_first },
    { "nothing is flushed", never_flush },
    { "the header is not flushed", flush_too_early, .shows_only_in_contents = true },
    { "the header is written in pieces", split_header, .tears = true },
};

static bool is_caught(LabCase *lab_case, const LabBreak *how, guint header, guint64 max_states)
{
    GArray *good = lab_case->records;
    g_autoptr(GArray) broken = g_array_new(FALSE, FALSE, sizeof(Qcow2Record));

    how->make(good, header, broken);
    lab_case->records = broken;
    lab_case_explore(lab_case, max_states, 0);
    lab_case->records = good;
    for (guint i = 0; i < broken->len; i++) {
        g_clear_pointer(&g_array_index(broken, Qcow2Record, i).bytes, g_bytes_unref);
    }
    bool caught = lab_case->failure != NULL;
    lab_case->count.breaks += caught;
    g_clear_pointer(&lab_case->failure, g_free);
    return caught;
}

/* One sector that says everything has nothing to wait for. */
static bool is_only_write(const GArray *records, guint header)
{
    for (guint i = 0; i < records->len; i++) {
        if (i != header && record_at(records, i)->kind != QCOW2_RECORD_FLUSH) {
            return false;
        }
    }
    return true;
}

void lab_case_break(LabCase *lab_case, guint64 max_states)
{
    guint header = find_header_write(lab_case->records);
    g_autofree char *changed = lab_contents_match(lab_case->subject->contents, lab_case->after, true, true);
    g_autoptr(GString) missed = g_string_new(NULL);

    if (lab_case->failure || lab_case->refusal || header == NOT_FOUND
        || is_only_write(lab_case->records, header)) {
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(breaks); i++) {
        if ((breaks[i].shows_only_in_contents && !changed)
            || (breaks[i].tears && lab_case->operation->may_tear)) {
            continue;
        }
        if (!is_caught(lab_case, &breaks[i], header, max_states)) {
            g_string_append_printf(missed, "not caught: %s\n", breaks[i].name);
        }
        lab_case_rewind(lab_case);
    }
    if (missed->len > 0) {
        lab_case->failure = g_strdup(missed->str);
    }
}
