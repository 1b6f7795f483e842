"""Where a model computes: what a user may ask for, what is said where that is not there, and that tensors are brought."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from card import CARD
from card import card as card
from torch import Tensor

from klieg.attention import Mask
from klieg.device import CPU, device, moved, room
from klieg.errors import KliegError


@dataclass(frozen=True, eq=False)
class Part:
    x: Tensor
    name: str
    others: tuple[Tensor, ...] = ()
    made: int = field(init=False, default=3)


def test_a_device_by_its_name(card: torch.device) -> None:
    assert [device(name) for name in ("cpu", "cuda", "cuda:0")] == [CPU, CARD, CARD]


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "cuda:0 ", "mps", ""])
def test_a_name_of_no_device(name: str) -> None:
    with pytest.raises(KliegError, match="there is no device") as refused:
        device(name)
    assert "没有设备" in refused.value.zh


def test_a_gpu_that_is_not_there(card: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KliegError, match=r"there is no GPU 1 on this machine; .* there are 1") as refused:
        device("cuda:1")
    assert "没有 1 号 GPU" in refused.value.zh
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KliegError, match="its driver is too old") as refused:
        device("cuda")
    assert "驱动" in refused.value.zh
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(KliegError, match="made for processors alone") as refused:
        device("cuda")
    assert "CUDA 版" in refused.value.zh


def test_tensors_are_brought_to_a_device_and_back(card: torch.device) -> None:
    mask = Mask.causal() & Mask.padding(torch.tensor([[True, False, True]]))
    part = Part(torch.arange(3.0), "a", (torch.ones(2), torch.zeros(1)))
    there = moved({"part": part, "mask": mask, "list": [part.x, None, 4]}, card)
    assert there["part"].x.device == there["part"].others[1].device == there["mask"].rules[1].table.device == card
    assert there["list"][0].device == card and there["list"][1:] == [None, 4] and there["part"].made == 3
    back = moved(there, CPU)
    assert torch.equal(back["part"].x, part.x) and torch.equal(back["part"].others[0], torch.ones(2))
    assert part.x.device == CPU


def test_what_lies_there_already_is_the_same_object() -> None:
    part = Part(torch.arange(3.0), "a", (torch.ones(2),))
    thing = {"part": part, "list": [part, 1], "text": "x"}
    assert moved(thing, CPU) is thing


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError("no room"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")])
def test_memory_that_runs_out_is_one_line(error: Exception) -> None:
    with pytest.raises(KliegError, match=r"memory ran out while 'x' read 3 tokens .*nothing was kept") as refused, \
            room("'x' read 3 tokens"):
        raise error
    assert "'x' 读 3 个词元时内存不够了" in refused.value.zh


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a shape"), room("x"):
        raise RuntimeError("a shape does not fit")
