/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Refcounts of all widths against a model that knows only bits. */
#include "format/refcount.h"

#define BLOCK_LEN 512u
#define N_BITS (BLOCK_LEN * 8)

/*
 * The model: bit b of count i. Below a byte, counts fill it from its least significant bit; from a byte on
 * the first byte is the most significant.
 */
static size_t model_bit(unsigned order, size_t index, unsigned b)
{
    unsigned width = 1u << order;
    size_t first = index * width;

    return width <= 8 ? first + b : first + (width / 8 - 1 - b / 8) * 8 + b % 8;
}

static uint64_t model_get(const bool *bits, unsigned order, size_t index)
{
    uint64_t count = 0;

    for (unsigned b = 0; b < 1u << order; b++) {
        count |= (uint64_t) bits[model_bit(order, index, b)] << b;
    }
    return count;
}

static void model_set(bool *bits, unsigned order, size_t index, uint64_t count)
{
    for (unsigned b = 0; b < 1u << order; b++) {
        bits[model_bit(order, index, b)] = count >> b & 1;
    }
}

static void check_same(const bool *bits, const uint8_t *block)
{
    for (size_t i = 0; i < N_BITS; i++) {
        g_assert_true(bits[i] == (block[i / 8] >> (i % 8) & 1));
    }
}

static uint64_t random_count(GRand *rand, const Qcow2Layout *layout)
{
    uint64_t high = g_rand_int(rand), low = g_rand_int(rand);
    uint64_t count = (high << 32 | low) & qcow2_refcount_max(layout);

    return g_rand_boolean(rand) ? count : g_rand_boolean(rand) ? 0 : qcow2_refcount_max(layout);
}

static void check_order(unsigned order)
{
    Qcow2Layout layout = qcow2_layout(3, 9, false, order, false);
    g_autoptr(GRand) rand = g_rand_new_with_seed(order);
    bool bits[N_BITS] = { 0 };
    uint8_t block[BLOCK_LEN] = { 0 };
    size_t n_counts = N_BITS >> order;

    g_assert_cmpuint(n_counts, ==, BIT(layout.refblock_bits));
    for (int i = 0; i < 2000; i++) {
        size_t index = (size_t) g_rand_int_range(rand, 0, (gint32) n_counts);
        uint64_t count = random_count(rand, &layout);

        if (g_rand_boolean(rand)) {
            qcow2_refcount_set(&layout, block, index, count);
            model_set(bits, order, index, count);
        } else {
            size_t n = (size_t) g_rand_int_range(rand, 0, (gint32) (n_counts - index) + 1);
            qcow2_refcount_fill(&layout, block, index, n, count);
            for (size_t k = 0; k < n; k++) {
                model_set(bits, order, index + k, count);
            }
        }
        check_same(bits, block);
        index = (size_t) g_rand_int_range(rand, 0, (gint32) n_counts);
        g_assert_cmphex(qcow2_refcount_get(&layout, block, index), ==, model_get(bits, order, index));
    }
}

static void test_against_model(void)
{
    for (unsigned order = 0; order <= 6; order++) {
        check_order(order);
    }
}

/* Bytes as the specification draws them, so that model and code are not wrong alike. */
static void test_bytes(void)
{
    static const struct {
        unsigned order;
        uint64_t count;
        uint8_t bytes[8];            /* of a block whose count 1 is set */
    } cases[] = {
        { 0, 1, { 0x02 } },
        { 1, 3, { 0x0c } },
        { 2, 0xa, { 0xa0 } },
        { 3, 0xab, { 0, 0xab } },
        { 4, 0x1234, { 0, 0, 0x12, 0x34 } },
        { 5, 0x12345678, { 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78 } },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Qcow2Layout layout = qcow2_layout(3, 16, false, cases[i].order, false);
        uint8_t block[8] = { 0 };

        qcow2_refcount_set(&layout, block, 1, cases[i].count);
        g_assert_cmpmem(block, sizeof(block), cases[i].bytes, sizeof(block));
    }
}

static void test_max(void)
{
    static const uint64_t max[] = { 1, 3, 15, 255, 65535, UINT32_MAX, UINT64_MAX };

    for (unsigned order = 0; order <= 6; order++) {
        Qcow2Layout layout = qcow2_layout(3, 16, false, order, false);
        uint8_t block[16] = { 0 };

        g_assert_cmphex(qcow2_refcount_max(&layout), ==, max[order]);
        qcow2_refcount_set(&layout, block, 1, max[order]);
        g_assert_cmphex(qcow2_refcount_get(&layout, block, 1), ==, max[order]);
        g_assert_cmphex(qcow2_refcount_get(&layout, block, 0), ==, 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/refcount/every width does what single bits do", test_against_model);
    g_test_add_func("/refcount/bytes are those of the specification", test_bytes);
    g_test_add_func("/refcount/the largest count fits and stays in its place", test_max);
    return g_test_run();
}
