// e^x as training and search need it: of numbers below the largest of their row.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// e^x for x <= 0, to 3e-7 of its value; e^-87 below -87. Seven terms of 2^part for |part| <= 1/2.
inline float exponential(float x) {
    const float y = std::max(x, -87.0f) * 1.44269504f;
    const float whole = std::floor(y + 0.5f);
    const float part = y - whole;
    float p = 1.5403530e-4f;
    p = p * part + 1.3333558e-3f;
    p = p * part + 9.6181291e-3f;
    p = p * part + 5.5504109e-2f;
    p = p * part + 2.4022651e-1f;
    p = p * part + 6.9314718e-1f;
    p = p * part + 1.0f;
    const std::int32_t bits = (static_cast<std::int32_t>(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

}  // namespace
