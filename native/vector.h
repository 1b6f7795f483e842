// Vectors as wide as the processor's registers, and the few functions of them that attention needs.
//
// GCC's and Clang's vector types say what to compute and leave the instructions to the compiler, so
// one text serves AVX-512, AVX2, SSE and NEON. Everything is in an unnamed namespace: this header is
// compiled several times with different instruction sets, and the linker must not mix the results.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

template <typename T, int N>
struct Wide {
    typedef T type __attribute__((vector_size(N * sizeof(T))));
};

using Vec = Wide<float, LANES>::type;
using Int = Wide<std::int32_t, LANES>::type;

inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// A number less a vector is a vector; less zero, it is the number in every lane.
inline Vec splat(float x) { return x - Vec{}; }

// 0, 1, 2, ...
inline Vec counting() {
    Vec v;
    for (int n = 0; n < LANES; ++n) v[n] = static_cast<float>(n);
    return v;
}

// A NaN on either side of a comparison is false: these keep `a`, and never lose a NaN that it holds.
inline Vec greater(Vec a, Vec b) { return b > a ? b : a; }
inline Vec smaller(Vec a, Vec b) { return b < a ? b : a; }

// |x|: the sign is the first bit.
inline Vec magnitude(Vec x) {
    Int bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits &= 0x7fffffff;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

struct Add {
    template <typename T>
    T operator()(T a, T b) const { return a + b; }
};

struct Max {
    template <typename T>
    T operator()(T a, T b) const { return b > a ? b : a; }
};

// All lanes made one, upper half on lower half, always in the same order.
template <int N, typename Join>
inline float fold(const typename Wide<float, N>::type& v, Join join) {
    if constexpr (N == 2) {
        return join(static_cast<float>(v[0]), static_cast<float>(v[1]));
    } else {
        typename Wide<float, N / 2>::type low, high;
        std::memcpy(&low, &v, sizeof low);
        std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
        return fold<N / 2>(join(low, high), join);
    }
}

inline float sum(Vec v) { return fold<LANES>(v, Add()); }
inline float largest(Vec v) { return fold<LANES>(v, Max()); }

// x = n + f with n whole and |f| <= 1/2. Adding 1.5 * 2^23 leaves no room for a fraction, so the last
// bits of the sum are n, and shifted into the exponent they are 2^n.
struct Split {
    Vec fraction, power;

    explicit Split(Vec x) {
        const Vec magic = splat(12582912.0f);
        const Vec shifted = x + magic;
        fraction = x - (shifted - magic);
        Int bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        bits = (bits << 23) + 0x3f800000;
        std::memcpy(&power, &bits, sizeof power);
    }
};

// 2^f - 1 for |f| <= 1/2: f times the polynomial of degree 6 whose largest relative error of 2^f is
// smallest (2.3e-10, by Remez's exchange).
inline Vec exp2_minus_1(Vec f) {
    Vec p = splat(1.33598319987e-5f);
    p = p * f + splat(1.54613676572e-4f);
    p = p * f + splat(1.33419510024e-3f);
    p = p * f + splat(9.61805691935e-3f);
    p = p * f + splat(5.55040037532e-2f);
    p = p * f + splat(2.40226509208e-1f);
    p = p * f + splat(6.93147183817e-1f);
    return p * f;
}

// 2^x for x < 128; exactly 0 where it would be no normal float, and NaN of a NaN.
inline Vec exp2(Vec x) {
    const Vec lowest = splat(-126.0f);
    const Split split(x < lowest ? lowest : x);
    const Vec value = exp2_minus_1(split.fraction) * split.power + split.power;
    return x < lowest ? splat(0.0f) : value;
}

// tanh(x) = t / (t + 2) with t = e^2x - 1, which keeps its digits where e^2x is nearly 1.
inline Vec tanh(Vec x) {
    const Vec limit = splat(10.0f);
    const Vec bounded = x > limit ? limit : (x < -limit ? -limit : x);
    const Split split(bounded * splat(2.0f * 1.44269504f));
    const Vec t = exp2_minus_1(split.fraction) * split.power + (split.power - splat(1.0f));
    return t / (t + splat(2.0f));
}

}  // namespace
