"""survey(), pooled() and tile(): the doors to what is kept of a map and to parts of it, and the choice of who makes it.

They need the log-sum-exp of every row, and then any part of a map can be surveyed by itself.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, fields, replace
from functools import reduce

import torch
from torch import Tensor

from klieg.attention import Mask, weights
from klieg.device import full_precision
from klieg.errors import KliegError, KliegWarning
from klieg.kernels import gpu, native, sparse, streamed, strides, walked
from klieg.survey import Survey, SurveySpec, edges, empty
from klieg.tiles import Scores

USUAL = SurveySpec()
LONGEST = 128       # lists of the largest weights of a row that the kernel on the GPU has room for


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
@full_precision()
def survey(q: Tensor, k: Tensor, lse: Tensor | None, mask: Mask, spec: SurveySpec = USUAL, *,
           scale: float | None = None, softcap: float | None = None, sinks: Tensor | None = None,
           bias: Tensor | None = None, probe: Tensor | None = None, rows: slice | None = None,
           keys: slice | None = None, shape: tuple[int, int] | None = None, kernel: str | None = None,
           lines: dict[str, Tensor] | None = None) -> Survey:
    """Survey the map of q (b, h, i, d) and k (b, g, j, d), given the final lse (b, h, i) of every row.

    Without an lse it is computed too, from these keys and the sinks (h,). `probe` (b, g, j) is a
    number for every key, for Survey.probed. For a part of a map, q, k, lse, bias and probe are those
    of the part, `rows` and `keys` say where it lies, and `shape` is (queries, keys) of the whole; mask
    is always the mask of the whole. `kernel` names native, gpu or streamed instead of the quickest one.
    `lines` are statistics of the rows that the forward pass on the GPU had by the way.
    """
    part = _Part.of(q, k, lse, mask, scale, softcap, bias, rows, keys, shape)
    together(q, sinks=sinks, probe=probe)
    if kernel is None and part.pieced:
        return part.widened(lse).pieced_survey(spec, lse, sinks, probe)
    kernel, part = _maker(part, lse, spec.top, kernel)
    if kernel == "native":
        return part.native_survey(spec, native.Wanted(sums=True), lse=lse, sinks=sinks, probe=probe)
    if kernel == "gpu":
        return part.gpu_survey(spec, lse=lse, sinks=sinks, probe=probe, lines=lines)
    if lse is None:
        lse = streamed.log_sum_exp(part.scores, sinks)
    return part.walked_survey(spec, lse, probe)


def _maker(part: _Part, lse: Tensor | None, top: int, kernel: str | None) -> tuple[str, _Part]:
    """Which kernel sweeps over a part, the one that was named or the quickest, and the part as that kernel takes it."""
    scores = part.scores
    without = {"gpu": _gpu_refusal(scores, lse, top)}
    if kernel is None and scores.mask.scattered:
        kernel = "streamed"         # which skips tiles, where the others would need a table of all pairs
    if kernel is None and scores.q.device.type == "cuda":
        if why := without["gpu"]:
            warnings.warn(f"the gpu kernel cannot make this survey: {why}; plain PyTorch does it, exactly and more slowly.",
                          KliegWarning, stacklevel=3)
        kernel = "streamed" if why else "gpu"
    if kernel != "gpu":
        part = part.widened(lse)
        without["native"] = native.refusal(part.scores.q, part.scores.k, None)
        kernel = kernel or ("native" if without["native"] is None else "streamed")
    if why := without.get(kernel):
        raise KliegError(f"the {kernel} kernel cannot make this survey: {why}; leave the kernel open or name streamed.")
    return kernel, part


def _gpu_refusal(scores: Scores, lse: Tensor | None, top: int) -> str | None:
    """Why the kernel on the GPU cannot sweep over this part; None if it can."""
    if lse is not None and lse.dtype != torch.float32:
        return f"its log-sum-exp is in float32, not in {str(lse.dtype).removeprefix('torch.')}"
    if top > LONGEST:
        return f"it keeps at most the {LONGEST} largest weights of a row, not {top}"
    return gpu.refusal(scores.q, scores.k, None, scores.mask, scores.bias)


@torch.no_grad()
def attended(q: Tensor, k: Tensor, v: Tensor, mask: Mask, spec: SurveySpec, *, scale: float, softcap: float | None,
             sinks: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Survey]:
    """Output (b, h, i, e) and survey by the native kernel, which makes both of one sweep over the scores."""
    output = native.room(q, v)
    part = _Part.of(q, k, None, mask, scale, softcap, bias, None, None, None).widened(None)
    return output, part.native_survey(spec, native.Wanted(output, sums=True), v=v, sinks=sinks)


@torch.no_grad()
@full_precision()
def pooled(q: Tensor, k: Tensor, lse: Tensor, mask: Mask, *, rows: slice, keys: slice, size: int | tuple[int, int],
           shape: tuple[int, int], scale: float | None = None, softcap: float | None = None,
           bias: Tensor | None = None, kernel: str | None = None) -> Pooled:
    """The region rows x keys of a map of `shape` (queries, keys) in min(size, length) buckets along each axis; a pair
    of sizes is that of the rows and that of the keys.

    q (b, h, i, d), k (b, g, j, d), lse (b, h, i) and bias are those of the region, mask of the whole.
    `kernel` is as in survey().
    """
    kernel, part = _maker(_Part.of(q, k, lse, mask, scale, softcap, bias, rows, keys, shape), lse, 0, kernel)
    sizes = size if isinstance(size, tuple) else (size, size)
    down, across = edges(q.shape[2], sizes[0]), edges(k.shape[2], sizes[1])
    if kernel == "streamed":
        total, highest = walked.pooled(part.scores, lse, down, across)
    else:
        wanted = native.Wanted(row_edges=down, key_edges=across)
        found = (native.compute if kernel == "native" else _swept)(part.scores, wanted, lse=lse)
        total, highest = found["map_sum"], found["map_max"]
    return Pooled(total / _sizes(down, across).to(total), highest, [rows.start + n for n in down],
                  [keys.start + n for n in across])


@torch.no_grad()
def tile(q: Tensor, k: Tensor, lse: Tensor, mask: Mask, *, rows: slice, keys: slice, shape: tuple[int, int],
         scale: float | None = None, softcap: float | None = None, bias: Tensor | None = None,
         kernel: str | None = None) -> Tensor:
    """The weights (b, h, i, j) of the region rows x keys of a map, in the type of lse; the arguments are those of pooled()."""
    kernel, part = _maker(_Part.of(q, k, lse, mask, scale, softcap, bias, rows, keys, shape), lse, 0, kernel)
    if kernel != "gpu":
        return weights(part.scores.tile(slice(0, q.shape[2]), slice(0, k.shape[2])), lse)
    from klieg.kernels.gpu import tiles

    return tiles.tile(part.scores, lse)


@torch.no_grad()
@full_precision()
def received(q: Tensor, k: Tensor, lse: Tensor, mask: Mask, *, scale: float | None = None, softcap: float | None = None,
             bias: Tensor | None = None, kernel: str | None = None) -> Tensor:
    """What every key gets from all queries, (b, h, j): the survey's sums of columns and nothing else, in every training
    step say. On a GPU half of a forward pass; elsewhere a whole survey is made for it. The arguments are those of survey().
    """
    part = _Part.of(q, k, lse, mask, scale, softcap, bias, None, None, None)
    spec = SurveySpec(top=0, map=0, bins=1)
    if kernel is None and part.pieced:
        return part.widened(lse).pieced_survey(spec, lse, None, None).received
    kernel, part = _maker(part, lse, 0, kernel)
    if kernel == "gpu":
        return _swept(part.scores, native.Wanted(), lse, columns=True)["received"]
    return (part.native_survey(spec, native.Wanted(sums=True), lse=lse) if kernel == "native" else
            part.walked_survey(spec, lse, None)).received


def together(q: Tensor, mask: Mask = gpu.EVERYTHING, **others: Tensor | None) -> None:
    """KliegError unless the other tensors of a call, by name, and the tables of its mask are where q is."""
    for name, x in (*others.items(), *((f"Mask.{rule.kind}()", rule.table) for rule in mask.rules)):
        if x is not None and x.device != q.device:
            raise KliegError(f"q is on {q.device} and {name} is on {x.device}; move all tensors to one device.")


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
        together(q, mask, k=k, lse=lse, bias=bias)
        bias = None if bias is None else bias[(None,) * (4 - bias.ndim)]
        scores = Scores(q, k, mask, q.shape[3] ** -0.5 if scale is None else scale, softcap, bias,
                        total - queries + rows.start, keys.start)
        return _Part(scores, rows, keys, queries, total)

    def widened(self, lse: Tensor | None) -> _Part:
        """The same in the type of its lse, or in float32 at least."""
        scores, bias = self.scores, self.scores.bias
        wide = torch.promote_types(scores.q.dtype, torch.float32) if lse is None else lse.dtype
        return replace(self, scores=replace(scores, q=scores.q.to(wide), k=scores.k.to(wide),
                                            bias=None if bias is None else bias.to(wide)))

    def native_survey(self, spec: SurveySpec, wanted: native.Wanted, *, v: Tensor | None = None, lse: Tensor | None = None,
                      sinks: Tensor | None = None, probe: Tensor | None = None) -> Survey:
        """The survey of the whole with what the native kernel found of this part; also fills wanted.output from v."""
        wanted = self._wanted(wanted, spec)
        return self._whole(native.compute(self.scores, wanted, v=v, lse=lse, sinks=sinks, probe=probe), spec, "native")

    def gpu_survey(self, spec: SurveySpec, *, lse: Tensor | None = None, sinks: Tensor | None = None,
                   probe: Tensor | None = None, lines: dict[str, Tensor] | None = None) -> Survey:
        """The same by the kernel on the GPU; `lines` are what its forward pass has of the rows."""
        wanted = self._wanted(native.Wanted(sums=True), spec)
        lse = gpu.log_sum_exp(self.scores, sinks) if lse is None else lse
        return self._whole(_swept(self.scores, wanted, lse, probe=probe, lines=lines), spec, "gpu")

    def _wanted(self, wanted: native.Wanted, spec: SurveySpec) -> native.Wanted:
        """With what a survey asks for, in the part's own counting."""
        wanted.bins, wanted.top = spec.bins, min(spec.top, self.total)
        if spec.map:
            wanted.row_edges = _clip(edges(self.queries, spec.map), self.rows)[1]
            wanted.key_edges = _clip(edges(self.total, spec.map), self.keys)[1]
        return wanted

    def _whole(self, found: dict[str, Tensor], spec: SurveySpec, kernel: str) -> Survey:
        """The survey of the whole with what a kernel found of this part."""
        if spec.map:
            found["map_mean"] = found.pop("map_sum")
        if (self.rows, self.keys) == (slice(0, self.queries), slice(0, self.total)):
            return self._finished(Survey(**{field.name: found.get(field.name) for field in fields(Survey)}), kernel)
        if self.keys.start > 0:
            found["first"].zero_()
        if "top_keys" in found:
            found["top_keys"].add_(self.keys.start * (found["top_keys"] >= 0))
        whole = empty(found["lse"], self.rows, self.queries, self.total, spec, "probed" in found)
        for name, x in whole.tensors().items():
            if name in ("map_mean", "map_max"):
                rows, keys = (_clip(edges(n, spec.map), span)[0] for n, span in
                              ((self.queries, self.rows), (self.total, self.keys)))
                x[:, :, rows, keys] = found[name]
            elif name == "received":
                x[:, :, self.keys] = found[name]
            elif name == "histogram":
                x.copy_(found[name])
            elif name != "lse":
                x[:, :, self.rows] = found[name]
        return self._finished(whole, kernel)

    def walked_survey(self, spec: SurveySpec, lse: Tensor, probe: Tensor | None) -> Survey:
        """The same in plain torch."""
        whole = empty(lse, self.rows, self.queries, self.total, spec, probe is not None)
        walked.survey(self.scores, lse, whole, self.rows.start, probe)
        return self._finished(whole, "streamed")

    @property
    def pieced(self) -> bool:
        """Whether it is a whole text whose mask falls into pieces; see sparse.py."""
        all_of_it = (self.rows, self.keys) == (slice(0, self.queries), slice(0, self.total))
        scores = self.scores
        return all_of_it and sparse.refusal(scores.q, scores.k, scores.k, scores.mask, softcap=scores.softcap, sinks=None,
                                            bias=scores.bias) is None

    def pieced_survey(self, spec: SurveySpec, lse: Tensor | None, sinks: Tensor | None, probe: Tensor | None) -> Survey:
        """The same of a whole text under a stride or global tokens, piece by piece: what the mask hides is not computed."""
        scores, options = self.scores, {"scale": self.scores.scale, "softcap": self.scores.softcap}
        if lse is None:
            narrow = scores.k.new_zeros(*scores.k.shape[:3], 1)
            lse = sparse.attention(scores.q, scores.k, narrow, scores.mask, sinks=sinks, **options)[1]
        parts = [survey(scores.q[:, :, rows], scores.k[:, :, keys], lse[:, :, rows], local, spec, rows=rows, keys=keys,
                        probe=None if probe is None else probe[:, :, keys], shape=(self.queries, self.total), **options)
                 for rows, keys, local in sparse.pieces(scores.mask, self.total)]
        if stride := sparse.strided(scores.mask, self.total):
            far = empty(lse, self.rows, self.queries, self.total, spec, probe is not None)
            strides.survey(scores, lse, far, *stride, probe)
            parts.append(self._finished(far, "streamed"))
        return reduce(Survey.merge, parts)

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


def _swept(scores: Scores, wanted: native.Wanted, lse: Tensor, **given: object) -> dict[str, Tensor]:
    """What is wanted of a part, found on the GPU."""
    from klieg.kernels.gpu.surveys import compute

    return compute(scores, wanted, lse, **given)


def _clip(bounds: list[int], span: slice) -> tuple[slice, list[int]]:
    """The buckets that a span touches, and their bounds within it, counted from its start."""
    touched = slice(bisect_right(bounds, span.start) - 1, bisect_left(bounds, span.stop))
    return touched, [min(max(n, span.start), span.stop) - span.start for n in bounds[touched.start:touched.stop + 1]]


def _sizes(down: list[int], across: list[int]) -> Tensor:
    """Cells of every bucket: (R, C)."""
    return torch.tensor(down).diff()[:, None] * torch.tensor(across).diff()
