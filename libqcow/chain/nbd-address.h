/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* NBD addresses that are written differently and mean the same export. */
#ifndef QCOW2_CHAIN_NBD_ADDRESS_H
#define QCOW2_CHAIN_NBD_ADDRESS_H

#include "libqcow2.h"

/** qcow2_nbd_is_same_export: whether two NBD URIs lead to the same export of the same server. */
bool qcow2_nbd_is_same_export(const char *a, const char *b);

#endif
