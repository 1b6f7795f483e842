// The attention kernel's door: picks the widest instruction set that the processor has.

#include <cstring>

#include "attention.h"

namespace klieg {
int attention_generic(const Attention&);
#if defined(KLIEG_X86)
int attention_v3(const Attention&);
int attention_v4(const Attention&);
#endif
}  // namespace klieg

namespace {

struct Set {
    const char* name;
    int (*run)(const klieg::Attention&);
    bool (*here)();
};

#if defined(KLIEG_X86)
bool has_v3() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_v4() { return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                       && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"); }
#endif

const Set SETS[] = {
#if defined(KLIEG_X86)
    {"avx512", klieg::attention_v4, has_v4},
    {"avx2", klieg::attention_v3, has_v3},
#endif
    {"generic", klieg::attention_generic, [] { return true; }},
};

}  // namespace

extern "C" {

// Name of the n-th instruction set of this processor, the widest first; null when there is no n-th.
const char* klieg_instruction_set(int n) {
    for (const Set& set : SETS)
        if (set.here() && n-- == 0) return set.name;
    return nullptr;
}

// 0, or -1 when there was not enough memory, or -2 when the processor has no such instruction set.
// `set` names one; null is the widest.
int klieg_attention(const klieg::Attention* problem, const char* set) {
    for (const Set& one : SETS)
        if (one.here() && (set == nullptr || std::strcmp(set, one.name) == 0)) return one.run(*problem);
    return -2;
}

// The kernel and its caller must agree on the struct.
std::size_t klieg_attention_size() { return sizeof(klieg::Attention); }

}  // extern "C"
