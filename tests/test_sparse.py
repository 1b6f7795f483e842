"""Attention under strides and global tokens, piece by piece: exact at every length, and without the work that is hidden."""

from __future__ import annotations

import pytest
import torch
from formula import Call, Largest, call

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels import attend, native


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
    with Largest() as seen:
        attend(exact.q, exact.k, exact.v, exact.mask, kernel="sparse")
    assert 0 < seen.numbers <= 2**17 < 2048**2
    # Global queries; the window, whose span native skips by itself; global keys; and rows of 2043 / 9 tokens.
    assert pairs == [5 * 2048, 2043 * 2043, 2043 * 5, 9 * 226 * 226]


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
