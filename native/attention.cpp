// Exact attention with its survey, block of queries by block of queries.
//
// For each block of queries the scores of all the keys that it may see are written to a panel, a few
// megabytes that stay near the core. The row maxima are then known, so one sweep turns scores into
// weights and sums what is kept of rows; a second walks down the columns; a third multiplies with v.
// Nothing is computed twice, which a one-pass kernel that wants column sums cannot avoid: the
// normaliser of a row is known only at its end. Memory is O(keys).
//
// Scores and log-sum-exps are in units of ln 2 throughout, so that a weight is one exp2.
//
// The work on one head is cut into strips of queries. Strips are a function of the shapes alone, each
// adds up by itself, and they are joined in order: the same bits for any number of threads.

#include "attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "team.h"
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
constexpr int64_t TERMS = 64;                    // of a sum in one go
constexpr float LOG2E = 1.44269504088896341f;
constexpr double LN2 = 0.69314718055994531;

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
int64_t down(int64_t n, int64_t step) { return n / step * step; }

// Aligned memory without first values; resize() says whether there was any.
template <typename T>
class Array {
public:
    Array() = default;
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    ~Array() { std::free(data_); }

    bool resize(int64_t count) {
        std::free(data_);
        data_ = static_cast<T*>(std::aligned_alloc(64, static_cast<std::size_t>(up(most(count, 1) * sizeof(T), 64))));
        return data_ != nullptr;
    }

    void zero(int64_t count) { std::memset(data_, 0, static_cast<std::size_t>(count) * sizeof(T)); }
    T& operator[](int64_t n) { return data_[n]; }
    T* operator+(int64_t n) { return data_ + n; }

private:
    T* data_ = nullptr;
};

// What a thread writes on while it works on a block of queries.
struct Desk {
    Array<float> q, panel, mixed, peaks, order;
    Array<double> parts;      // of a row, the sum of each sweep
    bool ready = false;

    bool prepare(int64_t rows, int64_t wide, int64_t width, int64_t value_width) {
        if (!ready)
            ready = q.resize(rows * width) && panel.resize(rows * (wide + ASIDE)) && mixed.resize(rows * value_width)
                    && peaks.resize(wide / LANES) && order.resize(wide / LANES) && parts.resize(wide / SWEEP + 1);
        return ready;
    }
};

// What a strip of queries has summed over its rows.
struct Sums {
    float* received;
    double* histogram;
    float *map_sum, *map_max;
    int64_t first_bucket;      // of rows
};

// s (ROWS, TILE * LANES) = q (ROWS, width) k (width, ...), a column of k every BLOCK numbers. Long sums
// are made of shorter ones, which keeps more digits.
inline void product(const float* q, const float* k, int64_t width, float* s, int64_t wide) {
    for (int64_t from = 0; from < width; from += TERMS) {
        const int64_t to = least(from + TERMS, width);
        Vec sums[ROWS][TILE] = {};
        for (int64_t d = from; d < to; ++d) {
            Vec keys[TILE];
            for (int n = 0; n < TILE; ++n) keys[n] = load(k + d * BLOCK + n * LANES);
            for (int r = 0; r < ROWS; ++r) {
                const Vec x = splat(q[r * width + d]);
                for (int n = 0; n < TILE; ++n) sums[r][n] += x * keys[n];
            }
        }
        for (int r = 0; r < ROWS; ++r)
            for (int n = 0; n < TILE; ++n) {
                float* to_sum = s + r * wide + n * LANES;
                store(to_sum, from ? load(to_sum) + sums[r][n] : sums[r][n]);
            }
    }
}

// o (ROWS, N * LANES) += w (ROWS, keys) v (keys, ...)
template <int N>
inline void mix(const float* w, int64_t wide, const float* v, int64_t value_width, int64_t keys, float* o) {
    Vec sums[ROWS][N] = {};
    for (int64_t j = 0; j < keys; ++j) {
        Vec values[N];
        for (int n = 0; n < N; ++n) values[n] = load(v + j * value_width + n * LANES);
        for (int r = 0; r < ROWS; ++r) {
            const Vec x = splat(w[r * wide + j]);
            for (int n = 0; n < N; ++n) sums[r][n] += x * values[n];
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int n = 0; n < N; ++n) {
            float* to = o + r * value_width + n * LANES;
            store(to, load(to) + sums[r][n]);
        }
}

struct Row {
    int64_t slot, start, stop;      // the query's own place, and the part of the panel that it uses
    float base;                     // what is taken off every score
    double total;                   // the sum of exp2(score - base), the sink's included
    float scale;                    // 1 / total
};

// One head of one text, and where its keys and values are packed.
struct Head {
    int64_t batch, head, group;
    const float *k, *v, *probe;
};

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

class Kernel {
public:
    explicit Kernel(const Attention& a) : a_(a) {}

    int run() {
        wide_ = up(a_.keys, BLOCK);
        stride_ = wide_ + ASIDE;
        value_width_ = a_.v ? up(a_.value_width, LANES) : 0;
        rows_ = BLOCK;
        while (rows_ > 4 * ROWS && rows_ * wide_ > PANEL) rows_ /= 2;
        strip_ = up((a_.queries + STRIP - 1) / STRIP, BLOCK);
        strips_ = (a_.queries + strip_ - 1) / strip_;
        packed_ = wide_ * (a_.width + value_width_ + 1);
        const int64_t heads = a_.batch * a_.heads, each = strips_ * wide_ + packed_;
        wave_ = most(1, least(heads, WAVE / each));
        desks_ = new (std::nothrow) Desk[static_cast<std::size_t>(a_.threads)];
        const bool fits = desks_ && groups_.resize((wave_ / of_group() + 2) * packed_) && sums_.resize(wave_ * strips_) && reserve();
        for (first_ = 0; fits && first_ < heads; first_ += wave_) {
            const int64_t count = least(wave_, heads - first_), groups = (first_ + count - 1) / of_group() - first_ / of_group() + 1;
            share(groups * (wide_ / BLOCK), [](void* self, int64_t piece, int) { static_cast<Kernel*>(self)->pack(piece); });
            share(count * strips_, [](void* self, int64_t piece, int worker) { static_cast<Kernel*>(self)->strip(piece, worker); });
            for (int64_t n = 0; n < count; ++n) join(n);
        }
        delete[] desks_;
        return fits && !failed_ ? 0 : -1;
    }

private:
    const Attention& a_;
    int64_t value_width_ = 0, wide_ = 0, stride_ = 0, rows_ = 0, strip_ = 0, strips_ = 0, packed_ = 0;
    int64_t wave_ = 0, first_ = 0;         // heads that are worked on together, and the first of them, over all texts
    Array<float> groups_, received_, map_;
    Array<double> histogram_;
    Array<Sums> sums_;
    Desk* desks_ = nullptr;
    std::atomic<bool> failed_{false};

    void share(int64_t pieces, klieg::Work work) { klieg::share(pieces, static_cast<int>(a_.threads), work, this); }

    int64_t of_group() const { return a_.heads / a_.groups; }

    // Where the n-th group since the first of the wave is packed.
    float* place(int64_t n) { return groups_ + n * packed_; }

    Head head_of(int64_t n) {
        const int64_t all = first_ + n, group = all / of_group();
        const float* k = place(group - first_ / of_group());
        const float* v = k + wide_ * a_.width;
        return {all / a_.heads, all % a_.heads, group % a_.groups, k, v, v + wide_ * value_width_};
    }

    int64_t row_index(const Head& head, int64_t i) const { return (head.batch * a_.heads + head.head) * a_.queries + i; }

    // Room for the sums of every strip.
    bool reserve() {
        const int64_t all = wave_ * strips_;
        int64_t cells = 0;
        for (int64_t s = 0; s < all; ++s) cells += 2 * buckets_of(s % strips_) * a_.map_columns;
        if (!(a_.received == nullptr || received_.resize(all * wide_)) || !(a_.histogram == nullptr || histogram_.resize(all * a_.bins))
            || !(a_.map_sum == nullptr || map_.resize(cells)))
            return false;
        int64_t used = 0;
        for (int64_t s = 0; s < all; ++s) {
            Sums& sums = sums_[s];
            sums.received = a_.received ? received_ + s * wide_ : nullptr;
            sums.histogram = a_.histogram ? histogram_ + s * a_.bins : nullptr;
            if (a_.map_sum) {
                const int64_t count = buckets_of(s % strips_) * a_.map_columns;
                sums.first_bucket = bucket_of(s % strips_ * strip_);
                sums.map_sum = map_ + used;
                sums.map_max = sums.map_sum + count;
                used += 2 * count;
            }
        }
        return true;
    }

    static int64_t bucket_of(int64_t place, const int64_t* edges, int64_t count) {
        return std::upper_bound(edges, edges + count, place, [](int64_t a, int64_t b) { return a < b; }) - edges - 1;
    }

    int64_t bucket_of(int64_t row) const { return bucket_of(row, a_.row_edges, a_.map_rows); }

    int64_t buckets_of(int64_t strip) const {
        if (!a_.map_sum) return 0;
        const int64_t first = strip * strip_, last = least(first + strip_, a_.queries) - 1;
        return bucket_of(last) - bucket_of(first) + 1;
    }

    // Keys as columns of a block, values as rows without gaps; both end in zeros.
    void pack(int64_t piece) {
        const int64_t blocks = wide_ / BLOCK, block = piece % blocks, all = first_ / of_group() + piece / blocks;
        const int64_t batch = all / a_.groups, group = all % a_.groups;
        const float* from = a_.k + batch * a_.k_strides[0] + group * a_.k_strides[1];
        float* k = place(piece / blocks);
        float* v = k + wide_ * a_.width;
        float* probe = v + wide_ * value_width_;
        k += block * BLOCK * a_.width;
        for (int64_t n = 0; n < BLOCK; ++n) {
            const int64_t j = block * BLOCK + n;
            const bool there = j < a_.keys;
            for (int64_t d = 0; d < a_.width; ++d) k[d * BLOCK + n] = there ? from[j * a_.k_strides[2] + d] : 0.0f;
            if (a_.probe) probe[j] = there ? a_.probe[all * a_.keys + j] : 0.0f;
            if (!a_.v) continue;
            const int64_t filled = there ? a_.value_width : 0;
            float* row = v + j * value_width_;
            if (there) std::memcpy(row, a_.v + batch * a_.v_strides[0] + group * a_.v_strides[1] + j * a_.v_strides[2], filled * sizeof(float));
            std::memset(row + filled, 0, (value_width_ - filled) * sizeof(float));
        }
    }

    void strip(int64_t piece, int worker) {
        // The last queries see the most under causality; whoever takes them begins first.
        const int64_t at = strips_ - 1 - piece % strips_;
        const Head head = head_of(piece / strips_);
        Desk& desk = desks_[worker];
        if (!desk.prepare(rows_, wide_, a_.width, value_width_)) {
            failed_ = true;
            return;
        }
        Sums& sums = sums_[piece / strips_ * strips_ + at];
        if (sums.received) std::memset(sums.received, 0, wide_ * sizeof(float));
        if (sums.histogram) std::memset(sums.histogram, 0, a_.bins * sizeof(double));
        if (a_.map_sum) std::memset(sums.map_sum, 0, 2 * buckets_of(at) * a_.map_columns * sizeof(float));
        const int64_t end = least((at + 1) * strip_, a_.queries);
        for (int64_t i = at * strip_; i < end; i += rows_) block(desk, head, sums, i, least(rows_, end - i));
    }

    // A block of queries: scores, weights, columns, values.
    void block(Desk& desk, const Head& head, Sums& sums, int64_t first_row, int64_t count) {
        Row rows[BLOCK];
        int64_t start = a_.keys, stop = 0;
        const int64_t* first = a_.seen_from + head.batch * a_.span_stride + first_row;
        const int64_t* last = a_.seen_to + head.batch * a_.span_stride + first_row;
        for (int64_t r = 0; r < count; ++r) {
            rows[r].slot = a_.first_slot + first_row + r;
            if (first[r] >= last[r]) continue;
            start = least(start, first[r]);
            stop = most(stop, last[r]);
        }
        start = down(start, BLOCK);
        stop = start < stop ? up(stop, BLOCK) : start;
        take_queries(desk, head, first_row, count);
        for (int64_t j = start; j < stop; j += BLOCK)
            for (int64_t r = 0; r < count; r += ROWS)
                for (int64_t n = 0; n < BLOCK; n += TILE * LANES)
                    product(desk.q + r * a_.width, head.k + j * a_.width + n, a_.width, desk.panel + r * stride_ + j + n, stride_);
        for (int64_t r = 0; r < count; ++r) {
            rows[r].start = first[r] < last[r] ? down(first[r], BLOCK) : start;
            rows[r].stop = first[r] < last[r] ? up(last[r], BLOCK) : start;
            float* s = desk.panel + r * stride_;
            adjust(head, s, rows[r], first_row + r);
            hide(head, s, rows[r], first_row + r, first[r], last[r]);
            if (a_.mass) weigh<true>(desk, head, sums, s, rows[r], first_row + r);
            else weigh<false>(desk, head, sums, s, rows[r], first_row + r);
            std::memset(s + start, 0, (rows[r].start - start) * sizeof(float));
            std::memset(s + rows[r].stop, 0, (stop - rows[r].stop) * sizeof(float));
        }
        // Both go over the panel in the same steps, so that the second finds near the core what the first has read.
        if (a_.output) clear(desk, count, start, stop);
        for (int64_t from = start; from < stop; from += MIXED) {
            const int64_t to = least(from + MIXED, stop);
            if (a_.received || a_.map_sum) columns(desk, sums, rows, first_row, count, from, to);
            if (a_.output) values(desk, head, count, from, to);
        }
        if (a_.output) give(desk, head, rows, first_row, count);
    }

    // The queries times the scale, in units of ln 2 unless a cap comes first; rows that fill a tile are zero.
    void take_queries(Desk& desk, const Head& head, int64_t first_row, int64_t count) {
        const float factor = a_.softcap > 0 ? a_.scale / a_.softcap : a_.scale * LOG2E;
        for (int64_t r = 0; r < up(count, ROWS); ++r) {
            const float* from = a_.q + head.batch * a_.q_strides[0] + head.head * a_.q_strides[1] + (first_row + r) * a_.q_strides[2];
            for (int64_t d = 0; d < a_.width; ++d) desk.q[r * a_.width + d] = r < count ? from[d] * factor : 0.0f;
        }
    }

    // Cap and bias.
    void adjust(const Head& head, float* s, const Row& row, int64_t i) const {
        if (a_.softcap > 0)
            for (int64_t j = row.start; j < row.stop; j += LANES) store(s + j, tanh(load(s + j)) * splat(a_.softcap * LOG2E));
        if (!a_.bias) return;
        const float* bias = a_.bias + head.batch * a_.bias_strides[0] + head.head * a_.bias_strides[1] + i * a_.bias_strides[2];
        const int64_t step = a_.bias_strides[3], stop = least(row.stop, a_.keys);
        for (int64_t j = row.start; j < stop; ++j) s[j] += bias[j * step] * LOG2E;
    }

    // -inf wherever the query may not look.
    void hide(const Head& head, float* s, const Row& row, int64_t i, int64_t first, int64_t last) const {
        for (int64_t j = row.start; j < least(first, row.stop); ++j) s[j] = -INFINITY;
        for (int64_t j = most(last, row.start); j < row.stop; ++j) s[j] = -INFINITY;
        if (a_.real) {
            const std::uint8_t* real = a_.real + head.batch * a_.real_stride;
            for (int64_t j = first; j < last; ++j) s[j] = real[j] ? s[j] : -INFINITY;
        }
        if (a_.documents_i) {
            const int64_t document = a_.documents_i[head.batch * a_.documents_strides[0] + i];
            const int64_t* documents = a_.documents_j + head.batch * a_.documents_strides[1];
            for (int64_t j = first; j < last; ++j) s[j] = documents[j] == document ? s[j] : -INFINITY;
        }
        if (a_.allowed) {
            const std::uint8_t* allowed = a_.allowed + head.batch * a_.allowed_strides[0] + head.head * a_.allowed_strides[1] + i * a_.allowed_strides[2];
            for (int64_t j = first; j < last; ++j) s[j] = allowed[j] ? s[j] : -INFINITY;
        }
    }

    static float peak(const float* s, const Row& row) {
        Vec high[4] = {splat(-INFINITY), splat(-INFINITY), splat(-INFINITY), splat(-INFINITY)};
        for (int64_t j = row.start; j < row.stop; j += BLOCK)
            for (int64_t n = 0; n < BLOCK; n += LANES) high[n / LANES % 4] = greater(high[n / LANES % 4], load(s + j + n));
        return largest(greater(greater(high[0], high[1]), greater(high[2], high[3])));
    }

    // The keys from `from` to `to` of a row: scores to exp2(score - base), in place, and their sums. Distances are
    // counted from key `from`, or from the one that is `own` keys further, which is the query itself.
    template <bool SURVEY, bool INSIDE>
    Moments sweep(const Head& head, float* s, int64_t from, int64_t to, float base, int64_t own) const {
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
                if (a_.probe) probed += w * load(head.probe + j);
                high = greater(high, log);
                position += step;
            }
        }
        return {sum(total), sum(near), sum(squares), sum(logs), sum(probed), largest(high)};
    }

    // Scores to weights before they are divided by their sum, and what is kept of the row.
    template <bool SURVEY>
    void weigh(Desk& desk, const Head& head, Sums& sums, float* s, Row& row, int64_t i) {
        const int64_t at = row_index(head, i);
        const float known = a_.known_lse ? a_.known_lse[at] : 0.0f;
        if (a_.known_lse && known == -INFINITY) row.stop = row.start;
        float highest = a_.known_lse ? -INFINITY : peak(s, row);
        const float sink = a_.sinks && !a_.known_lse ? a_.sinks[head.head] * LOG2E : -INFINITY;
        float base = a_.known_lse ? known * LOG2E : (highest > sink ? highest : sink);
        if (base == -INFINITY) base = 0;

        Moments all;
        for (int64_t from = row.start; from < row.stop; from += SWEEP) {
            const int64_t to = least(from + SWEEP, row.stop), offset = from - row.slot;
            // Distances are whole numbers; counted from the sweep's corner, or from the query where it is
            // inside, their squares are small and exact.
            const bool inside = offset <= 0 && -offset < SWEEP;
            const Moments part = inside ? sweep<SURVEY, true>(head, s, from, to, base, -offset) : sweep<SURVEY, false>(head, s, from, to, base, 0);
            desk.parts[(from - row.start) / SWEEP] = part.mass;
            all.add(part, inside ? 0 : offset);
        }
        if (a_.known_lse) highest = base + all.highest;
        const double mass = all.mass, entropy = -all.logs;
        row.total = a_.known_lse ? 1 : mass + std::exp2(static_cast<double>(sink) - base);
        const bool blind = !(row.total > 0) && row.total == row.total;
        const double scale = blind ? 0 : 1 / row.total, log_total = a_.known_lse || blind ? 0 : std::log2(row.total);
        row.scale = static_cast<float>(scale);
        a_.lse[at] = a_.known_lse ? known : (blind ? -INFINITY : static_cast<float>((base + log_total) * LN2));
        if constexpr (SURVEY) {
            a_.max[at] = static_cast<float>(highest * LN2);
            a_.mass[at] = static_cast<float>(mass * scale);
            a_.entropy[at] = static_cast<float>(LN2 * (entropy + log_total * mass) * scale);
            a_.distance_sum[at] = all.distance * scale;
            a_.distance_squares[at] = all.squares * scale;
            a_.own[at] = row.slot >= row.start && row.slot < row.stop ? s[row.slot] * row.scale : 0;
            a_.first[at] = row.start == 0 && row.stop > 0 ? s[0] * row.scale : 0;
            if (a_.probed) a_.probed[at] = static_cast<float>(all.probed * scale);
            histogram(desk, sums, s, row);
            if (a_.top) largest_of(desk, s, row, at);
        }
    }

    // A bin of distance is a run of keys on either side of the query, so its weight is the sum of a run.
    void histogram(Desk& desk, Sums& sums, const float* s, const Row& row) const {
        for (int64_t bin = 0; bin < a_.bins; ++bin) {
            const int64_t near = bin ? int64_t{1} << (bin - 1) : 0;
            const int64_t far = bin == a_.bins - 1 ? INT64_MAX / 2 : (bin ? near * 2 : 1);      // the last is open
            const int64_t behind = most(row.start, row.slot - far + 1), ahead = least(row.stop, row.slot + far);
            const double found = near ? run(desk, s, row, behind, least(row.stop, row.slot - near + 1))
                                            + run(desk, s, row, most(row.start, row.slot + near), ahead)
                                      : run(desk, s, row, behind, ahead);
            sums.histogram[bin] += found * row.scale;
            if (row.slot - far < row.start && row.slot + far >= row.stop) break;
        }
    }

    // The sum of a run of keys: whole sweeps are known.
    static double run(Desk& desk, const float* s, const Row& row, int64_t from, int64_t to) {
        double total = 0;
        while (from < to) {
            const int64_t sweep = (from - row.start) / SWEEP, start = row.start + sweep * SWEEP, stop = least(start + SWEEP, row.stop);
            total += from == start && to >= stop ? desk.parts[sweep] : few(s, from, least(to, stop));
            from = stop;
        }
        return total;
    }

    static double few(const float* s, int64_t from, int64_t to) {
        Vec sum0 = {}, sum1 = {};
        for (; from + 2 * LANES <= to; from += 2 * LANES) {
            sum0 += load(s + from);
            sum1 += load(s + from + LANES);
        }
        double total = sum(sum0 + sum1);
        for (; from < to; ++from) total += s[from];
        return total;
    }

    // The largest weights of a row. Its `top` largest groups of keys hold them all: what is below the
    // peak of the last of these groups is below `top` others.
    void largest_of(Desk& desk, const float* s, const Row& row, int64_t at) {
        const int64_t wide = row.stop - row.start, group = wide / BLOCK >= a_.top ? BLOCK : LANES, groups = wide / group;
        for (int64_t n = 0; n < groups; ++n) {
            Vec high = load(s + row.start + n * group);
            for (int64_t m = LANES; m < group; m += LANES) high = greater(high, load(s + row.start + n * group + m));
            desk.peaks[n] = desk.order[n] = largest(high);
        }
        float floor = 0;
        if (groups > a_.top) {
            std::nth_element(desk.order + 0, desk.order + (a_.top - 1), desk.order + groups, [](float x, float y) { return x > y; });
            floor = desk.order[a_.top - 1];
        }
        float* weights = a_.top_weights + at * a_.top;
        int64_t* keys = a_.top_keys + at * a_.top;
        int64_t found = 0;
        for (int64_t n = 0; n < groups; ++n) {
            if (!(desk.peaks[n] >= floor)) continue;
            for (int64_t j = row.start + n * group; j < row.start + (n + 1) * group; ++j) {
                if (j % LANES == 0 && !(largest(load(s + j)) >= floor)) {
                    j += LANES - 1;
                    continue;
                }
                const float w = s[j];
                if (!(w > 0) || w < floor || (found == a_.top && w <= weights[found - 1])) continue;
                // Keys come in order, so an equal weight stays behind the earlier key.
                int64_t place = found < a_.top ? found++ : found - 1;
                for (; place > 0 && weights[place - 1] < w; --place) {
                    weights[place] = weights[place - 1];
                    keys[place] = keys[place - 1];
                }
                weights[place] = w;
                keys[place] = j;
                if (found == a_.top) floor = weights[found - 1];
            }
        }
        for (int64_t n = 0; n < found; ++n) weights[n] *= row.scale;
        for (int64_t n = found; n < a_.top; ++n) {
            weights[n] = 0;
            keys[n] = -1;
        }
    }

    // Down the columns, the rows of one bucket of the map at a time.
    void columns(Desk& desk, Sums& sums, const Row* rows, int64_t first_row, int64_t count, int64_t start, int64_t stop) {
        int64_t bucket = a_.map_sum ? bucket_of(first_row) : 0;
        for (int64_t r = 0; r < count; ++bucket) {
            const int64_t end = a_.map_sum ? least(count, a_.row_edges[bucket + 1] - first_row) : count;
            float* map_sum = a_.map_sum ? sums.map_sum + (bucket - sums.first_bucket) * a_.map_columns : nullptr;
            float* map_max = a_.map_sum ? sums.map_max + (bucket - sums.first_bucket) * a_.map_columns : nullptr;
            int64_t column = a_.map_sum ? bucket_of(start, a_.column_edges, a_.map_columns) : 0;
            for (int64_t j = start; j < stop; j += BLOCK) {
                Vec total[BLOCK / LANES] = {}, high[BLOCK / LANES] = {};
                for (int64_t n = r; n < end; ++n) {
                    if (j < rows[n].start || j >= rows[n].stop) continue;
                    const Vec scale = splat(rows[n].scale);
                    const float* s = desk.panel + n * stride_ + j;
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
                if (map_sum) pool(total, high, j, column, map_sum, map_max);
            }
            r = end;
        }
    }

    // Sums and maxima of a block of columns into their buckets.
    void pool(const Vec* total, const Vec* high, int64_t j, int64_t& column, float* map_sum, float* map_max) const {
        while (a_.column_edges[column + 1] <= j) ++column;
        if (a_.column_edges[column + 1] >= j + BLOCK) {
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
        const int64_t stop = least(j + BLOCK, a_.keys);
        for (int64_t at = j; at < stop; ++column) {
            const int64_t end = least(stop, a_.column_edges[column + 1]);
            for (; at < end; ++at) {
                map_sum[column] += totals[at - j];
                map_max[column] = Max()(map_max[column], highs[at - j]);
            }
            if (at == stop) break;
        }
    }

    // Rows that only fill a register tile have no weights, and no row has an output yet.
    void clear(Desk& desk, int64_t count, int64_t start, int64_t stop) {
        std::memset(desk.mixed + 0, 0, up(count, ROWS) * value_width_ * sizeof(float));
        for (int64_t r = count; r < up(count, ROWS); ++r) std::memset(desk.panel + r * stride_ + start, 0, (stop - start) * sizeof(float));
    }

    // Weights times values.
    void values(Desk& desk, const Head& head, int64_t count, int64_t from, int64_t to) {
        for (int64_t r = 0; r < count; r += ROWS) {
            const float* w = desk.panel + r * stride_ + from;
            const float* v = head.v + from * value_width_;
            float* o = desk.mixed + r * value_width_;
            int64_t e = 0;
            for (; e + TILE * LANES <= value_width_; e += TILE * LANES) mix<TILE>(w, stride_, v + e, value_width_, to - from, o + e);
            for (; e < value_width_; e += LANES) mix<1>(w, stride_, v + e, value_width_, to - from, o + e);
        }
    }

    // The output of a block, divided by the sums of its rows.
    void give(Desk& desk, const Head& head, const Row* rows, int64_t first_row, int64_t count) {
        for (int64_t r = 0; r < count; ++r) {
            float* to = a_.output + head.batch * a_.output_strides[0] + head.head * a_.output_strides[1] + (first_row + r) * a_.output_strides[2];
            const float* from = desk.mixed + r * value_width_;
            for (int64_t e = 0; e < a_.value_width; ++e) to[e] = from[e] * rows[r].scale;
        }
    }

    // The strips of a head, in their order.
    void join(int64_t n) {
        const int64_t head = first_ + n;
        const Sums* strips = sums_ + n * strips_;
        if (a_.received) {
            float* to = a_.received + head * a_.keys;
            std::memset(to, 0, a_.keys * sizeof(float));
            for (int64_t s = 0; s < strips_; ++s)
                for (int64_t j = 0; j < a_.keys; ++j) to[j] += strips[s].received[j];
        }
        if (a_.histogram)
            for (int64_t bin = 0; bin < a_.bins; ++bin) {
                double total = 0;
                for (int64_t s = 0; s < strips_; ++s) total += strips[s].histogram[bin];
                a_.histogram[head * a_.bins + bin] = static_cast<float>(total);
            }
        if (!a_.map_sum) return;
        const int64_t cells = a_.map_rows * a_.map_columns;
        std::memset(a_.map_sum + head * cells, 0, cells * sizeof(float));
        std::memset(a_.map_max + head * cells, 0, cells * sizeof(float));
        for (int64_t s = 0; s < strips_; ++s) {
            float* total = a_.map_sum + head * cells + strips[s].first_bucket * a_.map_columns;
            float* high = a_.map_max + head * cells + strips[s].first_bucket * a_.map_columns;
            for (int64_t cell = 0; cell < buckets_of(s) * a_.map_columns; ++cell) {
                total[cell] += strips[s].map_sum[cell];
                high[cell] = Max()(high[cell], strips[s].map_max[cell]);
            }
        }
    }
};

}  // namespace

namespace klieg {

#define KLIEG_NAME_OF(set) attention_##set
#define KLIEG_NAME(set) KLIEG_NAME_OF(set)

int KLIEG_NAME(KLIEG_SET)(const Attention& problem) { return Kernel(problem).run(); }

}  // namespace klieg
