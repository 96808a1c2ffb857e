/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lab.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "chain/open.h"

#define AGAIN_EVERY 8         /* states: the same command once more takes longer than all else */

void lab_places_clear(LabPlaces *places)
{
    for (unsigned i = 0; i < places->n; i++) {
        qcow2_io_unref(places->io[i]);
    }
    places->n = 0;
}

bool lab_same_file(const char *a, const char *b)
{
    struct stat x, y;

    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The file that the lowest layer so far names, if it is one of the places. */
static Qcow2Io *find_next(const LabPlaces *places, const Qcow2Chain *chain)
{
    const Qcow2Layer *last = qcow2_chain_layer(chain, chain->layers->len - 1);
    g_autoptr(Qcow2Place) next = qcow2_backing_place(last, NULL);

    for (unsigned i = 1; next && i < places->n; i++) {
        if (lab_same_file(next->target, places->io[i]->name)) {
            return places->io[i];
        }
    }
    return NULL;
}

/* So that the operation knows the file again under another name. */
static void identify(Qcow2Layer *layer)
{
    struct stat st;

    if (stat(layer->place->target, &st) == 0) {
        layer->identity.known = true;
        layer->identity.device = st.st_dev;
        layer->identity.inode = st.st_ino;
    }
}

static bool push_layer(Qcow2Chain *chain, Qcow2Io *io, GError **error)
{
    g_autoptr(Qcow2Place) recorded =
        qcow2_backing_place(qcow2_chain_layer(chain, chain->layers->len - 1), NULL);
    Qcow2Place *place = g_new0(Qcow2Place, 1);

    place->target = g_strdup(io->name);
    place->shown = g_strdup(io->name);
    place->format = recorded ? g_strdup(recorded->format) : NULL;
    place->raw_size = UINT64_MAX;
    Qcow2Layer *layer = qcow2_layer_open_io(place, io, &chain->options, error);
    if (layer) {
        identify(layer);
        g_ptr_array_add(chain->layers, layer);
        chain->complete = !qcow2_chain_has_below(chain, chain->layers->len - 1);
    }
    return layer != NULL;
}

Qcow2Chain *lab_open(const LabPlaces *places, GError **error)
{
    /* States are judged by the thousand: threads would cost more than they do. */
    Qcow2OpenOptions options = { .writable = places->io[0]->writable, .n_threads = 1 };
    g_autoptr(Qcow2Chain) chain = qcow2_chain_open_io(places->io[0], &options, error);

    if (chain && places->n > 1) {
        identify(qcow2_chain_layer(chain, 0));
    }
    for (Qcow2Io *next; chain && (next = find_next(places, chain));) {
        if (!push_layer(chain, next, error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&chain);
}

/* ---- One run without a crash ------------------------------------------------------------------------ */

static void clear_record(gpointer data)
{
    g_clear_pointer(&((Qcow2Record *)data)->bytes, g_bytes_unref);
}

static GArray *copy_records(const GArray *records)
{
    GArray *copy = g_array_new(FALSE, FALSE, sizeof(Qcow2Record));

    g_array_append_vals(copy, records->data, records->len);
    for (guint i = 0; i < copy->len; i++) {
        Qcow2Record *record = &g_array_index(copy, Qcow2Record, i);
        record->bytes = record->bytes ? g_bytes_ref(record->bytes) : NULL;
    }
    g_array_set_clear_func(copy, clear_record);
    return copy;
}

void lab_copy_places(const LabCase *lab_case, LabPlaces *ret)
{
    for (ret->n = 0; ret->n < lab_case->n_disks; ret->n++) {
        ret->io[ret->n] = lab_disk_copy(lab_case->disks[ret->n]);
    }
}

static LabContents *read_places(const LabPlaces *places, GError **error)
{
    g_autoptr(Qcow2Chain) chain = lab_open(places, error);

    return chain ? lab_contents_read(chain, error) : NULL;
}

static void run_once(LabCase *lab_case, GError **error)
{
    g_auto(LabPlaces) memory = { .n = 0 }, recorded = { .n = 0 };
    g_autoptr(GError) refusal = NULL;

    lab_copy_places(lab_case, &memory);
    for (unsigned i = 0; i < memory.n; i++) {
        recorded.io[i] = i == 0 ? qcow2_io_recorder_new(memory.io[i])
                                : qcow2_io_recorder_new_beside(memory.io[i], recorded.io[0]);
        recorded.n++;
    }
    if (!lab_case->operation->run(&recorded, lab_case->subject, lab_case->operation->which, &refusal)) {
        lab_case->refusal = g_strdup(refusal->message);
    }
    lab_case->records = copy_records(qcow2_io_recorder_get(recorded.io[0]));
    lab_case->after = read_places(&memory, error);
    if (lab_case->after && !lab_case->operation->sets_bitmaps) {
        lab_contents_require_bits(lab_case->after, lab_case->subject->contents);
    }
}

/* NULL of a raw file, and of what a merge has left behind. */
static LabContents *read_base(const LabPlaces *places, GError **error)
{
    LabPlaces base = { .io = { places->io[places->n - 1] }, .n = 1 };
    g_autoptr(Qcow2Chain) chain = lab_open(&base, error);

    return chain && qcow2_chain_image(chain, 0)->kind == QCOW2_IMAGE_QCOW2 ? lab_contents_read(chain, error)
                                                                           : NULL;
}

static void note_base(LabCase *lab_case, GError **error)
{
    g_auto(LabPlaces) places = { .n = 0 };

    lab_copy_places(lab_case, &places);
    if (places.n > 1) {
        lab_case->base_before = read_base(&places, error);
    }
}

static void drop_disks(LabCase *lab_case)
{
    for (unsigned i = 0; i < lab_case->n_disks; i++) {
        lab_disk_free(lab_case->disks[i]);
    }
    lab_case->n_disks = 0;
}

void lab_case_rewind(LabCase *lab_case)
{
    const LabSubject *subject = lab_case->subject;

    drop_disks(lab_case);
    for (unsigned i = 0; i <= lab_case->operation->n_below; i++) {
        lab_case->disks[i] =
            lab_disk_new(g_ptr_array_index(subject->paths, i), g_ptr_array_index(subject->files, i));
        lab_case->n_disks++;
    }
}

LabCase *lab_case_new(const LabOperation *operation, const LabSubject *subject, const LabQemu *qemu,
                      guint32 seed)
{
    LabCase *lab_case = g_new0(LabCase, 1);
    g_autoptr(GError) error = NULL;
    g_autofree char *words = g_strdup_printf("%s %s", operation->name, subject->name);

    lab_case->operation = operation;
    lab_case->subject = subject;
    lab_case->qemu = qemu;
    /* Each case by itself is the same as in a run of all. */
    lab_case->random = g_rand_new_with_seed(seed ^ g_str_hash(words));
    lab_case_rewind(lab_case);
    note_base(lab_case, &error);
    run_once(lab_case, error ? NULL : &error);
    if (error) {
        lab_case->failure = g_strdup_printf("the result cannot be read: %s", error->message);
    }
    return lab_case;
}

void lab_case_free(LabCase *lab_case)
{
    if (!lab_case) {
        return;
    }
    drop_disks(lab_case);
    g_rand_free(lab_case->random);
    g_array_unref(lab_case->records);
    g_clear_pointer(&lab_case->after, lab_contents_free);
    g_clear_pointer(&lab_case->base_before, lab_contents_free);
    g_free(lab_case->refusal);
    g_free(lab_case->failure);
    g_free(lab_case);
}

/* ---- Judging ------------------------------------------------------------------------------------- */

static void note_first(const char *finding, void *data)
{
    char **first = data;

    if (!*first) {
        *first = g_strdup(finding);
    }
}

/* Clean, or leaking where that is allowed; what was wrong before may stay. */
static char *check_layer(LabCase *lab_case, Qcow2Chain *chain)
{
    const Qcow2CheckResult *before = &lab_case->subject->check;
    g_autofree char *finding = NULL;
    g_autoptr(GError) error = NULL;
    Qcow2CheckResult now;

    if (!qcow2_check(chain, note_first, &finding, &now, NULL, &error)) {
        return g_strdup_printf("check failed: %s", error->message);
    }
    if (now.corruptions > before->corruptions || now.check_errors > before->check_errors) {
        return g_strdup_printf("%" PRIu64 " corruptions: %s", now.corruptions, finding);
    }
    lab_case->sound = now.corruptions == 0 && now.leaks == 0;
    if (lab_case->operation->repairs && !lab_case->sound
        && (now.corruptions != before->corruptions || now.leaks != before->leaks)) {
        return g_strdup_printf("half repaired: %" PRIu64 " corruptions, %" PRIu64 " leaks: %s",
                               now.corruptions, now.leaks, finding);
    }
    lab_case->count.leaking += now.leaks > before->leaks;
    if (now.leaks > before->leaks && !lab_case->operation->may_leak) {
        return g_strdup_printf("%" PRIu64 " leaks: %s", now.leaks, finding);
    }
    return NULL;
}

/* A layer that a merge leaves behind says so itself; if the image still needed it, it could not be read. */
static bool is_marked(const GError *error)
{
    return error && strstr(error->message, "merged into");
}

static char *check_below(LabCase *lab_case, const LabPlaces *places)
{
    char *why = NULL;

    for (unsigned i = 1; i < places->n && !why && !lab_case->refusal; i++) {
        LabPlaces one = { .io = { places->io[i] }, .n = 1 };
        g_autoptr(GError) error = NULL;
        g_autoptr(Qcow2Chain) chain = lab_open(&one, &error);
        bool is_qcow2 = chain && qcow2_chain_image(chain, 0)->kind == QCOW2_IMAGE_QCOW2;
        why = is_marked(error) ? NULL
            : error            ? g_strdup(error->message)
            : is_qcow2         ? check_layer(lab_case, chain)
                               : NULL;
    }
    return why;
}

/* A merge does not change its snapshots, and its bitmaps have a bit for all that is written. */
static char *check_base(const LabCase *lab_case, const LabPlaces *places)
{
    g_autoptr(GError) error = NULL;

    if (!lab_case->base_before) {
        return NULL;
    }
    g_autoptr(LabContents) found = read_base(places, &error);
    g_autoptr(LabContents) wanted = found ? read_base(places, &error) : NULL;
    if (!wanted) {
        return g_strdup(error->message);
    }
    lab_contents_require_bits(wanted, lab_case->base_before);
    return lab_contents_match_kept(lab_case->base_before, wanted, found);
}

static unsigned compare_contents(LabCase *lab_case, const LabContents *found, bool exact_times,
                                 char **ret_why)
{
    bool exact_bits = lab_case->operation->sets_bitmaps;
    g_autofree char *not_before = lab_contents_match(lab_case->subject->contents, found, true, exact_bits);
    g_autofree char *not_after = lab_case->refusal
                               ? g_strdup("it refused")
                               : lab_contents_match(lab_case->after, found, exact_times, exact_bits);

    if (lab_case->operation->repairs && !not_before && !not_after) {
        return lab_case->sound ? LAB_AFTER : LAB_BEFORE;    /* contents are the same */
    }
    if (not_before && not_after) {
        *ret_why = g_strdup_printf("neither before (%s) nor after (%s)", not_before, not_after);
    }
    return (not_before ? 0 : LAB_BEFORE) | (not_after ? 0 : LAB_AFTER);
}

unsigned lab_judge(LabCase *lab_case, const LabPlaces *places, bool exact_times, char **ret_why)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2Chain) chain = lab_open(places, &error);
    g_autoptr(LabContents) found = NULL;

    *ret_why = !chain ? g_strdup(error->message) : check_layer(lab_case, chain);
    if (!*ret_why) {
        *ret_why = check_below(lab_case, places);
    }
    if (!*ret_why) {
        *ret_why = check_base(lab_case, places);
    }
    if (!*ret_why && !(found = lab_contents_read(chain, &error))) {
        *ret_why = g_strdup(error->message);
    }
    return *ret_why ? 0 : compare_contents(lab_case, found, exact_times, ret_why);
}

char *lab_judge_again(LabCase *lab_case, const LabPlaces *places, unsigned verdict)
{
    int again = lab_case->operation->again;
    g_autoptr(GError) error = NULL;
    g_autofree char *why = NULL;
    bool ok = lab_case->operation->run(places, lab_case->subject, lab_case->operation->which, &error);
    bool is_there =
        !ok && (verdict & LAB_AFTER) && again != LAB_SUCCEEDS && g_error_matches(error, QCOW2_ERROR, again);

    if (lab_case->refusal ? ok : !ok && !is_there) {
        return g_strdup_printf("the same command again: %s", ok ? "does it" : error->message);
    }
    unsigned wanted = lab_case->refusal ? LAB_BEFORE : LAB_AFTER;
    return lab_judge(lab_case, places, false, &why) & wanted ? NULL
         : g_strdup_printf("the same command again leaves: %s", why ? why : "what was before");
}

/* ---- States ------------------------------------------------------------------------------------- */

static char *judge_again(LabCase *lab_case, unsigned verdict)
{
    g_auto(LabPlaces) places = { .n = 0 };

    lab_case->count.again++;
    lab_copy_places(lab_case, &places);
    return lab_judge_again(lab_case, &places, verdict);
}

/* The image beside those that are as before, where QEMU finds what is below it by its names. */
static char *save_image(const LabCase *lab_case, GError **error)
{
    g_autofree char *path = g_strconcat(g_ptr_array_index(lab_case->subject->paths, 0), ".crashed", NULL);

    return lab_disk_save(lab_case->disks[0], path, error) ? g_steal_pointer(&path) : NULL;
}

/* All layers in a folder of their own. */
static char *save_chain(const LabCase *lab_case, GError **error)
{
    const LabSubject *subject = lab_case->subject;
    g_autofree char *folder = g_strconcat(g_ptr_array_index(subject->paths, 0), ".folder", NULL);
    g_autofree char *first = NULL;

    g_mkdir_with_parents(folder, 0755);
    for (unsigned i = 0; i < subject->paths->len; i++) {
        g_autofree char *name = g_path_get_basename(g_ptr_array_index(subject->paths, i));
        g_autofree char *path = g_build_filename(folder, name, NULL);
        const void *bytes = g_bytes_get_data(g_ptr_array_index(subject->files, i), NULL);
        gssize len = (gssize)g_bytes_get_size(g_ptr_array_index(subject->files, i));
        bool ok = i < lab_case->n_disks
                ? lab_disk_save(lab_case->disks[i], path, error)
                : g_file_set_contents_full(path, bytes, len, G_FILE_SET_CONTENTS_NONE, 0644, error);
        if (!ok) {
            return NULL;
        }
        first = first ? first : g_strdup(path);
    }
    return g_steal_pointer(&first);
}

static char *judge_by_qemu(LabCase *lab_case, unsigned verdict)
{
    const LabSubject *subject = lab_case->subject;
    g_autoptr(GError) error = NULL;
    char *why = NULL;

    /* It would ask for the key; or find other files than those of the state, or no data files. */
    bool has_others = subject->has_long_names || subject->n_in_memory < subject->paths->len;
    if (subject->encrypted || (lab_case->operation->n_below > 0 && has_others)) {
        return NULL;
    }
    lab_case->count.by_qemu++;
    g_autofree char *path =
        lab_case->operation->n_below > 0 ? save_chain(lab_case, &error) : save_image(lab_case, &error);
    if (!path) {
        return g_strdup(error->message);
    }
    if (lab_case->operation->repairs ? lab_case->sound
                                     : subject->check.corruptions == 0 && subject->check.leaks == 0) {
        why = lab_qemu_check(lab_case->qemu, path, lab_case->operation->may_leak);
    }
    if (!why) {
        why = lab_qemu_match(lab_case->qemu, path, verdict & LAB_AFTER ? lab_case->after : subject->contents);
    }
    return why;
}

static bool one_in(LabCase *lab_case, guint n)
{
    return n > 0 && g_rand_int_range(lab_case->random, 0, (gint32)n) == 0;
}

static void keep_state(LabCase *lab_case)
{
    for (unsigned i = 0; lab_case->keep && i < lab_case->n_disks; i++) {
        g_autofree char *place = g_path_get_basename(lab_case->subject->name);
        g_autofree char *name = g_strdup_printf("%s-%s-%u.qcow2", lab_case->operation->name, place, i);
        g_autofree char *path = g_build_filename(lab_case->keep, name, NULL);
        lab_disk_save(lab_case->disks[i], path, NULL);
    }
}

static bool judge_state(const LabCrash *crash, void *data)
{
    LabCase *lab_case = data;
    g_auto(LabPlaces) places = { .n = 0 };
    char *why = NULL;

    for (; places.n < lab_case->n_disks; places.n++) {
        places.io[places.n] = lab_disk_view(lab_case->disks[places.n]);
    }
    lab_case->count.states++;
    unsigned verdict = lab_judge(lab_case, &places, true, &why);
    lab_case->count.before += verdict == LAB_BEFORE;
    lab_case->count.after += verdict == LAB_AFTER;
    if (!why && crash->finished && !lab_case->refusal && !(verdict & LAB_AFTER)) {
        why = g_strdup("it said that it was done, and a power loss takes it back");
    }
    if (!why && one_in(lab_case, AGAIN_EVERY)) {
        why = judge_again(lab_case, verdict);
    }
    if (!why && one_in(lab_case, lab_case->qemu->every)) {
        why = judge_by_qemu(lab_case, verdict);
    }
    if (!why) {
        return true;
    }
    g_autofree char *state = lab_crash_describe(crash, lab_case->records);
    g_free(lab_case->failure);
    lab_case->failure = g_strdup_printf("%s\n%s", why, state);
    g_free(why);
    keep_state(lab_case);
    return false;
}

void lab_case_visit(LabCase *lab_case, guint64 max_states, gint64 deadline, LabVisitFunc func, void *data)
{
    LabExploration exploration = {
        .records = lab_case->records,
        .disks = lab_case->disks,
        .n_disks = lab_case->n_disks,
        .random = lab_case->random,
        .max_states = max_states,
        .deadline = deadline,
        .visit = func,
        .data = data,
    };

    lab_explore(&exploration);
}

void lab_case_explore(LabCase *lab_case, guint64 max_states, gint64 deadline)
{
    if (!lab_case->failure) {
        lab_case_visit(lab_case, max_states, deadline, judge_state, lab_case);
    }
}
