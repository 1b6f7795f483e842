"""Attention by tiles: it is the dense one, never holds the map, and never touches what is hidden."""

from __future__ import annotations

import pytest
import torch
from formula import Largest, call, masks, options, small_tiles  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from klieg import tiles
from klieg.attention import Mask
from klieg.kernels import attend


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


@pytest.mark.parametrize("mask", ["causal", "causal window", "causal documents", "padding", "causal strided global"])
def test_streamed_never_holds_the_map(mask: str) -> None:
    exact = call(mask, batch=1, heads=2, groups=1, queries=2048, keys=2048, width=8).at(torch.float32)
    with Largest() as seen:
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
