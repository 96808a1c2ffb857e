/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sizes in words, read and printed as qemu-img 10 does: "1.5G" is a size and so are ".5k", "0x200" and
 * "1.", while "1.5", "1e3", "1kB" and "-0" are none.
 */
#include "util/error.h"

#include <math.h>
#include <string.h>

static bool fail_no_size(const char *text, GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_INVALID,
                      "'%s' is no size: it takes a number and perhaps one of the suffixes k, M, G, T, P or E",
                      text);
}

static bool fail_too_large(const char *text, GError **error)
{
    return qcow2_fail(error, QCOW2_ERROR_INVALID, "size '%s' is not between 0 and %" PRId64, text, INT64_MAX);
}

/* The power of two that a suffix stands for; false when @suffix is none. */
static bool shift_of_suffix(char suffix, unsigned *ret_shift)
{
    static const char suffixes[] = "bkmgtpe";
    const char *found = suffix ? strchr(suffixes, g_ascii_tolower(suffix)) : suffixes;

    *ret_shift = found ? 10 * (unsigned) (found - suffixes) : 0;
    return found != NULL;
}

/* The value of ".75", which ends at the first character that is no digit; in [0, 1]. */
static double read_fraction(const char *point, const char **ret_end)
{
    *ret_end = point + 1 + strspn(point + 1, "0123456789");

    g_autofree char *fraction = g_strdup_printf("0%.*s", (int) (*ret_end - point), point);
    return g_ascii_strtod(fraction, NULL);
}

static bool parse_hex(const char *text, const char *digits, uint64_t *ret_bytes, GError **error)
{
    guint64 value = 0;

    if (!g_ascii_isxdigit(digits[2])) {
        return fail_no_size(text, error);
    }
    if (!g_ascii_string_to_unsigned(digits + 2, 16, 0, INT64_MAX, &value, NULL)) {
        bool all_digits = digits[2 + strspn(digits + 2, "0123456789abcdefABCDEF")] == '\0';
        return all_digits ? fail_too_large(text, error) : fail_no_size(text, error);
    }
    *ret_bytes = value;
    return true;
}

bool qcow2_parse_size(const char *text, uint64_t *ret_bytes, GError **error)
{
    const char *p = text;
    unsigned shift;

    while (g_ascii_isspace(*p)) {
        p++;
    }
    p += *p == '+';
    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        return parse_hex(text, p, ret_bytes, error);
    }

    const char *point = p + strspn(p, "0123456789");
    const char *end = point;
    double fraction = *point == '.' ? read_fraction(point, &end) : 0;
    bool has_digits = point > p || end > point + 1;
    if (!has_digits || !shift_of_suffix(*end, &shift) || (*end && end[1]) || (fraction > 0 && shift == 0)) {
        return fail_no_size(text, error);
    }

    /* With at most 63 bits before the point, the products below fit: the rest is checked last. */
    uint64_t whole = g_ascii_strtoull(p, NULL, 10);
    uint64_t unit = UINT64_C(1) << shift;
    uint64_t part = (uint64_t) (fraction * (double) unit + 0.5);
    if (whole > INT64_MAX / unit || part > INT64_MAX - whole * unit) {
        return fail_too_large(text, error);
    }
    *ret_bytes = whole * unit + part;
    return true;
}

char *qcow2_format_size(uint64_t bytes)
{
    static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };
    int exponent;
    char digits[G_ASCII_DTOSTR_BUF_SIZE];

    /* The unit changes at 1000, not at 1024, so that there are never four digits before the point. */
    frexp((double) bytes / (1000.0 / 1024.0), &exponent);
    unsigned unit = exponent > 0 ? (unsigned) (exponent - 1) / 10 : 0;
    g_ascii_formatd(digits, sizeof(digits), "%0.3g", (double) bytes / (double) (UINT64_C(1) << (unit * 10)));
    return g_strdup_printf("%s %sB", digits, units[unit]);
}
