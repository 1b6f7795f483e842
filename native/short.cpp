// Attention of many short texts at once, and its way back: what training on sentences asks.
//
// A head of a short text has few scores, so all of them lie in the cache at once, and every product
// is a small one of matrices that are packed there: widened to float32, rows to a multiple of what a
// register tile holds, columns to whole vectors, zeros between. The way back makes the weights anew
// from q and k, as FlashAttention does (Dao et al. 2022, algorithm 4); nothing of the way there is kept.
//
// A text's heads are computed alike whatever else is in the batch, and by any number of threads.

#include "short.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "narrow.h"
#include "team.h"
#include "vector.h"

namespace {

using klieg::Short;
using std::int64_t;

constexpr int64_t ROWS = 8;                      // of a packed matrix, a multiple of those of a register tile
constexpr int64_t TERMS = 64;                    // of a sum in one go
constexpr float LOG2E = 1.44269504088896341f;
constexpr double LN2 = 0.69314718055994531;

inline int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// c (R, N * LANES) = a b, where a (R, terms) lies at any strides and b (terms, ...) in rows. Long sums are made of
// shorter ones, which keeps more digits.
template <int R, int N>
inline void tile(const float* a, int64_t row, int64_t step, const float* b, int64_t b_row, int64_t terms, float* c, int64_t c_row) {
    for (int64_t from = 0; from < terms; from += TERMS) {
        const int64_t to = std::min(from + TERMS, terms);
        Vec sums[R][N] = {};
        for (int64_t t = from; t < to; ++t) {
            Vec right[N];
            for (int n = 0; n < N; ++n) right[n] = load(b + t * b_row + n * LANES);
            for (int r = 0; r < R; ++r) {
                const Vec x = splat(a[r * row + t * step]);
                for (int n = 0; n < N; ++n) sums[r][n] += x * right[n];
            }
        }
        for (int r = 0; r < R; ++r)
            for (int n = 0; n < N; ++n) {
                float* place = c + r * c_row + n * LANES;
                store(place, from ? load(place) + sums[r][n] : sums[r][n]);
            }
    }
}

// c (rows, columns) = a b; rows are a multiple of ROWS, columns of LANES. Where a is transposed, it is (terms, rows).
inline void product(const float* a, int64_t row, int64_t step, const float* b, int64_t terms, float* c, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        const float* from = a + r * row;
        float* to = c + r * columns;
        int64_t n = 0;
        for (; n + 2 * LANES <= columns; n += 2 * LANES) {
            tile<ROWS / 2, 2>(from, row, step, b + n, columns, terms, to + n, columns);
            tile<ROWS / 2, 2>(from + ROWS / 2 * row, row, step, b + n, columns, terms, to + ROWS / 2 * columns + n, columns);
        }
        if (n < columns) tile<ROWS, 1>(from, row, step, b + n, columns, terms, to + n, columns);
    }
}

// The matrices of one head: rows and columns as they are packed.
struct Desk {
    int64_t queries, keys, width, value_width;    // up to whole tiles: queries to ROWS, the others to LANES too
    std::vector<float> all;
    float *q, *k, *k_turned, *v, *v_turned, *s, *o, *grad, *ds, *grad_q, *grad_k, *grad_v, *sum_k, *sum_v;

    explicit Desk(const Short& a)
        : queries(up(a.queries, ROWS)), keys(up(a.keys, std::max<int64_t>(ROWS, LANES))), width(up(a.width, LANES)),
          value_width(up(a.value_width, LANES)) {
        float** const matrices[] = {&q, &k, &k_turned, &v, &v_turned, &s, &o, &grad, &ds, &grad_q, &grad_k, &grad_v, &sum_k, &sum_v};
        const int64_t sizes[] = {queries * width, keys * width, width * keys, keys * value_width, value_width * keys,
                                 queries * keys, queries * value_width, queries * value_width, queries * keys,
                                 queries * width, keys * width, keys * value_width, keys * width, keys * value_width};
        int64_t total = 0;
        for (const int64_t size : sizes) total += size;
        all.assign(static_cast<std::size_t>(total), 0.0f);        // what lies between the rows is zero, and stays so
        float* at = all.data();
        for (std::size_t n = 0; n < std::size(sizes); at += sizes[n], ++n) *matrices[n] = at;
    }
};

template <typename T>
class Kernel {
public:
    explicit Kernel(const Short& a) : a_(a), of_group_(a.heads / a.groups), back_(a.grad != nullptr) {}

    int run() {
        const int64_t pieces = a_.batch * a_.groups;
        const int threads = static_cast<int>(std::min<int64_t>(a_.threads, pieces));
        try {
            desks_.reserve(threads);
            for (int n = 0; n < threads; ++n) desks_.emplace_back(a_);
        } catch (const std::bad_alloc&) {
            return -1;
        }
        klieg::share(pieces, threads, [](void* self, int64_t piece, int worker) { static_cast<Kernel*>(self)->group(piece, worker); }, this);
        return 0;
    }

private:
    const Short& a_;
    const int64_t of_group_;
    const bool back_;
    std::vector<Desk> desks_;

    // All heads of one text that share keys and values.
    void group(int64_t piece, int worker) {
        Desk& d = desks_[worker];
        const int64_t text = piece / a_.groups, group = piece % a_.groups;
        const std::uint8_t* real = a_.real ? a_.real + text * a_.keys : nullptr;
        pack(static_cast<const T*>(a_.k) + text * a_.k_strides[0] + group * a_.k_strides[1], a_.k_strides[2], a_.keys, a_.width, real, d.k, d.width);
        turn(d.k, a_.keys, a_.width, d.width, d.k_turned, d.keys);
        pack(static_cast<const T*>(a_.v) + text * a_.v_strides[0] + group * a_.v_strides[1], a_.v_strides[2], a_.keys, a_.value_width, real, d.v, d.value_width);
        if (back_) turn(d.v, a_.keys, a_.value_width, d.value_width, d.v_turned, d.keys);
        for (int64_t n = 0; n < of_group_; ++n) {
            const int64_t head = group * of_group_ + n;
            pack(static_cast<const T*>(a_.q) + text * a_.q_strides[0] + head * a_.q_strides[1], a_.q_strides[2], a_.queries, a_.width, nullptr, d.q, d.width);
            for (int64_t m = 0; m < a_.queries * d.width; ++m) d.q[m] *= a_.scale * LOG2E;
            weigh(d, text, head, real);
            if (back_) back(d, text, head, n > 0);
            else there(d, text, head);
        }
        if (!back_) return;
        give(of_group_ > 1 ? d.sum_k : d.grad_k, d.width, a_.keys, a_.width, static_cast<T*>(a_.grad_k), text, group, a_.groups, static_cast<float>(LN2));
        give(of_group_ > 1 ? d.sum_v : d.grad_v, d.value_width, a_.keys, a_.value_width, static_cast<T*>(a_.grad_v), text, group, a_.groups, 1);
    }

    // Rows from where they lie to where they are packed; those that nobody sees are zero, whatever they hold.
    static void pack(const T* from, int64_t stride, int64_t rows, int64_t width, const std::uint8_t* real, float* to, int64_t wide) {
        for (int64_t r = 0; r < rows; ++r, from += stride, to += wide) {
            if (real && !real[r]) std::memset(to, 0, width * sizeof(float));
            else for (int64_t n = 0; n < width; ++n) to[n] = widened(from[n]);
        }
    }

    static void turn(const float* from, int64_t rows, int64_t width, int64_t wide, float* to, int64_t high) {
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t n = 0; n < width; ++n) to[n * high + r] = from[r * wide + n];
    }

    // d.s becomes the weights, of which every row sums to 1, or to 0 where it sees nothing.
    void weigh(Desk& d, int64_t text, int64_t head, const std::uint8_t* real) {
        product(d.q, d.width, 1, d.k_turned, a_.width, d.s, d.queries, d.keys);
        float* lse = back_ ? nullptr : a_.lse + (text * a_.heads + head) * a_.queries;
        for (int64_t i = 0; i < a_.queries; ++i) {
            float* s = d.s + i * d.keys;
            const int64_t own = a_.keys - a_.queries + i;
            const int64_t seen = a_.causal ? std::max<int64_t>(0, std::min(own + 1, a_.keys)) : a_.keys;
            for (int64_t j = seen; j < d.keys; ++j) s[j] = -INFINITY;
            if (real) for (int64_t j = 0; j < seen; ++j) s[j] = real[j] ? s[j] : -INFINITY;
            Vec tops = splat(-INFINITY);
            for (int64_t j = 0; j < d.keys; j += LANES) tops = greater(load(s + j), tops);
            // A row that sees nothing keeps its base at 0, and sums to 0.
            const float top = largest(tops) == -INFINITY ? 0.0f : largest(tops);
            Vec sums = {};
            for (int64_t j = 0; j < d.keys; j += LANES) {
                const Vec w = exp2(load(s + j) - splat(top));
                store(s + j, w);
                sums += w;
            }
            const float total = sum(sums), share = total == 0 ? 0.0f : 1 / total;
            for (int64_t j = 0; j < d.keys; j += LANES) store(s + j, load(s + j) * splat(share));
            if (lse) lse[i] = static_cast<float>(LN2 * top + std::log(static_cast<double>(total)));
        }
    }

    void there(Desk& d, int64_t text, int64_t head) {
        product(d.s, d.keys, 1, d.v, a_.keys, d.o, d.queries, d.value_width);
        give(d.o, d.value_width, a_.queries, a_.value_width, static_cast<T*>(a_.output), text, head, a_.heads, 1);
    }

    void back(Desk& d, int64_t text, int64_t head, bool more) {
        pack(static_cast<const T*>(a_.grad) + text * a_.grad_strides[0] + head * a_.grad_strides[1], a_.grad_strides[2], a_.queries, a_.value_width, nullptr, d.grad, d.value_width);
        product(d.s, 1, d.keys, d.grad, a_.queries, d.grad_v, d.keys, d.value_width);
        product(d.grad, d.value_width, 1, d.v_turned, a_.value_width, d.ds, d.queries, d.keys);
        for (int64_t i = 0; i < a_.queries; ++i) {
            const float* w = d.s + i * d.keys;
            float* ds = d.ds + i * d.keys;
            Vec sums = {};
            for (int64_t j = 0; j < d.keys; j += LANES) sums += load(w + j) * load(ds + j);
            const Vec mean = splat(sum(sums));
            for (int64_t j = 0; j < d.keys; j += LANES) store(ds + j, load(w + j) * (load(ds + j) - mean));
        }
        product(d.ds, d.keys, 1, d.k, a_.keys, d.grad_q, d.queries, d.width);
        give(d.grad_q, d.width, a_.queries, a_.width, static_cast<T*>(a_.grad_q), text, head, a_.heads, a_.scale);
        product(d.ds, 1, d.keys, d.q, a_.queries, d.grad_k, d.keys, d.width);
        if (of_group_ == 1) return;
        join(d.grad_k, d.sum_k, d.keys * d.width, more);
        join(d.grad_v, d.sum_v, d.keys * d.value_width, more);
    }

    static void join(const float* from, float* to, int64_t count, bool more) {
        for (int64_t n = 0; n < count; n += LANES) store(to + n, more ? load(to + n) + load(from + n) : load(from + n));
    }

    // A head's rows to where they belong in (b, rows, heads, width), times a factor.
    static void give(const float* from, int64_t wide, int64_t rows, int64_t width, T* to, int64_t text, int64_t head, int64_t heads, float factor) {
        to += (text * rows * heads + head) * width;
        for (int64_t r = 0; r < rows; ++r, from += wide, to += heads * width)
            for (int64_t n = 0; n < width; ++n) narrow(from[n] * factor, to[n]);
    }
};

}  // namespace

namespace klieg {

#define KLIEG_NAME_OF(set) short_##set
#define KLIEG_NAME(set) KLIEG_NAME_OF(set)

int KLIEG_NAME(KLIEG_SET)(const Short& problem) {
    return problem.half ? Kernel<Half>(problem).run() : Kernel<float>(problem).run();
}

}  // namespace klieg
