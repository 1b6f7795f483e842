// A function marked WIDEST is compiled for several instruction sets; the loader takes the widest that the
// processor has. Not under the sanitizers, which are not ready when the loader chooses: KLIEG_PLAIN.

#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(KLIEG_PLAIN)
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

// What such a function is made of: compiled into it, with its instruction set.
#if defined(__GNUC__)
#define WITHIN inline __attribute__((always_inline))
#else
#define WITHIN inline
#endif
