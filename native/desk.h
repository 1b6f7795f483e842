// Memory: what a thread writes on while it works on a block of queries.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "plan.h"

namespace {

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

    T& operator[](int64_t n) { return data_[n]; }
    T* operator+(int64_t n) { return data_ + n; }

private:
    T* data_ = nullptr;
};

struct Desk {
    Array<float> q, panel, mixed, peaks, order;
    Array<double> parts;      // of a row, the sum of each sweep
    bool ready = false;

    bool prepare(const Plan& plan) {
        if (!ready)
            ready = q.resize(plan.rows * plan.a.width) && panel.resize(plan.rows * plan.stride) && mixed.resize(plan.rows * plan.value_width)
                    && peaks.resize(plan.wide / LANES) && order.resize(plan.wide / LANES) && parts.resize(plan.wide / SWEEP + 1);
        return ready;
    }
};

}  // namespace
