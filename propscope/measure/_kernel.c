/* The kernel as Python calls it: sizes and addresses in, nothing but figures out. */

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>

#include "_kernel_pass.h"
#include "_kernel_rows.h"

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
    size_t units = parts->layouts[0].units, buffer = first->bfloat16 ? 8 * width : 0;
    size_t each = ((2 * units + 2 * width + buffer) * sizeof(float) / 64 + 1) * 64;
    char *memory = borrow(parts->count * each);
    for (size_t i = 0; memory && i < parts->count; i++) {
        float *rest = (float *)(void *)(memory + i * each);
        if (i) {
            parts->layouts[i] = parts->layouts[0];
            parts->layouts[i].low = rest, parts->layouts[i].high = rest + units;
            parts->passes[i] = &neighbours[i].pass;
            Pass *pass = parts->passes[i];
            pass->data = first->data, pass->bfloat16 = first->bfloat16;
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
    if (pass.bins) expect(pass.bins, (const double *)v[7]);
    Parts parts = {.count = threads_for(pass.count), .passes = {&pass}, .layouts = {layout}};
    size_t width = width_of(&layout);
    int little = parts.count == 1 && !pass.bfloat16 && (in_runs(&layout) || width <= TILE);
    if (!little && !lend(&parts, width)) return PyErr_NoMemory();
    Figures figures = summarize(&parts);
    merge((double *)v[7], &figures);
    Py_RETURN_NONE;
}

static PyObject *py_all_differ(PyObject *self, PyObject *const *given, Py_ssize_t found) {
    size_t v[3], slots = 16;
    if (!read_arguments(given, found, 3, v)) return NULL;
    if (!v[0] || !v[1] || v[2] > MOST_UNITS) {
        PyErr_SetString(PyExc_ValueError, "there is no memory to read: a null address, or too many units");
        return NULL;
    }
    while (slots < 2 * v[2]) slots *= 2;
    uint32_t *table = malloc(slots * sizeof *table);
    if (!table) return PyErr_NoMemory();
    int differ = all_differ((const float *)v[0], (const float *)v[1], v[2], table, slots);
    free(table);
    return PyBool_FromLong(differ);
}

static PyObject *py_gram(PyObject *self, PyObject *const *given, Py_ssize_t found) {
    size_t v[8];
    if (!read_arguments(given, found, 8, v)) return NULL;
    if (!v[0] || !v[2] || !v[7]) {
        PyErr_SetString(PyExc_ValueError, "there is no memory to read: a null address or no rows");
        return NULL;
    }
    Pass source = {.data = (const void *)v[0], .bfloat16 = v[1] != 0};
    Rows rows = {&source, v[2], v[3], v[4], v[5], v[6], 1, NULL, (float *)v[7]};
    size_t each = rows.blocks * rows.length;
    rows.members = MIN(threads_for(rows.count * rows.count * each / 8), rows.count);
    if (rows.blocks > 1 || source.bfloat16) {
        if (!(rows.buffer = borrow(rows.count * each * sizeof(float)))) return PyErr_NoMemory();
        together(gather_some, &rows);
    }
    together(multiply_some, &rows);
    return PyFloat_FromDouble(rows.out[rows.count * rows.count - 1]);
}

static PyObject *py_occupied(PyObject *self, PyObject *const *given, Py_ssize_t found) {
    size_t v[1];
    uint16_t codes[BINS];
    int64_t counts[BINS];
    if (!read_arguments(given, found, 1, v)) return NULL;
    if (!v[0]) {
        PyErr_SetString(PyExc_ValueError, "there is no memory to read: a null address");
        return NULL;
    }
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
     "gram(data, bfloat16, rows, pitch, blocks, apart, length, out): inner products of rows; returns the last."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {{0, NULL}};
static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, METHODS, SLOTS, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    find_team();
    return PyModuleDef_Init(&MODULE);
}
