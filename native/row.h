// A row of scores: where it lies, what is added to it, and what its query may not see.

#pragma once

#include <cmath>
#include <cstdint>

#include "plan.h"

namespace {

constexpr float LOG2E = 1.44269504088896341f;
constexpr double LN2 = 0.69314718055994531;

struct Row {
    int64_t slot, start, stop;      // the query's own place, and the part of the panel that it uses
    double total;                   // the sum of exp2(score - base), the sink's included
    float scale;                    // 1 / total
};

// One head of one text, and where its keys and values are packed.
struct Head {
    int64_t batch, head, group;
    const float *k, *v, *probe;
};

// Cap and bias.
inline void adjust(const Attention& a, const Head& head, float* s, const Row& row, int64_t i) {
    if (a.softcap > 0)
        for (int64_t j = row.start; j < row.stop; j += LANES) store(s + j, tanh(load(s + j)) * splat(a.softcap * LOG2E));
    if (!a.bias) return;
    const float* bias = a.bias + head.batch * a.bias_strides[0] + head.head * a.bias_strides[1] + i * a.bias_strides[2];
    const int64_t step = a.bias_strides[3], stop = least(row.stop, a.keys);
    for (int64_t j = row.start; j < stop; ++j) s[j] += bias[j * step] * LOG2E;
}

// -inf wherever the query may not look.
inline void hide(const Attention& a, const Head& head, float* s, const Row& row, int64_t i, int64_t first, int64_t last) {
    for (int64_t j = row.start; j < least(first, row.stop); ++j) s[j] = -INFINITY;
    for (int64_t j = most(last, row.start); j < row.stop; ++j) s[j] = -INFINITY;
    if (a.real) {
        const std::uint8_t* real = a.real + head.batch * a.real_stride;
        for (int64_t j = first; j < last; ++j) s[j] = real[j] ? s[j] : -INFINITY;
    }
    if (a.documents_i) {
        const int64_t document = a.documents_i[head.batch * a.documents_strides[0] + i];
        const int64_t* documents = a.documents_j + head.batch * a.documents_strides[1];
        for (int64_t j = first; j < last; ++j) s[j] = documents[j] == document ? s[j] : -INFINITY;
    }
    if (a.allowed) {
        const std::uint8_t* allowed = a.allowed + head.batch * a.allowed_strides[0] + head.head * a.allowed_strides[1] + i * a.allowed_strides[2];
        for (int64_t j = first; j < last; ++j) s[j] = allowed[j] ? s[j] : -INFINITY;
    }
}

}  // namespace
