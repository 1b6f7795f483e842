// From a row of scores to its weights, with what is kept of the row.

#pragma once

#include <cmath>
#include <cstdint>

#include "desk.h"
#include "distances.h"
#include "largest.h"
#include "row.h"

namespace {

// Sums over the weights of a row: of w, w distance, w distance^2, w log w, and w times the probe; and the largest log w.
struct Moments {
    double mass = 0, distance = 0, squares = 0, logs = 0, probed = 0;
    float highest = -INFINITY;

    // `more` counts distances from a key that lies `offset` behind the query (ahead of it, if below zero).
    void add(const Moments& more, int64_t offset) {
        const double away = static_cast<double>(offset);
        mass += more.mass;
        distance += offset < 0 ? -(away * more.mass + more.distance) : away * more.mass + more.distance;
        squares += away * away * more.mass + 2 * away * more.distance + more.squares;
        logs += more.logs;
        probed += more.probed;
        highest = Max()(highest, more.highest);
    }
};

inline float peak(const float* s, const Row& row) {
    Vec high[4] = {splat(-INFINITY), splat(-INFINITY), splat(-INFINITY), splat(-INFINITY)};
    for (int64_t j = row.start; j < row.stop; j += BLOCK)
        for (int64_t n = 0; n < BLOCK; n += LANES) high[n / LANES % 4] = greater(high[n / LANES % 4], load(s + j + n));
    return largest(greater(greater(high[0], high[1]), greater(high[2], high[3])));
}

// The keys from `from` to `to` of a row: scores to exp2(score - base), in place, and their sums. Distances are
// counted from key `from`, or from the one that is `own` keys further, which is the query itself.
template <bool SURVEY, bool INSIDE>
inline Moments sweep(const Attention& a, const Head& head, float* s, int64_t from, int64_t to, float base, int64_t own) {
    const Vec shift = splat(base), zero = splat(static_cast<float>(own)), step = splat(static_cast<float>(LANES));
    Vec position = counting() - zero, total = {}, near = {}, squares = {}, logs = {}, probed = {}, high = splat(-INFINITY);
    for (int64_t j = from; j < to; j += LANES) {
        const Vec log = load(s + j) - shift, w = exp2(log);
        store(s + j, w);
        total += w;
        if constexpr (SURVEY) {
            const Vec distance = INSIDE ? magnitude(position) : position;
            const Vec weighted = w * distance;
            near += weighted;
            squares += weighted * distance;
            logs += w * greater(log, splat(-126.0f));
            if (a.probe) probed += w * load(head.probe + j);
            high = greater(high, log);
            position += step;
        }
    }
    return {sum(total), sum(near), sum(squares), sum(logs), sum(probed), largest(high)};
}

// Scores to weights before they are divided by their sum, and what is kept of the row.
template <bool SURVEY>
inline void weigh(const Attention& a, Desk& desk, const Head& head, float* s, Row& row, int64_t i, double* histogram) {
    const int64_t at = (head.batch * a.heads + head.head) * a.queries + i;
    const float known = a.known_lse ? a.known_lse[at] : 0.0f;
    if (a.known_lse && known == -INFINITY) row.stop = row.start;
    float highest = a.known_lse ? -INFINITY : peak(s, row);
    const float sink = a.sinks && !a.known_lse ? a.sinks[head.head] * LOG2E : -INFINITY;
    float base = a.known_lse ? known * LOG2E : (highest > sink ? highest : sink);
    if (base == -INFINITY) base = 0;

    Moments all;
    for (int64_t from = row.start; from < row.stop; from += SWEEP) {
        const int64_t to = least(from + SWEEP, row.stop), offset = from - row.slot;
        // Distances are whole numbers; counted from the sweep's corner, or from the query where it is
        // inside, their squares are small and exact.
        const bool inside = offset <= 0 && -offset < SWEEP;
        const Moments part = inside ? sweep<SURVEY, true>(a, head, s, from, to, base, -offset) : sweep<SURVEY, false>(a, head, s, from, to, base, 0);
        desk.parts[(from - row.start) / SWEEP] = part.mass;
        all.add(part, inside ? 0 : offset);
    }
    if (a.known_lse) highest = base + all.highest;
    const double mass = all.mass, entropy = -all.logs;
    row.total = a.known_lse ? 1 : mass + std::exp2(static_cast<double>(sink) - base);
    const bool blind = !(row.total > 0) && row.total == row.total;
    const double scale = blind ? 0 : 1 / row.total, log_total = a.known_lse || blind ? 0 : std::log2(row.total);
    row.scale = static_cast<float>(scale);
    a.lse[at] = a.known_lse ? known : (blind ? -INFINITY : static_cast<float>((base + log_total) * LN2));
    if constexpr (SURVEY) {
        a.max[at] = static_cast<float>(highest * LN2);
        a.mass[at] = static_cast<float>(mass * scale);
        a.entropy[at] = static_cast<float>(LN2 * (entropy + log_total * mass) * scale);
        a.distance_sum[at] = all.distance * scale;
        a.distance_squares[at] = all.squares * scale;
        a.own[at] = row.slot >= row.start && row.slot < row.stop ? s[row.slot] * row.scale : 0;
        a.first[at] = row.start == 0 && row.stop > 0 ? s[0] * row.scale : 0;
        if (a.probed) a.probed[at] = static_cast<float>(all.probed * scale);
        add_distances(a.bins, desk.parts + 0, s, row, histogram);
        if (a.top) largest_of(a, desk, s, row, at);
    }
}

}  // namespace
