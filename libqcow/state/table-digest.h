/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A digest of all L2 tables that a state reaches, to tell whether its active layer changed. */
#ifndef QCOW2_STATE_TABLE_DIGEST_H
#define QCOW2_STATE_TABLE_DIGEST_H

#include "state/state.h"

/** qcow2_digest_tables: @file is where to read them, perhaps through a new connection; a new string. */
char *qcow2_digest_tables(const Qcow2State *state, Qcow2Io *file, GError **error);

#endif
