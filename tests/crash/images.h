/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the laboratory's images come from. */
#ifndef TESTS_CRASH_IMAGES_H
#define TESTS_CRASH_IMAGES_H

#include "lab.h"

/**
 * lab_images_load:
 * @pattern: of FOLDER/NAME, with * and ?; NULL: all
 *
 * A subject for each NAME.qcow2 and NAME.qcow2.gz in these folders; they and all files beside them are copied
 * (unpacked) into the working folder.
 */
GPtrArray *lab_images_load(const char *const folders[], const char *pattern, GError **error);

/** lab_subject_with_past: the image after some of the laboratory's operations, in the same folder. */
LabSubject *lab_subject_with_past(const LabSubject *subject, guint n_operations, GRand *random,
                                  GError **error);

#endif
