/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Repairs an image, and holds the repair to what it promises: the check then finds what the repair said; a
 * second repair changes nothing; one that fails changed nothing; what could be read before reads the same.
 */
#include <string.h>

#include "chain/chain.h"
#include "fuzz.h"
#include "io/backends.h"

#define PIECE      512u
#define MAX_PIECES 128u

static void demand(bool kept, const char *promise)
{
    if (!kept) {
        fuzz_fail("not so: %s", promise);
    }
}

static Qcow2Chain *open_for_repair(Qcow2Io *io)
{
    Qcow2OpenOptions options = {
        .format = "qcow2", .writable = true, .exclusive = true, .repair = true, .untrusted = true,
        .n_threads = 1,
    };

    return qcow2_chain_open_io(io, &options, NULL);
}

static GBytes *bytes_of(Qcow2Io *io)
{
    size_t len;
    const uint8_t *bytes = qcow2_io_memory_peek(io, &len);

    return g_bytes_new(bytes, len);
}

static bool note_compressed(const Qcow2MapExtent *extent, void *data)
{
    bool *is_compressed = data;

    *is_compressed = extent->compressed;
    return false;
}

/* A stream may be found in the header, which changes. */
static bool is_compressed(Qcow2State *state, uint64_t offset)
{
    bool ret = false;

    qcow2_state_map(state, offset, PIECE, note_compressed, &ret, NULL, NULL);
    return ret;
}

/* Some pieces of a state, each with a byte before it: whether it could be read. */
static GByteArray *read_state(Qcow2Chain *chain, const char *name)
{
    GByteArray *ret = g_byte_array_new();
    g_autoptr(Qcow2State) state = qcow2_state_open(chain, name, NULL);
    uint64_t n = state ? MIN(qcow2_state_get_size(state) / PIECE, MAX_PIECES) : 0;

    for (uint64_t i = 0; i < n; i++) {
        uint8_t piece[1 + PIECE] = { 0 };
        piece[0] = !is_compressed(state, i * PIECE)
                && qcow2_state_read(state, i * PIECE, piece + 1, PIECE, NULL);
        g_byte_array_append(ret, piece, sizeof(piece));
    }
    return ret;
}

static GPtrArray *read_states(Qcow2Io *io)
{
    GPtrArray *ret = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    g_autoptr(Qcow2Chain) chain = open_for_repair(io);
    static const char *const names[] = { "@active", "id:1", "id:2", "id:3" };

    for (size_t i = 0; chain && i < G_N_ELEMENTS(names); i++) {
        g_ptr_array_add(ret, read_state(chain, names[i]));
    }
    return ret;
}

static void compare_states(const GPtrArray *before, const GPtrArray *after)
{
    demand(before->len == after->len, "the image can be opened");
    for (guint i = 0; i < before->len; i++) {
        const GByteArray *a = g_ptr_array_index(before, i), *b = g_ptr_array_index(after, i);
        for (guint at = 0; at < a->len; at += 1 + PIECE) {
            bool same = at < b->len && memcmp(a->data + at, b->data + at, 1 + PIECE) == 0;
            demand(!a->data[at] || same, "contents stay");
        }
    }
}

static bool repair(Qcow2Io *io, Qcow2Repair what, Qcow2CheckResult *ret)
{
    g_autoptr(GBytes) before = bytes_of(io);
    g_autoptr(Qcow2Chain) chain = open_for_repair(io);

    if (chain && qcow2_repair(chain, what, NULL, NULL, ret, NULL, NULL)) {
        return true;
    }
    g_autoptr(GBytes) after = bytes_of(io);
    demand(g_bytes_equal(before, after), "what fails changes nothing");
    return false;
}

/* The check agrees, and there is nothing more to do. */
static void demand_rest(Qcow2Io *io, Qcow2Repair what, const Qcow2CheckResult *result)
{
    g_autoptr(GBytes) before = bytes_of(io);
    g_autoptr(Qcow2Chain) chain = open_for_repair(io);
    Qcow2CheckResult found;

    demand(chain && qcow2_check(chain, NULL, NULL, &found, NULL, NULL), "the result can be checked");
    bool same = found.corruptions == result->corruptions && found.leaks == result->leaks
             && found.check_errors == result->check_errors;
    demand(same, "the check finds what the repair left");
    g_clear_pointer(&chain, qcow2_chain_free);
    if (repair(io, what, &found)) {
        g_autoptr(GBytes) after = bytes_of(io);
        demand(g_bytes_equal(before, after), "a second repair changes nothing");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Qcow2Repair what = size > 0 && (data[size - 1] & 3) == 1 ? QCOW2_REPAIR_LEAKS : QCOW2_REPAIR_ALL;
    g_autoptr(Qcow2Io) io = qcow2_io_memory_new(data, size, "fuzz", true);
    g_autoptr(GPtrArray) before = read_states(io);
    Qcow2CheckResult result;

    if (repair(io, what, &result)) {
        g_autoptr(GPtrArray) after = read_states(io);
        compare_states(before, after);
        demand_rest(io, what, &result);
    }
    return 0;
}
