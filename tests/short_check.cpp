// Random calls of the kernel of short texts, there and back, each tensor in memory of exactly its size, against the
// formula in double. Compiled with the address and undefined-behaviour sanitizers by test_native.py.

#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "../native/narrow.h"
#include "../native/short.h"

extern "C" int klieg_short(const klieg::Short*, const char* set);
extern "C" const char* klieg_instruction_set(int n);

namespace {

std::mt19937 random_bits(5);

int below(int n) { return static_cast<int>(random_bits() % static_cast<unsigned>(n)); }

// A tensor in one of the two types, each in an array of its own whose ends are watched.
struct Tensor {
    std::int64_t count;
    bool half;
    std::unique_ptr<float[]> whole;
    std::unique_ptr<Half[]> halves;

    Tensor(std::int64_t n, bool narrowed) : count(n), half(narrowed) {
        std::normal_distribution<float> draw;
        if (half) halves.reset(new Half[n]);
        else whole.reset(new float[n]);
        for (std::int64_t m = 0; m < n; ++m) half ? narrow(draw(random_bits), halves[m]) : narrow(draw(random_bits), whole[m]);
    }

    void* data() { return half ? static_cast<void*>(halves.get()) : whole.get(); }
    double at(std::int64_t n) const { return half ? widened(halves[n]) : whole[n]; }
};

bool near(double found, double truth, bool half) {
    return std::isinf(truth) ? found == truth : std::fabs(found - truth) <= (half ? 1e-2 : 2e-5) * (1 + std::fabs(truth));
}

int check(const char* set) {
    klieg::Short a{};
    a.batch = 1 + below(3), a.groups = 1 + below(2), a.heads = a.groups * (1 + below(3));
    a.queries = 1 + below(40), a.keys = 1 + below(40), a.width = 1 + below(40), a.value_width = 1 + below(40);
    a.half = below(2), a.causal = below(2), a.scale = 0.3f, a.threads = 1 + below(3);
    const std::int64_t b = a.batch, h = a.heads, g = a.groups, i = a.queries, j = a.keys, d = a.width, e = a.value_width;
    const bool half = a.half;
    Tensor q(b * h * i * d, half), k(b * g * j * d, half), v(b * g * j * e, half), grad(b * h * i * e, half);
    Tensor output(b * h * i * e, half), lse(b * h * i, false), grad_q(b * h * i * d, half), grad_k(b * g * j * d, half), grad_v(b * g * j * e, half);
    std::unique_ptr<std::uint8_t[]> real(new std::uint8_t[b * j]);
    for (std::int64_t n = 0; n < b * j; ++n) real[n] = below(4) > 0;
    if (below(2)) a.real = real.get();
    auto strides = [](std::int64_t* s, std::int64_t heads, std::int64_t rows, std::int64_t width) { s[0] = heads * rows * width, s[1] = rows * width, s[2] = width; };
    strides(a.q_strides, h, i, d), strides(a.k_strides, g, j, d), strides(a.v_strides, g, j, e), strides(a.grad_strides, h, i, e);
    a.q = q.data(), a.k = k.data(), a.v = v.data(), a.output = output.data(), a.lse = lse.whole.get();
    klieg::Short back = a;
    back.output = nullptr, back.lse = nullptr;
    back.grad = grad.data(), back.grad_q = grad_q.data(), back.grad_k = grad_k.data(), back.grad_v = grad_v.data();
    if (klieg_short(&a, set) != 0 || klieg_short(&back, set) != 0) return std::puts("the kernel gave up"), 1;

    std::vector<double> to_q(b * h * i * d), to_k(b * g * j * d), to_v(b * g * j * e), w(j), dw(j);
    for (std::int64_t row = 0; row < b * h * i; ++row) {
        const std::int64_t text = row / (h * i), head = row / i % h, query = row % i, first = (text * g + head / (h / g)) * j;
        double total = 0, mean = 0;
        for (std::int64_t key = 0; key < j; ++key) {
            double dot = 0;
            for (std::int64_t n = 0; n < d; ++n) dot += q.at(row * d + n) * k.at((first + key) * d + n);
            const bool seen = (!a.causal || key <= j - i + query) && (!a.real || real[text * j + key]);
            total += w[key] = seen ? std::exp(static_cast<double>(a.scale) * dot) : 0;
        }
        if (!near(lse.at(row), std::log(total), false)) return std::printf("lse %g, not %g\n", lse.at(row), std::log(total)), 1;
        for (std::int64_t key = 0; key < j; ++key) {
            w[key] = total > 0 ? w[key] / total : 0, dw[key] = 0;
            for (std::int64_t n = 0; n < e; ++n) dw[key] += grad.at(row * e + n) * v.at((first + key) * e + n), to_v[(first + key) * e + n] += w[key] * grad.at(row * e + n);
            mean += w[key] * dw[key];
        }
        for (std::int64_t n = 0; n < e; ++n) {
            double mixed = 0;
            for (std::int64_t key = 0; key < j; ++key) mixed += w[key] * v.at((first + key) * e + n);
            if (!near(output.at(((text * i + query) * h + head) * e + n), mixed, half)) return std::puts("an output is wrong"), 1;
        }
        for (std::int64_t key = 0; key < j; ++key)
            for (std::int64_t n = 0; n < d; ++n) {
                const double ds = w[key] * (dw[key] - mean) * static_cast<double>(a.scale);
                to_q[((text * i + query) * h + head) * d + n] += ds * k.at((first + key) * d + n), to_k[(first + key) * d + n] += ds * q.at(row * d + n);
            }
    }
    for (std::int64_t n = 0; n < grad_q.count; ++n)
        if (!near(grad_q.at(n), to_q[n], half)) return std::puts("a gradient of q is wrong"), 1;
    for (std::int64_t text = 0; text < b; ++text)
        for (std::int64_t group = 0; group < g; ++group)
            for (std::int64_t key = 0; key < j; ++key) {
                const std::int64_t at = (text * g + group) * j + key, found = (text * j + key) * g + group;
                for (std::int64_t n = 0; n < d; ++n)
                    if (!near(grad_k.at(found * d + n), to_k[at * d + n], half)) return std::puts("a gradient of k is wrong"), 1;
                for (std::int64_t n = 0; n < e; ++n)
                    if (!near(grad_v.at(found * e + n), to_v[at * e + n], half)) return std::puts("a gradient of v is wrong"), 1;
            }
    return 0;
}

}  // namespace

int check_short() {
    int count = 0;
    for (int n = 0; const char* set = klieg_instruction_set(n); ++n)
        for (int turn = 0; turn < 40; ++turn, ++count)
            if (check(set)) return std::printf("short texts with %s, call %d\n", set, turn), -1;
    return count;
}
