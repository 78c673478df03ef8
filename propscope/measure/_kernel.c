/* One pass over the float32 (or bfloat16) elements of a CPU tensor: moments, extremes, extremes of each unit, histogram; and
   inner products of some of its rows.

   The element order in memory is all that counts: any block is seen as rows of `width` columns, eight rows at a time, so
   that plain loops over columns vectorize on every machine. Eight elements are summed in float32, the rest in double: of
   a sum of squares, every term is rounded four times at most, so that the deviation is good to 2 * 2^-24 whatever the
   processor. Built with -ffinite-math-only: whether a number is NaN or infinite must be asked of its bits.

   Large tensors are seen by torch's own team of threads, each of which takes the part that it wrote: on the machines
   measured, memory that another core wrote takes three times as long to read. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif
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

enum { LANES = 128, RUN_LANES = 16, STRETCH = 4096, TILE = 256, SHORT_RUN = 32, WIDEST = 32768, PROBES = 32 };
/* torch divides an elementwise operation among its threads by the same grain. */
enum { GRAIN = 32768, MOST_PARTS = 16 };
/* Elements, zeros and units are counted in 32 bits. `figures`: finite, mean, std, low, high, nan, posinf, neginf, zeros. */
enum { MOST = 1 << 30, FIGURES = 9 };
/* Zeros alternate between spare bins: adding to one bin again and again would wait for itself each time. */
enum { SIGN = 2048, POSINF = 2040, NOT_A_NUMBER = 2047, SPECIAL = 18, BINS = 4096, SPARE = 4, CELLS = BINS + SPARE };
/* Of the rows of a digest, see digest.py. */
static const uint64_t ROW_FACTOR = (uint64_t)-0x3B314601E57A13ADLL;
static const uint32_t SIGN_BIT = 1u << 31, INFINITE_BITS = 0x7f800000u, NAN_BITS = 0x7fc00000u;

typedef struct {
    double sum[TILE], square[TILE];
    int32_t zeros[TILE];
} Lanes;

typedef struct {
    const char *data;
    int bfloat16, misaligned;
    size_t count;
    float scale, shift;
    float *buffer;
    int32_t *bins;
    size_t stride, next;
    float low, high;
    double sum, square;
    size_t zeros;
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

/* One pass over a tensor that several threads share: `count` parts, each with memory of its own. */
typedef struct {
    size_t count;
    Pass *passes[MOST_PARTS];
    Layout layouts[MOST_PARTS];
} Parts;

/* What a part is seen with beside the first. It stays where it is: what one core wrote is slow to reach another, so only
   the bins that hold anything, `found` of them, are handed over. Only who holds Python's lock is here. */
static struct {
    Pass pass;
    int32_t bins[CELLS], counts[CELLS];
    uint16_t codes[CELLS];
    size_t found;
} neighbours[MOST_PARTS];

/* The OpenMP runtime that torch runs on, where it can be found; else one thread does it all. */
static struct {
    void (*run)(void (*)(void *), void *, unsigned, unsigned);
    int (*limit)(void), (*size)(void), (*member)(void), (*busy)(void);
} team;

static void find_team(void) {
#ifdef RTLD_DEFAULT
    /* POSIX has no other way to turn an address into a function. */
    *(void **)&team.limit = dlsym(RTLD_DEFAULT, "omp_get_max_threads");
    *(void **)&team.size = dlsym(RTLD_DEFAULT, "omp_get_num_threads");
    *(void **)&team.member = dlsym(RTLD_DEFAULT, "omp_get_thread_num");
    *(void **)&team.busy = dlsym(RTLD_DEFAULT, "omp_in_parallel");
    if (team.limit && team.size && team.member && team.busy) *(void **)&team.run = dlsym(RTLD_DEFAULT, "GOMP_parallel");
#endif
}

static size_t threads_for(size_t count) {
    if (count <= GRAIN || !team.run || team.busy()) return 1;
    return MIN(MIN((size_t)MAX(team.limit(), 1), (count + GRAIN - 1) / GRAIN), MOST_PARTS);
}

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

/* Elements are copied out, as a tensor may start at any byte (torch.frombuffer). */
static inline float element(const Pass *pass, size_t at) {
    uint32_t bits;
    uint16_t half;
    if (pass->bfloat16) {
        memcpy(&half, pass->data + at * sizeof half, sizeof half);
        bits = (uint32_t)half << 16;
    } else {
        memcpy(&bits, pass->data + at * sizeof bits, sizeof bits);
    }
    return float_of(bits);
}

EACH_CPU static void widen(const char *restrict from, float *restrict to, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + i * sizeof half, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

/* Whether the elements cannot be read where they are. */
static inline int is_copied(const Pass *pass) { return pass->bfloat16 || pass->misaligned; }

static const float *elements(const Pass *pass, size_t at, size_t count) {
    if (pass->bfloat16) widen(pass->data + at * sizeof(uint16_t), pass->buffer, count);
    else if (pass->misaligned) memcpy(pass->buffer, pass->data + at * sizeof(float), count * sizeof(float));
    else return (const float *)(const void *)(pass->data + at * sizeof(float));
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
    if (at + 4 * RUN_LANES <= length)
        see_rows(x + at, RUN_LANES / 2, RUN_LANES / 2, scale, shift, lanes, lows, highs), at += 4 * RUN_LANES;
    for (; at + RUN_LANES <= length; at += RUN_LANES) see_row(x + at, RUN_LANES, scale, shift, lanes, lows, highs);
    see_row(x + at, length - at, scale, shift, lanes, lows, highs);
    join(low, high, lows, highs, RUN_LANES);
}

/* The bin, or a spare one for zeros. Without a branch: which half of a rectifier's values are zero is not to be foreseen. */
static inline uint32_t cell_of(uint32_t bits, uint32_t spare) {
    uint32_t size = bits << 1, some = 0u - ((size | (0u - size)) >> 31);
    return (bits >> 20 & some) | ((BINS + spare) & ~some);
}

/* Counts the elements that fall on the stride by their top bits; x[0] is element `from` of the tensor. */
static void count_bins(Pass *pass, const float *x, size_t from, size_t length) {
    int32_t *restrict bins = pass->bins;
    size_t stride = pass->stride, at = pass->next - from;
    for (; at + (SPARE - 1) * stride < length; at += SPARE * stride) {
        for (size_t i = 0; i < SPARE; i++) {
            bins[cell_of(bits_of(x[at + i * stride]), (uint32_t)i)]++;
        }
    }
    for (; at < length; at += stride) {
        bins[cell_of(bits_of(x[at]), 0)]++;
    }
    pass->next = from + at;
}

/* Bins whose top bits leave open what the element is: the smallest subnormals, infinities and NaN. */
static size_t special(size_t i) { return (i & 1) * SIGN + (i < 2 ? 0 : POSINF + i / 2 - 1); }

static void set_aside(int32_t *bins, int32_t *kept) {
    for (size_t i = 0; i < SPECIAL; i++) kept[i] = bins[special(i)], bins[special(i)] = 0;
}

/* Brings the table to the bins of `records.histogram.bin_codes`. */
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

/* Whether elements are seen one after the other, each unit's by themselves. Short maps, of enough images, are seen as rows
   of all units. */
static int in_runs(const Layout *layout) {
    if (!layout->units) return 1;
    return layout->inner > SHORT_RUN && (layout->outer < 8 || layout->inner * layout->units > WIDEST);
}

static size_t width_of(const Layout *layout) {
    size_t period = layout->units * layout->inner;
    if (in_runs(layout)) return STRETCH / 8;
    return period >= LANES ? period : period * MAX(MIN(LANES / period, layout->outer / 8), 1);
}

/* Where elements may be parted among threads: at multiples of this. */
static size_t cut_of(const Layout *layout) {
    if (!layout->units) return STRETCH;
    return in_runs(layout) ? layout->inner : 8 * width_of(layout);
}

/* Sees the elements from `from` to `end`, the width's multiples but for the last. */
static void see_part(Pass *pass, const Layout *layout, size_t from, size_t end) {
    size_t width = width_of(layout), units = layout->units, inner = layout->inner;
    float *lows = layout->scratch, *highs = layout->scratch + width;
    memset(&pass->lanes, 0, sizeof pass->lanes);
    pass->low = FLT_MAX, pass->high = -FLT_MAX;
    if (pass->bins) pass->next = (from + pass->stride - 1) / pass->stride * pass->stride;
    clear(layout->low, layout->high, units);
    if (in_runs(layout)) {
        for (size_t at = from, size; at < end; at += size) {
            size = units ? MIN(STRETCH, inner - at % inner) : MIN(STRETCH, end - at);
            float *low = units ? layout->low + at / inner % units : &pass->low;
            float *high = units ? layout->high + at / inner % units : &pass->high;
            const float *x = elements(pass, at, size);
            see_run(x, size, pass->scale, pass->shift, &pass->lanes, low, high);
            if (pass->bins && pass->next < at + size) count_bins(pass, x, at, size);
        }
    } else if (units && inner == 1 && width == units) {
        sweep(pass, from, end - from, width, layout->low, layout->high);
    } else {
        clear(lows, highs, width);
        sweep(pass, from, end - from, width, lows, highs);
        for (size_t at = 0; at < width; at += inner)
            join(layout->low + at / inner % units, layout->high + at / inner % units, lows + at, highs + at, inner);
    }
    if (units) join(&pass->low, &pass->high, layout->low, layout->high, units);
    pass->sum = 0, pass->square = 0, pass->zeros = 0;
    for (size_t i = 0; i < TILE; i++) {
        pass->sum += pass->lanes.sum[i], pass->square += pass->lanes.square[i];
        pass->zeros += (size_t)pass->lanes.zeros[i];
    }
}

/* Writes the codes and the counts of the cells that hold anything, and empties them; returns their number. */
static size_t take_occupied(int32_t *bins, uint16_t *codes, int32_t *counts) {
    size_t found = 0;
    for (size_t i = 0; i < CELLS; i += SPARE) {
        int32_t any = 0;
        for (size_t j = i; j < i + SPARE; j++) any |= bins[j];
        for (size_t j = i; any && j < i + SPARE; j++)
            if (bins[j]) codes[found] = (uint16_t)j, counts[found++] = bins[j], bins[j] = 0;
    }
    return found;
}

static void see_some(void *shared) {
    Parts *parts = shared;
    size_t step = parts->count > 1 ? (size_t)team.size() : 1;
    for (size_t i = parts->count > 1 ? (size_t)team.member() : 0; i < parts->count; i += step) {
        size_t count = parts->passes[i]->count, cut = cut_of(&parts->layouts[i]);
        size_t pieces = (count + cut - 1) / cut;
        see_part(parts->passes[i], &parts->layouts[i], MIN(pieces * i / parts->count * cut, count),
                 MIN(pieces * (i + 1) / parts->count * cut, count));
        if (i && parts->passes[i]->bins)
            neighbours[i].found = take_occupied(neighbours[i].bins, neighbours[i].codes, neighbours[i].counts);
    }
}

EACH_CPU static void add_part(Pass *whole, Layout *layout, const Pass *part, const Layout *its) {
    whole->low = MIN(whole->low, part->low), whole->high = MAX(whole->high, part->high);
    whole->sum += part->sum, whole->square += part->square, whole->zeros += part->zeros;
    for (size_t i = 0; i < layout->units; i++) {
        layout->low[i] = MIN(layout->low[i], its->low[i]);
        layout->high[i] = MAX(layout->high[i], its->high[i]);
    }
}

/* Sees all elements once. */
static void see_all(Parts *parts) {
    Pass *pass = parts->passes[0];
    int32_t kept[SPECIAL];
    if (pass->bins) set_aside(pass->bins, kept);
    for (size_t i = 1; i < parts->count; i++) {
        Pass *part = parts->passes[i];
        part->scale = pass->scale, part->shift = pass->shift;
        part->bins = pass->bins ? neighbours[i].bins : NULL;
    }
    if (parts->count > 1) team.run(see_some, parts, (unsigned)parts->count, 0);
    else see_some(parts);
    for (size_t i = 1; i < parts->count; i++) {
        add_part(pass, &parts->layouts[0], parts->passes[i], &parts->layouts[i]);
        for (size_t j = 0; pass->bins && j < neighbours[i].found; j++)
            pass->bins[neighbours[i].codes[j]] += neighbours[i].counts[j];
    }
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

static Figures summarize(Parts *parts) {
    Figures found = {0};
    Pass *pass = parts->passes[0];
    const Layout *layout = &parts->layouts[0];
    probe(pass);
    for (int attempt = 0; attempt < 4; attempt++) {
        see_all(parts);
        double sum = pass->sum, square = pass->square, n = (double)pass->count;
        float low = pass->low, high = pass->high;
        double power = square / n, shift = sum / n, largest = MAX(fabs((double)low), fabs((double)high));
        int overflow = is_infinite(square) && is_finite(low) && is_finite(high);
        if (!is_finite(square) && !overflow) {
            if (layout->units) see_units_with_care(pass, layout);
            break;
        }
        found = (Figures){.finite = pass->count, .zeros = pass->zeros, .mean = low, .std = 0, .low = low, .high = high};
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

/* Inner products of `count` rows, `pitch` elements apart: out[i * count + j]. Member `member` of `members` does its part:
   later rows have more products, so that the turns change direction. */
EACH_CPU static void multiply(const float *rows, size_t count, size_t pitch, size_t length, float *out, size_t member,
                              size_t members) {
    for (size_t i = 0; i < count; i += BLOCK) {
        size_t turn = i / BLOCK / members, place = i / BLOCK % members;
        if ((turn % 2 ? members - 1 - place : place) != member) continue;
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

/* Rows of `blocks` stretches of `length` elements, `apart` from start to start; `buffer`: where they are gathered. */
typedef struct {
    const Pass *source;
    size_t count, pitch, blocks, apart, length, members;
    float *buffer, *out;
} Rows;

static size_t member_of(const Rows *rows) { return rows->members > 1 ? (size_t)team.member() : 0; }

static size_t step_of(const Rows *rows) { return rows->members > 1 ? (size_t)team.size() : 1; }

static void gather_some(void *shared) {
    const Rows *rows = shared;
    float *to = rows->buffer;
    for (size_t i = member_of(rows); i < rows->count; i += step_of(rows))
        for (size_t j = 0; j < rows->blocks; j++)
            for (size_t k = 0; k < rows->length; k++)
                to[(i * rows->blocks + j) * rows->length + k] =
                    element(rows->source, i * rows->pitch + j * rows->apart + k);
}

static void multiply_some(void *shared) {
    const Rows *rows = shared;
    const float *from = rows->buffer ? rows->buffer : (const float *)(const void *)rows->source->data;
    size_t length = rows->blocks * rows->length, pitch = rows->buffer ? length : rows->pitch;
    multiply(from, rows->count, pitch, length, rows->out, member_of(rows), step_of(rows));
}

static void together(void (*work)(void *), Rows *rows) {
    if (rows->members > 1) team.run(work, rows, (unsigned)rows->members, 0);
    else work(rows);
}

/* Words of 32 bits, and the factors of the words of a row, of which `digest` in digest.py is made. */
typedef struct {
    const int32_t *words, *factors;
    size_t count, row, members;
    uint64_t sums[MOST_PARTS];
} Words;

EACH_CPU static int64_t mixed_sum(const int32_t *words, const int32_t *factors, size_t count) {
    int64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t mixed = (int32_t)((uint32_t)words[i] * (uint32_t)factors[i]);
        sum += mixed ^ (mixed >> 15);
    }
    return sum;
}

static void digest_some(void *shared) {
    Words *all = shared;
    size_t member = all->members > 1 ? (size_t)team.member() : 0, step = all->members > 1 ? (size_t)team.size() : 1;
    for (size_t i = member; i * all->row < all->count; i += step) {
        size_t at = i * all->row;
        uint64_t sum = (uint64_t)mixed_sum(all->words + at, all->factors, MIN(all->row, all->count - at));
        all->sums[member] += sum * ((i + 1) * ROW_FACTOR | 1);
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

/* Returns memory to work in until the next call, NULL where there is none to be had. It is kept: taken anew each time, it
   would cut up the room that the model's tensors leave. */
static void *borrow(size_t size) {
    static void *kept;
    static size_t most;
    if (size > most) {
        free(kept);
        kept = malloc(size);
        most = kept ? size : 0;
    }
    return kept;
}

/* Lends each part memory for what depends on the width; NULL where there is none to be had. */
static char *lend(Parts *parts, size_t width) {
    const Pass *first = parts->passes[0];
    size_t units = parts->layouts[0].units, buffer = is_copied(first) ? 8 * width : 0;
    size_t each = ((2 * units + 2 * width + buffer) * sizeof(float) / 64 + 1) * 64;
    char *memory = borrow(parts->count * each);
    for (size_t i = 0; memory && i < parts->count; i++) {
        float *rest = (float *)(void *)(memory + i * each);
        if (i) {
            parts->layouts[i] = parts->layouts[0];
            parts->layouts[i].low = rest, parts->layouts[i].high = rest + units;
            parts->passes[i] = &neighbours[i].pass;
            Pass *pass = parts->passes[i];
            pass->data = first->data, pass->bfloat16 = first->bfloat16, pass->misaligned = first->misaligned;
            pass->count = first->count, pass->stride = first->stride;
        }
        parts->layouts[i].scratch = rest + 2 * units;
        parts->passes[i]->buffer = rest + 2 * units + 2 * width;
    }
    return memory;
}

/* Calls the bins into the cache that a tensor like those before will need: waiting for each would take as long again. */
static void expect(const int32_t *bins, const double *figures) {
#if defined(__GNUC__)
    size_t about = bits_of((float)figures[2]) >> 20, below = MIN(about, 16 * 8), end = MIN(about + 3 * 8, POSINF);
    for (size_t bin = about - below; figures[0] > 0 && bin < end; bin += 16) {
        __builtin_prefetch(bins + bin, 1);
        __builtin_prefetch(bins + SIGN + bin, 1);
    }
    __builtin_prefetch(bins + BINS, 1);
#endif
}

/* What tensors of one shape are seen with: where their elements lie, and the memory of Python's that the results go to. */
typedef struct {
    int bfloat16;
    size_t count, stride;
    Layout layout;
    size_t rows, pitch, blocks, apart, length;
    Py_buffer figures, bins, extremes, products;
} Plan;

static const char PLAN[] = "propscope.measure._kernel.plan";

static int refuse(const char *reason) {
    PyErr_SetString(PyExc_ValueError, reason);
    return 0;
}

/* Borrows `size` bytes of memory from an array; from None, none. */
static int take(PyObject *given, const char *name, size_t size, int flags, Py_buffer *view) {
    if (given == Py_None) return 1;
    if (PyObject_GetBuffer(given, view, flags) < 0) return 0;
    if ((size_t)view->len == size && (uintptr_t)view->buf % sizeof(double) == 0) return 1;
    PyErr_Format(PyExc_ValueError, "%s must be %zu aligned bytes, got %zd", name, size, view->len);
    return 0;
}

static void release(Plan *plan) {
    Py_buffer *views[] = {&plan->figures, &plan->bins, &plan->extremes, &plan->products};
    for (size_t i = 0; i < 4; i++)
        if (views[i]->obj) PyBuffer_Release(views[i]);
    PyMem_Free(plan);
}

static void drop(PyObject *capsule) { release(PyCapsule_GetPointer(capsule, PLAN)); }

/* Whether the elements can be counted in 32 bits, and the rows lie within them. */
static int check_sizes(Plan *plan) {
    size_t units = MAX(plan->layout.units, 1), inner = plan->layout.inner, outer = plan->layout.outer;
    if (!outer || !inner || !plan->stride) return refuse("there is nothing to read: no elements, or stride 0");
    if (plan->stride > MOST || outer > MOST || inner > MOST || units > MOST || outer * units > MOST || outer * units * inner > MOST)
        return refuse("there are more than 2^30 elements");
    plan->count = outer * units * inner;
    if (!plan->rows) return 1;
    size_t sizes[] = {plan->rows, plan->pitch, plan->blocks, plan->apart, plan->length};
    for (size_t i = 0; i < 5; i++)
        if (sizes[i] > plan->count) return refuse("the rows do not lie within the elements");
    if (!plan->blocks || !plan->length ||
        (plan->rows - 1) * plan->pitch + (plan->blocks - 1) * plan->apart + plan->length > plan->count)
        return refuse("the rows do not lie within the elements");
    return 1;
}

static PyObject *py_plan(PyObject *self, PyObject *given) {
    Plan *plan = PyMem_Calloc(1, sizeof *plan);
    PyObject *figures, *bins, *extremes, *products;
    if (!plan) return PyErr_NoMemory();
    Layout *layout = &plan->layout;
    int fine = PyArg_ParseTuple(given, "p(nnn)nOOO(nnnnn)O", &plan->bfloat16, &layout->outer, &layout->units,
                                &layout->inner, &plan->stride, &figures, &bins, &extremes, &plan->rows, &plan->pitch,
                                &plan->blocks, &plan->apart, &plan->length, &products) &&
               check_sizes(plan) &&
               take(figures, "figures", FIGURES * sizeof(double), PyBUF_WRITABLE, &plan->figures) &&
               take(bins, "bins", CELLS * sizeof(int32_t), PyBUF_WRITABLE, &plan->bins) &&
               take(extremes, "extremes", 2 * layout->units * sizeof(float), PyBUF_WRITABLE, &plan->extremes) &&
               take(products, "products", plan->rows * plan->rows * sizeof(float), PyBUF_WRITABLE, &plan->products);
    if (fine && (!plan->figures.buf || (layout->units && !plan->extremes.buf) || (plan->rows && !plan->products.buf)))
        fine = refuse("figures, extremes of units and products of rows need memory, got None");
    PyObject *capsule = fine ? PyCapsule_New(plan, PLAN, drop) : NULL;
    if (!capsule) {
        release(plan);
        return NULL;
    }
    layout->low = plan->extremes.buf;
    layout->high = layout->units ? layout->low + layout->units : NULL;
    return capsule;
}

/* Inner products of the rows; returns the last. */
static int multiply_rows(const Plan *plan, const Pass *seen, double *last) {
    Pass source = {.data = seen->data, .bfloat16 = seen->bfloat16, .misaligned = seen->misaligned};
    Rows rows = {&source, plan->rows, plan->pitch, plan->blocks, plan->apart, plan->length, 1, NULL, plan->products.buf};
    size_t each = rows.blocks * rows.length;
    rows.members = MIN(threads_for(rows.count * rows.count * each / 8), rows.count);
    if (rows.blocks > 1 || is_copied(&source)) {
        if (!(rows.buffer = borrow(rows.count * each * sizeof(float)))) return 0;
        together(gather_some, &rows);
    }
    together(multiply_some, &rows);
    *last = rows.out[rows.count * rows.count - 1];
    return 1;
}

static PyObject *py_run(PyObject *self, PyObject *const *given, Py_ssize_t found) {
    float small[2 * TILE];
    if (found != 2) return PyErr_Format(PyExc_TypeError, "expected a plan and an address, got %zd arguments", found);
    const Plan *plan = PyCapsule_GetPointer(given[0], PLAN);
    const char *data = plan ? PyLong_AsVoidPtr(given[1]) : NULL;
    if (!data) {
        if (!PyErr_Occurred()) refuse("there is no memory to read: a null address");
        return NULL;
    }
    Pass pass = {.data = data, .bfloat16 = plan->bfloat16, .bins = plan->bins.buf, .stride = plan->stride};
    pass.misaligned = !pass.bfloat16 && (uintptr_t)data % sizeof(float) != 0;
    Layout layout = plan->layout;
    layout.scratch = small;
    pass.count = plan->count;
    if (pass.bins) expect(pass.bins, plan->figures.buf);
    Parts parts = {.count = threads_for(pass.count), .passes = {&pass}, .layouts = {layout}};
    size_t width = width_of(&layout);
    int little = parts.count == 1 && !is_copied(&pass) && (in_runs(&layout) || width <= TILE);
    if (!little && !lend(&parts, width)) return PyErr_NoMemory();
    Figures figures = summarize(&parts);
    merge(plan->figures.buf, &figures);
    double last = 1;
    if (plan->rows && !multiply_rows(plan, &pass, &last)) return PyErr_NoMemory();
    return PyFloat_FromDouble(last);
}

static PyObject *py_all_differ(PyObject *self, PyObject *extremes) {
    Py_buffer view;
    if (PyObject_GetBuffer(extremes, &view, PyBUF_SIMPLE) < 0) return NULL;
    size_t units = (size_t)view.len / (2 * sizeof(float)), slots = 16;
    while (slots < 2 * units) slots *= 2;
    uint32_t *table = units <= MOST ? malloc(slots * sizeof *table) : NULL;
    const float *low = view.buf;
    int differ = table && all_differ(low, low + units, units, table, slots);
    PyBuffer_Release(&view);
    if (!table) return PyErr_NoMemory();
    free(table);
    return PyBool_FromLong(differ);
}

static PyObject *py_occupied(PyObject *self, PyObject *bins) {
    Py_buffer view = {0};
    uint16_t codes[BINS];
    int64_t counts[BINS];
    if (PyObject_GetBuffer(bins, &view, PyBUF_SIMPLE) < 0) return NULL;
    int fits = (size_t)view.len == BINS * sizeof(int32_t);
    Py_ssize_t size = fits ? (Py_ssize_t)list_occupied(view.buf, codes, counts) : 0;
    PyBuffer_Release(&view);
    if (!fits) return PyErr_Format(PyExc_ValueError, "bins must be %d counts of 32 bits", BINS);
    PyObject *first = PyBytes_FromStringAndSize((const char *)codes, size * (Py_ssize_t)sizeof *codes);
    PyObject *second = PyBytes_FromStringAndSize((const char *)counts, size * (Py_ssize_t)sizeof *counts);
    PyObject *both = first && second ? PyTuple_Pack(2, first, second) : NULL;
    Py_XDECREF(first);
    Py_XDECREF(second);
    return both;
}

static PyObject *py_digest(PyObject *self, PyObject *given) {
    PyObject *address;
    Py_buffer factors = {0};
    Words all = {0};
    if (!PyArg_ParseTuple(given, "Ony*", &address, &all.count, &factors)) return NULL;
    all.words = PyLong_AsVoidPtr(address), all.factors = factors.buf;
    all.row = (size_t)factors.len / sizeof(int32_t);
    int fine = !PyErr_Occurred();
    if (fine && (!all.row || all.count > SIZE_MAX / 8 || (all.count && !all.words) || (uintptr_t)all.words % sizeof(int32_t)))
        fine = refuse("words need factors and an address that is a multiple of 4");
    if (fine) {
        all.members = threads_for(all.count);
        /* The team's threads, like this one, need nothing of Python's. */
        PyThreadState *state = all.count > GRAIN ? PyEval_SaveThread() : NULL;
        if (all.members > 1) team.run(digest_some, &all, (unsigned)all.members, 0);
        else digest_some(&all);
        if (state) PyEval_RestoreThread(state);
    }
    PyBuffer_Release(&factors);
    uint64_t total = 0;
    for (size_t i = 0; i < MOST_PARTS; i++) total += all.sums[i];
    return fine ? PyLong_FromUnsignedLongLong(total) : NULL;
}

static PyObject *py_alone(PyObject *self, PyObject *none) {
    team.run = NULL;
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"plan", py_plan, METH_VARARGS,
     "plan(bfloat16, (outer, units, inner), stride, figures, bins, extremes, (rows, pitch, blocks, apart, length), "
     "products): what `run` sees tensors of one shape with; where nothing is wanted, None and 0."},
    {"run", (PyCFunction)(void (*)(void))py_run, METH_FASTCALL,
     "run(plan, data): one pass over the elements at an address; returns the last inner product, 1 where none is wanted."},
    {"all_differ", py_all_differ, METH_O,
     "all_differ(extremes): whether no two units have the same extremes, float32, shape (2, units)."},
    {"occupied", py_occupied, METH_O,
     "occupied(bins): the codes, uint16, and the counts, int64, of the bins that hold anything, as bytes."},
    {"digest", py_digest, METH_VARARGS,
     "digest(words, count, factors): the number that digest.py describes, of `count` int32 at an address; `factors`: of "
     "the words of a row, int32."},
    {"alone", py_alone, METH_NOARGS, "alone(): use no other threads from now on; for the child of a fork, which has none."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};
static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, METHODS, SLOTS, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    find_team();
    return PyModuleDef_Init(&MODULE);
}
