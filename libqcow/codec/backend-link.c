/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "codec/backend.h"

const Qcow2CodecBackend *qcow2_codec_find_backend(GError **error)
{
    (void)error;
    return &qcow2_codec_module_backend;
}
