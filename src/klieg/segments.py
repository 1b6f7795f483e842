"""BPE dropout: the same text cut into pieces in another way each time it is read.

A merge that could be made is passed over with some probability, so that rare long pieces and
the short ones they are made of learn from each other. By a seed: the `tokenizers` library has
this too, but draws from a source that cannot be seeded, and a run could not be taken up again.

Source: Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization".
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

from klieg.errors import KliegError
from klieg.library import native
from klieg.tokenizers import Tokenizer

AT_ONCE = 1000  # texts that are held as strings, or in all their pieces


@cache
def _native() -> Callable | None:
    """The native cut; None where there is no native library."""
    library = native()
    if library is None:
        return None
    library.klieg_segments.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_int64, *[ctypes.c_void_p] * 6, ctypes.c_uint32,
                                       ctypes.c_int64, *[ctypes.c_void_p] * 2]
    library.klieg_segments.restype = None
    return library.klieg_segments


class Dropout:
    """A tokenizer that leaves out a share of its merges."""

    def __init__(self, tokenizer: Tokenizer, share: float) -> None:
        """share: of merges, 0 to below 1. A tokenizer that is no byte-level BPE is a KliegError."""
        from tokenizers.pre_tokenizers import ByteLevel

        self._backend, self._dropped = tokenizer.backend, int(share * 2**32)
        model = json.loads(self._backend.to_str())["model"]
        letters = {*ByteLevel.alphabet()}
        if model["type"] != "BPE" or self._backend.pre_tokenizer is None or not letters <= model["vocab"].keys():
            raise KliegError("dropout of merges needs a byte-level BPE tokenizer; leave bpe_dropout away.")
        known: dict[str, int] = model["vocab"]
        plain = ByteLevel(add_prefix_space=False, use_regex=False)
        pieces = [self._backend.id_to_token(id) or "" for id in range(tokenizer.size)]
        spelled = [piece if letters.issuperset(piece) else plain.pre_tokenize_str(piece)[0][0] for piece in pieces]
        self._spans = _edges(np.array([len(piece) for piece in spelled]))
        self._bytes = np.array([known[letter] for piece in spelled for letter in piece], dtype=np.uint32)
        pairs = np.array([[known[a], known[b]] for a, b in model["merges"]], dtype=np.uint32).reshape(-1, 2)
        self._merged = np.array([known[a + b] for a, b in model["merges"]], dtype=np.uint32)
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        self._ranks, self._rights = order.astype(np.int32), np.ascontiguousarray(pairs[order, 1])
        self._firsts = np.searchsorted(pairs[order, 0], np.arange(tokenizer.size + 1)).astype(np.int64)

    def opens(self, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Which tokens begin a word: (tokens,), bool, of ids (tokens,) of texts end to end; starts (texts + 1,)."""
        lengths, found = np.diff(self._spans), []
        for first in range(0, len(starts) - 1, AT_ONCE):
            edges = starts[first:first + AT_ONCE + 1]
            texts = self._backend.decode_batch([ids[a:b].tolist() for a, b in pairwise(edges)])
            words = [len(word) for text in texts for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]
            tokens = lengths[ids[edges[0]:edges[-1]]]
            found.append(np.isin(_edges(tokens)[:-1], _edges(np.array(words))))
        return np.concatenate(found)

    def cut(self, ids: np.ndarray, opens: np.ndarray, starts: np.ndarray, seeds: np.ndarray,
            most: int) -> tuple[np.ndarray, np.ndarray]:
        """Texts in other pieces: ids end to end, uint32, and how many of them each text has, int64.

        ids (tokens,), uint32, opens (tokens,), bool, starts (texts + 1,), int64. seeds (texts,), int64, decide the
        draws. A text that would have more than `most` ids keeps its own.
        """
        run = _native()
        if run is None:
            rows = [self._text(ids[a:b].tolist(), opens[a:b].tolist(), int(seed), most)
                    for (a, b), seed in zip(pairwise(starts), seeds, strict=True)]
            return np.array([id for row in rows for id in row], dtype=np.uint32), np.array([len(row) for row in rows])
        cut = np.empty(np.diff(self._spans)[ids].sum(), dtype=np.uint32)
        counts = np.empty(len(seeds), dtype=np.int64)
        given = ids, opens, starts, seeds
        known = self._bytes, self._spans, self._firsts, self._rights, self._ranks, self._merged
        run(*(a.ctypes.data for a in given), len(seeds), *(a.ctypes.data for a in known), self._dropped, most,
            cut.ctypes.data, counts.ctypes.data)
        return cut[:counts.sum()], counts

    def _text(self, ids: list[int], opens: list[bool], seed: int, most: int) -> list[int]:
        """One text, as native/segments.cpp cuts it."""
        words: list[list[int]] = []
        for id, first in zip(ids, opens, strict=True):
            if first:
                words.append([])
            words[-1] += self._bytes[self._spans[id]:self._spans[id + 1]].tolist()
        draws = _draws(seed)
        found = [piece for word in words for piece in self._pieces(word, draws)]
        return found if len(found) <= most else ids

    def _pieces(self, pieces: list[int], draws: Iterator[int]) -> list[int]:
        while True:
            best, place = len(self._merged), -1
            for at, (left, right) in enumerate(zip(pieces, pieces[1:], strict=False)):
                rank = self._rank(left, right)
                if rank < best and next(draws) >= self._dropped:
                    best, place = rank, at
            if place < 0:
                return pieces
            pieces[place:place + 2] = [int(self._merged[best])]

    def _rank(self, left: int, right: int) -> int:
        first, stop = self._firsts[left:left + 2]
        at = first + np.searchsorted(self._rights[first:stop], right)
        return int(self._ranks[at]) if at < stop and self._rights[at] == right else len(self._merged)


class Segments:
    """Encoded texts, any of which can be cut anew. The same seed cuts a text in the same way, whatever stands beside it."""

    def __init__(self, dropout: Dropout, ids: np.ndarray, starts: np.ndarray, most: int) -> None:
        """ids (tokens,) of all texts end to end; starts (texts + 1,). A text that would have more than `most` keeps its own."""
        self._dropout, self._ids, self._starts, self._most = dropout, ids, starts, most

    @cached_property
    def _opens(self) -> np.ndarray:
        return self._dropout.opens(self._ids, self._starts)

    def cut(self, numbers: np.ndarray, seeds: np.ndarray) -> list[list[int]]:
        """Ids of texts by their numbers, each by a seed, int64."""
        ids, counts = self._cut(numbers, seeds)
        return [row.tolist() for row in np.split(ids, np.cumsum(counts)[:-1])]

    def counts(self, numbers: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """How many ids cut() gives each text, int64."""
        found = np.empty(len(numbers), dtype=np.int64)
        for n in range(0, len(numbers), AT_ONCE):
            part = slice(n, n + AT_ONCE)
            found[part] = self._cut(numbers[part], seeds[part])[1]
        return found

    def _cut(self, numbers: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        firsts, lengths = self._starts[numbers], self._starts[numbers + 1] - self._starts[numbers]
        starts = _edges(lengths)
        places = np.arange(starts[-1]) + np.repeat(firsts - starts[:-1], lengths)
        return self._dropout.cut(self._ids[places].astype(np.uint32), self._opens[places], starts, seeds, self._most)


def _edges(lengths: np.ndarray) -> np.ndarray:
    """Where runs of these lengths begin, and the last ends: (runs + 1,), int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _draws(state: int) -> Iterator[int]:
    """SplitMix64 (Steele, Lea and Flood 2014), of which the upper 32 bits."""
    most = 2**64 - 1
    while True:
        state = z = state + 0x9E3779B97F4A7C15 & most
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & most
        z = (z ^ z >> 27) * 0x94D049BB133111EB & most
        yield (z ^ z >> 31) >> 32
