// Random calls of the native dropout, loss of one pass and of twins, likeliest tokens, cutting and attention of a few
// queries, each tensor in memory of exactly its size, against what they are in double. Compiled with the address and
// undefined-behaviour sanitizers by test_native.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "../native/narrow.h"

extern "C" void klieg_dropout(const float* base, const void* x, int x_half, void* y, int y_half, std::int64_t count,
                              std::uint64_t seed, std::uint32_t dropped, float scale, int threads);
extern "C" void klieg_loss(void* logits, int half, const std::int64_t* targets, float* losses, std::int64_t rows,
                           std::int64_t vocabulary, float smoothing, int threads);
extern "C" void klieg_twin_loss(void* logits, int half, const std::int64_t* targets, float* losses, std::int64_t rows,
                                std::int64_t vocabulary, float smoothing, float alpha, int threads);
extern "C" void klieg_likeliest(const float* logits, const float* bias, std::int64_t rows, std::int64_t vocabulary,
                                std::int64_t count, float* values, std::int64_t* tokens, float* lse, int threads);
extern "C" void klieg_segments(const std::uint32_t* ids, const std::uint8_t* opens, const std::int64_t* starts,
                               const std::uint64_t* seeds, std::int64_t texts, const std::uint32_t* bytes,
                               const std::int64_t* spans, const std::int64_t* firsts, const std::uint32_t* rights,
                               const std::int32_t* ranks, const std::uint32_t* merged, std::uint32_t dropped, std::int64_t most,
                               std::uint32_t* cut, std::int64_t* counts);
extern "C" void klieg_few(std::int64_t texts, std::int64_t heads, std::int64_t groups, std::int64_t queries, std::int64_t keys,
                          std::int64_t width, std::int64_t value_width, const float* q, const float* k, const float* v,
                          const std::int64_t* strides, const std::uint8_t* real, float scale, float* output, float* lse,
                          int threads);

namespace {

std::mt19937 random_bits(11);

int below(int n) { return static_cast<int>(random_bits() % static_cast<unsigned>(n)); }

std::unique_ptr<float[]> normal(std::int64_t count, float size) {
    std::normal_distribution<float> draw(0, size);
    std::unique_ptr<float[]> x(new float[count]);
    for (std::int64_t n = 0; n < count; ++n) x[n] = draw(random_bits);
    return x;
}

// The numbers in bfloat16, and what they then are.
std::unique_ptr<Half[]> halved(float* x, std::int64_t count) {
    std::unique_ptr<Half[]> halves(new Half[count]);
    for (std::int64_t n = 0; n < count; ++n) narrow(x[n], halves[n]), x[n] = widened(halves[n]);
    return halves;
}

bool drops() {
    const std::int64_t count = 1 + below(below(3) ? 200 : 100000);
    const auto base = normal(count, 1), x = normal(count, 1), y = normal(count, 1), again = normal(count, 1);
    const std::uint64_t seed = random_bits();
    const auto halves = halved(x.get(), count), back = halved(normal(count, 1).get(), count);
    klieg_dropout(base.get(), halves.get(), 1, y.get(), 0, count, seed, 1u << 30, 4.0f / 3, 1 + below(3));
    klieg_dropout(nullptr, x.get(), 0, again.get(), 0, count, seed, 1u << 30, 4.0f / 3, 1 + below(3));
    klieg_dropout(nullptr, x.get(), 0, back.get(), 1, count, seed, 1u << 30, 4.0f / 3, 1 + below(3));
    std::int64_t kept = 0;
    for (std::int64_t n = 0; n < count; ++n) {
        const float added = x[n] * (4.0f / 3);
        if (again[n] != 0 && again[n] != added) return false;
        if (std::fabs(y[n] - (base[n] + again[n])) > 1e-6f * (1 + std::fabs(y[n]))) return false;
        if (std::fabs(widened(back[n]) - again[n]) > std::fabs(again[n]) / 256) return false;
        kept += again[n] != 0;
    }
    return std::fabs(static_cast<double>(kept) / count - 0.75) <= 5 * std::sqrt(0.75 * 0.25 / count) + 1e-9;
}

bool loses() {
    const std::int64_t rows = 1 + below(9), vocabulary = 1 + below(below(2) ? 40 : 3000);
    const float smoothing = below(2) ? 0.1f : 0.0f, size = below(2) ? 3.0f : 60.0f;
    auto logits = normal(rows * vocabulary, size), losses = normal(rows, 1);
    const bool half = below(2);
    const auto halves = half ? halved(logits.get(), rows * vocabulary) : nullptr;
    const std::vector<float> given(logits.get(), logits.get() + rows * vocabulary);
    std::unique_ptr<std::int64_t[]> targets(new std::int64_t[rows]);
    for (std::int64_t row = 0; row < rows; ++row) targets[row] = below(static_cast<int>(vocabulary));
    klieg_loss(half ? static_cast<void*>(halves.get()) : logits.get(), half, targets.get(), losses.get(), rows, vocabulary, smoothing, 1 + below(3));
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* z = given.data() + row * vocabulary;
        double top = z[0], sum = 0, mean = 0;
        for (std::int64_t n = 0; n < vocabulary; ++n) top = std::max(top, static_cast<double>(z[n]));
        for (std::int64_t n = 0; n < vocabulary; ++n) sum += std::exp(z[n] - top), mean += z[n] / static_cast<double>(vocabulary);
        const double truth = top + std::log(sum) - (1.0 - smoothing) * z[targets[row]] - smoothing * mean;
        if (std::fabs(losses[row] - truth) > 2e-6 * (1 + std::fabs(top) + std::fabs(truth))) return false;
        for (std::int64_t n = 0; n < vocabulary; ++n) {
            const double wanted = (n == targets[row] ? 1.0 - smoothing : 0.0) + smoothing / static_cast<double>(vocabulary);
            const double found = half ? widened(halves[row * vocabulary + n]) : logits[row * vocabulary + n], gradient = std::exp(z[n] - top) / sum - wanted;
            if (std::fabs(found - gradient) > 3e-6 + (half ? std::fabs(gradient) / 256 : 0)) return false;
        }
    }
    return true;
}

// ln p of a row of logits.
std::vector<double> logarithms(const float* z, std::int64_t vocabulary) {
    double top = z[0], sum = 0;
    for (std::int64_t n = 0; n < vocabulary; ++n) top = std::max(top, static_cast<double>(z[n]));
    for (std::int64_t n = 0; n < vocabulary; ++n) sum += std::exp(z[n] - top);
    std::vector<double> found(vocabulary);
    for (std::int64_t n = 0; n < vocabulary; ++n) found[n] = z[n] - top - std::log(sum);
    return found;
}

bool agrees() {
    const std::int64_t rows = 1 + below(9), vocabulary = 1 + below(below(2) ? 40 : 3000), size = rows * vocabulary;
    const float smoothing = below(2) ? 0.1f : 0.0f, alpha = below(3) ? 5.0f : 0.0f;
    auto logits = normal(2 * size, below(2) ? 1.0f : 8.0f), losses = normal(rows, 1);
    const bool half = below(2);
    const auto halves = half ? halved(logits.get(), 2 * size) : nullptr;
    const std::vector<float> given(logits.get(), logits.get() + 2 * size);
    std::unique_ptr<std::int64_t[]> targets(new std::int64_t[rows]);
    for (std::int64_t row = 0; row < rows; ++row) targets[row] = below(static_cast<int>(vocabulary));
    klieg_twin_loss(half ? static_cast<void*>(halves.get()) : logits.get(), half, targets.get(), losses.get(), rows, vocabulary, smoothing, alpha, 1 + below(3));
    for (std::int64_t row = 0; row < rows; ++row) {
        const auto p = logarithms(given.data() + row * vocabulary, vocabulary), q = logarithms(given.data() + size + row * vocabulary, vocabulary);
        double forth = 0, back = 0, truth = -(1.0 - smoothing) * (p[targets[row]] + q[targets[row]]);
        for (std::int64_t n = 0; n < vocabulary; ++n) {
            forth += std::exp(p[n]) * (p[n] - q[n]);
            back += std::exp(q[n]) * (q[n] - p[n]);
            truth -= smoothing / static_cast<double>(vocabulary) * (p[n] + q[n]);
        }
        truth += alpha / 2.0 * (forth + back);
        if (std::fabs(losses[row] - truth) > 1e-5 * (1 + std::fabs(truth))) return false;
        const double finest = 3e-6 * (1 + alpha * (1 + forth + back));
        for (std::int64_t n = 0; n < 2 * vocabulary; ++n) {
            const bool other = n >= vocabulary;
            const auto& one = other ? q : p;
            const auto& two = other ? p : q;
            const std::int64_t at = n % vocabulary, place = (other ? size : 0) + row * vocabulary + at;
            const double share = std::exp(one[at]), wanted = (at == targets[row] ? 1.0 - smoothing : 0.0) + smoothing / static_cast<double>(vocabulary);
            const double gradient = share - wanted + alpha / 2.0 * (share * (one[at] - two[at] - (other ? back : forth)) + share - std::exp(two[at]));
            const double found = half ? widened(halves[place]) : logits[place];
            if (std::fabs(found - gradient) > finest + (half ? std::fabs(gradient) / 256 : 0)) return false;
        }
    }
    return true;
}

bool likes() {
    const std::int64_t rows = 1 + below(9), vocabulary = 1 + below(below(2) ? 40 : 3000), count = 1 + below(static_cast<int>(std::min<std::int64_t>(vocabulary, 30)));
    const auto logits = normal(rows * vocabulary, below(2) ? 3.0f : 60.0f), bias = normal(vocabulary, 1), values = normal(rows * count, 1), lse = normal(rows, 1);
    std::unique_ptr<std::int64_t[]> tokens(new std::int64_t[rows * count]);
    klieg_likeliest(logits.get(), bias.get(), rows, vocabulary, count, values.get(), tokens.get(), lse.get(), 1 + below(3));
    for (std::int64_t row = 0; row < rows; ++row) {
        std::vector<float> z(vocabulary);
        for (std::int64_t n = 0; n < vocabulary; ++n) z[n] = logits[row * vocabulary + n] + bias[n];
        for (std::int64_t n = 0; n < count; ++n)
            if (z[tokens[row * count + n]] != values[row * count + n]) return false;
        std::sort(z.begin(), z.end(), [](float a, float b) { return a > b; });
        double sum = 0;
        for (float x : z) sum += std::exp(static_cast<double>(x) - z[0]);
        for (std::int64_t n = 0; n < count; ++n)
            if (z[n] != values[row * count + n]) return false;
        if (std::fabs(lse[row] - (z[0] + std::log(sum))) > 2e-6 * (1 + std::fabs(z[0]))) return false;
    }
    return true;
}

template <typename T>
std::unique_ptr<T[]> exactly(const std::vector<T>& values) {
    std::unique_ptr<T[]> copy(new T[values.size()]);
    std::copy(values.begin(), values.end(), copy.get());
    return copy;
}

// A vocabulary whose every merge is a new piece of two others: what is cut has the same bytes, and never a merge across words.
bool cuts() {
    const std::uint32_t letters = 1 + below(4), size = letters + below(30);
    std::vector<std::vector<std::uint32_t>> spelled;
    std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> pairs;
    while (spelled.size() < size) {
        const std::uint32_t piece = static_cast<std::uint32_t>(spelled.size()), left = below(piece + 1), right = below(piece + 1);
        if (piece < letters) spelled.push_back({piece});
        else if (left < piece && right < piece && pairs.emplace(std::make_pair(left, right), piece).second) {
            spelled.push_back(spelled[left]);
            spelled.back().insert(spelled.back().end(), spelled[right].begin(), spelled[right].end());
            if (spelled.back().size() > 50) return true;
        }
    }
    std::vector<std::uint32_t> bytes, rights, merged, ids;
    std::vector<std::int64_t> spans{0}, firsts(size + 1), starts{0}, counts(1 + below(5));
    std::vector<std::int32_t> ranks;
    std::vector<std::uint8_t> opens;
    std::vector<std::uint64_t> seeds;
    for (const auto& piece : spelled) bytes.insert(bytes.end(), piece.begin(), piece.end()), spans.push_back(static_cast<std::int64_t>(bytes.size()));
    for (const auto& [pair, piece] : pairs) {
        rights.push_back(pair.second), ranks.push_back(static_cast<std::int32_t>(piece - letters));
        for (std::uint32_t id = pair.first + 1; id <= size; ++id) ++firsts[id];
    }
    for (std::uint32_t piece = letters; piece < size; ++piece) merged.push_back(piece);
    std::int64_t room = 0;
    for (std::size_t text = 0; text < counts.size(); ++text) {
        for (int n = below(3) ? below(20) : 0; n > 0; --n) ids.push_back(below(size)), opens.push_back(below(2)), room += static_cast<std::int64_t>(spelled[ids.back()].size());
        starts.push_back(static_cast<std::int64_t>(ids.size())), seeds.push_back(random_bits());
    }
    const std::int64_t most = below(2) ? 1000000 : below(20);
    const std::uint32_t dropped = below(3) ? random_bits() : 0;
    std::unique_ptr<std::uint32_t[]> cut(new std::uint32_t[room]);
    const auto found = exactly(counts);
    klieg_segments(exactly(ids).get(), exactly(opens).get(), exactly(starts).get(), exactly(seeds).get(), static_cast<std::int64_t>(counts.size()), exactly(bytes).get(), exactly(spans).get(),
                   exactly(firsts).get(), exactly(rights).get(), exactly(ranks).get(), exactly(merged).get(), dropped, most, cut.get(), found.get());
    std::int64_t at = 0;
    for (std::size_t text = 0; text < counts.size(); ++text) {
        std::vector<std::uint32_t> before, after;
        std::set<std::size_t> words, ends;
        for (std::int64_t n = starts[text]; n < starts[text + 1]; ++n) {
            if (opens[n]) words.insert(before.size());
            before.insert(before.end(), spelled[ids[n]].begin(), spelled[ids[n]].end());
        }
        for (std::int64_t n = 0; n < found[text]; ++n, ++at) ends.insert(after.size()), after.insert(after.end(), spelled[cut[at]].begin(), spelled[cut[at]].end());
        if (before != after || found[text] > std::max(most, starts[text + 1] - starts[text])) return false;
        if (!std::includes(ends.begin(), ends.end(), words.begin(), words.end())) return false;
    }
    return true;
}

bool attends() {
    const std::int64_t texts = 1 + below(3), groups = 1 + below(2), heads = groups * (1 + below(3)), queries = 1 + below(5);
    const std::int64_t keys = 1 + below(below(4) ? 40 : 1024), width = 1 + below(40), wide = 1 + below(40);
    const auto q = normal(texts * heads * queries * width, 1), k = normal(texts * groups * keys * width, 1), v = normal(texts * groups * keys * wide, 1);
    const auto output = normal(texts * queries * heads * wide, 1), lse = normal(texts * heads * queries, 1);
    const std::int64_t strides[] = {heads * queries * width, queries * width, width, groups * keys * width, keys * width, width, groups * keys * wide, keys * wide, wide};
    std::unique_ptr<std::uint8_t[]> real(new std::uint8_t[texts * keys]);
    for (std::int64_t n = 0; n < texts * keys; ++n) real[n] = below(3) > 0;
    const bool padded = below(2);
    klieg_few(texts, heads, groups, queries, keys, width, wide, q.get(), k.get(), v.get(), strides, padded ? real.get() : nullptr, 0.3f, output.get(), lse.get(), 1 + below(3));
    for (std::int64_t b = 0; b < texts; ++b)
        for (std::int64_t h = 0; h < heads; ++h)
            for (std::int64_t i = 0; i < queries; ++i) {
                std::vector<double> mixed(wide);
                double sum = 0;
                for (std::int64_t j = 0; j < keys; ++j) {
                    if (padded && !real[b * keys + j]) continue;
                    double s = 0;
                    const std::int64_t g = h / (heads / groups);
                    for (std::int64_t d = 0; d < width; ++d) s += static_cast<double>(q[((b * heads + h) * queries + i) * width + d]) * k[((b * groups + g) * keys + j) * width + d];
                    sum += std::exp(0.3 * s);
                    for (std::int64_t e = 0; e < wide; ++e) mixed[e] += std::exp(0.3 * s) * v[((b * groups + g) * keys + j) * wide + e];
                }
                for (std::int64_t e = 0; e < wide; ++e)
                    if (std::fabs(output[((b * queries + i) * heads + h) * wide + e] - (sum > 0 ? mixed[e] / sum : 0)) > 1e-5) return false;
                const float found = lse[(b * heads + h) * queries + i];
                if (sum > 0 ? std::fabs(found - std::log(sum)) > 1e-5 : found != -INFINITY) return false;
            }
    return true;
}

}  // namespace

int main() {
    for (int turn = 0; turn < 200; ++turn)
        if (!drops() || !loses() || !agrees() || !likes() || !cuts() || !attends()) return std::printf("call %d\n", turn), 1;
    std::puts("1200 calls");
    return 0;
}
