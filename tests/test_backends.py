"""PyTorch's fused kernels on a GPU: what is asked of them, and that a wrong one is found out, said once and left.

Without a GPU, stand-ins answer in their place. They are as awkward as the real ones: a log-sum-exp longer than the
queries, NaN for a row that sees nothing, no grouped heads, masks in aligned lines. How the real operators are called is
seen with tensors that have a shape and a device, and no numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from formula import NOTHING, assert_no_worse, call, check_gradients, formula, masks
from test_gpu import there
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels import attend, backends, choose, fused, gpu
from klieg.survey import SurveySpec

CUDA = torch.cuda.is_available()
on_a_gpu = pytest.mark.skipif(not CUDA, reason="there is no CUDA GPU")
CAUSAL = Mask.causal()


def stand_in(name: str, asked: list[str], base: float = 1.0) -> Callable:
    """An operator in torch's own arithmetic; `base` spoils its log-sum-exp."""

    def run(q: Tensor, k: Tensor, v: Tensor, *given: object, scale: float) -> tuple[Tensor, Tensor]:
        asked.append(name)
        causal, bias = given[1 if name == "flash" else 3], None if name == "flash" else given[0]
        seen = torch.ones(*q.shape[:3], k.shape[2], dtype=torch.bool, device=q.device)
        seen = seen.tril() if causal else seen
        if name == "efficient":
            assert k.shape[1] == q.shape[1] and not (bias is not None and causal)
            assert bias is None or (bias.shape == seen.shape and all(n % 16 == 0 for n in bias.stride()[2:3]))
        else:
            assert bias is None
        out, lse = formula(q, k, v, seen, scale=scale, softcap=None, sinks=None, bias=bias)
        lse = lse.float() * base
        return out.masked_fill(lse.isneginf()[..., None], torch.nan), torch.nn.functional.pad(
            lse, (0, -lse.shape[2] % 32 if name == "efficient" else 0), value=9.0)

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which stand-ins were asked, and that they are, in place of kernels that this machine lacks."""
    found: list[str] = []
    monkeypatch.setattr(backends, "_found", {})
    monkeypatch.setattr(backends, "_OPERATORS", {name: stand_in(name, found) for name in backends._OPERATORS})
    monkeypatch.setattr(backends, "_takes", lambda name, *given: True)
    monkeypatch.setattr(fused, "refusal", backends.refusal)
    monkeypatch.setattr(fused, "attention", backends.attention)
    return found


@pytest.mark.parametrize("option", ["none", "bias", "blinding bias"])
@pytest.mark.parametrize("queries", [37, 5])
@pytest.mark.parametrize("mask", masks(1, 1, 1, 9))
def test_every_mask_is_told_as_they_take_it(asked: list[str], mask: str, queries: int, option: str) -> None:
    exact = call(mask, batch=2, heads=4, groups=2, queries=queries, keys=37, width=16, value_width=16)
    if option != "none":
        bias = torch.randn(1, 4, 1, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        exact.options = dict(NOTHING, bias=bias.index_fill(3, torch.arange(5), -torch.inf) if "blind" in option else bias)
    here = exact.at(torch.float32)
    found = attend(here.q, here.k, here.v, here.mask, kernel="fused", bias=here.options["bias"])
    truth, lse = exact.formula()
    plain, plain_lse = here.formula()
    assert_no_worse(found.output, plain, truth, "output", units=2)
    assert_no_worse(found.lse, plain_lse, lse, "lse", units=2)
    told = option == "none" and (mask == "none" or (mask == "causal" and queries == 37))
    assert asked[-1] == ("cudnn" if told else "efficient")


@pytest.mark.parametrize("mask", ["none", "causal", "causal left padding", "explicit"])
def test_gradients_are_finite_and_right_where_a_row_sees_nothing(asked: list[str], mask: str) -> None:
    exact = call(mask, batch=2, heads=4, groups=2, queries=20, keys=20, width=16, value_width=16)
    check_gradients(exact.at(torch.float32), torch.float32, ["fused"])
    assert asked


def test_a_table_is_made_once_for_all_layers_and_each_mask_s_own(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = backends._build
    monkeypatch.setattr(backends, "_build", lambda *given: made.append(given) or real(*given))
    x = torch.randn(1, 2, 6, 16)
    for mask in (padding := Mask.padding(torch.arange(6)[None] < 4), padding, Mask.window(2)):
        attend(x, x, x, mask, kernel="fused")
    assert len(made) == 2


@pytest.mark.parametrize("spoilt", ["base", "NaN", "error"])
def test_a_kernel_that_is_wrong_here_is_said_once_and_never_used(asked: list[str], monkeypatch: pytest.MonkeyPatch,
                                                                 spoilt: str) -> None:
    def fails(*given: object, **more: object) -> tuple[Tensor, Tensor]:
        raise RuntimeError("cuDNN is not there\nstack")

    def empty(*given: object, **more: object) -> tuple[Tensor, Tensor]:
        return tuple(x * torch.nan for x in stand_in("cudnn", [])(*given, **more))

    wrong = {"base": stand_in("cudnn", asked, 1.4427), "NaN": empty, "error": fails}[spoilt]
    monkeypatch.setitem(backends._OPERATORS, "cudnn", wrong)
    x = torch.randn(1, 2, 6, 16)
    said = {"base": "are off by .* from the formula", "NaN": "off by nan", "error": "cuDNN is not there"}[spoilt]
    with pytest.warns(UserWarning, match=f"PyTorch's cudnn kernel is not used on cpu in float32: .*{said}"):
        attend(x, x, x, CAUSAL, kernel="fused")
    assert asked[-1] == "flash"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attend(x, x, x, CAUSAL, kernel="fused")


@pytest.mark.parametrize(("given", "mask", "why"), [
    ({"softcap": 2.0}, CAUSAL, "neither softcap nor sinks"), ({"sinks": torch.zeros(2)}, CAUSAL, "neither softcap nor sinks"),
    ({"bias": torch.zeros(1, 1, 6, 6, requires_grad=True)}, CAUSAL, "the bias no gradient"),
    ({}, Mask.window(2), "written out as an N x N tensor")])
def test_they_refuse_in_words(asked: list[str], monkeypatch: pytest.MonkeyPatch, given: dict, mask: Mask, why: str) -> None:
    monkeypatch.setattr(backends, "LARGEST_MASK", 35)
    x = torch.randn(1, 2, 6, 16)
    with pytest.raises(KliegError, match=f"the fused kernel cannot do this call: .*{why}"):
        attend(x, x, x, mask, kernel="fused", **given)


@pytest.mark.parametrize(("shape", "mask", "copies"), [
    ((1, 4, 1, 6), CAUSAL, 4), ((1, 4, 6, 6), Mask.padding(torch.ones(2, 6)), 8), ((1, 1, 1, 6), CAUSAL, 1),
    ((2, 1, 1, 1), Mask.explicit(torch.ones(1, 4, 6, 6)), 8), ((1, 4, 1, 1), Mask.explicit(torch.ones(2, 4, 6, 6)), 8)])
def test_a_bias_of_every_head_is_counted_as_it_is_written_out(asked: list[str], monkeypatch: pytest.MonkeyPatch,
                                                              shape: tuple[int, ...], mask: Mask, copies: int) -> None:
    """A few numbers for each head, as ALiBi's, become a table for each."""
    x, given = torch.randn(2, 4, 6, 16), {**NOTHING, "bias": torch.zeros(shape)}
    monkeypatch.setattr(backends, "LARGEST_MASK", copies * 36)
    assert backends.refusal(x, x, x, mask, **given) is None
    monkeypatch.setattr(backends, "LARGEST_MASK", copies * 36 - 1)
    assert "written out as an N x N tensor" in backends.refusal(x, x, x, mask, **given)


def test_the_first_use_does_not_mind_another_default_device(asked: list[str]) -> None:
    """Notebooks set it to the GPU; here it is one that has no numbers."""
    x = torch.randn(1, 2, 6, 16)
    usual = attend(x, x, x, CAUSAL, kernel="fused").output
    backends._found.clear()
    with torch.device("meta"):
        assert torch.equal(attend(x, x, x, CAUSAL, kernel="fused").output, usual)
    assert backends._found[("cudnn", x.device, x.dtype)]


def test_nothing_is_compared_nor_kept_while_a_graph_is_recorded(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison waits for the device, which would end the recording, and be held against the kernel."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(backends, "_compared", lambda *given: False)
    assert backends._right("cudnn", torch.device("cuda", 0), torch.bfloat16) and backends._found == {}
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert not backends._right("cudnn", torch.device("cuda", 0), torch.bfloat16)


def test_each_gets_what_it_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(backends, "_right", lambda *given: True)

    def chosen(dtype: torch.dtype, width: int, queries: int = 6, mask: Mask = CAUSAL, **given: bool) -> str | None:
        q, k = torch.zeros(1, 2, queries, width, dtype=dtype, **given), torch.zeros(1, 2, 6, width, dtype=dtype)
        return backends._backend(q, k, k, mask, None)

    half = torch.bfloat16
    assert chosen(half, 64) == "cudnn" and chosen(half, 192) == "flash" and chosen(half, 256) == "efficient"
    assert chosen(half, 64, 1) == "flash" and chosen(half, 64, 5) == chosen(half, 64, 6, Mask.window(2)) == "efficient"
    assert chosen(torch.float32, 20) == "efficient" and chosen(half, 20) is None and chosen(torch.float64, 64) is None
    assert chosen(half, 64, requires_grad=True) == "flash" and chosen(torch.float32, 64, requires_grad=True) is None
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        assert chosen(half, 64) == "efficient"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert chosen(half, 64) == "flash"
    x = torch.zeros(1, 2, 6, 20, dtype=half)
    assert "no fused kernel for such tensors" in backends.refusal(x, x, x, CAUSAL, **NOTHING)


def test_a_compiled_model_is_one_graph(asked: list[str]) -> None:
    @torch.compile(backend="eager", fullgraph=True)
    def run(x: Tensor) -> Tensor:
        assert backends.refusal(x, x, x, CAUSAL, **NOTHING) is None
        return backends.attention(x, x, x, CAUSAL, scale=0.1, bias=None)[0]

    x = torch.randn(1, 2, 6, 16)
    torch.testing.assert_close(run(x), attend(x, x, x, CAUSAL, kernel="fused", scale=0.1).output)


class Asked(TorchDispatchMode):
    """The operators of attention that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names += [str(function)] if "attention" in str(function) else []
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("able", "mask"), [("cudnn", CAUSAL), ("flash", CAUSAL), ("efficient", CAUSAL),
                                            ("efficient", Mask.window(3))])
def test_on_a_gpu_plain_attention_is_one_operator_of_pytorch(monkeypatch: pytest.MonkeyPatch, able: str, mask: Mask) -> None:
    monkeypatch.setattr(backends, "_takes", lambda name, *given: name == able)
    monkeypatch.setattr(backends, "_right", lambda *given: True)
    q, k, v = (torch.empty(2, heads, 40, 64, device="meta", dtype=torch.bfloat16) for heads in (4, 2, 2))
    with Asked() as ran:
        found, lse = backends.attention(q, k, v, mask, scale=0.1, bias=None)
    assert (found.shape, found.dtype, lse.shape, lse.dtype) == (q.shape, torch.bfloat16, (2, 4, 40), torch.float32)
    assert ran.names == [f"aten._scaled_dot_product_{able}_attention.default"]


def test_what_they_refuse_goes_to_the_kernel_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_missing", lambda device: None)
    monkeypatch.setattr(backends, "_backend", lambda *given: "flash")
    with FakeTensorMode():
        x = torch.empty(1, 2, 5, 8, device="cuda", dtype=torch.bfloat16)
        assert choose(x, x, x, CAUSAL, **NOTHING) == "fused"
        assert choose(x, x, x, CAUSAL, **{**NOTHING, "softcap": 30.0}) == "gpu"


# What only a GPU can say.


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("mask", ["none", "causal", "padding", "causal left padding", "window", "explicit"])
def test_the_real_ones_give_output_and_log_sum_exp(mask: str, dtype: torch.dtype) -> None:
    here = there(call(mask, batch=2, heads=4, groups=2, queries=301, keys=301, width=64, value_width=64), dtype)
    exact = here.at(torch.float64)
    found = attend(here.q, here.k, here.v, here.mask)
    truth, lse = formula(exact.q, exact.k, exact.v, here.seen, scale=64**-0.5, **NOTHING)
    assert found.kernel == "fused"
    assert (found.output.double() - truth).abs().max() < {4: 1e-5, 2: 2e-2}[dtype.itemsize]
    assert (found.lse.double() - lse).nan_to_num(0, 0, 0).abs().max() < 2e-5
    if mask == "causal left padding":
        check_gradients(here, dtype, ["fused"])
    surveyed = attend(here.q, here.k, here.v, here.mask, survey=SurveySpec(top=4, map=4)).survey
    assert (surveyed.mass - 1).abs()[lse > -torch.inf].max() < 1e-4 and surveyed.kernel == "gpu"
