// What a training step of a small model spends its time on beside matrix products: dropout, and the
// loss of a large vocabulary.
//
// Dropout draws from a hash of the number's place and a seed, so that nothing is stored for the way
// back: the same seed gives the same mask. The loss turns a row of logits into its cross-entropy and,
// in place, into its gradient, while the row is still in the cache.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "exponential.h"
#include "team.h"
#include "widest.h"

namespace {

constexpr std::int64_t PIECE = 1 << 15;   // numbers of one piece of work

// Mixes 32 bits so that each of them depends on all (C. Wellons 2018, "Prospecting for hash functions").
inline std::uint32_t mixed(std::uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352dU;
    x ^= x >> 15;
    x *= 0x846ca68bU;
    return x ^ (x >> 16);
}

struct Dropout {
    const float* base;      // what the kept numbers are added to; null for zeros
    const float* x;
    float* y;
    std::int64_t count;
    std::uint32_t seed[2];
    std::uint32_t dropped;  // of 2^32
    float scale;
};

WIDEST void drop(const Dropout& d, std::int64_t start, std::int64_t stop) {
    const std::uint32_t first = d.seed[0], second = d.seed[1], dropped = d.dropped;
    const float scale = d.scale;
    const float* x = d.x;
    const float* base = d.base;
    float* y = d.y;
    if (base) {
#pragma omp simd
        for (std::int64_t i = start; i < stop; ++i) {
            const std::uint32_t drawn = mixed(mixed(static_cast<std::uint32_t>(i) ^ first) + second);
            y[i] = base[i] + (drawn >= dropped ? x[i] * scale : 0.0f);
        }
    } else {
#pragma omp simd
        for (std::int64_t i = start; i < stop; ++i) {
            const std::uint32_t drawn = mixed(mixed(static_cast<std::uint32_t>(i) ^ first) + second);
            y[i] = drawn >= dropped ? x[i] * scale : 0.0f;
        }
    }
}

void drop_piece(void* context, std::int64_t piece, int) {
    const Dropout& d = *static_cast<Dropout*>(context);
    drop(d, piece * PIECE, std::min((piece + 1) * PIECE, d.count));
}

struct Loss {
    float* logits;               // [rows, vocabulary], replaced by their gradient
    const std::int64_t* targets; // [rows]
    float* losses;               // [rows]
    std::int64_t rows, vocabulary;
    float smoothing;
};

WIDEST void loss_row(const Loss& l, std::int64_t row) {
    float* z = l.logits + row * l.vocabulary;
    const std::int64_t n = l.vocabulary, target = l.targets[row];
    const float share = l.smoothing / static_cast<float>(n), wanted = z[target];
    float top = z[0];
#pragma omp simd reduction(max : top)
    for (std::int64_t i = 0; i < n; ++i) top = z[i] > top ? z[i] : top;
    // The logits are summed as distances from the largest, whose sum has the digits that theirs would lose.
    float sum = 0, apart = 0;
#pragma omp simd reduction(+ : sum, apart)
    for (std::int64_t i = 0; i < n; ++i) {
        const float below = z[i] - top, e = exponential(below);
        apart += below;
        sum += e;
        z[i] = e;
    }
    l.losses[row] = std::log(sum) - (1 - l.smoothing) * (wanted - top) - share * apart;
    const float scale = 1 / sum;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) z[i] = z[i] * scale - share;
    z[target] -= 1 - l.smoothing;
}

void loss_piece(void* context, std::int64_t row, int) { loss_row(*static_cast<Loss*>(context), row); }

}  // namespace

extern "C" {

// y = base + x where it is kept, scaled; base may be null. x, y and base [count], contiguous. A share of
// `dropped` / 2^32 is dropped; the same seed drops the same places.
void klieg_dropout(const float* base, const float* x, float* y, std::int64_t count, std::uint64_t seed,
                   std::uint32_t dropped, float scale, int threads) {
    Dropout d{base, x, y, count, {mixed(static_cast<std::uint32_t>(seed)), mixed(static_cast<std::uint32_t>(seed >> 32) + 1)},
              dropped, scale};
    klieg::share((count + PIECE - 1) / PIECE, threads, drop_piece, &d);
}

// losses [rows] of logits [rows, vocabulary] against targets [rows]; the logits become the gradient of
// the sum of the losses.
void klieg_loss(float* logits, const std::int64_t* targets, float* losses, std::int64_t rows, std::int64_t vocabulary,
                float smoothing, int threads) {
    Loss l{logits, targets, losses, rows, vocabulary, smoothing};
    klieg::share(rows, threads, loss_piece, &l);
}

}  // extern "C"
