/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls that fail: each of them once, and a disk that stays full. */
#include "lab.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "io/stack.h"
#include "util/error.h"

/* ---- A full disk: files do not get longer than this ------------------------------------------------- */

typedef struct FullIo {
    Qcow2StackIo stack;
    uint64_t limit;
} FullIo;

static bool full_write(Qcow2Io *io, uint64_t offset, const void *buffer, size_t len_bytes, GError **error)
{
    uint64_t limit = ((FullIo *)io)->limit;
    Qcow2Io *below = qcow2_stack_below(io);
    uint64_t fits = offset < limit ? MIN(len_bytes, limit - offset) : 0;

    return (fits == 0 || below->ops->write(below, offset, buffer, fits, error))
        && (fits == len_bytes || qcow2_fail_system(error, ENOSPC));
}

static bool full_truncate(Qcow2Io *io, uint64_t size, GError **error)
{
    Qcow2Io *below = qcow2_stack_below(io);

    return size > ((FullIo *)io)->limit ? qcow2_fail_system(error, ENOSPC)
                                         : below->ops->truncate(below, size, error);
}

static Qcow2Io *full_new(Qcow2Io *below, uint64_t limit)
{
    FullIo *full = g_new0(FullIo, 1);

    qcow2_stack_init(&full->stack, below);
    full->limit = limit;
    full->stack.ops.write = full_write;
    full->stack.ops.truncate = full_truncate;
    return &full->stack.io;
}

/* ---- What can go wrong ------------------------------------------------------------------------------ */

typedef struct Fault {
    unsigned place;
    Qcow2FaultCalls calls;    /* 0: the disk is full at @n bytes */
    uint64_t n;
    int errnum;
    bool short_len;
    bool may_be_done;         /* the last one of its kind may be what publishes */
} Fault;

static Qcow2Io *put_fault(const Fault *fault, Qcow2Io *below)
{
    return fault->calls ? qcow2_io_fault_new(below, fault->calls, fault->n, fault->errnum, fault->short_len)
                        : full_new(below, fault->n);
}

static const char *name_of(const Fault *fault)
{
    switch (fault->calls) {
    case QCOW2_FAULT_READ:
        return "read";
    case QCOW2_FAULT_WRITE:
        return fault->short_len ? "write (half done)" : "write";
    case QCOW2_FAULT_FLUSH:
        return "flush";
    case QCOW2_FAULT_TRUNCATE:
        return "truncate";
    }
    return "size limit";
}

/* Runs the operation; @ret_calls tells how many calls the fault watched. */
static bool run_with(const LabCase *lab_case, const LabPlaces *memory, const Fault *fault,
                     uint64_t *ret_calls, GError **error)
{
    g_auto(LabPlaces) places = { .n = 0 };

    for (; places.n < memory->n; places.n++) {
        Qcow2Io *io = memory->io[places.n];
        places.io[places.n] = places.n == fault->place ? put_fault(fault, io) : qcow2_io_ref(io);
    }
    bool ok = lab_case->operation->run(&places, lab_case->subject, lab_case->operation->which, error);
    *ret_calls = fault->calls ? qcow2_io_fault_count(places.io[fault->place]) : 0;
    return ok;
}

static void add_faults_of(const LabCase *lab_case, Fault fault, GArray *faults)
{
    g_auto(LabPlaces) memory = { .n = 0 };
    g_autoptr(GError) error = NULL;
    uint64_t n_calls;

    fault.n = UINT64_MAX;
    lab_copy_places(lab_case, &memory);
    run_with(lab_case, &memory, &fault, &n_calls, &error);
    for (fault.n = 0; fault.n < n_calls; fault.n++) {
        fault.may_be_done = fault.n == n_calls - 1;
        g_array_append_val(faults, fault);
    }
}

/* From no room at all to almost enough, in steps of half a cluster or so. */
static void add_limits_of(const LabCase *lab_case, unsigned place, GArray *faults)
{
    uint64_t first = g_bytes_get_size(g_ptr_array_index(lab_case->subject->files, place)), last = 0;

    for (guint i = 0; i < lab_case->records->len; i++) {
        const Qcow2Record *record = &g_array_index(lab_case->records, Qcow2Record, i);
        last = record->place == place ? MAX(last, record->offset + record->len_bytes) : last;
    }
    uint64_t step = MAX(256, (last - MIN(first, last)) / 32);
    for (Fault fault = { .place = place, .n = first }; fault.n < last; fault.n += step) {
        g_array_append_val(faults, fault);
    }
}

static GArray *list_faults(const LabCase *lab_case)
{
    static const Fault kinds[] = {
        { .calls = QCOW2_FAULT_READ, .errnum = EIO },
        { .calls = QCOW2_FAULT_WRITE, .errnum = EIO },
        { .calls = QCOW2_FAULT_WRITE, .errnum = ENOSPC },
        { .calls = QCOW2_FAULT_WRITE, .errnum = ENOSPC, .short_len = true },
        { .calls = QCOW2_FAULT_FLUSH, .errnum = EIO },
        { .calls = QCOW2_FAULT_FLUSH, .errnum = ENOSPC },
        { .calls = QCOW2_FAULT_TRUNCATE, .errnum = EIO },
        { .calls = QCOW2_FAULT_TRUNCATE, .errnum = ENOSPC },
    };
    GArray *faults = g_array_new(FALSE, FALSE, sizeof(Fault));

    for (unsigned place = 0; place < lab_case->n_disks; place++) {
        for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
            Fault fault = kinds[i];
            fault.place = place;
            add_faults_of(lab_case, fault, faults);
        }
    }
    for (unsigned place = 0; place < lab_case->n_disks && !lab_case->refusal; place++) {
        add_limits_of(lab_case, place, faults);
    }
    return faults;
}

/* ---- One of them ------------------------------------------------------------------------------------- */

static char *judge_message(const LabCase *lab_case, const Fault *fault, const GError *error)
{
    const char *cause = g_strerror(fault->calls ? fault->errnum : ENOSPC);
    const char *path = g_ptr_array_index(lab_case->subject->paths, fault->place);

    if (lab_case->refusal) {
        return NULL;
    }
    if (!strstr(error->message, cause) || !strstr(error->message, path)) {
        return g_strdup_printf("the message does not tell the file and the cause: %s", error->message);
    }
    bool is_full = !fault->calls || fault->errnum == ENOSPC;
    return g_error_matches(error, QCOW2_ERROR, is_full ? QCOW2_ERROR_NO_SPACE : QCOW2_ERROR_IO)
         ? NULL : g_strdup_printf("the error has code %d: %s", error->code, error->message);
}

/* A read may be tried again; whoever goes on after anything else would publish what is not there. */
static char *judge_success(LabCase *lab_case, const Fault *fault, const LabPlaces *memory)
{
    char *why = NULL;

    if (fault->calls != QCOW2_FAULT_READ && !lab_case->operation->tidies_up) {
        return g_strdup("the operation does not tell that it failed");
    }
    bool is_done = lab_judge(lab_case, memory, false, &why) & LAB_AFTER;
    return why || is_done ? why : g_strdup("the operation tells that it is done, and it is not");
}

static char *judge_fault(LabCase *lab_case, const Fault *fault)
{
    g_auto(LabPlaces) memory = { .n = 0 };
    g_autoptr(GError) error = NULL;
    uint64_t n_calls;

    lab_copy_places(lab_case, &memory);
    if (run_with(lab_case, &memory, fault, &n_calls, &error)) {
        return judge_success(lab_case, fault, &memory);
    }
    char *why = judge_message(lab_case, fault, error);
    if (why) {
        return why;
    }
    unsigned verdict = lab_judge(lab_case, &memory, false, &why);
    lab_case->count.before += verdict == LAB_BEFORE;
    lab_case->count.after += verdict == LAB_AFTER;
    /* An image that needs no repair is as after a repair all the time. */
    bool may_be_done = fault->may_be_done || lab_case->operation->tidies_up || lab_case->operation->repairs;
    if (!why && verdict == LAB_AFTER && !may_be_done) {
        why = g_strdup("the operation was done, and said that it failed");
    }
    return why ? why : lab_judge_again(lab_case, &memory, verdict);
}

void lab_case_inject(LabCase *lab_case, guint64 max_runs)
{
    g_autoptr(GArray) faults = list_faults(lab_case);
    guint left = faults->len;

    for (; left > 0 && max_runs > 0 && !lab_case->failure; left--, max_runs--) {
        guint i =
            faults->len <= max_runs ? left - 1 : (guint)g_rand_int_range(lab_case->random, 0, (gint32)left);
        Fault fault = g_array_index(faults, Fault, i);
        g_array_index(faults, Fault, i) = g_array_index(faults, Fault, left - 1);
        lab_case->count.states++;
        g_autofree char *why = judge_fault(lab_case, &fault);
        if (why) {
            lab_case->failure =
                g_strdup_printf("%s %" PRIu64 " of place %u fails with %s: %s", name_of(&fault), fault.n,
                                fault.place, g_strerror(fault.calls ? fault.errnum : ENOSPC), why);
        }
    }
}
