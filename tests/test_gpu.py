"""The kernel on the GPU against the formula in float64: interpreted, compiled for Hopper, and on a GPU if there is one.

Triton's interpreter runs a kernel line by line, some milliseconds for every tile, so texts are short here and tiles
small. It multiplies the bits of a bfloat16 as whole numbers; the kernel widens there, and what rounding to bfloat16
does to it is seen on a GPU only.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from formula import NOTHING, Call, assert_no_worse, call, check, check_gradients, formula, masks, options
from hopper import compiled
from hypothesis import given
from test_attention import composed
from test_attention import masks as composed_masks
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from klieg.attention import Mask, slots
from klieg.errors import KliegError
from klieg.kernels import attend, backends, choose, gpu
from klieg.tiles import Scores

pytest.importorskip("triton", reason="Triton is not installed")
forward = pytest.importorskip("klieg.kernels.gpu.forward")
backward = pytest.importorskip("klieg.kernels.gpu.backward")
visible = pytest.importorskip("klieg.kernels.gpu.visible")

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
on_a_gpu = pytest.mark.skipif(not CUDA, reason="there is no CUDA GPU")
MASKS = [name for name, (mask, _) in masks(1, 1, 1, 9).items() if not mask.scattered]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short texts have several, of which some are whole."""
    more = {"num_warps": 4, "num_stages": 1}
    monkeypatch.setattr(forward, "tiles", lambda *given: {"ROWS": 16, "KEYS": 16, **more})
    monkeypatch.setattr(backward, "tiles", lambda *given: (16, 32, more))


def there(exact: Call, dtype: torch.dtype = torch.float32) -> Call:
    """The call on the device, and its mask with it."""
    here = exact.at(dtype)
    rules = tuple(rule if rule.table is None else replace(rule, table=rule.table.to(DEVICE)) for rule in here.mask.rules)
    given = {name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in here.options.items()}
    return Call(*(x.to(DEVICE) for x in (here.q, here.k, here.v)), Mask(rules), here.seen.to(DEVICE), given, here.scale)


def small(mask: str, option: str = "none", queries: int = 37, keys: int = 37, **more: int) -> Call:
    """Two heads of one group and one text, short and of an awkward width."""
    exact = call(mask, **{"batch": 1, "heads": 2, "groups": 1, "queries": queries, "keys": keys, "width": 20,
                          "value_width": 9, **more})
    exact.options = options(option, exact.q.shape[1], queries, keys)
    return exact


def statistics(exact: Call) -> dict[str, Tensor]:
    """What the formula says of every row: its weights are the output for values that are the unit matrix."""
    keys, queries = exact.k.shape[2], exact.q.shape[2]
    every = torch.eye(keys, dtype=exact.k.dtype, device=exact.k.device).expand(*exact.k.shape[:2], -1, -1)
    w, lse = formula(exact.q, exact.k, every, exact.seen, scale=exact.q.shape[3] ** -0.5, **exact.options)
    slot, key = slots(queries, keys, w.device), torch.arange(keys, device=w.device)
    own = (slot[:, None] == key).to(w)
    return {"max": lse + w.amax(-1).log(), "mass": w.sum(-1), "entropy": -torch.xlogy(w, w).sum(-1), "first": w[..., 0],
            "own": (w * own).sum(-1), "distance_sum": (w * (slot[:, None] - key).abs()).sum(-1)}


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("mask", "option"), [
    *((mask, "all") for mask in MASKS),
    *((mask, "none") for mask in ("none", "causal", "causal left padding", "causal documents", "explicit"))])
def test_output_and_statistics_under_every_mask(mask: str, option: str) -> None:
    check_statistics(there(small(mask, option)))


def check_statistics(here: Call) -> None:
    exact = replace(here.at(torch.float64), mask=here.mask)
    truth, lse = exact.formula()
    plain, plain_lse = here.formula()
    output, found = gpu.attended(here.q, here.k, here.v, here.mask, scale=20 ** -0.5, **here.options)
    assert_no_worse(output, plain, truth, "output", units=2)
    assert_no_worse(found["lse"], plain_lse, lse, "lse")
    right, usual = statistics(exact), statistics(here)
    assert set(found) == {"lse", *right}
    for name, x in right.items():
        assert_no_worse(found[name], usual[name], x, name, worst=4, units=4)


@pytest.mark.usefixtures("small_tiles")
def test_a_query_whose_own_key_is_padding_gives_it_nothing() -> None:
    exact = small("none")
    real = torch.arange(37)[None] < 25
    check_statistics(there(replace(exact, mask=Mask.padding(real), seen=exact.seen & real[:, None, None])))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("width", "value_width"), [(1, 1), (32, 33), (64, 16), (96, 128), (256, 256)])
def test_every_type_and_width(dtype: torch.dtype, width: int, value_width: int) -> None:
    check(there(small("causal", queries=18, keys=33, width=width, value_width=value_width), dtype), dtype, ["gpu"])


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 40), (16, 32), (33, 17)])
@pytest.mark.parametrize("mask", ["causal", "causal window", "prefix", "explicit"])
def test_ragged_lengths(mask: str, queries: int, keys: int) -> None:
    check(there(small(mask, "sinks", queries, keys)), torch.float32, ["gpu"])


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("heads", "groups", "batch"), [(3, 3, 1), (6, 2, 2)])
def test_grouped_heads_and_texts(heads: int, groups: int, batch: int) -> None:
    exact = small("causal left padding", "sinks", 20, 20, heads=heads, groups=groups, batch=batch)
    check(there(exact), torch.float32, ["gpu"])


def test_tiles_of_the_real_size() -> None:
    check(there(small("causal", queries=140, keys=150)), torch.float32, ["gpu"])


@pytest.mark.usefixtures("small_tiles")
def test_a_scale_of_ones_own_and_large_scores() -> None:
    exact = small("causal")
    for scale in (3.0, 0.0, -0.3):
        exact.scale = scale
        here = there(exact)
        check(here, torch.float32, ["gpu"])
        alone = gpu.log_sum_exp(Scores.of(here.q, here.k, here.mask, scale=scale, softcap=None, bias=None), None)
        torch.testing.assert_close(alone, here.formula()[1], atol=2e-6, rtol=2e-6)


@pytest.mark.usefixtures("small_tiles")
def test_inputs_may_lie_anyhow_and_what_nobody_sees_is_not_read() -> None:
    """Heads split from one matrix, a last axis with gaps, one text for the batch; and NaN where the window never looks."""
    exact = there(small("causal window", queries=3, keys=90, batch=2, value_width=20))
    q, k = exact.q.transpose(1, 2).contiguous().transpose(1, 2), exact.k.mT.contiguous().mT
    v = exact.v[:1].expand_as(exact.v)
    truth = Call(q.double(), k.double(), v.double(), exact.mask, exact.seen).formula()[0]
    k, v = k.clone(), v.clone()
    k[:, :, :60], v[:, :, :60] = torch.nan, torch.nan
    found = attend(q, k.mT.contiguous().mT, v, exact.mask, kernel="gpu").output
    torch.testing.assert_close(found.double(), truth, atol=2e-6, rtol=0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("sinks", [torch.tensor([[1.0, 9.0], [-2.0, 7.0]])[:, 0], torch.tensor(1.5).expand(2)],
                         ids=["a column", "one for all"])
def test_sinks_and_padding_may_lie_anyhow(sinks: Tensor) -> None:
    real = torch.stack([torch.arange(37) % 5 > 0, torch.arange(37) % 3 > 0], 1).T
    exact = call("causal", batch=2, heads=2, groups=1, queries=37, keys=37, width=20)
    here = there(replace(exact, mask=Mask.causal() & Mask.padding(real.contiguous())))
    found = attend(here.q, here.k, here.v, Mask.causal() & Mask.padding(real.to(DEVICE)), sinks=sinks.to(DEVICE), kernel="gpu")
    truth, lse = formula(exact.q, exact.k, exact.v, exact.seen & real[:, None, None], scale=20**-0.5, softcap=None,
                         sinks=sinks.double(), bias=None)
    torch.testing.assert_close(found.output.cpu().double(), truth, atol=2e-6, rtol=0)
    torch.testing.assert_close(found.lse.cpu().double(), lse, atol=2e-6, rtol=2e-6)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("mask", "option", "dtype"), [
    ("causal", "none", torch.float32), ("causal", "none", torch.float16), ("none", "all", torch.float32),
    ("window", "none", torch.float32), ("causal left padding", "row of bias", torch.float32),
    ("causal documents", "softcap", torch.float32), ("causal scattered documents", "sinks", torch.float32),
    ("explicit", "blinding bias", torch.float32), ("all at once", "none", torch.float32)])
def test_gradients(mask: str, option: str, dtype: torch.dtype) -> None:
    exact = small(mask, option, 20 if option != "none" else 37, 37)
    check_gradients(there(exact), dtype, ["gpu"])


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (1, 2, 1, 20), (1, 1, 20, 1), (2, 2, 20, 20)])
def test_the_gradient_of_a_bias_of_any_shape(shape: tuple[int, ...]) -> None:
    exact = small("causal", "sinks", 20, 20, batch=2)            # without a sink, what all scores have in common is lost
    exact.options["bias"] = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    check_gradients(there(exact), torch.float32, ["gpu"], units=4)      # of two numbers, which luck gives plain PyTorch


@pytest.mark.usefixtures("small_tiles")
def test_only_the_output_carries_gradients_and_autocast_does_not_reach_inside() -> None:
    exact = there(small("causal"))
    plain = attend(exact.q.requires_grad_(), exact.k, exact.v, exact.mask, kernel="gpu")
    assert plain.output.requires_grad and not plain.lse.requires_grad
    with torch.autocast(DEVICE.type, torch.bfloat16):
        cast = attend(exact.q, exact.k, exact.v, exact.mask, kernel="gpu")
    assert torch.equal(cast.output, plain.output) and torch.equal(cast.lse, plain.lse)


@given(composed_masks())
def test_spans_labels_and_tables_say_what_the_mask_says(case) -> None:
    parts, batch, heads, queries, keys = case
    mask = composed(parts)
    seen = visible.seen(mask, range(keys - queries, keys), range(keys), torch.device("cpu"))
    i, j = torch.arange(queries)[:, None], torch.arange(keys)
    by_row = (j >= seen.first_key[..., None]) & (j < seen.last_key[..., None])
    by_key = (i >= seen.first_row[:, None]) & (i < seen.last_row[:, None])
    assert torch.equal(by_row, by_key)
    for x in (seen.first_key, seen.last_key, seen.first_row, seen.last_row):
        assert (x.diff() >= 0).all()
    found = by_row[:, None]
    if seen.labels is not None:
        found = found & (seen.labels[0][:, :, None] == seen.labels[1][:, None])[:, None]
    if seen.allowed is not None:
        found = found & (seen.allowed != 0)
    truth = mask.visible(slots(queries, keys), torch.arange(keys))
    assert torch.equal(found.expand(batch, heads, -1, -1), truth.expand(batch, heads, -1, -1))


def test_padding_among_documents_in_pieces_is_nobody_s() -> None:
    ids, real = torch.tensor([[5, 7, 5, 7, 5]]), torch.tensor([[True, True, False, True, True]])
    seen = visible.seen(Mask.documents(ids) & Mask.padding(real), range(5), range(5), torch.device("cpu"))
    assert torch.equal(seen.labels[0][:, :, None] == seen.labels[1][:, None], (ids[:, :, None] == ids[:, None]) & real[:, None])


def test_tables_of_a_mask_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = visible.spans
    monkeypatch.setattr(visible, "spans", lambda *given: asked.append(given) or real(*given))
    mask = Mask.causal() & Mask.padding(torch.tensor([[True, False, True]]))
    for each in (mask, mask, Mask.window(3), Mask.window(3)):
        visible.seen(each, range(3), range(3), torch.device("cpu"))
    assert len(asked) == 2


def test_what_is_made_while_a_graph_is_recorded_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no numbers before the graph runs, and none ever if the recording fails."""
    card, records = torch.device("cuda", 0), iter([True, True, False, False])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: next(records))
    monkeypatch.setattr(visible, "_build", lambda *given: object())
    visible._untabled.cache_clear()
    made = [visible.seen(Mask.window(3), range(4), range(4), card) for _ in range(4)]
    visible._untabled.cache_clear()
    assert len({id(each) for each in made[:3]}) == 3 and made[2] is made[3]


ZEROS = torch.zeros(1, 2, 5, 8)


@pytest.mark.parametrize(("tensors", "mask", "why"), [
    ((ZEROS.double(),) * 3, Mask(), "q, k and v of one type, bfloat16, float16 or float32, not float64"),
    ((torch.zeros(1, 2, 5, 257),) * 3, Mask(), "heads of a width up to 256, not 257"),
    ((ZEROS,) * 3, Mask.strided(3), "strides and global tokens would need a table"),
    ((torch.zeros(1, 2, 1, 1).expand(2**16, 2, 1, 1),) * 3, Mask(), "up to 65535 texts and heads")])
def test_it_refuses_in_words(tensors: tuple[Tensor, ...], mask: Mask, why: str) -> None:
    with pytest.raises(KliegError, match=f"the gpu kernel cannot do this call: .*{why}"):
        attend(*(x.to(DEVICE) for x in tensors), mask, kernel="gpu")


def test_a_survey_counts_the_heads_of_all_texts() -> None:
    """They are one axis of its launch."""
    many = torch.zeros(1, 2, 1, 1, device=DEVICE).expand(2**15, 2, 1, 1)
    assert gpu.refusal(many, many) == "it looks at up to 65535 heads of all texts together"
    assert gpu.refusal(many, many, many) is gpu.refusal(many[1:], many[1:]) is None


def test_it_says_what_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert "Triton is not installed" in gpu.refusal(*(ZEROS.to(DEVICE),) * 3)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert gpu.refusal(ZEROS, ZEROS, ZEROS) == "it runs on a CUDA GPU, and the tensors are on cpu"


def test_on_a_gpu_it_is_chosen_and_another_only_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_missing", lambda device: None)
    monkeypatch.setattr(backends, "_backend", lambda *given: None)
    with FakeTensorMode():
        narrow, wide = (torch.empty(1, 2, 5, 8, device="cuda", dtype=dtype) for dtype in (torch.bfloat16, torch.float64))
        assert choose(narrow, narrow, narrow, Mask.causal(), **NOTHING) == "gpu"
        with pytest.warns(UserWarning, match="gpu kernel cannot do this call: .*float64; plain PyTorch does it, exactly"):
            assert choose(wide, wide, wide, Mask.causal(), **NOTHING) == "dense"
    short = call("causal").at(torch.float32)
    assert choose(short.q, short.k, short.v, short.mask, **NOTHING) == "fused"


@pytest.mark.parametrize("types", [(torch.float32, torch.float32, torch.bfloat16),
                                   (torch.bfloat16, torch.float16, torch.float16)])
def test_tensors_of_several_types_are_widened_before_a_kernel_is_chosen(monkeypatch: pytest.MonkeyPatch, types: tuple) -> None:
    """Rotation may leave queries and keys in float32."""
    def choose(*given: Tensor, **more: object) -> str:
        raise KliegError(" ".join(str(x.dtype) for x in given[:3]))

    monkeypatch.setattr("klieg.kernels.choose", choose)
    with FakeTensorMode(), pytest.raises(KliegError, match=" ".join(["torch.float32"] * 3)):
        attend(*(torch.empty(1, 2, 5, 8, device="cuda", dtype=dtype) for dtype in types))


LAUNCH = """
from klieg.attention import Mask
from klieg.kernels import gpu
from klieg.kernels.gpu import forward

# The smallest tiles that take the matrix unit: compiling takes seconds then.
forward.tiles = lambda *given: {"ROWS": 64, "KEYS": 32, "num_warps": 4, "num_stages": 2}
q, k, v = (torch.zeros(1, heads, 256, 64, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2))
bias = torch.zeros(1, 1, 256, 256, dtype=torch.bfloat16, requires_grad=True)
mask = Mask.causal() & Mask.documents(torch.tensor([[0, 1] * 128]))
gpu.attended(q, k, v, Mask.causal(), scale=0.1, softcap=30.0, sinks=torch.zeros(4), bias=None)
output, _ = gpu.attention(q, k, v, mask, scale=0.1, softcap=None, sinks=None, bias=bias)
output.sum().backward()
print(*sorted(made), *(made[name].count("wgmma.mma_async") > 0 for name in ("_forward", "_of_keys", "_of_queries")),
      "atom." in "".join(made.values()))
"""


def test_it_compiles_for_hopper_without_one(tmp_path: Path) -> None:
    """The interpreter forgives what the compiler refuses. Products take the matrix unit, and nothing is added atomically."""
    assert compiled(LAUNCH, tmp_path) == [
        "_delta", "_forward", "_of_bias", "_of_keys", "_of_queries", "True", "True", "True", "False"]


# What only a GPU can say. Peers are the backends of torch's scaled_dot_product_attention, each in the same type.


def peers(exact: Call) -> list[Tensor]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    found, shared = [], exact.q.shape[1] // exact.k.shape[1]
    k, v = (x.repeat_interleave(shared, dim=1) for x in (exact.k, exact.v))
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(torch.nn.functional.scaled_dot_product_attention(exact.q, k, v, is_causal=True))
        except RuntimeError:
            continue                                             # this backend takes no such call
    return found


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("width", [32, 64, 80, 96, 128, 192, 256])
def test_no_worse_than_the_best_backend_of_torch(width: int, dtype: torch.dtype) -> None:
    exact = there(call("causal", batch=1, heads=4, groups=2, queries=1000, keys=1000, width=width), dtype)
    truth, truth_lse = replace(exact.at(torch.float64), mask=exact.mask).formula()
    found = attend(exact.q, exact.k, exact.v, exact.mask, kernel="gpu")
    best = min(((peer.double() - truth).square().mean().sqrt().item() for peer in peers(exact)), default=torch.inf)
    assert (found.output.double() - truth).square().mean().sqrt().item() <= 2 * best < torch.inf
    assert (found.lse.double() - truth_lse).abs().max().item() < 1e-5


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("option", ["none", "all"])
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_in_tiles_of_the_real_size(mask: str, option: str, dtype: torch.dtype) -> None:
    exact = call(mask, queries=300, keys=523, width=64)
    exact.options = options(option, 4, 300, 523)
    check(there(exact, dtype), dtype, ["gpu"])


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize(("mask", "option"), [("causal", "none"), ("causal documents", "softcap"), ("explicit", "all"),
                                              ("causal window", "row of bias"), ("causal left padding", "none")])
def test_gradients_in_tiles_of_the_real_size(mask: str, option: str, dtype: torch.dtype) -> None:
    exact = call(mask, queries=300, keys=300, width=64)
    exact.options = options(option, 4, 300, 300)
    check_gradients(there(exact, dtype), dtype, ["gpu"])


@on_a_gpu
def test_every_run_gives_the_same_bits_and_fills_what_it_gives() -> None:
    exact = there(call("causal documents", queries=777, keys=777, width=128), torch.bfloat16)

    def run() -> list[Tensor]:
        leaves = [x.detach().clone().requires_grad_() for x in (exact.q, exact.k, exact.v)]
        found = attend(*leaves, exact.mask, kernel="gpu")
        gradients = torch.autograd.grad(found.output, leaves, torch.ones_like(found.output))
        lines = gpu.attended(exact.q, exact.k, exact.v, exact.mask, scale=0.1, softcap=None, sinks=None, bias=None)[1]
        return [found.output, found.lse, *gradients, *lines.values()]

    first, second = run(), run()
    assert all(torch.equal(a, b) and not a.isnan().any() for a, b in zip(first, second, strict=True))
