// The largest weights of a row, exactly, and without sorting it.

#pragma once

#include <algorithm>
#include <cstdint>

#include "desk.h"
#include "row.h"

namespace {

// The largest weights of a row. Its `top` largest groups of keys hold them all: what is below the
// peak of the last of these groups is below `top` others.
inline void largest_of(const Attention& a, Desk& desk, const float* s, const Row& row, int64_t at) {
    const int64_t wide = row.stop - row.start, group = wide / BLOCK >= a.top ? BLOCK : LANES, groups = wide / group;
    for (int64_t n = 0; n < groups; ++n) {
        Vec high = load(s + row.start + n * group);
        for (int64_t m = LANES; m < group; m += LANES) high = greater(high, load(s + row.start + n * group + m));
        desk.peaks[n] = desk.order[n] = largest(high);
    }
    float floor = 0;
    if (groups > a.top) {
        std::nth_element(desk.order + 0, desk.order + (a.top - 1), desk.order + groups, [](float x, float y) { return x > y; });
        floor = desk.order[a.top - 1];
    }
    float* weights = a.top_weights + at * a.top;
    int64_t* keys = a.top_keys + at * a.top;
    int64_t found = 0;
    for (int64_t n = 0; n < groups; ++n) {
        if (!(desk.peaks[n] >= floor)) continue;
        for (int64_t j = row.start + n * group; j < row.start + (n + 1) * group; ++j) {
            if (j % LANES == 0 && !(largest(load(s + j)) >= floor)) {
                j += LANES - 1;
                continue;
            }
            const float w = s[j];
            if (!(w > 0) || w < floor || (found == a.top && w <= weights[found - 1])) continue;
            // Keys come in order, so an equal weight stays behind the earlier key.
            int64_t place = found < a.top ? found++ : found - 1;
            for (; place > 0 && weights[place - 1] < w; --place) {
                weights[place] = weights[place - 1];
                keys[place] = keys[place - 1];
            }
            weights[place] = w;
            keys[place] = j;
            if (found == a.top) floor = weights[found - 1];
        }
    }
    for (int64_t n = 0; n < found; ++n) weights[n] *= row.scale;
    for (int64_t n = found; n < a.top; ++n) {
        weights[n] = 0;
        keys[n] = -1;
    }
}

}  // namespace
