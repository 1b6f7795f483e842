// What the attention kernel is asked: one struct of plain numbers and addresses, filled in by
// kernels/native.py, which mirrors it field by field. Shapes by the legend of attention.py; strides
// count numbers, not bytes, and the last axis of every tensor has no gaps. An address of null stands
// for what is not given or not asked for.

#pragma once

#include <cstdint>

namespace klieg {

struct Attention {
    std::int64_t batch, heads, groups, queries, keys, width, value_width;

    // q (b, h, i, d), k (b, g, j, d), v (b, g, j, e), float32. Without v there is no output.
    const float *q, *k, *v;
    std::int64_t q_strides[3], k_strides[3], v_strides[3];

    float scale, softcap;         // softcap 0 is none
    const float* sinks;           // (h)
    const float* bias;            // (b, h, i, j); a stride of 0 repeats
    std::int64_t bias_strides[4];

    // The keys that a query may see: those from seen_from to before seen_to, less what the tables hide.
    const std::int64_t* seen_from;    // (b, i); a batch stride of 0 repeats
    const std::int64_t* seen_to;
    std::int64_t span_stride;
    const std::uint8_t* real;     // (b, j)
    std::int64_t real_stride;
    const std::int64_t* documents_i;  // (b, i), with documents_j (b, j)
    const std::int64_t* documents_j;
    std::int64_t documents_strides[2];
    const std::uint8_t* allowed;  // (b, h, i, j)
    std::int64_t allowed_strides[3];

    // The final log-sum-exp of every row (b, h, i), in nats, where it is known already.
    const float* known_lse;

    // The query's own place among these keys is first_slot + i, which may lie outside of them.
    std::int64_t first_slot;
    const float* probe;           // (b, g, j)

    // Answers, all without gaps but for the output: (b, h, i) unless said otherwise.
    float* output;                // (b, h, i, e)
    std::int64_t output_strides[3];
    float *lse, *max, *mass, *entropy, *first, *own, *probed;
    double *distance_sum, *distance_squares;
    float* received;              // (b, h, j)
    std::int64_t bins;
    float* histogram;             // (b, h, bins)
    std::int64_t top;
    float* top_weights;           // (b, h, i, top)
    std::int64_t* top_keys;
    // Sums and maxima by bucket (b, h, rows, columns): bucket n lies from edge n to before edge n + 1.
    std::int64_t map_rows, map_columns;
    const std::int64_t *row_edges, *column_edges;
    float *map_sum, *map_max;

    std::int64_t threads;
};

}  // namespace klieg
