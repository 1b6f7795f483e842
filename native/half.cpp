// A few rows times a matrix kept in bfloat16: y = x W^T, every product and sum in float32.
//
// Generating a token reads each weight once, so its time is the memory's, and half the bytes is
// nearly half the time. A bfloat16 is the upper half of a float32, so nothing is rounded. One
// thread: a few threads wait for the same memory, and torch's own pool is not disturbed.

#include <cstdint>

#include "narrow.h"
#include "widest.h"

namespace {

// Asks for the four rows after next: the sums below are over before the memory has answered, and
// without this they wait. Asking beyond the end of the matrix does nothing.
inline void ask_ahead(const std::uint16_t* row, std::int64_t inputs) {
#if defined(__GNUC__)
    constexpr std::int64_t line = 64 / sizeof(std::uint16_t);
    for (std::int64_t i = 0; i < 4 * inputs; i += line) __builtin_prefetch(row + 8 * inputs + i);
#endif
}

}  // namespace

extern "C" {

// x [rows, inputs], w [outputs, inputs] of bfloat16, y [rows, outputs]; all contiguous.
WIDEST void klieg_half_rows(const float* x, const std::uint16_t* w, float* y, std::int64_t rows,
                            std::int64_t inputs, std::int64_t outputs) {
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* from = x + r * inputs;
        std::int64_t o = 0;
        for (; o + 4 <= outputs; o += 4) {
            const std::uint16_t* w0 = w + o * inputs;
            const std::uint16_t* w1 = w0 + inputs;
            const std::uint16_t* w2 = w1 + inputs;
            const std::uint16_t* w3 = w2 + inputs;
            ask_ahead(w0, inputs);
            float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
            for (std::int64_t i = 0; i < inputs; ++i) {
                s0 += from[i] * widened(w0[i]);
                s1 += from[i] * widened(w1[i]);
                s2 += from[i] * widened(w2[i]);
                s3 += from[i] * widened(w3[i]);
            }
            float* to = y + r * outputs + o;
            to[0] = s0, to[1] = s1, to[2] = s2, to[3] = s3;
        }
        for (; o < outputs; ++o) {
            float s = 0;
#pragma omp simd reduction(+ : s)
            for (std::int64_t i = 0; i < inputs; ++i) s += from[i] * widened(w[o * inputs + i]);
            y[r * outputs + o] = s;
        }
    }
}

}  // extern "C"
