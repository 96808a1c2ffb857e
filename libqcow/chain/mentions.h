/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a name may lead to that is not understood: QEMU has more drivers than are known here. */
#ifndef QCOW2_CHAIN_MENTIONS_H
#define QCOW2_CHAIN_MENTIONS_H

#include "chain/place.h"

/**
 * qcow2_places_mentioned:
 * @name: a json: object of any drivers, or words before a path such as blkdebug:
 * @folder: relative names are relative to it
 * @ret_is_clear: whether it says where its bytes are, here or elsewhere; otherwise they may be anywhere
 *
 * Returns: Qcow2Place of each file that exists and each NBD export in it, whatever is done with them.
 */
GPtrArray *qcow2_places_mentioned(const char *name, const char *folder, bool *ret_is_clear);

#endif
