/* One pass over the float32 (or bfloat16) elements of a CPU tensor: moments, extremes, extremes of each unit, histogram.

   The element order in memory is all that counts: any block is seen as rows of `width` columns, eight rows at a time, so
   that plain loops over columns vectorize on every machine. Eight elements are summed in float32, the rest in double:
   a longer float32 sum of equal numbers would be off by more than 1e-7. Built with -ffinite-math-only: whether a number
   is NaN or infinite must be asked of its bits.

   Large tensors are seen by torch's own team of threads, each of which takes the part that it wrote: on the machines
   measured, memory that another core wrote takes three times as long to read. */

#ifndef PROPSCOPE_KERNEL_PASS_H
#define PROPSCOPE_KERNEL_PASS_H

#include "_kernel_core.h"

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

#endif
