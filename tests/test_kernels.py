"""Every kernel against the formula in float64, and no worse than plain PyTorch at its own precision.

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
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from klieg import tiles
from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels import FEW, KERNELS, attend, choose, few, fused, native, packed, short, sparse, streamed
from klieg.survey import SurveySpec

COMPILED = ("few", "native", "sparse")
NOTHING = {"softcap": None, "sinks": None, "bias": None}

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


EPSILON = torch.finfo(torch.float32).eps


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


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("mask", list(masks(1, 1, 1, 9)))
@pytest.mark.parametrize("option", ["none", "softcap", "sinks", "bias", "row of bias", "blinding bias", "all"])
@pytest.mark.parametrize("queries", [45, 77])
def test_every_mask_and_option(dtype: torch.dtype, mask: str, option: str, queries: int) -> None:
    exact = call(mask, queries=queries, keys=77)
    exact.options = options(option, 4, queries, 77)
    check(exact, dtype)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("width", [1, 32, 33, 64, 128, 256])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 70), (33, 33), (5, 131)])
def test_every_width_and_ragged_lengths(dtype: torch.dtype, width: int, queries: int, keys: int) -> None:
    check(call("causal", width=width, queries=queries, keys=keys), dtype)
    check(call("causal", width=width, queries=queries, keys=keys, value_width=17), dtype)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("mask", ["none", "causal", "causal window", "prefix", "padding", "explicit", "block",
                                  "causal strided global"])
@pytest.mark.parametrize("option", ["none", "all"])
def test_more_queries_than_keys(mask: str, option: str) -> None:
    exact = call(mask, queries=77, keys=45)
    exact.options = options(option, 4, 77, 45)
    check(exact, torch.float32)


@pytest.mark.parametrize(("heads", "groups", "batch"), [(1, 1, 1), (6, 6, 1), (6, 2, 3), (6, 1, 1)])
@pytest.mark.parametrize("mask", ["causal", "causal left padding", "explicit"])
def test_grouped_heads_in_tiles_of_the_real_size(heads: int, groups: int, batch: int, mask: str) -> None:
    check(call(mask, heads=heads, groups=groups, batch=batch, queries=300, keys=523, width=16), torch.float32)


def test_a_scale_of_ones_own_and_large_scores() -> None:
    exact = call("causal", queries=60, keys=60)
    exact.scale = 3.0                                            # scores up to 50: no overflow, no flat rows
    check(exact, torch.float32)
    for scale in (0.0, -0.3):                                    # the fused operator would give NaN
        exact.scale = scale
        check(exact, torch.float32)


def test_strided_and_expanded_inputs() -> None:
    """Heads split from one matrix, a last axis of stride 45, and one text for the whole batch."""
    exact = call("causal documents").at(torch.float32)
    q = exact.q.transpose(1, 2).contiguous().transpose(1, 2)
    k = exact.k.mT.contiguous().mT
    v = exact.v[:1].expand_as(exact.v)
    truth, _ = Call(q.double(), k.double(), v.double(), exact.mask, exact.seen).formula()
    for kernel in exact.kernels():
        torch.testing.assert_close(attend(q, k, v, exact.mask, kernel=kernel).output.double(), truth, atol=2e-6, rtol=0)


def gradients(run: Callable[..., Tensor], exact: Call, weight: Tensor, trained_bias: bool) -> list[Tensor]:
    leaves = [exact.q, exact.k, exact.v, exact.options["sinks"], exact.options["bias"] if trained_bias else None]
    leaves = [x if x is None else x.detach().clone().requires_grad_() for x in leaves]
    given = {**exact.options, "sinks": leaves[3]} | ({"bias": leaves[4]} if trained_bias else {})
    out = run(*leaves[:3], given)
    return list(torch.autograd.grad(out, [x for x in leaves if x is not None], weight.to(out.dtype)))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("mask", ["causal", "causal left padding", "causal documents", "causal scattered documents",
                                  "explicit", "window", "causal block", "causal strided global", "none"])
@pytest.mark.parametrize("option", ["none", "softcap", "bias", "row of bias", "blinding bias", "all"])
def test_gradients(dtype: torch.dtype, mask: str, option: str) -> None:
    exact = call(mask, queries=45 if option != "none" else 77, keys=77, value_width=32 if option != "all" else 9)
    exact.options = options(option, 4, exact.q.shape[2], 77)
    check_gradients(exact, dtype)


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


@pytest.mark.parametrize("kernel", ["dense", "streamed"])
@pytest.mark.usefixtures("small_tiles")
def test_gradients_by_finite_differences(kernel: str) -> None:
    exact = call("causal left padding", batch=1, heads=2, groups=1, queries=3, keys=5, width=2, value_width=3)
    sinks, bias = torch.randn(2, dtype=torch.float64), torch.randn(2, 1, 5, dtype=torch.float64)

    def run(*inputs: Tensor) -> Tensor:
        q, k, v, sinks, bias = inputs
        return attend(q, k, v, exact.mask, softcap=1.5, sinks=sinks, bias=bias, kernel=kernel).output

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in (exact.q, exact.k, exact.v, sinks, bias)])


@pytest.mark.parametrize("kernel", [kernel for kernel in HERE if kernel not in COMPILED])
def test_only_the_output_carries_gradients(kernel: str) -> None:
    exact = call("causal documents" if kernel == "packed" else "causal").at(torch.float32)
    found = attend(exact.q.requires_grad_(), exact.k, exact.v, exact.mask, kernel=kernel)
    assert found.output.requires_grad and not found.lse.requires_grad


@pytest.mark.usefixtures("small_tiles")
@given(st.data())
def test_streamed_is_dense(data: st.DataObject) -> None:
    keys = data.draw(st.integers(1, 70))
    queries = data.draw(st.integers(1, keys))
    groups, repeat, batch = (data.draw(st.integers(1, 3)) for _ in range(3))
    width, value_width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    mask = data.draw(st.sampled_from(list(masks(1, 1, 1, 9))))
    exact = call(mask, batch=batch, heads=groups * repeat, groups=groups, queries=queries, keys=keys, width=width,
                 value_width=value_width, seed=data.draw(st.integers(0, 99)))
    option = options(data.draw(st.sampled_from(["none", "softcap", "sinks", "bias", "all"])), groups * repeat, queries,
                     keys)
    dense, other = (attend(exact.q, exact.k, exact.v, exact.mask, kernel=kernel, **option)
                    for kernel in ("dense", "streamed"))
    torch.testing.assert_close(other.output, dense.output, atol=1e-13, rtol=0)
    torch.testing.assert_close(other.lse, dense.lse, atol=1e-13, rtol=0)


class _Largest(TorchDispatchMode):
    """The largest tensor that any operator gives."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> object:
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        return result


@pytest.mark.parametrize("mask", ["causal", "causal window", "causal documents", "padding", "causal strided global"])
def test_streamed_never_holds_the_map(mask: str) -> None:
    exact = call(mask, batch=1, heads=2, groups=1, queries=2048, keys=2048, width=8).at(torch.float32)
    with _Largest() as seen:
        found = attend(exact.q.requires_grad_(), exact.k, exact.v, exact.mask, kernel="streamed")
        found.output.sum().backward()
    assert 0 < seen.numbers <= tiles._CPU_TILE < 2048**2
    plain, lse = exact.formula()
    torch.testing.assert_close(found.output, plain, atol=2e-6, rtol=0)
    torch.testing.assert_close(found.lse, lse, atol=4e-6, rtol=0)


def test_keys_out_of_reach_are_not_touched() -> None:
    """With a window, NaN in keys that nobody can see does no harm and costs nothing."""
    exact = call("causal window", queries=3, keys=900).at(torch.float32)
    exact.k[:, :, :600] = torch.nan
    exact.v[:, :, :600] = torch.nan
    assert attend(exact.q, exact.k, exact.v, exact.mask, kernel="streamed").output.isfinite().all()


def whole(mask: str, count: int, dtype: torch.dtype = torch.float32) -> Call:
    return call(mask, batch=1, heads=2, groups=1, queries=count, keys=count, width=8).at(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["native pieces", "streamed pieces"])
@pytest.mark.parametrize("mask", ["strided", "causal strided", "causal strided global", "strided global",
                                  "causal window global", "block global"])
@pytest.mark.parametrize("count", [1, 4, 8, 9, 10, 19, 64, 65, 300])
def test_sparse_over_awkward_lengths(count: int, mask: str, dtype: torch.dtype) -> None:
    """Below, at and above the stride, the global tokens and a block of the native kernel."""
    exact = whole(mask, count, dtype)
    truth, lse = whole(mask, count, torch.float64).formula() if dtype == torch.float64 else exact.at(torch.float64).formula()
    found = attend(exact.q, exact.k, exact.v, exact.mask, kernel="sparse")
    near = {"atol": 1e-13 if dtype == torch.float64 else 4e-6, "rtol": 0}
    torch.testing.assert_close(found.output.double(), truth, **near)
    torch.testing.assert_close(found.lse.double(), lse, **near)


def test_sparse_never_holds_the_map_and_skips_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = whole("causal strided global", 2048)
    pairs = []
    real = native.compute
    monkeypatch.setattr(native, "compute", lambda scores, *given, **more: pairs.append(
        scores.q.shape[0] * scores.q.shape[2] * scores.k.shape[2]) or real(scores, *given, **more))
    with _Largest() as seen:
        attend(exact.q, exact.k, exact.v, exact.mask, kernel="sparse")
    assert 0 < seen.numbers <= 2**17 < 2048**2
    # Global queries; the window, whose span native skips by itself; global keys; and rows of 2043 / 9 tokens.
    assert pairs == [5 * 2048, 2043 * 2043, 2043 * 5, 9 * 226 * 226]


def test_streamed_skips_hidden_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = call("block", batch=1, heads=1, groups=1, queries=4096, keys=4096, width=8).at(torch.float32)
    tiles_seen = []
    real = tiles.Scores.tile
    monkeypatch.setattr(tiles.Scores, "tile", lambda self, rows, columns: tiles_seen.append((rows, columns)) or real(
        self, rows, columns))
    mask = Mask.block(256, 4)
    attend(exact.q, exact.k, exact.v, mask, kernel="streamed")
    # Sixteen blocks on the diagonal; and the first row and column of tiles, which have global tokens.
    assert len(tiles_seen) == 16 + 15 + 15


@pytest.mark.parametrize(("mask", "given", "says"), [
    (Mask.causal() & Mask.window(9), {}, "no stride and no global tokens"),
    (Mask.strided(9) & Mask.strided(4), {}, "no stride and no global tokens, or several"),
    (Mask.strided(9) & Mask.prefix(4), {}, "no other rule than causality"),
    (Mask.strided(9), {"bias": torch.zeros(1, 45)}, "no bias")])
def test_sparse_refuses_in_words(mask: Mask, given: dict, says: str) -> None:
    exact = call("causal").at(torch.float32)
    with pytest.raises(KliegError, match=f"sparse kernel cannot do this call: .*{says}"):
        attend(exact.q, exact.k, exact.v, mask, kernel="sparse", **given)
    with pytest.raises(KliegError, match="as many queries as keys"):
        attend(exact.q[:, :, :5], exact.k, exact.v, Mask.strided(9), kernel="sparse")
    with pytest.raises(KliegError, match="no backward pass"):
        attend(exact.q.clone().requires_grad_(), exact.k, exact.v, Mask.strided(9), kernel="sparse")


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(exact: Call, **given: object) -> str:
        return choose(exact.q, exact.k, exact.v, exact.mask, **{**exact.options, **given})

    short, longer = call("causal").at(torch.float32), call("causal", queries=300, keys=300).at(torch.float32)
    documents = call("causal documents").at(torch.float32)
    assert chosen(short) == "fused"
    assert chosen(short, surveyed=True) == "native"
    assert chosen(short, softcap=2.0) == chosen(short, sinks=torch.zeros(4)) == "native"
    assert chosen(call("causal", value_width=8).at(torch.float32)) == "native"
    assert chosen(documents) == "packed"
    assert chosen(longer) == "native"
    strided = call("causal strided", queries=300, keys=300).at(torch.float32)
    assert chosen(strided) == chosen(strided, surveyed=True) == "sparse"
    assert chosen(call("causal block", queries=300, keys=300).at(torch.float32)) == "native"
    assert chosen(call("causal strided").at(torch.float32)) == "fused"
    strided.q.requires_grad_()
    assert chosen(strided) == "fused"
    one, several = (call(mask, queries=n).at(torch.float32) for mask, n in (("causal", 1), ("padding", FEW)))
    assert chosen(one) == chosen(several) == "few"
    two, more = (call(mask, queries=n).at(torch.float32) for mask, n in (("causal", 2), ("padding", FEW + 1)))
    assert chosen(two) == chosen(more) == chosen(call("causal", queries=1, batch=1).at(torch.float32)) == "fused"
    assert chosen(one, softcap=2.0) == chosen(one, surveyed=True) == "native"
    one.k.requires_grad_()
    assert chosen(one) == chosen(call("causal", queries=1, keys=few.KEYS + 1).at(torch.float32)) == "fused"
    # What carries gradients, or is in float64, or finds no compiled library, goes other ways.
    trained = torch.zeros(1, 1, 45, 45, requires_grad=True)
    assert chosen(short, bias=trained) == "dense"
    longer.q.requires_grad_()
    assert chosen(longer) == "fused"
    assert chosen(longer, softcap=2.0) == "streamed"
    # An additive mask of 4097 x 4097 would be the map over again; causality alone needs none.
    long = torch.zeros(1, 1, 4097, 1)
    nothing = {"softcap": None, "sinks": None, "bias": None}
    assert choose(long, long, long, Mask.causal() & Mask.window(9), **nothing) == "native"
    monkeypatch.setattr(native, "_library", lambda: None)
    assert chosen(call("causal")) == "fused"
    assert choose(long, long, long, Mask.causal() & Mask.window(9), **nothing) == "streamed"
    assert choose(long, long, long, Mask.causal(), **nothing) == "fused"
    assert chosen(short, softcap=2.0) == "dense"
    assert attend(short.q, short.k, short.v, short.mask, survey=SurveySpec()).survey.kernel == "streamed"


@pytest.mark.parametrize("mask", ["none", "padding", "causal left padding"])
@pytest.mark.parametrize(("queries", "keys", "groups"), [(1, 1, 4), (1, 37, 2), (5, 64, 1), (3, few.KEYS, 4)])
def test_a_few_queries_meet_keys_wherever_they_lie(mask: str, queries: int, keys: int, groups: int) -> None:
    """In a cache, whose slots lie apart, as much as in memory of their own; where nothing is seen, nothing comes out."""
    exact = call(mask, queries=queries, keys=keys, groups=groups, width=24, value_width=17)
    low = exact.at(torch.float32)
    if few.refusal(low.q, low.k, low.v, low.mask, **NOTHING):
        assert mask == "causal left padding" and queries > 1
        return
    apart = [torch.empty(keys + 5, 2, groups, x.shape[3]).permute(1, 2, 0, 3)[:, :, :keys].copy_(x) for x in (low.k, low.v)]
    output, lse = exact.formula()
    for k, v in ((low.k, low.v), apart):
        found = attend(low.q, k, v, low.mask, kernel="few")
        torch.testing.assert_close(found.output.double(), output, atol=2e-6, rtol=0)
        torch.testing.assert_close(found.lse.double(), lse, atol=2e-6, rtol=1e-6)


def test_a_number_that_is_none_is_not_lost_among_a_few() -> None:
    exact = call("none", queries=1).at(torch.float32)
    exact.k[0, 0, 7] = torch.nan
    found = attend(exact.q, exact.k, exact.v, exact.mask, kernel="few").output
    assert found[0, :2].isnan().all() and found[0, 2:].isfinite().all() and found[1].isfinite().all()


def test_attend_says_which_kernel_ran() -> None:
    exact = call("causal").at(torch.float32)
    assert attend(exact.q, exact.k, exact.v, exact.mask).kernel == "fused"
    assert attend(exact.q, exact.k, exact.v, exact.mask, softcap=2.0).kernel == "native"
    assert attend(exact.q, exact.k, exact.v, exact.mask, survey=SurveySpec()).survey.kernel == "native"
    assert attend(exact.q, exact.k, exact.v, exact.mask, survey=SurveySpec(), kernel="dense").kernel == "dense"


def test_a_mask_is_written_out_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = call("causal left padding").at(torch.float32)
    asked = []
    real = Mask.visible
    monkeypatch.setattr(Mask, "visible", lambda self, *given: asked.append(given) or real(self, *given))
    first = attend(exact.q, exact.k, exact.v, exact.mask, kernel="fused")
    again = attend(exact.q, exact.k, exact.v, exact.mask, kernel="fused")
    assert len(asked) == 1 and torch.equal(first.output, again.output)
    attend(exact.q[:, :, -2:], exact.k, exact.v, exact.mask, kernel="fused")
    assert len(asked) == 2


def test_a_mask_used_in_inference_serves_training_too() -> None:
    exact = call("causal left padding").at(torch.float32)
    with torch.inference_mode():
        attend(exact.q, exact.k, exact.v, exact.mask, kernel="fused")
    attend(exact.q.requires_grad_(), exact.k, exact.v, exact.mask, kernel="fused").output.sum().backward()
    assert exact.q.grad.isfinite().all()


def test_one_query_at_the_end_of_a_cache_needs_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mask, "visible", None)
    exact = call("causal", queries=1).at(torch.float32)
    found = attend(exact.q, exact.k, exact.v, exact.mask & Mask.prefix(3) & Mask.window(99))
    torch.testing.assert_close(found.output, exact.formula()[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("kernel", HERE)
def test_autocast_does_not_reach_inside(kernel: str) -> None:
    known = {"sparse": "causal strided", "few": "padding", "short": "causal"}
    exact = call(known.get(kernel, "causal documents")).at(torch.float32)
    plain = attend(exact.q, exact.k, exact.v, exact.mask, kernel=kernel)
    with torch.autocast("cpu", torch.bfloat16):
        cast = attend(exact.q, exact.k, exact.v, exact.mask, kernel=kernel)
    assert torch.equal(cast.output, plain.output) and torch.equal(cast.lse, plain.lse)


def test_mixed_types_are_widened_and_the_output_is_as_v() -> None:
    exact = call("causal").at(torch.float32)
    found = attend(exact.q, exact.k, exact.v.bfloat16(), exact.mask)
    assert found.output.dtype == torch.bfloat16 and found.lse.dtype == torch.float32


def shape(*sizes: int) -> Tensor:
    return torch.zeros(*sizes)


@pytest.mark.parametrize(("given", "says"), [
    ({"q": shape(4, 5, 8)}, "expected q (b, h, i, d)"),
    ({"k": shape(2, 2, 5, 9)}, "q and k of one width"),
    ({"k": shape(1, 2, 5, 8)}, "expected one batch"),
    ({"v": shape(2, 2, 6, 8)}, "k and v of the same heads and keys"),
    ({"q": shape(2, 3, 5, 8)}, "3 query heads over 2 key heads"),
    ({"q": shape(2, 4, 0, 8)}, "at least one query"),
    ({"k": shape(2, 2, 0, 8), "v": shape(2, 2, 0, 8)}, "at least one query and one key"),
    ({"softcap": 0.0}, "softcap 0.0; expected a positive number"),
    ({"sinks": shape(2)}, "expected one for each head, (4,)"),
    ({"bias": shape(4, 5, 6)}, "broadcasts to (2, 4, 5, 5)"),
    ({"mask": Mask.padding(shape(2, 4))}, "Mask.padding() got (2, 4); expected (b, j) = (2, 5)"),
    ({"mask": Mask.documents(shape(3, 5))}, "Mask.documents() got (3, 5)"),
    ({"q": shape(2, 4, 6, 8), "mask": Mask.documents(shape(2, 5))}, "6 queries over 5 keys"),
    ({"mask": Mask.explicit(shape(5, 5))}, "Mask.explicit() got (5, 5)"),
    ({"mask": Mask.explicit(shape(1, 1, 4, 5))}, "covers slots 0 to 4 and 5 keys"),
    ({"mask": Mask.explicit(shape(1, 1, 4, 5), first_slot=1)}, "covers slots 0 to 4"),
    ({"mask": Mask.block(0)}, "Mask.block() got size 0; expected at least 1"),
    ({"mask": Mask.strided(-2)}, "Mask.strided() got size -2"),
    ({"kernel": "dens"}, "Did you mean 'dense'?"),
    ({"kernel": "fused", "softcap": 1.0}, "fused kernel cannot do this call: it knows neither softcap nor sinks"),
    ({"kernel": "packed"}, "packed kernel cannot do this call"),
])
def test_what_does_not_fit_is_said_in_one_line(given: dict, says: str) -> None:
    with pytest.raises(KliegError) as error:
        attend(**{"q": shape(2, 4, 5, 8), "k": shape(2, 2, 5, 8), "v": shape(2, 2, 5, 8), **given})
    assert says in str(error.value) and "\n" not in str(error.value)
