// Numbers as they lie in memory, float32 or bfloat16, and the float32 that is computed with. A bfloat16 is the
// upper half of a float32, so nothing is lost on the way up.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

using Half = std::uint16_t;   // the bits of a bfloat16

inline float widened(float x) { return x; }

inline float widened(Half half) {
    const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void narrow(float x, float& to) { to = x; }

// To the nearest, of two the even one; a NaN stays one.
inline void narrow(float x, Half& to) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const std::uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to = static_cast<Half>(x == x ? nearest : (bits >> 16) | 0x40);
}

}  // namespace
