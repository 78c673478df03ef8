/* Inner products of rows. */

#ifndef PROPSCOPE_KERNEL_ROWS_H
#define PROPSCOPE_KERNEL_ROWS_H

#include "_kernel_core.h"

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
    const float *from = rows->buffer ? rows->buffer : (const float *)rows->source->data;
    size_t length = rows->blocks * rows->length, pitch = rows->buffer ? length : rows->pitch;
    multiply(from, rows->count, pitch, length, rows->out, member_of(rows), step_of(rows));
}

static void together(void (*work)(void *), Rows *rows) {
    if (rows->members > 1) team.run(work, rows, (unsigned)rows->members, 0);
    else work(rows);
}

#endif
