/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens an image and does everything that only reads: show, check, map and read each state. */
#include "fuzz-image.h"
#include "fuzz.h"

#define READ_LIMIT (UINT64_C(4) << 20)     /* of each state: a size is only a claim */
#define STATE_LIMIT 3u

static bool next_extent(const Qcow2MapExtent *extent, void *data)
{
    uint64_t *budget = data;

    (void)extent;
    return (*budget)-- > 0;
}

static void read_state(Qcow2Chain *chain, const char *name)
{
    g_autoptr(Qcow2State) state = qcow2_state_open(chain, name, NULL);
    uint64_t budget = 100000;

    if (!state) {
        return;
    }
    uint64_t size = qcow2_state_get_size(state);
    qcow2_state_map(state, 0, MIN(size, UINT64_C(1) << 40), next_extent, &budget, NULL, NULL);
    if (size > READ_LIMIT) {
        qcow2_state_map(state, size - READ_LIMIT, READ_LIMIT, next_extent, &budget, NULL, NULL);
    }
    size_t len = MIN(size, READ_LIMIT);
    g_autofree uint8_t *buffer = g_malloc(len + 1);
    qcow2_state_read(state, 0, buffer, len, NULL);
}

static void ignore_finding(const char *finding, void *data)
{
    (void)finding;
    (void)data;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(Qcow2Chain) chain = fuzz_open(data, size);
    Qcow2CheckResult check;
    Qcow2ImageInfo info;

    if (!chain) {
        return 0;
    }
    qcow2_check(chain, ignore_finding, NULL, &check, NULL, NULL);
    read_state(chain, "@active");
    if (qcow2_chain_get_info(chain, 0, &info, NULL)) {
        qcow2_chain_load_bitmap_counts(chain, 0, NULL);
        for (unsigned i = 0; i < MIN(info.n_snapshots, STATE_LIMIT); i++) {
            g_autofree char *name = g_strconcat("id:", info.snapshots[i].id, NULL);
            read_state(chain, name);
        }
    }
    return 0;
}
