/* What the pass works on: elements, bins and torch's team of threads. */

#ifndef PROPSCOPE_KERNEL_CORE_H
#define PROPSCOPE_KERNEL_CORE_H

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
/* Units are numbered in 32 bits, and twice as many slots hold them. */
enum { MOST_UNITS = 1 << 30 };
/* Zeros alternate between spare bins: adding to one bin again and again would wait for itself each time. */
enum { SIGN = 2048, POSINF = 2040, NOT_A_NUMBER = 2047, SPECIAL = 18, BINS = 4096, SPARE = 4, CELLS = BINS + SPARE };
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

#endif
