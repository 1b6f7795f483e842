"""survey() and pooled(): the doors to what is kept of a map, and the choice of who makes it.

Both need the log-sum-exp of every row, and then any part of a map can be surveyed by itself.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels import native, streamed, walked
from klieg.survey import Survey, SurveySpec, edges, empty
from klieg.tiles import Scores

USUAL = SurveySpec()


@dataclass(frozen=True, eq=False)
class Pooled:
    """A region of maps in buckets: bucket n of an axis lies from edge n to before edge n + 1, counted in the whole map."""

    mean: Tensor
    """(b, h, R, C): the mean weight of a bucket, hidden cells counted as 0."""
    max: Tensor
    """(b, h, R, C): the largest weight of a bucket."""
    row_edges: list[int]
    key_edges: list[int]


@torch.no_grad()
def survey(q: Tensor, k: Tensor, lse: Tensor | None, mask: Mask, spec: SurveySpec = USUAL, *,
           scale: float | None = None, softcap: float | None = None, sinks: Tensor | None = None,
           bias: Tensor | None = None, probe: Tensor | None = None, rows: slice | None = None,
           keys: slice | None = None, shape: tuple[int, int] | None = None, kernel: str | None = None) -> Survey:
    """Survey the map of q (b, h, i, d) and k (b, g, j, d), given the final lse (b, h, i) of every row.

    Without an lse it is computed too, from these keys and the sinks (h,). `probe` (b, g, j) is a
    number for every key, for Survey.probed. For a part of a map, q, k, lse, bias and probe are those
    of the part, `rows` and `keys` say where it lies, and `shape` is (queries, keys) of the whole; mask
    is always the mask of the whole. `kernel` names native or streamed instead of the quicker one.
    """
    part = _Part.of(q, k, lse, mask, scale, softcap, bias, rows, keys, shape)
    why = native.refusal(part.scores.q, part.scores.k, None)
    if kernel is None and mask.scattered:
        kernel = "streamed"         # which skips tiles, where the native one would need a table of all pairs
    if kernel == "native" and why:
        raise KliegError(f"the native kernel cannot make this survey: {why}; leave the kernel open or name streamed.")
    if kernel != "streamed" and why is None:
        wanted = native.Wanted(sums=True)
        return part.native_survey(spec, wanted, lse=lse, sinks=sinks, probe=probe)
    if lse is None:
        lse = streamed.log_sum_exp(part.scores, sinks)
    return part.walked_survey(spec, lse, probe)


@torch.no_grad()
def attended(q: Tensor, k: Tensor, v: Tensor, mask: Mask, spec: SurveySpec, *, scale: float, softcap: float | None,
             sinks: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Survey]:
    """Output (b, h, i, e) and survey by the native kernel, which makes both of one sweep over the scores."""
    output = native.room(q, v)
    part = _Part.of(q, k, None, mask, scale, softcap, bias, None, None, None)
    return output, part.native_survey(spec, native.Wanted(output, sums=True), v=v, sinks=sinks)


@torch.no_grad()
def pooled(q: Tensor, k: Tensor, lse: Tensor, mask: Mask, *, rows: slice, keys: slice, size: int | tuple[int, int],
           shape: tuple[int, int], scale: float | None = None, softcap: float | None = None,
           bias: Tensor | None = None) -> Pooled:
    """The region rows x keys of a map of `shape` (queries, keys) in min(size, length) buckets along each axis; a pair
    of sizes is that of the rows and that of the keys.

    q (b, h, i, d), k (b, g, j, d), lse (b, h, i) and bias are those of the region, mask of the whole.
    """
    part = _Part.of(q, k, lse, mask, scale, softcap, bias, rows, keys, shape)
    sizes = size if isinstance(size, tuple) else (size, size)
    down, across = edges(q.shape[2], sizes[0]), edges(k.shape[2], sizes[1])
    if native.refusal(part.scores.q, part.scores.k, None) is None and not mask.scattered:
        found = native.compute(part.scores, native.Wanted(row_edges=down, key_edges=across), lse=lse)
        total, highest = found["map_sum"], found["map_max"]
    else:
        total, highest = walked.pooled(part.scores, lse, down, across)
    return Pooled(total / _sizes(down, across).to(total), highest, [rows.start + n for n in down],
                  [keys.start + n for n in across])


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of a map and where it lies: rows and keys of the whole, which has queries by `total` keys."""

    scores: Scores
    rows: slice
    keys: slice
    queries: int
    total: int

    @staticmethod
    def of(q: Tensor, k: Tensor, lse: Tensor | None, mask: Mask, scale: float | None, softcap: float | None,
           bias: Tensor | None, rows: slice | None, keys: slice | None, shape: tuple[int, int] | None) -> _Part:
        queries, total = shape or (q.shape[2], k.shape[2])
        rows, keys = rows or slice(0, queries), keys or slice(0, total)
        fits = (rows.stop - rows.start, keys.stop - keys.start) == (q.shape[2], k.shape[2])
        if not fits or (lse is not None and lse.shape != q.shape[:3]):
            raise KliegError(f"a survey got q {tuple(q.shape)}, k {tuple(k.shape)}, lse {lse is not None and tuple(lse.shape)} "
                             f"for rows {rows.start}:{rows.stop} and keys {keys.start}:{keys.stop}; expected as many of each.")
        wide = torch.promote_types(q.dtype, torch.float32) if lse is None else lse.dtype
        bias = None if bias is None else bias[(None,) * (4 - bias.ndim)].to(wide)
        scores = Scores(q.to(wide), k.to(wide), mask, q.shape[3] ** -0.5 if scale is None else scale, softcap, bias,
                        total - queries + rows.start, keys.start)
        return _Part(scores, rows, keys, queries, total)

    def native_survey(self, spec: SurveySpec, wanted: native.Wanted, *, v: Tensor | None = None, lse: Tensor | None = None,
                      sinks: Tensor | None = None, probe: Tensor | None = None) -> Survey:
        """The survey of the whole with what the native kernel found of this part; also fills wanted.output from v."""
        wanted.bins, wanted.top = spec.bins, min(spec.top, self.total)
        if spec.map:
            rows, wanted.row_edges = _clip(edges(self.queries, spec.map), self.rows)
            keys, wanted.key_edges = _clip(edges(self.total, spec.map), self.keys)
        found = native.compute(self.scores, wanted, v=v, lse=lse, sinks=sinks, probe=probe)
        if spec.map:
            found["map_mean"] = found.pop("map_sum")
        if (self.rows, self.keys) == (slice(0, self.queries), slice(0, self.total)):
            return self._finished(Survey(**{field.name: found.get(field.name) for field in fields(Survey)}), "native")
        if self.keys.start > 0:
            found["first"].zero_()
        if wanted.top:
            found["top_keys"].add_(self.keys.start * (found["top_keys"] >= 0))
        whole = empty(found["lse"], self.rows, self.queries, self.total, spec, probe is not None)
        for name, x in whole.tensors().items():
            if name in ("map_mean", "map_max"):
                x[:, :, rows, keys] = found[name]
            elif name == "received":
                x[:, :, self.keys] = found[name]
            elif name == "histogram":
                x.copy_(found[name])
            elif name != "lse":
                x[:, :, self.rows] = found[name]
        return self._finished(whole, "native")

    def walked_survey(self, spec: SurveySpec, lse: Tensor, probe: Tensor | None) -> Survey:
        """The same in plain torch."""
        whole = empty(lse, self.rows, self.queries, self.total, spec, probe is not None)
        walked.survey(self.scores, lse, whole, self.rows.start, probe)
        return self._finished(whole, "streamed")

    def _finished(self, found: Survey, kernel: str) -> Survey:
        """Sums of buckets become means; and what is beyond its bounds by rounding alone is put on them.

        A score may be above its row's log-sum-exp in the last digit. The mass keeps such errors, for the certificate.
        """
        found.entropy.clamp_(min=0)
        for single in (found.first, found.own, found.top_weights, found.map_max):
            if single is not None:
                single.clamp_(max=1)
        if found.map_mean is not None:
            height, width = found.map_mean.shape[2:]
            found.map_mean.div_(_sizes(edges(self.queries, height), edges(self.total, width)).to(found.map_mean))
        return replace(found, kernel=kernel)


def _clip(bounds: list[int], span: slice) -> tuple[slice, list[int]]:
    """The buckets that a span touches, and their bounds within it, counted from its start."""
    touched = slice(bisect_right(bounds, span.start) - 1, bisect_left(bounds, span.stop))
    return touched, [min(max(n, span.start), span.stop) - span.start for n in bounds[touched.start:touched.stop + 1]]


def _sizes(down: list[int], across: list[int]) -> Tensor:
    """Cells of every bucket: (R, C)."""
    return torch.tensor(down).diff()[:, None] * torch.tensor(across).diff()
