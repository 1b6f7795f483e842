// Random calls of the native attention kernel, each tensor in memory of exactly its size, against the
// formula in double. Compiled with the address and undefined-behaviour sanitizers by test_native.py:
// whatever is read or written beyond a tensor ends this program.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "../native/attention.h"

extern "C" int klieg_attention(const klieg::Attention*, const char* set);
extern "C" const char* klieg_instruction_set(int n);

int check_short();   // short_check.cpp: how many calls, or -1

namespace {

std::mt19937 random_bits(7);

int below(int n) { return static_cast<int>(random_bits() % static_cast<unsigned>(n)); }

template <typename T>
using Tensor = std::unique_ptr<T[]>;       // an array of its own on the heap: its ends are watched

Tensor<float> normal(std::int64_t count) {
    std::normal_distribution<float> draw;
    Tensor<float> x(new float[count]);
    for (std::int64_t n = 0; n < count; ++n) x[n] = draw(random_bits);
    return x;
}

template <typename T>
Tensor<T> room(std::int64_t count) {
    Tensor<T> x(new T[count]);
    for (std::int64_t n = 0; n < count; ++n) x[n] = static_cast<T>(-777);
    return x;
}

bool close(double found, double truth, double tolerance) {
    return std::isinf(truth) ? found == truth : std::fabs(found - truth) <= tolerance * (1 + std::fabs(truth));
}

int check(const char* set) {
    klieg::Attention a{};
    a.batch = 1 + below(2), a.groups = 1 + below(2), a.heads = a.groups * (1 + below(3));
    a.queries = 1 + below(below(4) ? 70 : 300), a.keys = 1 + below(below(4) ? 140 : 900);
    a.width = 1 + below(70), a.value_width = 1 + below(70);
    a.scale = 1 / std::sqrt(static_cast<float>(a.width));
    a.softcap = below(3) ? 0.0f : 2.0f;
    a.first_slot = a.keys - a.queries + below(5) - 2;
    a.threads = 1 + below(3);
    const std::int64_t b = a.batch, h = a.heads, g = a.groups, i = a.queries, j = a.keys, d = a.width, e = a.value_width;
    auto q = normal(b * h * i * d), k = normal(b * g * j * d), v = normal(b * g * j * e), sinks = normal(h), bias = normal(i * j), probe = normal(b * g * j);
    a.q = q.get(), a.k = k.get(), a.v = v.get(), a.probe = probe.get();
    if (below(2)) a.sinks = sinks.get();
    if (!below(3)) a.bias = bias.get(), a.bias_strides[2] = j, a.bias_strides[3] = 1;
    auto strides = [](std::int64_t* s, std::int64_t heads, std::int64_t rows, std::int64_t width) { s[0] = heads * rows * width, s[1] = rows * width, s[2] = width; };
    strides(a.q_strides, h, i, d), strides(a.k_strides, g, j, d), strides(a.v_strides, g, j, e), strides(a.output_strides, h, i, e);

    Tensor<std::int64_t> from(new std::int64_t[i]), to(new std::int64_t[i]), ids_i(new std::int64_t[b * i]), ids_j(new std::int64_t[b * j]);
    Tensor<std::uint8_t> real(new std::uint8_t[b * j]), allowed(new std::uint8_t[i * j]);
    for (int n = 0; n < i; ++n) from[n] = below(3) ? 0 : below(static_cast<int>(j) + 1), to[n] = below(3) ? j : below(static_cast<int>(j) + 1);
    for (int n = 0; n < b * i; ++n) ids_i[n] = below(2);
    for (int n = 0; n < b * j; ++n) ids_j[n] = below(2), real[n] = below(4) > 0;
    for (int n = 0; n < i * j; ++n) allowed[n] = below(4) > 0;
    a.seen_from = from.get(), a.seen_to = to.get();
    if (!below(3)) a.real = real.get(), a.real_stride = j;
    if (!below(3)) a.documents_i = ids_i.get(), a.documents_j = ids_j.get(), a.documents_strides[0] = i, a.documents_strides[1] = j;
    if (!below(3)) a.allowed = allowed.get(), a.allowed_strides[2] = j;

    a.bins = 1 + below(9), a.top = below(6), a.map_rows = 1 + below(static_cast<int>(i)), a.map_columns = 1 + below(static_cast<int>(j));
    std::vector<std::int64_t> down, across;
    for (std::int64_t n = 0; n <= a.map_rows; ++n) down.push_back(n * i / a.map_rows);
    for (std::int64_t n = 0; n <= a.map_columns; ++n) across.push_back(n * j / a.map_columns);
    a.row_edges = down.data(), a.column_edges = across.data();
    const std::int64_t rows = b * h * i;
    auto output = room<float>(rows * e), lse = room<float>(rows), max = room<float>(rows), mass = room<float>(rows), entropy = room<float>(rows);
    auto first = room<float>(rows), own = room<float>(rows), probed = room<float>(rows), received = room<float>(b * h * j), histogram = room<float>(b * h * a.bins);
    auto distance = room<double>(rows), squares = room<double>(rows);
    auto top = room<float>(rows * a.top + 1), map_sum = room<float>(b * h * a.map_rows * a.map_columns), map_max = room<float>(b * h * a.map_rows * a.map_columns);
    auto top_keys = room<std::int64_t>(rows * a.top + 1);
    a.output = output.get(), a.lse = lse.get(), a.max = max.get(), a.mass = mass.get(), a.entropy = entropy.get(), a.first = first.get(), a.own = own.get();
    a.probed = probed.get(), a.received = received.get(), a.histogram = histogram.get(), a.distance_sum = distance.get(), a.distance_squares = squares.get();
    a.map_sum = map_sum.get(), a.map_max = map_max.get();
    if (a.top) a.top_weights = top.get(), a.top_keys = top_keys.get();
    if (klieg_attention(&a, set) != 0) return std::puts("the kernel gave up"), 1;

    std::vector<double> s(j);
    for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t text = row / (h * i), head = row / i % h, query = row % i, group = head / (h / g);
        double total = a.sinks ? std::exp(static_cast<double>(sinks[head])) : 0, probe_truth = 0, value_truth = 0;
        for (std::int64_t key = 0; key < j; ++key) {
            double dot = 0;
            for (std::int64_t n = 0; n < d; ++n) dot += static_cast<double>(q[row * d + n]) * k[((text * g + group) * j + key) * d + n];
            dot *= a.scale;
            if (a.softcap > 0) dot = a.softcap * std::tanh(dot / a.softcap);
            if (a.bias) dot += bias[query * j + key];
            const bool seen = key >= from[query] && key < to[query] && (!a.real || real[text * j + key])
                              && (!a.documents_i || ids_i[text * i + query] == ids_j[text * j + key]) && (!a.allowed || allowed[query * j + key]);
            s[key] = seen ? std::exp(dot) : 0;
            total += s[key];
        }
        for (std::int64_t key = 0; key < j; ++key) {
            const double w = total > 0 ? s[key] / total : 0;
            probe_truth += w * probe[(text * g + group) * j + key];
            value_truth += w * v[((text * g + group) * j + key) * e + e - 1];
        }
        if (!close(lse[row], std::log(total), 1e-5) || !close(probed[row], probe_truth, 1e-4) || !close(output[row * e + e - 1], value_truth, 1e-4))
            return std::printf("row %lld: lse %g, probe %g, output %g; the formula gives %g, %g, %g\n", static_cast<long long>(row), lse[row], probed[row],
                               output[row * e + e - 1], std::log(total), probe_truth, value_truth), 1;
    }
    return 0;
}

}  // namespace

int main() {
    int count = 0;
    for (int n = 0; const char* set = klieg_instruction_set(n); ++n)
        for (int turn = 0; turn < 60; ++turn, ++count)
            if (check(set)) return std::printf("with %s, call %d\n", set, turn), 1;
    const int more = check_short();
    if (more < 0) return 1;
    std::printf("%d and %d calls\n", count, more);
    return 0;
}
