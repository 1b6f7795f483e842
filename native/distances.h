// How far a row looks: its weight by bins of distance, each twice as wide as the one before.

#pragma once

#include <cstdint>

#include "row.h"

namespace {

inline double few(const float* s, int64_t from, int64_t to) {
    Vec sum0 = {}, sum1 = {};
    for (; from + 2 * LANES <= to; from += 2 * LANES) {
        sum0 += load(s + from);
        sum1 += load(s + from + LANES);
    }
    double total = sum(sum0 + sum1);
    for (; from < to; ++from) total += s[from];
    return total;
}

// The sum of a run of keys: whole sweeps are known.
inline double run(const double* parts, const float* s, const Row& row, int64_t from, int64_t to) {
    double total = 0;
    while (from < to) {
        const int64_t sweep = (from - row.start) / SWEEP, start = row.start + sweep * SWEEP, stop = least(start + SWEEP, row.stop);
        total += from == start && to >= stop ? parts[sweep] : few(s, from, least(to, stop));
        from = stop;
    }
    return total;
}

// A bin of distance is a run of keys on either side of the query, so its weight is the sum of a run.
inline void add_distances(int64_t bins, const double* parts, const float* s, const Row& row, double* histogram) {
    for (int64_t n = 0; n < bins; ++n) {
        const int64_t near = n ? int64_t{1} << (n - 1) : 0;
        const int64_t far = n == bins - 1 ? INT64_MAX / 2 : (n ? near * 2 : 1);      // the last is open
        const int64_t behind = most(row.start, row.slot - far + 1), ahead = least(row.stop, row.slot + far);
        const double found = near ? run(parts, s, row, behind, least(row.stop, row.slot - near + 1))
                                        + run(parts, s, row, most(row.start, row.slot + near), ahead)
                                  : run(parts, s, row, behind, ahead);
        histogram[n] += found * row.scale;
        if (row.slot - far < row.start && row.slot + far >= row.stop) break;
    }
}

}  // namespace
