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
// plan.h cuts the work, tile.h multiplies, row.h and weights.h go along a row, sums.h down the columns.

#include "attention.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>

#include "desk.h"
#include "plan.h"
#include "row.h"
#include "sums.h"
#include "team.h"
#include "tile.h"
#include "weights.h"

namespace {

class Kernel {
public:
    explicit Kernel(const Attention& a) : a_(a), plan_(a), strips_(plan_) {}

    int run() {
        const int64_t heads = a_.batch * a_.heads;
        desks_ = new (std::nothrow) Desk[static_cast<std::size_t>(a_.threads)];
        const bool fits = desks_ && groups_.resize((plan_.wave / plan_.of_group + 2) * plan_.packed) && strips_.reserve();
        for (first_ = 0; fits && first_ < heads; first_ += plan_.wave) {
            const int64_t count = least(plan_.wave, heads - first_);
            const int64_t groups = (first_ + count - 1) / plan_.of_group - first_ / plan_.of_group + 1;
            share(groups * (plan_.wide / BLOCK), [](void* self, int64_t piece, int) { static_cast<Kernel*>(self)->pack(piece); });
            share(count * plan_.strips, [](void* self, int64_t piece, int worker) { static_cast<Kernel*>(self)->strip(piece, worker); });
            for (int64_t n = 0; n < count; ++n) strips_.join(n, first_ + n);
        }
        delete[] desks_;
        return fits && !failed_ ? 0 : -1;
    }

private:
    const Attention& a_;
    const Plan plan_;
    Strips strips_;
    int64_t first_ = 0;            // of the heads that are worked on together, over all texts
    Array<float> groups_;
    Desk* desks_ = nullptr;
    std::atomic<bool> failed_{false};

    void share(int64_t pieces, klieg::Work work) { klieg::share(pieces, static_cast<int>(a_.threads), work, this); }

    // Where the n-th group since the first of the wave is packed.
    float* place(int64_t n) { return groups_ + n * plan_.packed; }

    Head head_of(int64_t n) {
        const int64_t all = first_ + n, group = all / plan_.of_group;
        const float* k = place(group - first_ / plan_.of_group);
        const float* v = k + plan_.wide * a_.width;
        return {all / a_.heads, all % a_.heads, group % a_.groups, k, v, v + plan_.wide * plan_.value_width};
    }

    // Keys as columns of a block, values as rows without gaps; both end in zeros.
    void pack(int64_t piece) {
        const int64_t blocks = plan_.wide / BLOCK, block = piece % blocks, all = first_ / plan_.of_group + piece / blocks;
        const int64_t batch = all / a_.groups, group = all % a_.groups;
        const float* from = a_.k + batch * a_.k_strides[0] + group * a_.k_strides[1];
        float* k = place(piece / blocks);
        float* v = k + plan_.wide * a_.width;
        float* probe = v + plan_.wide * plan_.value_width;
        k += block * BLOCK * a_.width;
        for (int64_t n = 0; n < BLOCK; ++n) {
            const int64_t j = block * BLOCK + n;
            const bool there = j < a_.keys;
            for (int64_t d = 0; d < a_.width; ++d) k[d * BLOCK + n] = there ? from[j * a_.k_strides[2] + d] : 0.0f;
            if (a_.probe) probe[j] = there ? a_.probe[all * a_.keys + j] : 0.0f;
            if (!a_.v) continue;
            const int64_t filled = there ? a_.value_width : 0;
            float* row = v + j * plan_.value_width;
            if (there) std::memcpy(row, a_.v + batch * a_.v_strides[0] + group * a_.v_strides[1] + j * a_.v_strides[2], filled * sizeof(float));
            std::memset(row + filled, 0, (plan_.value_width - filled) * sizeof(float));
        }
    }

    void strip(int64_t piece, int worker) {
        // The last queries see the most under causality; whoever takes them begins first.
        const int64_t at = plan_.strips - 1 - piece % plan_.strips;
        const Head head = head_of(piece / plan_.strips);
        Desk& desk = desks_[worker];
        if (!desk.prepare(plan_)) {
            failed_ = true;
            return;
        }
        Sums& sums = strips_.begin(piece / plan_.strips, at);
        const int64_t end = least((at + 1) * plan_.strip, a_.queries);
        for (int64_t i = at * plan_.strip; i < end; i += plan_.rows) block(desk, head, sums, i, least(plan_.rows, end - i));
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
                    product(desk.q + r * a_.width, head.k + j * a_.width + n, a_.width, desk.panel + r * plan_.stride + j + n, plan_.stride);
        for (int64_t r = 0; r < count; ++r) {
            rows[r].start = first[r] < last[r] ? down(first[r], BLOCK) : start;
            rows[r].stop = first[r] < last[r] ? up(last[r], BLOCK) : start;
            float* s = desk.panel + r * plan_.stride;
            adjust(a_, head, s, rows[r], first_row + r);
            hide(a_, head, s, rows[r], first_row + r, first[r], last[r]);
            if (a_.mass) weigh<true>(a_, desk, head, s, rows[r], first_row + r, sums.histogram);
            else weigh<false>(a_, desk, head, s, rows[r], first_row + r, sums.histogram);
            std::memset(s + start, 0, (rows[r].start - start) * sizeof(float));
            std::memset(s + rows[r].stop, 0, (stop - rows[r].stop) * sizeof(float));
        }
        // Both go over the panel in the same steps, so that the second finds near the core what the first has read.
        if (a_.output) clear(desk, count, start, stop);
        for (int64_t from = start; from < stop; from += MIXED) {
            const int64_t to = least(from + MIXED, stop);
            if (a_.received || a_.map_sum) columns(plan_, desk, sums, rows, first_row, count, from, to);
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

    // Rows that only fill a register tile have no weights, and no row has an output yet.
    void clear(Desk& desk, int64_t count, int64_t start, int64_t stop) {
        std::memset(desk.mixed + 0, 0, up(count, ROWS) * plan_.value_width * sizeof(float));
        for (int64_t r = count; r < up(count, ROWS); ++r) std::memset(desk.panel + r * plan_.stride + start, 0, (stop - start) * sizeof(float));
    }

    // Weights times values.
    void values(Desk& desk, const Head& head, int64_t count, int64_t from, int64_t to) {
        for (int64_t r = 0; r < count; r += ROWS) {
            const float* w = desk.panel + r * plan_.stride + from;
            const float* v = head.v + from * plan_.value_width;
            float* o = desk.mixed + r * plan_.value_width;
            int64_t e = 0;
            for (; e + TILE * LANES <= plan_.value_width; e += TILE * LANES) mix<TILE>(w, plan_.stride, v + e, plan_.value_width, to - from, o + e);
            for (; e < plan_.value_width; e += LANES) mix<1>(w, plan_.stride, v + e, plan_.value_width, to - from, o + e);
        }
    }

    // The output of a block, divided by the sums of its rows.
    void give(Desk& desk, const Head& head, const Row* rows, int64_t first_row, int64_t count) {
        for (int64_t r = 0; r < count; ++r) {
            float* to = a_.output + head.batch * a_.output_strides[0] + head.head * a_.output_strides[1] + (first_row + r) * a_.output_strides[2];
            const float* from = desk.mixed + r * plan_.value_width;
            for (int64_t e = 0; e < a_.value_width; ++e) to[e] = from[e] * rows[r].scale;
        }
    }
};

}  // namespace

namespace klieg {

#define KLIEG_NAME_OF(set) attention_##set
#define KLIEG_NAME(set) KLIEG_NAME_OF(set)

int KLIEG_NAME(KLIEG_SET)(const Attention& problem) { return Kernel(problem).run(); }

}  // namespace klieg
