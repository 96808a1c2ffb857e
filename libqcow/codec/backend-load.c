/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "codec/backend.h"
#include "util/module.h"

const Qcow2CodecBackend *qcow2_codec_find_backend(GError **error)
{
    return qcow2_module_symbol("codec", QCOW2_CODEC_MODULE_BACKEND, error);
}
