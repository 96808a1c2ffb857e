/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash laboratory: one operation on one image, recorded, and every state that a crash could leave of it
 * judged. docs/crash-lab.md says how to run it, operations.c what it runs.
 */
#ifndef TESTS_CRASH_LAB_H
#define TESTS_CRASH_LAB_H

#include "contents.h"
#include "explore.h"

/** An image that operations start from. */
typedef struct LabSubject {
    char *name;
    GPtrArray *paths;         /* of the image, then of those below it */
    GPtrArray *files;         /* GBytes: what is in them */
    LabContents *contents;
    Qcow2CheckResult check;   /* what is wrong with it already may stay */
    bool encrypted;
    bool has_data_file;       /* which is not in memory: an operation would change the real one */
    bool has_long_names;      /* of backing files: with a folder or a protocol */
    unsigned n_in_memory;     /* layers, from the image down, before the first one with a data file */
} LabSubject;

#define LAB_MAX_FILES 4u

/** Files that an operation works on, in memory: the image, then those below it that are written as well. */
typedef struct LabPlaces {
    Qcow2Io *io[LAB_MAX_FILES];
    unsigned n;
} LabPlaces;

void lab_places_clear(LabPlaces *places);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(LabPlaces, lab_places_clear)

/**
 * lab_open: the chain that begins with the first of these places. Files that its layers name are places if
 * they are among them, and opened by name if not.
 */
Qcow2Chain *lab_open(const LabPlaces *places, GError **error);

/** lab_same_file: two names of one file. */
bool lab_same_file(const char *a, const char *b);

typedef enum { LAB_NONE, LAB_FIRST, LAB_MIDDLE, LAB_LAST } LabWhich;

#define LAB_SUCCEEDS (-1)

/** A command with its arguments. */
typedef struct LabOperation {
    const char *name;
    bool (*run)(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
    LabWhich which;           /* the snapshot that is its argument; images without any are left out */
    unsigned n_below;         /* images below that it writes */
    unsigned n_lower;         /* images below that there must be, at least */
    int again;                /* Qcow2Error of the same command when its result is there, or LAB_SUCCEEDS */
    bool may_leak;
    bool writes_data;         /* into a data file too; images that have one are left out */
    bool repairs;             /* the check finds nothing in its result, and until then what it found before */
    bool may_tear;            /* on some images pieces of the header that it writes are right in any order */
    bool tidies_up;           /* when its result is there it makes the file shorter; a failure in that is only
                               * a warning, or comes when it is done */
    bool sets_bitmaps;        /* what bitmaps hold afterwards is its result; otherwise they get bits as the
                               * guest's contents change */
} LabOperation;

/* Of operations-bitmap.c, each as LabOperation.run. */
bool lab_bitmap_add(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_bitmap_clear(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_bitmap_disable(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_bitmap_merge(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_bitmap_remove(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_bitmap_states(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);

/* Of operations-chain.c. */
bool lab_commit(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_commit_all(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_commit_bitmaps(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_commit_keep(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_commit_middle(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_commit_middles(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_commit_preserve(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_commit_preserve_two(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                             GError **error);
bool lab_pull(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_pull_to_base(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_pull_middle(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_rebase(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_rebase_compressed(const LabPlaces *places, const LabSubject *subject, LabWhich which,
                           GError **error);
bool lab_rebase_name(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_rebase_to_none(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_trim(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);
bool lab_trim_shrink(const LabPlaces *places, const LabSubject *subject, LabWhich which, GError **error);

/** lab_operations: all of them, ended by one without a name. */
extern const LabOperation lab_operations[];

/** lab_snapshot: the snapshot of the image that an operation is given; owned by the subject. */
const LabState *lab_snapshot(const LabSubject *subject, LabWhich which);

/** lab_applies: whether the operation can be asked for at all. */
bool lab_applies(const LabOperation *operation, const LabSubject *subject);

LabSubject *lab_subject_load(const char *name, const char *path, GError **error);
void lab_subject_free(LabSubject *subject);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LabSubject, lab_subject_free)

/** Real QEMU as the judge. */
typedef struct LabQemu {
    const char *img;          /* the program qemu-img */
    guint every;              /* of how many states it judges one; 0: none */
} LabQemu;

/** lab_qemu_check: NULL when qemu-img check finds the file clean, or leaking with @may_leak. */
char *lab_qemu_check(const LabQemu *qemu, const char *path, bool may_leak);

/** lab_qemu_match: NULL when every state of the file reads for QEMU as @expected. */
char *lab_qemu_match(const LabQemu *qemu, const char *path, const LabContents *expected);

/** One operation on one image, run once without a crash. */
typedef struct LabCase {
    const LabOperation *operation;
    const LabSubject *subject;
    const LabQemu *qemu;
    GRand *random;
    const char *keep;         /* a folder for states that are wrong; or NULL */
    GArray *records;          /* Qcow2Record */
    char *refusal;            /* the message of an operation that did not do it; NULL: it did */
    LabContents *after;
    LabContents *base_before; /* of the lowest image that is written; NULL: a raw one, or only the image is */
    bool sound;               /* the check found nothing in the state that was judged last */
    LabDisk *disks[LAB_MAX_FILES];    /* as before */
    unsigned n_disks;
    struct {
        guint64 states, before, after, leaking, again, by_qemu, breaks;
    } count;
    char *failure;            /* the first state that is wrong; NULL: none */
} LabCase;

/** lab_case_new: runs and records the operation. @seed: for what is chosen at random. */
LabCase *lab_case_new(const LabOperation *operation, const LabSubject *subject, const LabQemu *qemu,
                      guint32 seed);
void lab_case_free(LabCase *lab_case);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(LabCase, lab_case_free)

typedef enum { LAB_BEFORE = 1, LAB_AFTER = 2 } LabVerdict;

/**
 * lab_judge:
 * @places: the files after a crash
 * @exact_times: they come from the recorded run; a snapshot that another run took has another date
 *
 * Returns: whether they hold what they held before the operation, or what they hold after; or both; 0 when
 * neither, or when they are corrupt, with what is wrong in @ret_why.
 */
unsigned lab_judge(LabCase *lab_case, const LabPlaces *places, bool exact_times, char **ret_why);

/** lab_judge_again: the same command on what a crash left; it writes to @places. NULL when it ends as it
 * should. */
char *lab_judge_again(LabCase *lab_case, const LabPlaces *places, unsigned verdict);

/** lab_copy_places: the files as they are on the disks of the case, in memory that can be written. */
void lab_copy_places(const LabCase *lab_case, LabPlaces *ret);

/** lab_case_rewind: the disks are as before the operation again. */
void lab_case_rewind(LabCase *lab_case);

/** lab_case_visit: shows up to @max_states states to @func, until @deadline; the disks are as after then. */
void lab_case_visit(LabCase *lab_case, guint64 max_states, gint64 deadline, LabVisitFunc func, void *data);

/** lab_case_explore: judges up to @max_states states, until @deadline; the first that is wrong ends it. */
void lab_case_explore(LabCase *lab_case, guint64 max_states, gint64 deadline);

/** lab_case_inject: lets each call fail once, in every way; up to @max_runs. See faults.c. */
void lab_case_inject(LabCase *lab_case, guint64 max_runs);

/** lab_case_break: explores lists in a broken order; @failure tells of those that were not caught. See
 * broken.c. */
void lab_case_break(LabCase *lab_case, guint64 max_states);

#endif
