// The two products of attention, in tiles that stay in registers: ROWS queries by a few vectors.

#pragma once

#include "plan.h"

namespace {

constexpr int64_t TERMS = 64;                    // of a sum in one go

// s (ROWS, TILE * LANES) = q (ROWS, width) k (width, ...), a column of k every BLOCK numbers. Long sums
// are made of shorter ones, which keeps more digits.
inline void product(const float* q, const float* k, int64_t width, float* s, int64_t wide) {
    for (int64_t from = 0; from < width; from += TERMS) {
        const int64_t to = least(from + TERMS, width);
        Vec sums[ROWS][TILE] = {};
        for (int64_t d = from; d < to; ++d) {
            Vec keys[TILE];
            for (int n = 0; n < TILE; ++n) keys[n] = load(k + d * BLOCK + n * LANES);
            for (int r = 0; r < ROWS; ++r) {
                const Vec x = splat(q[r * width + d]);
                for (int n = 0; n < TILE; ++n) sums[r][n] += x * keys[n];
            }
        }
        for (int r = 0; r < ROWS; ++r)
            for (int n = 0; n < TILE; ++n) {
                float* to_sum = s + r * wide + n * LANES;
                store(to_sum, from ? load(to_sum) + sums[r][n] : sums[r][n]);
            }
    }
}

// o (ROWS, N * LANES) += w (ROWS, keys) v (keys, ...)
template <int N>
inline void mix(const float* w, int64_t wide, const float* v, int64_t value_width, int64_t keys, float* o) {
    Vec sums[ROWS][N] = {};
    for (int64_t j = 0; j < keys; ++j) {
        Vec values[N];
        for (int n = 0; n < N; ++n) values[n] = load(v + j * value_width + n * LANES);
        for (int r = 0; r < ROWS; ++r) {
            const Vec x = splat(w[r * wide + j]);
            for (int n = 0; n < N; ++n) sums[r][n] += x * values[n];
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int n = 0; n < N; ++n) {
            float* to = o + r * value_width + n * LANES;
            store(to, load(to) + sums[r][n]);
        }
}

}  // namespace
