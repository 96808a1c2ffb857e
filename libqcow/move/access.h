/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who may use a file: given on to the file that replaces it. */
#ifndef QCOW2_MOVE_ACCESS_H
#define QCOW2_MOVE_ACCESS_H

#include "libqcow2.h"

/**
 * qcow2_copy_access:
 * @from_fd, @to_fd: open files of the caller; @to_fd is readable by its owner alone
 *
 * Gives @to_fd the owner, ACL, mode and security labels of @from_fd. What a user may not set is left out,
 * and the mode is then narrowed, so that nobody can do with @to_fd what they could not do with @from_fd.
 */
bool qcow2_copy_access(int from_fd, int to_fd, GError **error);

#endif
