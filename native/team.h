// Work shared among threads: the same threads that torch uses, wherever that is possible.

#pragma once

#include <cstdint>

namespace klieg {

// One piece of work: `worker` is below the number of threads, and no two pieces of one worker overlap.
using Work = void (*)(void* context, std::int64_t piece, int worker);

// Does pieces 0 to pieces - 1, each once, in any order; returns when all are done.
void share(std::int64_t pieces, int threads, Work work, void* context);

}  // namespace klieg
