// What a step of a search spends its time on beside matrix products: the likeliest of a large vocabulary,
// and the attention of a few queries to a few keys.
//
// A row of logits is read twice while it is in the cache: once for its largest, once for its sum of
// exponentials. Nothing is written but what was asked for.
//
// One query has too little to do to be worth packing keys for, as the kernel of attention.cpp does: here
// a query meets the keys where they lie.

#include <cmath>
#include <cstdint>

#include "exponential.h"
#include "team.h"
#include "widest.h"

namespace {

constexpr std::int64_t BLOCK = 64;        // numbers that are passed over together if none of them is large enough
constexpr std::int64_t MOST_KEYS = 1024;  // of a few queries

struct Likeliest {
    const float *logits, *bias;           // [rows, vocabulary], [vocabulary]
    std::int64_t vocabulary, count;
    float* values;                        // [rows, count]
    std::int64_t* tokens;                 // [rows, count]
    float* lse;                           // [rows]
};

// Puts a number where it belongs among the `held` largest, of which there are at most `count`.
inline void insert(float* values, std::int64_t* tokens, std::int64_t held, std::int64_t count, float value, std::int64_t token) {
    std::int64_t n = held < count ? held : count - 1;
    for (; n > 0 && values[n - 1] < value; --n) values[n] = values[n - 1], tokens[n] = tokens[n - 1];
    values[n] = value, tokens[n] = token;
}

WIDEST void likeliest_row(const Likeliest& l, std::int64_t row) {
    const float *z = l.logits + row * l.vocabulary, *bias = l.bias;
    float* values = l.values + row * l.count;
    std::int64_t* tokens = l.tokens + row * l.count;
    std::int64_t held = 0;
    for (std::int64_t start = 0; start < l.vocabulary; start += BLOCK) {
        const std::int64_t stop = start + BLOCK < l.vocabulary ? start + BLOCK : l.vocabulary;
        if (held == l.count) {
            float top = z[start] + bias[start];
#pragma omp simd reduction(max : top)
            for (std::int64_t i = start; i < stop; ++i) top = z[i] + bias[i] > top ? z[i] + bias[i] : top;
            if (!(top > values[held - 1])) continue;
        }
        for (std::int64_t i = start; i < stop; ++i) {
            const float value = z[i] + bias[i];
            if (held == l.count && !(value > values[held - 1])) continue;
            insert(values, tokens, held, l.count, value, i);
            held += held < l.count;
        }
    }
    const float top = values[0];
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < l.vocabulary; ++i) sum += exponential(z[i] + bias[i] - top);
    l.lse[row] = top + std::log(sum);
}

void likeliest_piece(void* context, std::int64_t row, int) { likeliest_row(*static_cast<Likeliest*>(context), row); }

struct Few {
    std::int64_t heads, groups, queries, keys, width, value_width;
    std::int64_t together;                                    // heads of one piece of work: one, or all of a text
    const float *q, *k, *v;
    const std::int64_t *q_strides, *k_strides, *v_strides;    // of text, head and row
    const std::uint8_t* real;                                 // [texts, keys], or null where all are
    float scale;
    float *output, *lse;                                      // [texts, queries, heads, value_width], [texts, heads, queries]
};

// All queries of one head of one text.
WIDEST void few_head(const Few& f, std::int64_t text, std::int64_t head) {
    const std::int64_t group = head / (f.heads / f.groups), keys = f.keys, width = f.width, value_width = f.value_width;
    const float* k = f.k + text * f.k_strides[0] + group * f.k_strides[1];
    const float* v = f.v + text * f.v_strides[0] + group * f.v_strides[1];
    const std::uint8_t* real = f.real ? f.real + text * keys : nullptr;
    for (std::int64_t i = 0; i < f.queries; ++i) {
        const float* q = f.q + text * f.q_strides[0] + head * f.q_strides[1] + i * f.q_strides[2];
        float* output = f.output + ((text * f.queries + i) * f.heads + head) * value_width;
        float weights[MOST_KEYS], top = -INFINITY, sum = 0;
        for (std::int64_t j = 0; j < keys; ++j) {
            const float* key = k + j * f.k_strides[2];
            float s = 0;
#pragma omp simd reduction(+ : s)
            for (std::int64_t d = 0; d < width; ++d) s += q[d] * key[d];
            weights[j] = real && !real[j] ? -INFINITY : s * f.scale;
            top = weights[j] <= top ? top : weights[j];
        }
        for (std::int64_t e = 0; e < value_width; ++e) output[e] = 0;
        if (top == -INFINITY) {
            f.lse[(text * f.heads + head) * f.queries + i] = top;
            continue;
        }
#pragma omp simd reduction(+ : sum)
        for (std::int64_t j = 0; j < keys; ++j) {
            const float w = weights[j] == -INFINITY ? 0.0f : exponential(weights[j] - top);
            weights[j] = w;
            sum += w;
        }
        for (std::int64_t j = 0; j < keys; ++j) {
            const float w = weights[j] / sum, *value = v + j * f.v_strides[2];
#pragma omp simd
            for (std::int64_t e = 0; e < value_width; ++e) output[e] += w * value[e];
        }
        f.lse[(text * f.heads + head) * f.queries + i] = top + std::log(sum);
    }
}

void few_piece(void* context, std::int64_t piece, int) {
    const Few& f = *static_cast<Few*>(context);
    const std::int64_t first = piece * f.together;
    for (std::int64_t n = first; n < first + f.together; ++n) few_head(f, n / f.heads, n % f.heads);
}

}  // namespace

extern "C" {

// Of each row of logits [rows, vocabulary] plus bias [vocabulary]: the `count` largest, values and tokens
// [rows, count], the largest first, and the log of the sum of exponentials, lse [rows]. count <= vocabulary.
void klieg_likeliest(const float* logits, const float* bias, std::int64_t rows, std::int64_t vocabulary, std::int64_t count,
                     float* values, std::int64_t* tokens, float* lse, int threads) {
    Likeliest l{logits, bias, vocabulary, count, values, tokens, lse};
    klieg::share(rows, threads, likeliest_piece, &l);
}

// softmax(scale * q k^T) v over the keys that are real, and the log-sum-exp of each row; strides are of text,
// head and row, and last axes have no gaps. A row that sees nothing is zeros, and -inf. At most 1,024 keys.
void klieg_few(std::int64_t texts, std::int64_t heads, std::int64_t groups, std::int64_t queries, std::int64_t keys,
               std::int64_t width, std::int64_t value_width, const float* q, const float* k, const float* v,
               const std::int64_t* strides, const std::uint8_t* real, float scale, float* output, float* lse, int threads) {
    const std::int64_t together = texts < threads ? 1 : heads;
    Few f{heads, groups, queries, keys, width, value_width, together, q, k, v, strides, strides + 3, strides + 6, real, scale, output, lse};
    klieg::share(texts * heads / together, threads, few_piece, &f);
}

}  // extern "C"
