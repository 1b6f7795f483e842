// A second pool of threads would fight with torch's for the processor: its idle threads spin for a
// while before they sleep. So work is handed to the OpenMP runtime that torch has loaded, through the
// one entry of it that GCC's, Clang's and Intel's all have, and which is looked up when the library
// is loaded. Where there is none, and in a forked child, whose pool stayed in the parent, threads are
// started for the call.

#include "team.h"

#include <atomic>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#if defined(__GNUC__) && defined(__ELF__)
extern "C" void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags) __attribute__((weak));
#define KLIEG_SHARED_POOL
#endif

namespace klieg {
namespace {

struct Team {
    Work work;
    void* context;
    std::int64_t pieces;
    std::atomic<std::int64_t> next{0};
    std::atomic<int> workers{0};

    void join() {
        const int worker = workers.fetch_add(1);
        for (std::int64_t piece = next.fetch_add(1); piece < pieces; piece = next.fetch_add(1)) work(context, piece, worker);
    }
};

#if defined(KLIEG_SHARED_POOL)
const pid_t loaded_by = getpid();
#endif

}  // namespace

void share(std::int64_t pieces, int threads, Work work, void* context) {
    Team team{work, context, pieces};
    if (threads > pieces) threads = static_cast<int>(pieces);
    if (threads <= 1) return team.join();
#if defined(KLIEG_SHARED_POOL)
    if (GOMP_parallel != nullptr && getpid() == loaded_by) {
        return GOMP_parallel([](void* data) { static_cast<Team*>(data)->join(); }, &team, static_cast<unsigned>(threads), 0);
    }
#endif
    constexpr int MOST = 64;
    std::thread helpers[MOST];
    int started = 0;
    try {
        while (started < MOST && started < threads - 1) {
            helpers[started] = std::thread([&team] { team.join(); });
            ++started;
        }
    } catch (const std::system_error&) {
        // The system gives no more threads: those that run do the work.
    }
    team.join();
    for (int n = 0; n < started; ++n) helpers[n].join();
}

}  // namespace klieg
