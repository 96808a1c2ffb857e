/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What must never be written to: the files that an image that is read is made of. */
#include <sys/stat.h>

#include "ops/export.h"
#include "util/error.h"

static bool is_file(const Qcow2IoIdentity *identity, const struct stat *status)
{
    return identity->known && identity->device == status->st_dev && identity->inode == status->st_ino;
}

/*
 * The layers are looked at through a chain of its own: the job's opens only those that it reads, and what it
 * opens it must later find unchanged. What cannot be opened now is no reason to fail.
 */
static Qcow2Chain *open_again(const Qcow2Chain *chain)
{
    Qcow2OpenOptions options = chain->options;

    options.format = qcow2_chain_layer(chain, 0)->place->format;
    options.force_share = true;
    options.writable = false;
    options.warn = NULL;
    Qcow2Chain *again = qcow2_chain_open(chain->name, &options, NULL);
    if (again) {
        (void)qcow2_chain_open_all(again, NULL);
    }
    return again;
}

bool qcow2_refuse_layer(const Qcow2Chain *source, const char *path, GError **error)
{
    struct stat status;

    if (stat(path, &status) < 0) {
        return true;    /* a new file is none of them */
    }
    g_autoptr(Qcow2Chain) chain = open_again(source);
    for (unsigned i = 0; chain && i < qcow2_chain_n_layers(chain); i++) {
        const Qcow2Layer *layer = qcow2_chain_layer(chain, i);
        (void)qcow2_chain_open_data(chain, i, NULL);
        if (is_file(&layer->identity, &status)) {
            return qcow2_fail(error, QCOW2_ERROR_INVALID,
                              "'%s': it is layer [%u] of the image that is read", path, i);
        }
        if (layer->has_data_identity && is_file(&layer->data_identity, &status)) {
            return qcow2_fail(error, QCOW2_ERROR_INVALID,
                              "'%s': it is the data file of layer [%u] of the image that is"
                              " read",
                              path, i);
        }
    }
    return true;
}
