"""The formula of attention in float64, calls of every kind, and the bar that a kernel is held to.

The formula is written out here once more, with torch.softmax and nothing of Klieg in it. In
float64 it is the truth; in the precision of the kernel it is what PyTorch gives without us, and
a kernel may err twice as much as that, plus one unit in the last place for the rows that plain
PyTorch gets exactly right by luck (a row of one key, say). A gradient is held to this in the
mean square; its single worst number, which is torch's own in the fused kernel, may err four times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from klieg import tiles
from klieg.attention import Mask
from klieg.kernels import KERNELS, attend, few, fused, packed, short, sparse, streamed

COMPILED = ("few", "native", "sparse")
NOTHING = {"softcap": None, "sinks": None, "bias": None}
EPSILON = torch.finfo(torch.float32).eps

# tests/test_gpu.py holds the kernel on the GPU to the same.
HERE = [kernel for kernel in KERNELS if kernel != "gpu"]


def formula(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, *, scale: float, softcap: float | None,
            sinks: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp in the type of q; seen (b, h, i, j), True = may attend."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    s = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    if softcap is not None:
        s = torch.tanh(s / softcap) * softcap
    if bias is not None:
        s = s + bias.to(s)
    hidden = ~seen | torch.isneginf(s)
    s = s.masked_fill(hidden, -1e30 if s.dtype == torch.float64 else torch.finfo(s.dtype).min)
    blind = hidden.all(-1, keepdim=True)
    if sinks is None:
        w = torch.softmax(s, dim=-1).masked_fill(blind, 0)
        lse = torch.logsumexp(s, dim=-1).masked_fill(blind[..., 0], -torch.inf)
    else:
        more = torch.cat([s, sinks.to(s)[:, None, None].expand(*s.shape[:-1], 1)], dim=-1)
        w, lse = torch.softmax(more, dim=-1)[..., :-1], torch.logsumexp(more, dim=-1)
    return torch.einsum("bhij,bhje->bhie", w.masked_fill(hidden, 0), v), lse


@dataclass
class Call:
    """One call of attend(), in float64; `at` rounds it to a narrower type."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Mask
    seen: Tensor
    options: dict = field(default_factory=lambda: dict(NOTHING))
    scale: float | None = None

    def at(self, dtype: torch.dtype) -> Call:
        options = {name: x.to(dtype) if isinstance(x, Tensor) else x for name, x in self.options.items()}
        return Call(self.q.to(dtype), self.k.to(dtype), self.v.to(dtype), self.mask, self.seen, options, self.scale)

    def formula(self) -> tuple[Tensor, Tensor]:
        scale = self.q.shape[-1] ** -0.5 if self.scale is None else self.scale
        return formula(self.q, self.k, self.v, self.seen, scale=scale, **self.options)

    def kernels(self) -> list[str]:
        able = {"few": few, "fused": fused, "packed": packed, "short": short, "sparse": sparse}
        return [kernel for kernel in HERE if kernel not in able
                or able[kernel].refusal(self.q, self.k, self.v, self.mask, **self.options) is None]

    def trainable(self) -> list[str]:
        """The compiled kernels have no backward pass."""
        return [kernel for kernel in self.kernels() if kernel not in COMPILED]


def masks(batch: int, heads: int, queries: int, keys: int) -> dict[str, tuple[Mask, Tensor]]:
    """Every kind of mask, with its table of (b, h, i, j) made another way."""
    random = torch.Generator().manual_seed(3)
    all_ = torch.ones(batch, heads, queries, keys, dtype=torch.bool)
    causal = all_.tril(keys - queries)

    def window(size: int) -> Tensor:
        return all_.tril(keys - queries + size - 1).triu(keys - queries - size + 1)

    i, j = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)

    def sparse_of(seen: Tensor, shared: int = 0) -> Tensor:
        return all_ & (seen | (i < shared) | (j < shared) if shared else seen)

    block = i.div(13, rounding_mode="floor") == j.div(13, rounding_mode="floor")
    stride = ((i - j).abs() < 9) | ((i - j).remainder(9) == 0)
    real = torch.rand(batch, keys, generator=random) < 0.8
    left = torch.ones(batch, keys, dtype=torch.bool)
    left[0, :keys // 2 + 1] = False                              # the queries before it see nothing
    ids = torch.randint(0, 4, (batch, keys), generator=random).sort(dim=1).values
    scattered = torch.randint(0, 3, (batch, keys), generator=random)

    def same(ids: Tensor) -> Tensor:
        member = torch.nn.functional.one_hot(ids).float()
        return torch.nn.functional.pad(member @ member.mT > 0, (0, 0, max(queries - keys, 0), 0))[:, None, -queries:]

    table = torch.rand(1, heads, queries, keys, generator=random) < 0.5
    table[:, :, 0] = False                                       # and the first query here
    prefix = causal.clone()
    prefix[..., :keys // 3] = True
    return {
        "none": (Mask(), all_),
        "causal": (Mask.causal(), causal),
        "window": (Mask.window(9), window(9)),
        "causal window": (Mask.causal() & Mask.window(20), causal & window(20)),
        "block": (Mask.block(13), sparse_of(block)),
        "causal block": (Mask.causal() & Mask.block(13), causal & sparse_of(block)),
        "strided": (Mask.strided(9), sparse_of(stride)),
        "causal strided": (Mask.causal() & Mask.strided(9), causal & sparse_of(stride)),
        "causal strided global": (Mask.causal() & Mask.strided(9, 5), causal & sparse_of(stride, 5)),
        "strided global": (Mask.strided(9, 11), sparse_of(stride, 11)),
        "causal window global": (Mask.causal() & Mask.window(20, 3), causal & sparse_of(window(20)[0, 0], 3)),
        "block global": (Mask.block(13, 4), sparse_of(block, 4)),
        "causal strided padding": (Mask.causal() & Mask.strided(9, 2) & Mask.padding(real),
                                   causal & sparse_of(stride, 2) & real[:, None, None]),
        "prefix": (Mask.prefix(keys // 3), prefix),
        "padding": (Mask.padding(real), all_ & real[:, None, None]),
        "causal left padding": (Mask.causal() & Mask.padding(left), causal & left[:, None, None]),
        "documents": (Mask.documents(ids), all_ & same(ids)),
        "causal documents": (Mask.causal() & Mask.documents(ids), causal & same(ids)),
        "causal scattered documents": (Mask.causal() & Mask.documents(scattered), causal & same(scattered)),
        "explicit": (Mask.explicit(table, first_slot=keys - queries), all_ & table),
        "all at once": (Mask.causal() & Mask.window(50) & Mask.padding(real) & Mask.documents(ids),
                        causal & window(50) & real[:, None, None] & same(ids))}


def call(mask: str = "causal", *, batch: int = 2, heads: int = 4, groups: int = 2, queries: int = 45, keys: int = 45,
         width: int = 32, value_width: int | None = None, seed: int = 0) -> Call:
    random = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, n, m, d, dtype=torch.float64, generator=random) for n, m, d in (
        (heads, queries, width), (groups, keys, width), (groups, keys, value_width or width)))
    return Call(q, k, v, *masks(batch, heads, queries, keys)[mask])


def options(name: str, heads: int, queries: int, keys: int) -> dict:
    random = torch.Generator().manual_seed(5)
    bias = torch.randn(1, heads, queries, keys, dtype=torch.float64, generator=random)
    sinks = torch.randn(heads, dtype=torch.float64, generator=random)
    blinding = torch.randn(queries, keys, dtype=torch.float64, generator=random)
    blinding[-1] = blinding[0, 0] = -torch.inf                   # under causality the first query sees key 0 only
    return {**NOTHING, **{
        "none": {}, "softcap": {"softcap": 2.0}, "sinks": {"sinks": sinks}, "bias": {"bias": bias},
        "row of bias": {"bias": bias[:, :, :1]}, "blinding bias": {"bias": blinding},
        "all": {"softcap": 2.0, "sinks": sinks, "bias": bias}}[name]}


def assert_no_worse(found: Tensor, plain: Tensor, truth: Tensor, what: str, worst: int = 2, units: float = 1) -> None:
    """At most twice the error of plain PyTorch in the mean square, and `worst` times in the worst number.

    The floor is so many units in the last place of float32, at the size that the answer has.
    """
    hidden = torch.isneginf(truth)
    assert torch.equal(torch.isneginf(found), hidden), f"{what}: not the same rows are blind"
    found, plain, truth = (x.masked_fill(hidden, 0).double() for x in (found, plain, truth))
    for norm, times in ((lambda x: x.square().mean().sqrt().item(), 2), (lambda x: x.abs().max().item(), worst)):
        error, allowed = norm(found - truth), times * norm(plain - truth) + units * EPSILON * norm(truth)
        assert error <= allowed, f"{what}: off by {error:.2e}, plain PyTorch by {norm(plain - truth):.2e}"


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 rows and 32 keys, so that short texts have many."""
    monkeypatch.setattr(streamed, "KEYS", 32)
    monkeypatch.setattr(tiles, "_CPU_TILE", 16)


def check(exact: Call, dtype: torch.dtype, kernels: list[str] | None = None) -> None:
    here = exact.at(dtype)
    # What the types could not hold is not the kernel's fault: the truth starts from rounded inputs.
    truth, truth_lse = here.at(torch.float64).formula()
    plain, plain_lse = here.formula()
    assert kernels or here.kernels(), "no kernel to test"
    for kernel in kernels or here.kernels():
        found = attend(here.q, here.k, here.v, here.mask, scale=here.scale, kernel=kernel, **here.options)
        assert found.kernel == kernel
        assert found.output.dtype == dtype and found.lse.dtype == torch.promote_types(dtype, torch.float32)
        # A log-sum-exp is rounded by up to half a unit of its size, which all weights of its row have in common.
        largest = truth_lse.masked_fill(truth_lse == -torch.inf, 0).abs().max().item()
        assert_no_worse(found.output, plain, truth, f"{kernel} output", units=1 + largest / 2)
        assert_no_worse(found.lse, plain_lse, truth_lse, f"{kernel} lse")


def gradients(run: Callable[..., Tensor], exact: Call, weight: Tensor, trained_bias: bool) -> list[Tensor]:
    leaves = [exact.q, exact.k, exact.v, exact.options["sinks"], exact.options["bias"] if trained_bias else None]
    leaves = [x if x is None else x.detach().clone().requires_grad_() for x in leaves]
    given = {**exact.options, "sinks": leaves[3]} | ({"bias": leaves[4]} if trained_bias else {})
    out = run(*leaves[:3], given)
    return list(torch.autograd.grad(out, [x for x in leaves if x is not None], weight.to(out.dtype)))


def check_gradients(exact: Call, dtype: torch.dtype, kernels: list[str] | None = None, units: float = 1) -> None:
    weight = torch.randn(*exact.q.shape[:3], exact.v.shape[3], generator=torch.Generator().manual_seed(1))
    here = exact.at(dtype)
    weight = weight.to(dtype).double()
    trained = here.options["bias"] is not None

    def plain(q: Tensor, k: Tensor, v: Tensor, given: dict) -> Tensor:
        return Call(q, k, v, here.mask, here.seen, given).formula()[0]

    for kernel in kernels or here.trainable():
        for bias in ({False} if not trained else {True} if kernel in ("dense", "gpu", "streamed") else {False}):

            def run(q: Tensor, k: Tensor, v: Tensor, given: dict, kernel: str = kernel) -> Tensor:
                return attend(q, k, v, here.mask, kernel=kernel, **given).output

            truths = gradients(plain, here.at(torch.float64), weight, bias)
            ours, theirs = gradients(run, here, weight, bias), gradients(plain, here, weight, bias)
            for name, a, b, c in zip(["q", "k", "v", "4th", "5th"], ours, theirs, truths, strict=False):
                assert a.dtype == b.dtype
                assert_no_worse(a, b, c, f"{kernel} gradient of {name}", worst=4, units=units)


class Largest(TorchDispatchMode):
    """The largest tensor that any operator gives."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> object:
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        return result
