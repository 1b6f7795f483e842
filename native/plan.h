// How the work on a call is cut: a function of the shapes alone, which is why any number of threads
// gives the same bits.
//
// The work on one head is cut into strips of queries, a strip into blocks of queries, a block's scores
// into register tiles. As many heads as fit into memory are worked on together, in a wave.

#pragma once

#include <algorithm>
#include <cstdint>

#include "attention.h"
#include "vector.h"

namespace {

using klieg::Attention;
using std::int64_t;

constexpr int ROWS = 4;                          // a register tile is ROWS queries by TILE vectors of keys
constexpr int TILE = LANES == 16 ? 4 : 2;
constexpr int64_t BLOCK = 64;                    // keys of a packed block
constexpr int64_t STRIP = 32;                    // at most so many strips for a head
constexpr int64_t PANEL = 1 << 22;               // numbers of a panel, unless the fewest rows need more
constexpr int64_t ASIDE = 80;                    // rows of a panel begin so much further apart, lest all fall on the same lines of a cache
constexpr int64_t WAVE = 1 << 22;                // numbers that the heads worked on together may need
constexpr int64_t SWEEP = 1024;                  // keys whose sums are kept in float before they join a double
constexpr int64_t MIXED = 256;                   // keys whose values stay near the core while all rows use them

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
inline int64_t down(int64_t n, int64_t step) { return n / step * step; }

// The bucket that a place is in: bucket n lies from edge n to before edge n + 1.
inline int64_t bucket_of(int64_t place, const int64_t* edges, int64_t count) {
    return std::upper_bound(edges, edges + count, place, [](int64_t a, int64_t b) { return a < b; }) - edges - 1;
}

struct Plan {
    const Attention& a;
    int64_t of_group;                // heads that share keys and values
    int64_t wide, stride;            // keys of a panel's row, and numbers from one row to the next
    int64_t value_width;
    int64_t rows;                    // queries of a block
    int64_t strip, strips;           // queries of a strip, and strips of a head
    int64_t packed;                  // numbers of a group's keys, values and probe
    int64_t wave;                    // heads that are worked on together

    explicit Plan(const Attention& call) : a(call) {
        of_group = a.heads / a.groups;
        wide = up(a.keys, BLOCK);
        stride = wide + ASIDE;
        value_width = a.v ? up(a.value_width, LANES) : 0;
        rows = BLOCK;
        while (rows > 4 * ROWS && rows * wide > PANEL) rows /= 2;
        strip = up((a.queries + STRIP - 1) / STRIP, BLOCK);
        strips = (a.queries + strip - 1) / strip;
        packed = wide * (a.width + value_width + 1);
        wave = most(1, least(a.batch * a.heads, WAVE / (strips * wide + packed)));
    }

    // The bucket of the map that a query is in, and how many buckets a strip meets.
    int64_t row_bucket(int64_t i) const { return bucket_of(i, a.row_edges, a.map_rows); }

    int64_t buckets_of(int64_t n) const {
        if (!a.map_sum) return 0;
        const int64_t first = n * strip, last = least(first + strip, a.queries) - 1;
        return row_bucket(last) - row_bucket(first) + 1;
    }
};

}  // namespace
