// Random calls of the native dropout and loss, each tensor in memory of exactly its size, against what they
// are in double. Compiled with the address and undefined-behaviour sanitizers by test_native.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

extern "C" void klieg_dropout(const float* base, const float* x, float* y, std::int64_t count, std::uint64_t seed,
                              std::uint32_t dropped, float scale, int threads);
extern "C" void klieg_loss(float* logits, const std::int64_t* targets, float* losses, std::int64_t rows,
                           std::int64_t vocabulary, float smoothing, int threads);

namespace {

std::mt19937 random_bits(11);

int below(int n) { return static_cast<int>(random_bits() % static_cast<unsigned>(n)); }

std::unique_ptr<float[]> normal(std::int64_t count, float size) {
    std::normal_distribution<float> draw(0, size);
    std::unique_ptr<float[]> x(new float[count]);
    for (std::int64_t n = 0; n < count; ++n) x[n] = draw(random_bits);
    return x;
}

bool drops() {
    const std::int64_t count = 1 + below(below(3) ? 200 : 100000);
    const auto base = normal(count, 1), x = normal(count, 1), y = normal(count, 1), again = normal(count, 1);
    const std::uint64_t seed = random_bits();
    klieg_dropout(base.get(), x.get(), y.get(), count, seed, 1u << 30, 4.0f / 3, 1 + below(3));
    klieg_dropout(nullptr, x.get(), again.get(), count, seed, 1u << 30, 4.0f / 3, 1 + below(3));
    std::int64_t kept = 0;
    for (std::int64_t n = 0; n < count; ++n) {
        const float added = x[n] * (4.0f / 3);
        if (again[n] != 0 && again[n] != added) return false;
        if (std::fabs(y[n] - (base[n] + again[n])) > 1e-6f * (1 + std::fabs(y[n]))) return false;
        kept += again[n] != 0;
    }
    return std::fabs(static_cast<double>(kept) / count - 0.75) <= 5 * std::sqrt(0.75 * 0.25 / count) + 1e-9;
}

bool loses() {
    const std::int64_t rows = 1 + below(9), vocabulary = 1 + below(below(2) ? 40 : 3000);
    const float smoothing = below(2) ? 0.1f : 0.0f, size = below(2) ? 3.0f : 60.0f;
    auto logits = normal(rows * vocabulary, size), losses = normal(rows, 1);
    const std::vector<float> given(logits.get(), logits.get() + rows * vocabulary);
    std::unique_ptr<std::int64_t[]> targets(new std::int64_t[rows]);
    for (std::int64_t row = 0; row < rows; ++row) targets[row] = below(static_cast<int>(vocabulary));
    klieg_loss(logits.get(), targets.get(), losses.get(), rows, vocabulary, smoothing, 1 + below(3));
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* z = given.data() + row * vocabulary;
        double top = z[0], sum = 0, mean = 0;
        for (std::int64_t n = 0; n < vocabulary; ++n) top = std::max(top, static_cast<double>(z[n]));
        for (std::int64_t n = 0; n < vocabulary; ++n) sum += std::exp(z[n] - top), mean += z[n] / static_cast<double>(vocabulary);
        const double truth = top + std::log(sum) - (1.0 - smoothing) * z[targets[row]] - smoothing * mean;
        if (std::fabs(losses[row] - truth) > 2e-6 * (1 + std::fabs(top) + std::fabs(truth))) return false;
        for (std::int64_t n = 0; n < vocabulary; ++n) {
            const double wanted = (n == targets[row] ? 1.0 - smoothing : 0.0) + smoothing / static_cast<double>(vocabulary);
            if (std::fabs(logits[row * vocabulary + n] - (std::exp(z[n] - top) / sum - wanted)) > 3e-6) return false;
        }
    }
    return true;
}

}  // namespace

int main() {
    for (int turn = 0; turn < 200; ++turn)
        if (!drops() || !loses()) return std::printf("call %d\n", turn), 1;
    std::puts("400 calls");
    return 0;
}
