"""Every kernel against the formula in float64, no worse than plain PyTorch at its own precision; tests/formula.py has both."""

from __future__ import annotations

import pytest
import torch
from formula import COMPILED, HERE, Call, call, check, check_gradients, masks, options, small_tiles  # noqa: F401
from torch import Tensor

from klieg.kernels import attend


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


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("mask", ["causal", "causal left padding", "causal documents", "causal scattered documents",
                                  "explicit", "window", "causal block", "causal strided global", "none"])
@pytest.mark.parametrize("option", ["none", "softcap", "bias", "row of bias", "blinding bias", "all"])
def test_gradients(dtype: torch.dtype, mask: str, option: str) -> None:
    exact = call(mask, queries=45 if option != "none" else 77, keys=77, value_width=32 if option != "all" else 9)
    exact.options = options(option, 4, exact.q.shape[2], 77)
    check_gradients(exact, dtype)


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
