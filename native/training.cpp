// What a training step of a small model spends its time on beside matrix products: dropout, and the
// loss of a large vocabulary.
//
// Dropout draws from a hash of the number's place and a seed, so that nothing is stored for the way
// back: the same seed gives the same mask. The loss turns a row of logits, or two of R-Drop's twins, into
// cross-entropy and, in place, into its gradient, while the row is still in the cache. Where the model computes in bfloat16 the
// logits and the numbers to drop lie in it too, and are widened on the way.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "exponential.h"
#include "narrow.h"
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
    const void* x;
    void* y;
    std::int64_t count;
    std::uint32_t seed[2];
    std::uint32_t dropped;  // of 2^32
    float scale;
};

template <typename X, typename Y>
WITHIN void drop(const Dropout& d, std::int64_t start, std::int64_t stop) {
    const std::uint32_t first = d.seed[0], second = d.seed[1], dropped = d.dropped;
    const float scale = d.scale;
    const X* x = static_cast<const X*>(d.x);
    const float* base = d.base;
    Y* y = static_cast<Y*>(d.y);
    if (base) {
#pragma omp simd
        for (std::int64_t i = start; i < stop; ++i) {
            const std::uint32_t drawn = mixed(mixed(static_cast<std::uint32_t>(i) ^ first) + second);
            narrow(base[i] + (drawn >= dropped ? widened(x[i]) * scale : 0.0f), y[i]);
        }
    } else {
#pragma omp simd
        for (std::int64_t i = start; i < stop; ++i) {
            const std::uint32_t drawn = mixed(mixed(static_cast<std::uint32_t>(i) ^ first) + second);
            narrow(drawn >= dropped ? widened(x[i]) * scale : 0.0f, y[i]);
        }
    }
}

WIDEST void drop_whole(const Dropout& d, std::int64_t start, std::int64_t stop) { drop<float, float>(d, start, stop); }
WIDEST void drop_half(const Dropout& d, std::int64_t start, std::int64_t stop) { drop<Half, float>(d, start, stop); }
WIDEST void drop_to_half(const Dropout& d, std::int64_t start, std::int64_t stop) { drop<float, Half>(d, start, stop); }

template <void Piece(const Dropout&, std::int64_t, std::int64_t)>
void drop_piece(void* context, std::int64_t piece, int) {
    const Dropout& d = *static_cast<Dropout*>(context);
    Piece(d, piece * PIECE, std::min((piece + 1) * PIECE, d.count));
}

struct Loss {
    void* logits;                // [rows, vocabulary], of twins [2, rows, vocabulary]; replaced by their gradient
    const std::int64_t* targets; // [rows]
    float* losses;               // [rows]
    std::int64_t rows, vocabulary;
    float smoothing, alpha;
};

template <typename T>
WITHIN void turn(const Loss& l, std::int64_t row) {
    T* z = static_cast<T*>(l.logits) + row * l.vocabulary;
    const std::int64_t n = l.vocabulary, target = l.targets[row];
    const float share = l.smoothing / static_cast<float>(n), wanted = widened(z[target]);
    float top = widened(z[0]);
#pragma omp simd reduction(max : top)
    for (std::int64_t i = 0; i < n; ++i) top = widened(z[i]) > top ? widened(z[i]) : top;
    // The logits are summed as distances from the largest, whose sum has the digits that theirs would lose.
    float sum = 0, apart = 0;
#pragma omp simd reduction(+ : sum, apart)
    for (std::int64_t i = 0; i < n; ++i) {
        const float below = widened(z[i]) - top;
        apart += below;
        sum += exponential(below);
    }
    l.losses[row] = std::log(sum) - (1 - l.smoothing) * (wanted - top) - share * apart;
    const float scale = 1 / sum;
    // To raise e anew costs less than to keep what it gave.
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) narrow(exponential(widened(z[i]) - top) * scale - share, z[i]);
    narrow(exponential(wanted - top) * scale - share - (1 - l.smoothing), z[target]);
}

WIDEST void turn_whole(const Loss& l, std::int64_t row) { turn<float>(l, row); }
WIDEST void turn_half(const Loss& l, std::int64_t row) { turn<Half>(l, row); }

// Of twins p and q (Liang et al. 2021) ln p - ln q is wanted for every number of the vocabulary: the difference of
// what their logits are below the largest, less that of the logarithms of their sums.
template <typename T>
WITHIN void turn_twins(const Loss& l, std::int64_t row) {
    const std::int64_t n = l.vocabulary, target = l.targets[row];
    T* y = static_cast<T*>(l.logits) + row * n;
    T* z = y + l.rows * n;
    float top_y = widened(y[0]), top_z = widened(z[0]);
#pragma omp simd reduction(max : top_y, top_z)
    for (std::int64_t i = 0; i < n; ++i) {
        top_y = widened(y[i]) > top_y ? widened(y[i]) : top_y;
        top_z = widened(z[i]) > top_z ? widened(z[i]) : top_z;
    }
    float sum_p = 0, sum_q = 0, apart = 0, p_leads = 0, q_leads = 0;
#pragma omp simd reduction(+ : sum_p, sum_q, apart, p_leads, q_leads)
    for (std::int64_t i = 0; i < n; ++i) {
        const float below_y = widened(y[i]) - top_y, below_z = widened(z[i]) - top_z;
        const float p = exponential(below_y), q = exponential(below_z);
        apart += below_y + below_z;
        sum_p += p;
        sum_q += q;
        p_leads += p * (below_y - below_z);
        q_leads += q * (below_z - below_y);
    }
    const float lse_p = std::log(sum_p), lse_q = std::log(sum_q), shift = lse_p - lse_q, scale_p = 1 / sum_p, scale_q = 1 / sum_q;
    const float p_from_q = p_leads * scale_p - shift, q_from_p = q_leads * scale_q + shift;   // Kullback-Leibler divergences
    const float share = l.smoothing / static_cast<float>(n), pull = l.alpha / 2, sure = 1 - l.smoothing;
    const float wanted_y = widened(y[target]), wanted_z = widened(z[target]);
    l.losses[row] = lse_p + lse_q - sure * (wanted_y - top_y + wanted_z - top_z) - share * apart + pull * (p_from_q + q_from_p);
    // d KL(p|q) / dy = p (ln p - ln q - KL(p|q)), d KL(q|p) / dy = p - q, and the same the other way round.
    const auto gradients = [=](float below_y, float below_z, float& dy, float& dz) {
        const float p = exponential(below_y) * scale_p, q = exponential(below_z) * scale_q, lead = below_y - below_z - shift;
        dy = p - share + pull * (p * (lead - p_from_q) + p - q);
        dz = q - share + pull * (q * (-lead - q_from_p) + q - p);
    };
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        float dy, dz;
        gradients(widened(y[i]) - top_y, widened(z[i]) - top_z, dy, dz);
        narrow(dy, y[i]);
        narrow(dz, z[i]);
    }
    float dy, dz;
    gradients(wanted_y - top_y, wanted_z - top_z, dy, dz);
    narrow(dy - sure, y[target]);
    narrow(dz - sure, z[target]);
}

WIDEST void turn_twins_whole(const Loss& l, std::int64_t row) { turn_twins<float>(l, row); }
WIDEST void turn_twins_half(const Loss& l, std::int64_t row) { turn_twins<Half>(l, row); }

template <void Row(const Loss&, std::int64_t)>
void loss_piece(void* context, std::int64_t row, int) { Row(*static_cast<Loss*>(context), row); }

}  // namespace

extern "C" {

// y = base + x where it is kept, scaled; base may be null. x, y and base [count], contiguous; x or y may be
// bfloat16, of which the other one and base are not. A share of `dropped` / 2^32 is dropped; the same seed drops
// the same places.
void klieg_dropout(const float* base, const void* x, int x_half, void* y, int y_half, std::int64_t count, std::uint64_t seed,
                   std::uint32_t dropped, float scale, int threads) {
    Dropout d{base, x, y, count, {mixed(static_cast<std::uint32_t>(seed)), mixed(static_cast<std::uint32_t>(seed >> 32) + 1)},
              dropped, scale};
    klieg::share((count + PIECE - 1) / PIECE, threads,
                 x_half ? drop_piece<drop_half> : y_half ? drop_piece<drop_to_half> : drop_piece<drop_whole>, &d);
}

// losses [rows] of logits [rows, vocabulary], float32 or bfloat16, against targets [rows]; the logits become the
// gradient of the sum of the losses.
void klieg_loss(void* logits, int half, const std::int64_t* targets, float* losses, std::int64_t rows, std::int64_t vocabulary,
                float smoothing, int threads) {
    Loss l{logits, targets, losses, rows, vocabulary, smoothing, 0};
    klieg::share(rows, threads, half ? loss_piece<turn_half> : loss_piece<turn_whole>, &l);
}

// The same for twins: logits [2, rows, vocabulary]; a loss is the sum of both cross-entropies and of alpha / 2 times
// both divergences of one twin from the other.
void klieg_twin_loss(void* logits, int half, const std::int64_t* targets, float* losses, std::int64_t rows,
                     std::int64_t vocabulary, float smoothing, float alpha, int threads) {
    Loss l{logits, targets, losses, rows, vocabulary, smoothing, alpha};
    klieg::share(rows, threads, half ? loss_piece<turn_twins_half> : loss_piece<turn_twins_whole>, &l);
}

}  // extern "C"
