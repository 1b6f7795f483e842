"""An atlas of heads: what every head of a model does, in the mean over the texts of a corpus.

It holds sums over texts in float64 and no text: of every score, layer and head the number of texts that had it, the sum,
the sum of squares and the sum of chance. So an atlas takes the same few bytes after ten texts as after ten million, and
atlases of different texts add up. A text is a window of the corpus.

On disk it is one file of safetensors with its facts as JSON, and that file is also its checkpoint: sums and the place in
the corpus are written together, so what was read is counted once whenever the process ends.

    atlas = Atlas.load("folder/atlas.safetensors")
    for line in atlas.table("induction")[:3]:
        print(line.layer, line.head, line.mean, line.low, line.high, line.chance)
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from klieg.analysis.behaviour import UNITS, Score
from klieg.analysis.corpus import Corpus
from klieg.analysis.reader import SHORTEST, Heads, Reader
from klieg.atomic import atomic
from klieg.errors import KliegError, first_line, nearest

FORMAT = "klieg-atlas/1"
EVERY = 64          # windows between checkpoints
SCORES = list(UNITS)
SURE = 0.95         # of the intervals
_SUMS = ("texts", "sum", "squares", "chance")


@dataclass(frozen=True)
class Line:
    """One score of one head: its mean over `texts` with the interval low to high that holds it in 95 % of samples, by
    Student's t (NaN for a single text), and what chance would give."""

    score: str
    layer: int
    kind: str
    head: int
    mean: float
    low: float
    high: float
    chance: float
    texts: int


@dataclass(eq=False)
class Atlas:
    """Sums over the windows of a corpus: (scores, layers, heads), float64, in the order of SCORES and `rows`."""

    model: str
    window: int
    identity: dict[str, str] = field(default_factory=dict)
    """By which the model and the corpus are known again."""
    rows: list[Heads] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    place: tuple[int, int] = (0, 0)
    """The piece of the corpus, and the window in it, that comes next."""
    counts: Counter[str] = field(default_factory=Counter)
    """Of windows, tokens, short windows that were left out, and pieces with a fault."""
    whole: bool = False
    """Whether the corpus was read to its end."""

    def add(self, found: Sequence[tuple[Heads, dict[str, Score]]]) -> None:
        """The scores of one more text, layer by layer."""
        rows = [heads for heads, _ in found]
        if not self.rows:
            self.rows = rows
            self.sums = {name: self._nothing() for name in _SUMS}
        if rows != self.rows:
            raise KliegError(f"the layers of {self.model!r} changed from text to text; an atlas is of one model.")
        for place, (heads, scores) in enumerate(found):
            for name, score in scores.items():
                there = score.weight.isfinite() & score.chance.isfinite()
                weight, chance = (x.where(there, 0.0) for x in (score.weight, score.chance))
                for key, x in zip(_SUMS, (there.double(), weight, weight.square(), chance), strict=True):
                    self.sums[key][SCORES.index(name), place, :heads.heads] += x

    def _nothing(self) -> Tensor:
        return torch.zeros(len(SCORES), len(self.rows), max(row.heads for row in self.rows), dtype=torch.float64)

    def __add__(self, other: Atlas) -> Atlas:
        """The atlas of both's texts; they must be of one model and different texts, read in windows of one size."""
        if not self.rows or not other.rows:
            few, more = (self, other) if not self.rows else (other, self)
            sums, rows = {name: x.clone() for name, x in more.sums.items()}, more.rows
            if (few.model, few.window) != (more.model, more.window):
                raise KliegError(f"the atlas of {few.model!r} and that of {more.model!r} cannot be added; they differ in model "
                                 "or window.")
        else:
            if (self.model, self.window, self.rows) != (other.model, other.window, other.rows):
                raise KliegError(f"the atlas of {self.model!r} and that of {other.model!r} cannot be added; they differ in "
                                 "model, layers or window.")
            sums, rows = {name: self.sums[name] + other.sums[name] for name in _SUMS}, self.rows
        return Atlas(self.model, self.window, self.identity, rows, sums, (0, 0), self.counts + other.counts,
                     self.whole and other.whole)

    def means(self, score: str) -> list[list[float]]:
        """The mean of every head of every layer; NaN where no text had the score."""
        mean = self._of("sum", score) / self._of("texts", score)
        return [mean[place, :row.heads].tolist() for place, row in enumerate(self.rows)]

    def has(self, score: str) -> bool:
        """Whether any head has this score in any text."""
        return bool(self.rows) and bool(self._of("texts", score).any())

    def _of(self, name: str, score: str) -> Tensor:
        if score not in SCORES:
            raise KliegError(f"there is no score {score!r}.{nearest(score, SCORES)}")
        return self.sums[name][SCORES.index(score)]

    def spread(self, score: str, layer: int, head: int) -> tuple[float, float, float]:
        """The mean of a score, its squared standard error and the number of texts; `layer` is a place in `rows`."""
        count, total, squares = (float(self._of(name, score)[layer, head]) for name in _SUMS[:3])
        if count < 2:
            return (total / count if count else math.nan), math.nan, count
        return total / count, max(squares - total ** 2 / count, 0.0) / (count - 1) / count, count

    def table(self, score: str) -> list[Line]:
        """Every head that has the score, the highest mean first."""
        lines = []
        for place, row in enumerate(self.rows):
            for head in range(row.heads):
                mean, error, count = self.spread(score, place, head)
                if count:
                    reach = student(count - 1) * math.sqrt(error) if count > 1 else math.nan
                    chance = float(self._of("chance", score)[place, head]) / count
                    lines.append(Line(score, row.layer, row.kind, head, mean, mean - reach, mean + reach, chance, int(count)))
        return sorted(lines, key=lambda line: -line.mean)

    def csv(self) -> str:
        """All scores of all heads as a table for other programs; an interval of a single text is empty."""
        lines = [f"score,unit,{','.join(part.name for part in fields(Line) if part.name != 'score')}"]
        for line in (line for score in SCORES if self.has(score) for line in self.table(score)):
            score, *rest = astuple(line)
            cells = ["" if value != value else repr(value) if isinstance(value, float) else str(value) for value in rest]
            lines.append(",".join([score, UNITS[score], *cells]))
        return "\n".join(lines) + "\n"

    def save(self, path: str | Path) -> None:
        """One file, whole or not at all."""
        facts = {"format": FORMAT, "model": self.model, "window": self.window, "identity": self.identity, "scores": SCORES,
                 "rows": [asdict(row) for row in self.rows], "place": list(self.place), "counts": dict(self.counts),
                 "whole": self.whole}
        body = save(self.sums or {name: torch.zeros(0) for name in _SUMS}, {"facts": json.dumps(facts, ensure_ascii=False)})
        with atomic(Path(path)) as part:
            part.write_bytes(body)

    @staticmethod
    def load(path: str | Path) -> Atlas:
        """A saved atlas; KliegError if it is none or is damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                sums = {name: file.get_tensor(name) for name in _SUMS}
            if facts["format"] != FORMAT or facts["scores"] != SCORES:
                raise KliegError(f"{path} is an atlas of another version of Klieg; make it anew in another folder.")
            rows = [Heads(int(row["layer"]), str(row["kind"]), int(row["heads"]), int(row["kv_heads"]))
                    for row in facts["rows"]]
            shape = (len(SCORES), len(rows), max((row.heads for row in rows), default=0))
            if rows and any(x.shape != shape or x.dtype != torch.float64 or not x.isfinite().all() for x in sums.values()):
                raise ValueError("its sums are no finite numbers of its scores and heads")
            first, second = facts["place"]
            return Atlas(str(facts["model"]), int(facts["window"]), dict(facts["identity"]), rows, sums if rows else {},
                         (int(first), int(second)), Counter(facts["counts"]), bool(facts["whole"]))
        except FileNotFoundError:
            raise KliegError(f"there is no atlas in {path}; make one: klieg atlas MODEL CORPUS -o FOLDER.") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise KliegError(f"{path} is damaged or no atlas ({first_line(e)}); make it anew in another folder.") from None


def gather(atlas: Atlas, reader: Reader, corpus: Corpus, tokens: int | None = None, path: Path | None = None,
           every: int = EVERY, step: Callable[[int, int], None] | None = None) -> None:
    """Let a model read a corpus from the atlas's place on, to its end or until it has read so many tokens in all.

    The atlas is saved to `path` every so many windows, at the end, and where the corpus cannot be read on.
    step(done, expected) is told the tokens that were read and about how many there will be.
    """
    def keep() -> None:
        if path is not None and atlas.rows:
            atlas.save(path)

    try:
        for number, piece in enumerate(corpus.pieces()):
            piece_at, window_at = atlas.place
            if number < piece_at:
                continue
            if piece.fault is not None:
                atlas.counts[piece.fault] += 1
            for n, ids in enumerate(reader.windows(piece.text, atlas.window) if piece.fault is None else ()):
                if number == piece_at and n < window_at:
                    continue
                if tokens is not None and atlas.counts["tokens"] >= tokens:
                    return keep()
                if len(ids) < SHORTEST:
                    atlas.counts["short"] += 1
                else:
                    atlas.add(reader.scores(ids, seed=number << 20 | n))
                    atlas.counts.update(windows=1, tokens=len(ids))
                atlas.place = number, n + 1
                if step is not None:
                    expected = int(atlas.counts["tokens"] / max(corpus.read, 1e-9))
                    step(atlas.counts["tokens"], min(expected, tokens or expected))
                if atlas.counts["windows"] % every == 0 and len(ids) >= SHORTEST:
                    keep()
            atlas.place = number + 1, 0
    except KliegError:
        keep()
        raise
    atlas.whole = True
    return keep()


def begin(reader: Reader, corpus: Corpus, window: int | None = None, path: Path | None = None) -> Atlas:
    """The atlas that is saved in `path`, to go on with; else a new one. KliegError if it is of another model or corpus."""
    identity = {"model": reader.fingerprint, "corpus": corpus.fingerprint()}
    if path is None or not path.exists():
        return Atlas(reader.name, reader.window(window), identity)
    found = Atlas.load(path)
    for what, now in (("model", reader.name), ("corpus", str(corpus.path))):
        if found.identity.get(what) != identity[what]:
            raise KliegError(f"{path} is the atlas of another {what} than {now!r}; choose another folder.")
    if window is not None and window != found.window:
        raise KliegError(f"{path} was made in windows of {found.window} tokens, and {window} were asked for; choose another "
                         "folder.")
    return found


@dataclass(frozen=True)
class Difference:
    """How far one head of atlas b is from that of atlas a, with its 95 % interval (Welch's t), and both means."""

    a: Line
    b: Line
    by: float
    low: float
    high: float


def compare(a: Atlas, b: Atlas, score: str) -> list[Difference]:
    """Every head that both atlases have the score of, the largest difference first."""
    if a.rows != b.rows:
        raise KliegError(f"{a.model!r} and {b.model!r} have different layers or heads; only models of one shape can be "
                         "compared head by head.")
    there = {(line.layer, line.kind, line.head): line for line in b.table(score)}
    found = []
    for line in a.table(score):
        other = there.get((line.layer, line.kind, line.head))
        if other is None:
            continue
        place = next(n for n, row in enumerate(a.rows) if (row.layer, row.kind) == (line.layer, line.kind))
        (_, x, n), (_, y, m) = (atlas.spread(score, place, line.head) for atlas in (a, b))
        reach = 0.0 if x + y == 0 else math.nan
        if x + y > 0:
            freedom = (x + y) ** 2 / (x ** 2 / (n - 1) + y ** 2 / (m - 1))
            reach = student(freedom) * math.sqrt(x + y)
        by = other.mean - line.mean
        found.append(Difference(line, other, by, by - reach, by + reach))
    return sorted(found, key=lambda difference: -abs(difference.by))


@cache
def student(freedom: float) -> float:
    """What Student's t with so many degrees of freedom is beyond, on either side, in 5 of 100 samples.

    The density is integrated over the angle atan(t / sqrt(freedom)), where it is a power of a cosine.
    """
    if freedom > 1000:      # the correction of the normal quantile by 1/freedom; the next term is below 1e-5
        z = NormalDist().inv_cdf((1 + SURE) / 2)
        return z + (z ** 3 + z) / (4 * freedom)
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(np.interp(SURE, share / share[-1], angles))

