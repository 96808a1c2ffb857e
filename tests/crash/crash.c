/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line of the crash laboratory. */
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

#include "images.h"

typedef struct Options {
    gint seed, budget, states, rounds, qemu_every;
    char *operation, *subject, *keep, *qemu_img;
    gboolean faults, broken;
    char **folders;
} Options;

typedef struct Run {
    const Options *options;
    LabQemu qemu;
    gint64 end;               /* of g_get_monotonic_time(); 0: none */
    guint n_points, n_failed;
    guint64 n_states, n_again, n_by_qemu, n_leaking;
} Run;

static void parse(int *argc, char ***argv, Options *options)
{
    const GOptionEntry entries[] = {
        { "seed", 0, 0, G_OPTION_ARG_INT, &options->seed, "Of what is chosen at random (0)", "N" },
        { "states", 0, 0, G_OPTION_ARG_INT, &options->states, "At most so many for a case (200)", "N" },
        { "rounds", 0, 0, G_OPTION_ARG_INT, &options->rounds, "Images get a past after the first (1)", "N" },
        { "budget", 0, 0, G_OPTION_ARG_INT, &options->budget, "Rounds until then", "SECONDS" },
        { "operation", 0, 0, G_OPTION_ARG_STRING, &options->operation, "Only this; with * and ?", "NAME" },
        { "subject", 0, 0, G_OPTION_ARG_STRING, &options->subject, "Only this image; with * and ?", "NAME" },
        { "qemu-img", 0, 0, G_OPTION_ARG_STRING, &options->qemu_img, "The program that judges", "PROGRAM" },
        { "qemu-every", 0, 0, G_OPTION_ARG_INT, &options->qemu_every, "One state of so many (100)", "N" },
        { "keep", 0, 0, G_OPTION_ARG_FILENAME, &options->keep, "Where to leave wrong states", "FOLDER" },
        { "faults", 0, 0, G_OPTION_ARG_NONE, &options->faults, "Let calls fail instead", NULL },
        { "broken", 0, 0, G_OPTION_ARG_NONE, &options->broken, "Break the order, which must be seen", NULL },
        { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->folders, NULL, "FOLDER…" },
        { NULL },
    };
    g_autoptr(GOptionContext) context =
        g_option_context_new("- judge what a crash leaves of the images in FOLDER");
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, argc, argv, &error) || !options->folders) {
        fprintf(stderr, "crash: %s\n", error ? error->message : "which folders?");
        exit(2);
    }
}

static bool is_over(const Run *run)
{
    return run->end > 0 && g_get_monotonic_time() > run->end;
}

static void print_lines(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(g_strchomp(g_strdup(text)), "\n", -1);

    for (size_t i = 0; lines[i]; i++) {
        printf("# %s\n", lines[i]);
    }
}

static void print_point(Run *run, const char *failure, const char *name, const char *rest)
{
    printf("%s %u - %s%s\n", failure ? "not ok" : "ok", ++run->n_points, name, rest);
    if (failure) {
        run->n_failed++;
        print_lines(failure);
    }
    fflush(stdout);
}

/* ---- Cases ---------------------------------------------------------------------------------------- */

static void run_case(Run *run, const LabOperation *operation, const LabSubject *subject)
{
    const Options *options = run->options;
    g_autoptr(LabCase) lab_case = lab_case_new(operation, subject, &run->qemu, (guint32)options->seed);
    g_autofree char *name = g_strdup_printf("%s: %s", operation->name, subject->name);

    lab_case->keep = options->keep;
    if (options->faults) {
        lab_case_inject(lab_case, (guint64)options->states);
    } else if (options->broken) {
        lab_case_break(lab_case, (guint64)options->states);
    } else {
        lab_case_explore(lab_case, (guint64)options->states, run->end);
    }
    g_autofree char *breaks = g_strdup_printf(", %" PRIu64 " breaks caught", lab_case->count.breaks);
    g_autofree char *rest = g_strdup_printf(
        " (%" PRIu64 " states: %" PRIu64 " before, %" PRIu64 " after%s)%s%s", lab_case->count.states,
        lab_case->count.before, lab_case->count.after, options->broken ? breaks : "",
        lab_case->refusal ? " refused: " : "", lab_case->refusal ? lab_case->refusal : "");
    print_point(run, lab_case->failure, name, rest);
    run->n_states += lab_case->count.states;
    run->n_again += lab_case->count.again;
    run->n_by_qemu += lab_case->count.by_qemu;
    run->n_leaking += lab_case->count.leaking;
}

static bool wants(const Run *run, const LabOperation *operation, const LabSubject *subject)
{
    const char *pattern = run->options->operation;

    return (!pattern || g_pattern_match_simple(pattern, operation->name)) && lab_applies(operation, subject);
}

static void run_subjects(Run *run, const GPtrArray *subjects)
{
    for (guint i = 0; i < subjects->len; i++) {
        for (const LabOperation *operation = lab_operations; operation->name && !is_over(run); operation++) {
            if (wants(run, operation, g_ptr_array_index(subjects, i))) {
                run_case(run, operation, g_ptr_array_index(subjects, i));
            }
        }
    }
}

/* What this project's reader reads of the images is what everything is compared with: QEMU must agree. */
static void certify(Run *run, const GPtrArray *subjects)
{
    for (guint i = 0; i < subjects->len; i++) {
        const LabSubject *subject = g_ptr_array_index(subjects, i);
        if (subject->encrypted) {
            continue;
        }
        g_autofree char *why =
            lab_qemu_match(&run->qemu, g_ptr_array_index(subject->paths, 0), subject->contents);
        g_autofree char *name = g_strdup_printf("QEMU agrees: %s", subject->name);
        print_point(run, why, name, "");
    }
}

static void free_subject(gpointer subject)
{
    lab_subject_free(subject);
}

static void run_round_with_past(Run *run, const GPtrArray *subjects, gint round)
{
    const Options *options = run->options;
    g_autoptr(GPtrArray) with_past = g_ptr_array_new_with_free_func(free_subject);
    g_autoptr(GRand) random = g_rand_new_with_seed((guint32)options->seed ^ (guint32)round << 16);

    for (guint i = 0; i < subjects->len && !is_over(run); i++) {
        const LabSubject *subject = g_ptr_array_index(subjects, i);
        g_autoptr(GError) error = NULL;
        g_ptr_array_set_size(with_past, 0);
        guint n = 1 + (guint)g_rand_int_range(random, 0, 1 + MIN(round, 6));
        LabSubject *past = lab_subject_with_past(subject, n, random, &error);
        if (!past) {
            print_point(run, error->message, "an image with a past: ", subject->name);
            continue;
        }
        g_ptr_array_add(with_past, past);
        certify(run, with_past);
        run_subjects(run, with_past);
    }
}

static bool run_all(Run *run, GError **error)
{
    g_autoptr(GPtrArray) subjects = lab_images_load((const char *const *)run->options->folders,
                                                    run->options->subject, error);

    if (!subjects) {
        return false;
    }
    if (run->qemu.every > 0) {
        certify(run, subjects);
    }
    run_subjects(run, subjects);
    for (gint round = 1; (run->end > 0 || round < run->options->rounds) && !is_over(run); round++) {
        run_round_with_past(run, subjects, round);
    }
    return true;
}

/* ---- The work folder -------------------------------------------------------------------------------- */

static void remove_folder(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *inside = g_build_filename(path, name, NULL);
        if (g_file_test(inside, G_FILE_TEST_IS_DIR)) {
            remove_folder(inside);
        } else {
            unlink(inside);
        }
    }
    rmdir(path);
}

static void make_absolute(Options *options)
{
    for (size_t i = 0; options->folders[i]; i++) {
        char *path = g_canonicalize_filename(options->folders[i], NULL);
        g_free(options->folders[i]);
        options->folders[i] = path;
    }
    if (options->keep) {
        char *path = g_canonicalize_filename(options->keep, NULL);
        g_free(options->keep);
        options->keep = path;
    }
}

int main(int argc, char **argv)
{
    Options options = { .states = 200, .rounds = 1, .qemu_every = 100 };
    g_autoptr(GError) error = NULL;

    /* Each state takes and gives back some MiB: they shall stay with the process. */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    parse(&argc, &argv, &options);
    make_absolute(&options);

    Run run = { .options = &options };
    run.qemu = (LabQemu) { options.qemu_img ? options.qemu_img : "qemu-img", (guint)options.qemu_every };
    run.end = options.budget > 0 ? g_get_monotonic_time() + options.budget * G_USEC_PER_SEC : 0;
    gint64 start = g_get_monotonic_time();
    g_autofree char *work = g_dir_make_tmp("crash-lab-XXXXXX", &error);
    if (!work || chdir(work) != 0 || !run_all(&run, &error)) {
        printf("Bail out! %s\n", error ? error->message : "no work folder");
        return 1;
    }
    remove_folder(work);
    printf("# %" PRIu64 " states, %" PRIu64 " of them leaking; the command again on %" PRIu64
           ", QEMU as the judge of %" PRIu64 "; %.1f s\n1..%u\n",
           run.n_states, run.n_leaking, run.n_again, run.n_by_qemu,
           (gdouble)(g_get_monotonic_time() - start) / G_USEC_PER_SEC, run.n_points);
    g_strfreev(options.folders);
    g_free(options.operation);
    g_free(options.subject);
    g_free(options.keep);
    g_free(options.qemu_img);
    return run.n_failed > 0;
}
