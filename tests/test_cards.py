"""Every kernel of the GPU fits the shared memory of every card that it is made for: compiled for each, without one.

What a kernel takes depends on the width of the heads to the next power of two, on the bytes of a number (bfloat16 and
float16 are alike), and on the tables that a tile needs. The worst is an explicit table, documents in pieces, a softcap
and a bias in float32, all at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hopper import SHARED, compiled
from torch import Tensor

from klieg.attention import Mask
from klieg.kernels import attend, gpu, survey
from klieg.kernels.surveys import tile
from klieg.survey import SurveySpec

pytest.importorskip("triton", reason="Triton is not installed")
forward = pytest.importorskip("klieg.kernels.gpu.forward")
backward = pytest.importorskip("klieg.kernels.gpu.backward")
tiles = pytest.importorskip("klieg.kernels.gpu.tiles")

EVERY = {"_forward", "_delta", "_of_queries", "_of_keys", "_of_bias", "_sweep", "_add", "_united", "_pick", "_block"}
CALL = """
from klieg.attention import Mask
from klieg.kernels.gpu import backward, forward, surveys, tiles
from klieg.kernels.native import Wanted
from klieg.tiles import Scores

N = 256
lse = torch.zeros(1, 4, N)

def call(type, width, table=False, rest=False):
    q, k, v = (torch.zeros(1, heads, N, width, dtype=type) for heads in (4, 2, 2))
    mask = Mask.causal() & Mask.explicit(torch.ones(1, 1, N, N, dtype=torch.bool)) if table else Mask.causal()
    mask = mask & Mask.documents(torch.tensor([[0, 1] * (N // 2)])) if rest else mask
    return Scores.of(q, k, mask, scale=0.1, softcap=30.0 if rest else None, bias=torch.zeros(1, 1, N, N) if rest else None), v

def back(scores, v):
    backward.compute(scores, v, lse, torch.zeros_like(scores.q), lse)
    if scores.bias is not None:
        backward.of_bias(scores, v, lse, torch.zeros_like(scores.q), lse)
"""
SAID = """
print(*(word for at, count in needed.items() for word in (*at, count)))
"""
# The memory is known before there is machine code, and what makes that is left out.
BRIEF = """
from triton.backends.nvidia.compiler import CUDABackend
CUDABackend.make_ptx = lambda self, source, metadata, *given: metadata.update(name="") or ""
CUDABackend.make_cubin = lambda *given: b""
"""
# What did not fit 99 KB in tiles as they suit Hopper, but for what takes long to compile.
WORST = """
for Driver.capability in (80, 86, 89, 90, 100, 120):
    scores, v = call(torch.bfloat16, 256)
    forward.compute(scores, v, None, statistics=False)
Driver.capability = 86
back(scores, v)
scores, v = call(torch.bfloat16, 128, table=True)
forward.compute(scores, v, None, statistics=False)
"""
EVERYTHING = """
Driver.capability = CAPABILITY
for width in (128, 256):
    plain, v = call(torch.TYPE, width)
    table, full = call(torch.TYPE, width, table=True)[0], call(torch.TYPE, width, table=True, rest=True)[0]
    short = Scores.of(plain.q[:, :, :8], plain.k, plain.mask, scale=0.1, softcap=None, bias=None)
    for scores in (table, full) if width == 128 else (plain, table, full, short):
        forward.compute(scores, v, None, statistics=True)
    surveys.compute(full, Wanted(), lse, columns=True)
backward.delta(plain.q, plain.q)
back(plain, v)
back(full, v)
wanted = Wanted(sums=True, bins=20, top=32, row_edges=[0, 100, N], key_edges=[0, 30, N])
surveys.compute(full, wanted, lse, probe=torch.zeros(1, 2, N))
tiles.tile(full, lse)
"""


def check(words: list[str], kernels: dict[int, set[str]]) -> None:
    """The kernels of each capability were compiled, and every one fits."""
    needed = {(int(n), name): int(count) for n, name, count in zip(words[::3], words[1::3], words[2::3], strict=True)}
    assert set(needed) == {(n, name) for n, names in kernels.items() for name in names}
    assert {at: count for at, count in needed.items() if count > SHARED[at[0]]} == {}
    # Keys and values of a tile lie there: less than this, and nothing was counted.
    assert all(count >= 2**15 for (_, name), count in needed.items() if name == "_forward")


def test_what_needs_most_fits_every_card(tmp_path: Path) -> None:
    check(compiled(BRIEF + CALL + WORST + SAID, tmp_path),
          {n: {"_forward", "_of_queries", "_of_keys"} if n == 86 else {"_forward"} for n in SHARED})


@pytest.mark.slow
@pytest.mark.parametrize("type", ["bfloat16", "float32"])
@pytest.mark.parametrize("capability", SHARED)
def test_every_kernel_fits_every_card(capability: int, type: str, tmp_path: Path) -> None:
    code = EVERYTHING.replace("CAPABILITY", str(capability)).replace("TYPE", type)
    check(compiled(BRIEF + CALL + code + SAID, tmp_path), {capability: EVERY})


def test_hopper_keeps_its_tiles_and_a_small_card_takes_less() -> None:
    """Of heads up to 128 wide only the tiles on their way are fewer; without a GPU the tiles are Hopper's."""
    big, small, half = SHARED[90], SHARED[86], torch.bfloat16
    assert gpu.space(torch.device("cpu")) >= gpu.ROOMY and SHARED[80] >= gpu.ROOMY > small
    for width, dressed, stages, keys, few in ((128, False, 3, 64, 64), (128, True, 3, 32, 32), (192, False, 2, 64, 32)):
        usual, less = (forward.tiles(512, width, half, dressed, shared) for shared in (big, small))
        assert (usual["num_stages"], usual["KEYS"], less["num_stages"], less["KEYS"]) == (stages, keys, 2, few)
        assert usual["ROWS"] == less["ROWS"]
    for dtype, usual, less in ((half, (64, 32), (64, 16)), (torch.float32, (32, 16), (16, 16))):
        assert backward.tiles(192, dtype, big)[:2] == usual and backward.tiles(192, dtype, small)[:2] == less
        assert backward.tiles(128, dtype, big) == backward.tiles(128, dtype, small)


def test_a_card_is_asked_once_for_its_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda device: asked.append(device) or SimpleNamespace(shared_memory_per_block_optin=101376))
    gpu.space.cache_clear()
    card = torch.device("cuda", 1)
    assert gpu.space(card) == gpu.space(card) == 101376 and asked == [card]
    gpu.space.cache_clear()


@pytest.mark.parametrize(("dtype", "width", "keys"), [(torch.bfloat16, 192, 32), (torch.float32, 192, 16),
                                                      (torch.bfloat16, 128, 64)])
def test_the_survey_takes_half_the_keys_of_wide_heads_on_a_small_card(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype,
                                                                      width: int, keys: int) -> None:
    q = torch.zeros(1, 1, 4, width, dtype=dtype)
    usual = tiles.blocks(q)
    monkeypatch.setattr(tiles, "space", lambda device: SHARED[89])
    assert tiles.blocks(q) == {**usual, "KEYS": keys} and usual["KEYS"] == keys * (2 if width > 128 else 1)


def test_every_kernel_is_launched_on_the_card_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton takes torch's current device, which is another where a model's layers lie on several cards."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    real, entered, launched = interpreter.InterpretedFunction.run, [], {}

    @contextmanager
    def device_of(x: Tensor) -> Iterator[None]:
        entered.append(x.device)
        yield
        entered.pop()

    def run(self: object, *given: object, **more: object) -> object:
        launched.setdefault(self.fn.__name__, set()).add(bool(entered))
        return real(self, *given, **more)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(interpreter.InterpretedFunction, "run", run)
    q, k, v = (torch.randn(1, 2, 9, 16).requires_grad_() for _ in range(3))
    found = attend(q, k, v, Mask.causal(), bias=torch.zeros(1, 2, 9, 9, requires_grad=True), kernel="gpu")
    found.output.sum().backward()
    attend(q.detach(), k.detach(), v.detach(), survey=SurveySpec(top=2, map=2), kernel="gpu")
    survey(q.detach(), k.detach(), None, kernel="gpu", mask=Mask.causal(), spec=SurveySpec(top=0, map=0))
    whole = slice(0, 9)
    tile(q.detach(), k.detach(), found.lse, Mask(), rows=whole, keys=whole, shape=(9, 9), kernel="gpu")
    assert launched == {name: {True} for name in EVERY}
