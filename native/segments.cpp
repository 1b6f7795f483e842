// Texts cut into other pieces than their own: byte-pair encoding that passes over some of its merges.
//
// A word starts as its bytes. Each round passes over every possible merge with some probability, and makes the best
// ranked one that is left, until none is (Provilkov et al. 2020, "BPE-Dropout", section 3). A text's draws follow from
// its seed alone: src/klieg/segments.py makes the same ones without this library.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

constexpr std::int32_t NONE = std::numeric_limits<std::int32_t>::max();   // the rank of what is no merge

// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
struct Draws {
    std::uint64_t state;

    std::uint32_t next() {
        std::uint64_t z = state += 0x9e3779b97f4a7c15ULL;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return static_cast<std::uint32_t>((z ^ (z >> 31)) >> 32);
    }
};

// The merges of `left` lie in rights[firsts[left]] to rights[firsts[left + 1] - 1], ascending, and beside them their ranks.
struct Merges {
    const std::int64_t* firsts;
    const std::uint32_t* rights;
    const std::int32_t* ranks;
    const std::uint32_t* merged;   // what becomes of a pair, by its rank

    std::int32_t rank(std::uint32_t left, std::uint32_t right) const {
        const std::uint32_t *start = rights + firsts[left], *stop = rights + firsts[left + 1];
        const std::uint32_t* found = std::lower_bound(start, stop, right);
        return found != stop && *found == right ? ranks[found - rights] : NONE;
    }
};

struct Word {
    std::vector<std::uint32_t> pieces;
    std::vector<std::int32_t> ranks;       // of each piece and its next

    void merge(const Merges& merges, std::uint32_t dropped, Draws& draws) {
        ranks.clear();
        for (std::size_t n = 0; n + 1 < pieces.size(); ++n) ranks.push_back(merges.rank(pieces[n], pieces[n + 1]));
        for (;;) {
            std::int32_t best = NONE;
            std::size_t place = 0;
            for (std::size_t n = 0; n < ranks.size(); ++n)         // what cannot be the best need not be drawn
                if (ranks[n] < best && draws.next() >= dropped) best = ranks[n], place = n;
            if (best == NONE) return;
            pieces[place] = merges.merged[best];
            pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(place) + 1);
            ranks.erase(ranks.begin() + static_cast<std::ptrdiff_t>(place));
            if (place > 0) ranks[place - 1] = merges.rank(pieces[place - 1], pieces[place]);
            if (place < ranks.size()) ranks[place] = merges.rank(pieces[place], pieces[place + 1]);
        }
    }
};

}  // namespace

extern "C" {

// Cuts texts, whose ids lie end to end: text n has ids[starts[n]] to ids[starts[n + 1] - 1], opens tells which of them
// begin a word, and seeds[n] decides its draws. The bytes of an id are in bytes[spans[id]] to bytes[spans[id + 1] - 1];
// the merges are as above. A share of `dropped` / 2^32 is passed over. `cut` takes the new ids, end to end, and has room
// for all bytes; counts[n] is how many a text has. A text of more than `most` keeps its own.
void klieg_segments(const std::uint32_t* ids, const std::uint8_t* opens, const std::int64_t* starts, const std::uint64_t* seeds,
                    std::int64_t texts, const std::uint32_t* bytes, const std::int64_t* spans, const std::int64_t* firsts,
                    const std::uint32_t* rights, const std::int32_t* ranks, const std::uint32_t* merged, std::uint32_t dropped,
                    std::int64_t most, std::uint32_t* cut, std::int64_t* counts) {
    const Merges merges{firsts, rights, ranks, merged};
    Word word;
    for (std::int64_t text = 0; text < texts; ++text) {
        Draws draws{seeds[text]};
        const std::int64_t stop = starts[text + 1];
        std::uint32_t* end = cut;
        for (std::int64_t n = starts[text]; n < stop;) {
            word.pieces.clear();
            do {
                word.pieces.insert(word.pieces.end(), bytes + spans[ids[n]], bytes + spans[ids[n] + 1]);
            } while (++n < stop && !opens[n]);
            word.merge(merges, dropped, draws);
            end = std::copy(word.pieces.begin(), word.pieces.end(), end);
        }
        if (end - cut > most) end = std::copy(ids + starts[text], ids + stop, cut);
        counts[text] = end - cut;
        cut = end;
    }
}

}  // extern "C"
