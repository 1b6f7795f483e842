// The door of the attention kernels: picks the widest instruction set that the processor has.

#include <cstring>

#include "attention.h"
#include "short.h"

namespace klieg {
int attention_generic(const Attention&);
int short_generic(const Short&);
#if defined(KLIEG_X86)
int attention_v3(const Attention&);
int attention_v4(const Attention&);
int short_v3(const Short&);
int short_v4(const Short&);
#endif
}  // namespace klieg

namespace {

struct Set {
    const char* name;
    int (*attention)(const klieg::Attention&);
    int (*short_texts)(const klieg::Short&);
    bool (*here)();
};

#if defined(KLIEG_X86)
bool has_v3() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_v4() { return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                       && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"); }
#endif

const Set SETS[] = {
#if defined(KLIEG_X86)
    {"avx512", klieg::attention_v4, klieg::short_v4, has_v4},
    {"avx2", klieg::attention_v3, klieg::short_v3, has_v3},
#endif
    {"generic", klieg::attention_generic, klieg::short_generic, [] { return true; }},
};

// `name` names one; null is the widest. Null when the processor has no such one.
const Set* chosen(const char* name) {
    for (const Set& set : SETS)
        if (set.here() && (name == nullptr || std::strcmp(name, set.name) == 0)) return &set;
    return nullptr;
}

}  // namespace

extern "C" {

// Name of the n-th instruction set of this processor, the widest first; null when there is no n-th.
const char* klieg_instruction_set(int n) {
    for (const Set& set : SETS)
        if (set.here() && n-- == 0) return set.name;
    return nullptr;
}

// 0, or -1 when there was not enough memory, or -2 when the processor has no such instruction set.
int klieg_attention(const klieg::Attention* problem, const char* set) {
    const Set* one = chosen(set);
    return one ? one->attention(*problem) : -2;
}

// The same of short texts.
int klieg_short(const klieg::Short* problem, const char* set) {
    const Set* one = chosen(set);
    return one ? one->short_texts(*problem) : -2;
}

// The kernels and their callers must agree on the structs.
std::size_t klieg_attention_size() { return sizeof(klieg::Attention); }
std::size_t klieg_short_size() { return sizeof(klieg::Short); }

}  // extern "C"
