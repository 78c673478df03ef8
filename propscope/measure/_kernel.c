/* One pass over the float32 (or bfloat16) elements of a CPU tensor: moments, extremes, extremes of each unit, histogram.

   The element order in memory is all that counts: any block is seen as rows of `width` columns, eight rows at a time, so
   that plain loops over columns vectorize on every machine. Eight elements are summed in float32, the rest in double:
   a longer float32 sum of equal numbers would be off by more than 1e-7. Built with -ffinite-math-only: whether a number
   is NaN or infinite must be asked of its bits. */

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define EACH_CPU __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define EACH_CPU
#endif
#if defined(__GNUC__)
#define PART_OF_CALLER static inline __attribute__((always_inline))
#else
#define PART_OF_CALLER static inline
#endif

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

enum { LANES = 128, RUN_LANES = 16, STRETCH = 4096, TILE = 256, SHORT_RUN = 32, PROBES = 32 };
/* Zeros alternate between spare bins: adding to one bin again and again would wait for itself each time. */
enum { SIGN = 2048, POSINF = 2040, NOT_A_NUMBER = 2047, SPECIAL = 18, BINS = 4096, SPARE = 4 };
static const uint32_t SIGN_BIT = 1u << 31, INFINITE_BITS = 0x7f800000u, NAN_BITS = 0x7fc00000u;

typedef struct {
    double sum[TILE], square[TILE];
    int32_t zeros[TILE];
} Lanes;

typedef struct {
    const void *data;
    int bfloat16;
    size_t count;
    float scale, shift;
    float *buffer;
    int32_t *bins;
    size_t stride, next;
    Lanes lanes;
} Pass;

typedef struct {
    size_t finite, nan, posinf, neginf, zeros;
    double mean, std, low, high;
} Figures;

/* Elements as (outer, units, inner) with the extremes of each unit; units 0: none wanted. */
typedef struct {
    size_t outer, units, inner;
    float *low, *high, *scratch;
} Layout;

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline int is_finite(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits >> 52 & 0x7ff) != 0x7ff;
}

static inline int is_infinite(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits << 1 == (uint64_t)0x7ff << 53;
}

static inline float element(const Pass *pass, size_t at) {
    if (!pass->bfloat16) return ((const float *)pass->data)[at];
    return float_of((uint32_t)((const uint16_t *)pass->data)[at] << 16);
}

EACH_CPU static void widen(const uint16_t *restrict from, float *restrict to, size_t count) {
    uint32_t *bits = (uint32_t *)(void *)to;
    for (size_t i = 0; i < count; i++) bits[i] = (uint32_t)from[i] << 16;
}

static const float *elements(const Pass *pass, size_t at, size_t count) {
    if (!pass->bfloat16) return (const float *)pass->data + at;
    widen((const uint16_t *)pass->data + at, pass->buffer, count);
    return pass->buffer;
}

/* Eight rows, `pitch` elements apart. */
PART_OF_CALLER void see_rows(const float *restrict x, size_t pitch, size_t width, float scale, float shift,
                             Lanes *restrict lanes, float *restrict low, float *restrict high) {
    for (size_t j = 0; j < width; j++) {
        float a = x[j], b = x[j + pitch], c = x[j + 2 * pitch], d = x[j + 3 * pitch];
        float e = x[j + 4 * pitch], f = x[j + 5 * pitch], g = x[j + 6 * pitch], h = x[j + 7 * pitch];
        low[j] = MIN(low[j], MIN(MIN(MIN(a, b), MIN(c, d)), MIN(MIN(e, f), MIN(g, h))));
        high[j] = MAX(high[j], MAX(MAX(MAX(a, b), MAX(c, d)), MAX(MAX(e, f), MAX(g, h))));
        /* Written so that a mask can steer each addition. */
        int32_t zero = lanes->zeros[j];
        zero = a == 0 ? zero + 1 : zero, zero = b == 0 ? zero + 1 : zero;
        zero = c == 0 ? zero + 1 : zero, zero = d == 0 ? zero + 1 : zero;
        zero = e == 0 ? zero + 1 : zero, zero = f == 0 ? zero + 1 : zero;
        zero = g == 0 ? zero + 1 : zero, zero = h == 0 ? zero + 1 : zero;
        lanes->zeros[j] = zero;
        a = a * scale - shift, b = b * scale - shift, c = c * scale - shift, d = d * scale - shift;
        e = e * scale - shift, f = f * scale - shift, g = g * scale - shift, h = h * scale - shift;
        lanes->sum[j] += (double)(((a + b) + (c + d)) + ((e + f) + (g + h)));
        lanes->square[j] += (double)(((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h)));
    }
}

EACH_CPU static void see_eight(const float *x, size_t pitch, size_t width, float scale, float shift, Lanes *lanes,
                               float *low, float *high) {
    see_rows(x, pitch, width, scale, shift, lanes, low, high);
}

EACH_CPU static void see_eight_plain(const float *x, size_t pitch, size_t width, Lanes *lanes, float *low,
                                     float *high) {
    see_rows(x, pitch, width, 1, 0, lanes, low, high);
}

PART_OF_CALLER void see_row(const float *restrict x, size_t width, float scale, float shift, Lanes *restrict lanes,
                            float *restrict low, float *restrict high) {
    for (size_t j = 0; j < width; j++) {
        float a = x[j];
        low[j] = MIN(low[j], a);
        high[j] = MAX(high[j], a);
        lanes->zeros[j] += a == 0;
        a = a * scale - shift;
        lanes->sum[j] += (double)a;
        lanes->square[j] += (double)(a * a);
    }
}

EACH_CPU static void see_one(const float *x, size_t width, float scale, float shift, Lanes *lanes, float *low,
                             float *high) {
    see_row(x, width, scale, shift, lanes, low, high);
}

PART_OF_CALLER void join(float *low, float *high, const float *lows, const float *highs, size_t count) {
    float least = *low, most = *high;
    for (size_t i = 0; i < count; i++) least = MIN(least, lows[i]), most = MAX(most, highs[i]);
    *low = least, *high = most;
}

/* A stretch of one unit's elements. */
EACH_CPU static void see_run(const float *x, size_t length, float scale, float shift, Lanes *lanes, float *low,
                             float *high) {
    float lows[RUN_LANES], highs[RUN_LANES];
    size_t at = 0;
    for (size_t i = 0; i < RUN_LANES; i++) lows[i] = *low, highs[i] = *high;
    for (; at + 8 * RUN_LANES <= length; at += 8 * RUN_LANES)
        see_rows(x + at, RUN_LANES, RUN_LANES, scale, shift, lanes, lows, highs);
    for (; at + RUN_LANES <= length; at += RUN_LANES) see_row(x + at, RUN_LANES, scale, shift, lanes, lows, highs);
    see_row(x + at, length - at, scale, shift, lanes, lows, highs);
    join(low, high, lows, highs, RUN_LANES);
}

/* Counts the elements that fall on the stride by their top bits; x[0] is element `from` of the tensor. */
static void count_bins(Pass *pass, const float *x, size_t from, size_t length) {
    int32_t *restrict bins = pass->bins;
    size_t stride = pass->stride, at = pass->next - from;
    for (; at + (SPARE - 1) * stride < length; at += SPARE * stride) {
        for (size_t i = 0; i < SPARE; i++) {
            uint32_t bits = bits_of(x[at + i * stride]);
            bins[bits << 1 ? bits >> 20 : BINS + i]++;
        }
    }
    for (; at < length; at += stride) {
        uint32_t bits = bits_of(x[at]);
        bins[bits << 1 ? bits >> 20 : BINS]++;
    }
    pass->next = from + at;
}

/* Bins whose top bits leave open what the element is: the smallest subnormals, infinities and NaN. */
static size_t special(size_t i) { return (i & 1) * SIGN + (i < 2 ? 0 : POSINF + i / 2 - 1); }

static void set_aside(int32_t *bins, int32_t *kept) {
    for (size_t i = 0; i < SPECIAL; i++) kept[i] = bins[special(i)], bins[special(i)] = 0;
}

/* Brings the table to the bins of `results.histogram.bin_codes`. */
static void settle(const Pass *pass, const int32_t *kept) {
    int32_t *bins = pass->bins, any = 0;
    for (size_t i = 0; i < SPECIAL; i++) any |= bins[special(i)], bins[special(i)] = kept[i];
    for (size_t i = BINS; i < BINS + SPARE; i++) bins[0] += bins[i], bins[i] = 0;
    for (size_t i = 0; any && i < pass->count; i += pass->stride) {
        uint32_t bits = bits_of(element(pass, i)), size = bits & ~SIGN_BIT;
        if (size > INFINITE_BITS) bins[NOT_A_NUMBER]++;
        else if (size == INFINITE_BITS) bins[bits >> 20]++;
        else if (size && size < 1u << 20) bins[(bits >> 20) + 1]++;
    }
}

/* Sees `length` elements from `from` on as rows of `width` columns, the last one perhaps short. */
static void sweep(Pass *pass, size_t from, size_t length, size_t width, float *low, float *high) {
    size_t end = from + length;
    for (size_t at = from, size; at < end; at += size) {
        size_t rows = (end - at) / width >= 8 ? 8 : 1, columns = MIN(width, end - at);
        size = rows * columns;
        const float *x = elements(pass, at, size);
        for (size_t j = 0; j < columns; j += TILE) {
            size_t some = MIN(TILE, columns - j);
            if (rows == 1)
                see_one(x + j, some, pass->scale, pass->shift, &pass->lanes, low + j, high + j);
            else if (pass->scale == 1 && pass->shift == 0)
                see_eight_plain(x + j, width, some, &pass->lanes, low + j, high + j);
            else
                see_eight(x + j, width, some, pass->scale, pass->shift, &pass->lanes, low + j, high + j);
        }
        if (pass->bins && pass->next < at + size) count_bins(pass, x, at, size);
    }
}

static void clear(float *low, float *high, size_t count) {
    for (size_t i = 0; i < count; i++) low[i] = FLT_MAX, high[i] = -FLT_MAX;
}

static size_t width_of(const Layout *layout, size_t count) {
    size_t period = layout->units * layout->inner;
    if (!layout->units) return MIN(LANES, MAX(count / 8, 1));
    if (layout->inner > SHORT_RUN) return STRETCH / 8;
    return period >= LANES ? period : period * MAX(MIN(LANES / period, layout->outer / 8), 1);
}

/* Sees all elements once; returns the smallest and the largest. */
static void see_all(Pass *pass, const Layout *layout, float *low, float *high) {
    size_t width = width_of(layout, pass->count), units = layout->units, inner = layout->inner;
    float *lows = layout->scratch, *highs = layout->scratch + width;
    int32_t kept[SPECIAL];
    if (pass->bins) set_aside(pass->bins, kept);
    memset(&pass->lanes, 0, sizeof pass->lanes);
    *low = FLT_MAX, *high = -FLT_MAX;
    clear(layout->low, layout->high, units);
    if (units && inner > SHORT_RUN) {
        for (size_t at = 0, size; at < pass->count; at += size) {
            size_t unit = at / inner % units;
            size = MIN(STRETCH, inner - at % inner);
            const float *x = elements(pass, at, size);
            see_run(x, size, pass->scale, pass->shift, &pass->lanes, layout->low + unit, layout->high + unit);
            if (pass->bins && pass->next < at + size) count_bins(pass, x, at, size);
        }
    } else if (units && inner == 1 && width == units) {
        sweep(pass, 0, pass->count, width, layout->low, layout->high);
    } else {
        clear(lows, highs, width);
        sweep(pass, 0, pass->count, width, lows, highs);
        if (!units) join(low, high, lows, highs, width);
        for (size_t at = 0; units && at < width; at += inner)
            join(layout->low + at / inner % units, layout->high + at / inner % units, lows + at, highs + at, inner);
    }
    if (units) join(low, high, layout->low, layout->high, units);
    if (pass->bins) settle(pass, kept);
    pass->bins = NULL;
}

/* Returns a power of two that brings numbers up to `largest` to about 1, or 1 where their squares are safe already. */
static float scale_for(double largest) {
    if (largest == 0 || (largest > 1e-9 && largest < 1e9)) return 1;
    int exponent = -ilogb(largest);
    return ldexpf(1, MAX(-126, MIN(126, exponent)));
}

/* Guesses scale and mean from a few elements; a wrong guess is found out afterwards. */
static void probe(Pass *pass) {
    double sum = 0, square = 0, largest = 0;
    pass->scale = 1, pass->shift = 0;
    for (uint32_t i = 0; i < PROBES; i++) {
        double value = element(pass, (size_t)((uint64_t)(i * 2654435769u) * pass->count >> 32));
        if (!is_finite(value)) return;
        sum += value, square += value * value;
        largest = MAX(largest, fabs(value));
    }
    pass->scale = scale_for(largest);
    /* A mean this small costs no accuracy, and without it the pass is faster. */
    if (sum * sum > square * PROBES / 8) pass->shift = (float)(sum / PROBES * pass->scale);
}

/* For any numbers: in double, leaving out and counting what is not finite. */
static Figures see_with_care(const Pass *pass) {
    Figures found = {0};
    double sum = 0, square = 0;
    found.low = FLT_MAX, found.high = -FLT_MAX;
    for (size_t i = 0; i < pass->count; i++) {
        float value = element(pass, i);
        uint32_t bits = bits_of(value);
        if ((bits & INFINITE_BITS) == INFINITE_BITS) {
            found.nan += (bits & ~SIGN_BIT) > INFINITE_BITS;
            found.posinf += bits == INFINITE_BITS;
            found.neginf += bits == (INFINITE_BITS | SIGN_BIT);
            continue;
        }
        found.finite++;
        found.zeros += value == 0;
        found.low = MIN(found.low, value);
        found.high = MAX(found.high, value);
        sum += value;
    }
    if (!found.finite) return found;
    double n = (double)found.finite;
    found.mean = sum / n;
    for (size_t i = 0; i < pass->count; i++) {
        float value = element(pass, i);
        if ((bits_of(value) & INFINITE_BITS) == INFINITE_BITS) continue;
        square += (value - found.mean) * (value - found.mean);
    }
    found.std = sqrt(square / n);
    return found;
}

/* The extremes of each unit where some elements are not finite: NaN for a unit that has one. */
static void see_units_with_care(const Pass *pass, const Layout *layout) {
    for (size_t unit = 0; unit < layout->units; unit++) {
        layout->low[unit] = float_of(INFINITE_BITS);
        layout->high[unit] = float_of(INFINITE_BITS | SIGN_BIT);
    }
    for (size_t i = 0; i < pass->count; i++) {
        size_t unit = i / layout->inner % layout->units;
        float value = element(pass, i), *low = layout->low + unit, *high = layout->high + unit;
        if ((bits_of(*low) & ~SIGN_BIT) > INFINITE_BITS) continue;
        if ((bits_of(value) & ~SIGN_BIT) > INFINITE_BITS) {
            *low = *high = float_of(NAN_BITS);
            continue;
        }
        *low = MIN(*low, value), *high = MAX(*high, value);
    }
}

static Figures summarize(Pass *pass, const Layout *layout) {
    Figures found = {0};
    float low, high;
    probe(pass);
    for (int attempt = 0; attempt < 4; attempt++) {
        double sum = 0, square = 0, n = (double)pass->count;
        size_t zeros = 0;
        see_all(pass, layout, &low, &high);
        for (int i = 0; i < TILE; i++) sum += pass->lanes.sum[i], square += pass->lanes.square[i], zeros += (size_t)pass->lanes.zeros[i];
        double power = square / n, shift = sum / n, largest = MAX(fabs((double)low), fabs((double)high));
        int overflow = is_infinite(square) && is_finite(low) && is_finite(high);
        if (!is_finite(square) && !overflow) {
            if (layout->units) see_units_with_care(pass, layout);
            break;
        }
        found = (Figures){.finite = pass->count, .zeros = zeros, .mean = low, .std = 0, .low = low, .high = high};
        if (low == high) return found;
        if (overflow || power < 1e-30 || power > 1e30) {
            pass->scale = scale_for(largest), pass->shift = 0;
            if (overflow || power > 1e30 || pass->scale != 1) continue;
            break;
        }
        double variance = power - shift * shift;
        if (variance < 0.5 * power) {
            pass->shift += (float)shift;
            continue;
        }
        found.mean = (pass->shift + shift) / pass->scale;
        found.std = sqrt(variance) / pass->scale;
        return found;
    }
    return see_with_care(pass);
}

/* Whether no two units have the same extremes. NaN equals nothing. */
static int all_differ(const float *low, const float *high, size_t units, uint32_t *table, size_t slots) {
    memset(table, 0, slots * sizeof *table);
    for (size_t unit = 0; unit < units; unit++) {
        uint64_t a = bits_of(low[unit]), b = bits_of(high[unit]);
        if ((a & ~SIGN_BIT) > INFINITE_BITS || (b & ~SIGN_BIT) > INFINITE_BITS) continue;
        /* The two zeros are equal. */
        a = a == SIGN_BIT ? 0 : a, b = b == SIGN_BIT ? 0 : b;
        size_t at = (size_t)(((a << 32 | b) * 0x9E3779B97F4A7C15u) >> 32) & (slots - 1);
        for (; table[at]; at = (at + 1) & (slots - 1)) {
            size_t other = table[at] - 1;
            if (low[other] == low[unit] && high[other] == high[unit]) return 0;
        }
        table[at] = (uint32_t)unit + 1;
    }
    return 1;
}

#if defined(__GNUC__)
typedef float Lane __attribute__((vector_size(64), aligned(4), may_alias));
#else
typedef float Lane;
#endif
enum { LANE = sizeof(Lane) / sizeof(float), BLOCK = 4 };

/* Inner products of `count` rows, `pitch` elements apart: out[i * count + j]. */
EACH_CPU static void multiply(const float *rows, size_t count, size_t pitch, size_t length, float *out) {
    for (size_t i = 0; i < count; i += BLOCK) {
        for (size_t j = 0; j <= i; j += BLOCK) {
            Lane sums[BLOCK][BLOCK] = {0};
            const float *a[BLOCK], *b[BLOCK];
            for (size_t k = 0; k < BLOCK; k++) {
                a[k] = rows + MIN(i + k, count - 1) * pitch;
                b[k] = rows + MIN(j + k, count - 1) * pitch;
            }
            size_t at = 0;
            for (; at + LANE <= length; at += LANE) {
                Lane right[BLOCK];
                for (size_t l = 0; l < BLOCK; l++) right[l] = *(const Lane *)(b[l] + at);
                for (size_t k = 0; k < BLOCK; k++) {
                    Lane left = *(const Lane *)(a[k] + at);
                    for (size_t l = 0; l < BLOCK; l++) sums[k][l] += left * right[l];
                }
            }
            for (size_t k = 0; k < BLOCK && i + k < count; k++) {
                for (size_t l = 0; l < BLOCK && j + l < count; l++) {
                    float parts[LANE], total = 0;
                    memcpy(parts, &sums[k][l], sizeof parts);
                    for (size_t m = 0; m < LANE; m++) total += parts[m];
                    for (size_t m = at; m < length; m++) total += a[k][m] * b[l][m];
                    out[(i + k) * count + j + l] = out[(j + l) * count + i + k] = total;
                }
            }
        }
    }
}

/* Writes the codes and the counts of the bins that hold anything; returns their number. */
static size_t list_occupied(const int32_t *bins, uint16_t *codes, int64_t *counts) {
    size_t found = 0;
    for (size_t i = 0; i < BINS; i += 8) {
        int32_t any = 0;
        for (size_t j = i; j < i + 8; j++) any |= bins[j];
        for (size_t j = i; any && j < i + 8; j++) {
            if (!bins[j]) continue;
            codes[found] = (uint16_t)j;
            counts[found++] = bins[j];
        }
    }
    return found;
}

/* Reads `count` arguments: sizes and addresses, as Python integers. */
static int read_arguments(PyObject *const *given, Py_ssize_t found, Py_ssize_t count, size_t *values) {
    if (found != count) {
        PyErr_Format(PyExc_TypeError, "expected %zd arguments, received %zd", count, found);
        return 0;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        values[i] = PyLong_AsSize_t(given[i]);
        if (values[i] == (size_t)-1 && PyErr_Occurred()) return 0;
    }
    return 1;
}

/* Adds to (finite, mean, std, low, high, nan, posinf, neginf, zeros); the formula of `merge_moments`. */
static void merge(double *whole, const Figures *part) {
    double before = whole[0], n = (double)part->finite, total = before + n;
    whole[5] += (double)part->nan, whole[6] += (double)part->posinf, whole[7] += (double)part->neginf;
    whole[8] += (double)part->zeros;
    if (n == 0) return;
    if (before == 0) {
        whole[0] = n, whole[1] = part->mean, whole[2] = part->std, whole[3] = part->low, whole[4] = part->high;
        return;
    }
    double share = n / total, apart = part->mean - whole[1];
    double within = hypot(whole[2] * sqrt(1 - share), part->std * sqrt(share));
    whole[0] = total;
    whole[1] += apart * share;
    whole[2] = hypot(within, fabs(apart) * sqrt(share * (1 - share)));
    whole[3] = MIN(whole[3], part->low), whole[4] = MAX(whole[4], part->high);
}

static PyObject *py_summarize(PyObject *self, PyObject *const *given, Py_ssize_t found) {
    size_t v[10];
    float small[2 * TILE];
    if (!read_arguments(given, found, 10, v)) return NULL;
    Pass pass = {.data = (const void *)v[0], .bfloat16 = v[1] != 0, .bins = (int32_t *)v[8], .stride = v[9]};
    Layout layout = {v[2], v[3], v[4], (float *)v[5], (float *)v[6], small};
    pass.count = layout.outer * MAX(layout.units, 1) * layout.inner;
    if (!pass.data || !v[7] || !pass.count || (pass.bins && !pass.stride) ||
        (layout.units && !(layout.low && layout.high))) {
        PyErr_SetString(PyExc_ValueError, "there is no memory to read: a null address, no elements or stride 0");
        return NULL;
    }
    size_t width = width_of(&layout, pass.count);
    if (width > TILE) layout.scratch = malloc(2 * width * sizeof(float));
    if (pass.bfloat16) pass.buffer = malloc(8 * width * sizeof(float));
    int enough = layout.scratch && (pass.buffer || !pass.bfloat16);
    if (enough) {
        Figures figures = summarize(&pass, &layout);
        merge((double *)v[7], &figures);
    }
    if (layout.scratch != small) free(layout.scratch);
    free(pass.buffer);
    if (!enough) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *py_all_differ(PyObject *self, PyObject *const *given, Py_ssize_t found) {
    size_t v[3], slots = 16;
    if (!read_arguments(given, found, 3, v)) return NULL;
    while (slots < 2 * v[2]) slots *= 2;
    uint32_t *table = malloc(slots * sizeof *table);
    if (!table) return PyErr_NoMemory();
    int differ = all_differ((const float *)v[0], (const float *)v[1], v[2], table, slots);
    free(table);
    return PyBool_FromLong(differ);
}

static PyObject *py_gram(PyObject *self, PyObject *const *given, Py_ssize_t found) {
    size_t v[5];
    if (!read_arguments(given, found, 5, v)) return NULL;
    if (!v[0] || !v[1] || !v[4]) {
        PyErr_SetString(PyExc_ValueError, "there is no memory to read: a null address or no rows");
        return NULL;
    }
    multiply((const float *)v[0], v[1], v[2], v[3], (float *)v[4]);
    return PyFloat_FromDouble(((float *)v[4])[v[1] * v[1] - 1]);
}

static PyObject *py_occupied(PyObject *self, PyObject *const *given, Py_ssize_t found) {
    size_t v[1];
    uint16_t codes[BINS];
    int64_t counts[BINS];
    if (!read_arguments(given, found, 1, v)) return NULL;
    Py_ssize_t size = (Py_ssize_t)list_occupied((const int32_t *)v[0], codes, counts);
    PyObject *first = PyBytes_FromStringAndSize((const char *)codes, size * (Py_ssize_t)sizeof *codes);
    PyObject *second = PyBytes_FromStringAndSize((const char *)counts, size * (Py_ssize_t)sizeof *counts);
    PyObject *both = first && second ? PyTuple_Pack(2, first, second) : NULL;
    Py_XDECREF(first);
    Py_XDECREF(second);
    return both;
}

static PyMethodDef METHODS[] = {
    {"summarize", (PyCFunction)(void (*)(void))py_summarize, METH_FASTCALL,
     "summarize(data, bfloat16, outer, units, inner, low, high, figures, bins, stride): one pass over the elements."},
    {"all_differ", (PyCFunction)(void (*)(void))py_all_differ, METH_FASTCALL,
     "all_differ(low, high, units): whether no two units have the same extremes."},
    {"occupied", (PyCFunction)(void (*)(void))py_occupied, METH_FASTCALL,
     "occupied(bins): the codes, uint16, and the counts, int64, of the bins that hold anything, as bytes."},
    {"gram", (PyCFunction)(void (*)(void))py_gram, METH_FASTCALL,
     "gram(rows, count, pitch, length, out): inner products of rows, pitch elements apart; returns the last."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};
static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, METHODS, SLOTS, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&MODULE); }
