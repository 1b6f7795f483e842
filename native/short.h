// What the kernel of short texts is asked: one struct of plain numbers and addresses, filled in by
// kernels/short.py, which mirrors it field by field. Shapes by the legend of attention.py; strides
// count numbers, not bytes, and the last axis of every tensor has no gaps.

#pragma once

#include <cstdint>

namespace klieg {

struct Short {
    std::int64_t batch, heads, groups, queries, keys, width, value_width;
    std::int64_t half;            // whether the tensors but for lse are bfloat16, and not float32

    const void *q, *k, *v;        // (b, h, i, d), (b, g, j, d), (b, g, j, e)
    std::int64_t q_strides[3], k_strides[3], v_strides[3];

    float scale;                  // above 0
    std::int64_t causal;          // whether a query sees its own place and those before it only
    const std::uint8_t* real;     // (b, j), the keys that are seen at all; null where all are

    // The answer of the way there, heads side by side: output (b, i, h, e) and lse (b, h, i). Null on the way back.
    void* output;
    float* lse;

    // The way back: what is given, (b, h, i, e), and the answers (b, i, h, d), (b, j, g, d), (b, j, g, e).
    const void* grad;
    std::int64_t grad_strides[3];
    void *grad_q, *grad_k, *grad_v;

    std::int64_t threads;
};

}  // namespace klieg
