/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "config.h"
#include "libqcow2.h"

const char *qcow2_version(void)
{
    return QCOW2_VERSION;
}
