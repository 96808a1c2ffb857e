/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Repair: image/repair.h says what it does and what a crash leaves. */
#include "chain/chain.h"
#include "image/repair.h"
#include "util/error.h"
#include "util/progress.h"

typedef struct Report {
    Qcow2CheckFunc func;
    void *data;
} Report;

static void hand_on(const Qcow2Finding *finding, void *data)
{
    const Report *report = data;

    if (report->func) {
        report->func(finding->text, report->data);
    }
}

bool qcow2_repair(Qcow2Chain *chain, Qcow2Repair what, Qcow2CheckFunc func, void *data,
                  Qcow2CheckResult *ret_result, Qcow2Progress *progress, GError **error)
{
    Qcow2Image *image = qcow2_chain_image(chain, 0);
    Report report = { func, data };

    *ret_result = (Qcow2CheckResult) { 0 };
    if (image->kind == QCOW2_IMAGE_RAW) {
        return qcow2_fail(error, QCOW2_ERROR_UNSUPPORTED, "a raw image has no metadata to repair");
    }
    if (!qcow2_image_repair(image, what, hand_on, &report, ret_result, progress, error)) {
        return qcow2_fail_unchanged(error, qcow2_chain_layer_name(chain, 0));
    }
    qcow2_progress_finish(progress);
    return true;
}
