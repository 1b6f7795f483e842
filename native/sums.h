// Down the columns: what each key receives, the map in buckets, and the histogram, which all add up over rows.
//
// Each strip of queries adds up by itself, and strips are joined in their order.

#pragma once

#include <cstdint>
#include <cstring>

#include "desk.h"
#include "plan.h"
#include "row.h"

namespace {

// What a strip of queries has summed over its rows.
struct Sums {
    float* received;
    double* histogram;
    float *map_sum, *map_max;
    int64_t first_bucket;      // of rows
};

// Sums and maxima of a block of columns into their buckets.
inline void pool(const Attention& a, const Vec* total, const Vec* high, int64_t j, int64_t& column, float* map_sum, float* map_max) {
    while (a.column_edges[column + 1] <= j) ++column;
    if (a.column_edges[column + 1] >= j + BLOCK) {
        Vec all = total[0], peak = high[0];
        for (int64_t m = 1; m < BLOCK / LANES; ++m) {
            all += total[m];
            peak = greater(peak, high[m]);
        }
        map_sum[column] += sum(all);
        map_max[column] = Max()(map_max[column], largest(peak));
        return;
    }
    float totals[BLOCK], highs[BLOCK];
    std::memcpy(totals, total, sizeof totals);
    std::memcpy(highs, high, sizeof highs);
    const int64_t stop = least(j + BLOCK, a.keys);
    for (int64_t at = j; at < stop; ++column) {
        const int64_t end = least(stop, a.column_edges[column + 1]);
        for (; at < end; ++at) {
            map_sum[column] += totals[at - j];
            map_max[column] = Max()(map_max[column], highs[at - j]);
        }
        if (at == stop) break;
    }
}

// Down the columns, the rows of one bucket of the map at a time.
inline void columns(const Plan& plan, Desk& desk, Sums& sums, const Row* rows, int64_t first_row, int64_t count, int64_t start, int64_t stop) {
    const Attention& a = plan.a;
    int64_t bucket = a.map_sum ? plan.row_bucket(first_row) : 0;
    for (int64_t r = 0; r < count; ++bucket) {
        const int64_t end = a.map_sum ? least(count, a.row_edges[bucket + 1] - first_row) : count;
        float* map_sum = a.map_sum ? sums.map_sum + (bucket - sums.first_bucket) * a.map_columns : nullptr;
        float* map_max = a.map_sum ? sums.map_max + (bucket - sums.first_bucket) * a.map_columns : nullptr;
        int64_t column = a.map_sum ? bucket_of(start, a.column_edges, a.map_columns) : 0;
        for (int64_t j = start; j < stop; j += BLOCK) {
            Vec total[BLOCK / LANES] = {}, high[BLOCK / LANES] = {};
            for (int64_t n = r; n < end; ++n) {
                if (j < rows[n].start || j >= rows[n].stop) continue;
                const Vec scale = splat(rows[n].scale);
                const float* s = desk.panel + n * plan.stride + j;
                for (int64_t m = 0; m < BLOCK / LANES; ++m) {
                    const Vec w = load(s + m * LANES) * scale;
                    total[m] += w;
                    high[m] = greater(high[m], w);
                }
            }
            if (sums.received)
                for (int64_t m = 0; m < BLOCK / LANES; ++m) {
                    float* to = sums.received + j + m * LANES;
                    store(to, load(to) + total[m]);
                }
            if (map_sum) pool(a, total, high, j, column, map_sum, map_max);
        }
        r = end;
    }
}

// The sums of every strip of the heads that are worked on together.
class Strips {
public:
    explicit Strips(const Plan& plan) : plan_(plan) {}

    // Makes room; false where there is none.
    bool reserve() {
        const Attention& a = plan_.a;
        const int64_t all = plan_.wave * plan_.strips;
        int64_t cells = 0;
        for (int64_t s = 0; s < all; ++s) cells += 2 * plan_.buckets_of(s % plan_.strips) * a.map_columns;
        if (!sums_.resize(all) || !(a.received == nullptr || received_.resize(all * plan_.wide))
            || !(a.histogram == nullptr || histogram_.resize(all * a.bins)) || !(a.map_sum == nullptr || map_.resize(cells)))
            return false;
        int64_t used = 0;
        for (int64_t s = 0; s < all; ++s) {
            Sums& sums = sums_[s];
            sums.received = a.received ? received_ + s * plan_.wide : nullptr;
            sums.histogram = a.histogram ? histogram_ + s * a.bins : nullptr;
            if (a.map_sum) {
                const int64_t count = plan_.buckets_of(s % plan_.strips) * a.map_columns;
                sums.first_bucket = plan_.row_bucket(s % plan_.strips * plan_.strip);
                sums.map_sum = map_ + used;
                sums.map_max = sums.map_sum + count;
                used += 2 * count;
            }
        }
        return true;
    }

    // The sums of strip `at` of the n-th head, from zero.
    Sums& begin(int64_t n, int64_t at) {
        const Attention& a = plan_.a;
        Sums& sums = sums_[n * plan_.strips + at];
        if (sums.received) std::memset(sums.received, 0, plan_.wide * sizeof(float));
        if (sums.histogram) std::memset(sums.histogram, 0, a.bins * sizeof(double));
        if (a.map_sum) std::memset(sums.map_sum, 0, 2 * plan_.buckets_of(at) * a.map_columns * sizeof(float));
        return sums;
    }

    // The strips of a head, in their order.
    void join(int64_t n, int64_t head) {
        const Attention& a = plan_.a;
        const Sums* strips = sums_ + n * plan_.strips;
        if (a.received) {
            float* to = a.received + head * a.keys;
            std::memset(to, 0, a.keys * sizeof(float));
            for (int64_t s = 0; s < plan_.strips; ++s)
                for (int64_t j = 0; j < a.keys; ++j) to[j] += strips[s].received[j];
        }
        if (a.histogram)
            for (int64_t bin = 0; bin < a.bins; ++bin) {
                double total = 0;
                for (int64_t s = 0; s < plan_.strips; ++s) total += strips[s].histogram[bin];
                a.histogram[head * a.bins + bin] = static_cast<float>(total);
            }
        if (!a.map_sum) return;
        const int64_t cells = a.map_rows * a.map_columns;
        std::memset(a.map_sum + head * cells, 0, cells * sizeof(float));
        std::memset(a.map_max + head * cells, 0, cells * sizeof(float));
        for (int64_t s = 0; s < plan_.strips; ++s) {
            float* total = a.map_sum + head * cells + strips[s].first_bucket * a.map_columns;
            float* high = a.map_max + head * cells + strips[s].first_bucket * a.map_columns;
            for (int64_t cell = 0; cell < plan_.buckets_of(s) * a.map_columns; ++cell) {
                total[cell] += strips[s].map_sum[cell];
                high[cell] = Max()(high[cell], strips[s].map_max[cell]);
            }
        }
    }

private:
    const Plan& plan_;
    Array<Sums> sums_;
    Array<float> received_, map_;
    Array<double> histogram_;
};

}  // namespace
