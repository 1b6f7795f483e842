"""q and k are kept within a budget, in memory or on a disk, and what is not kept is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from klieg.watching import store
from klieg.watching.store import Store

AT, OTHER = (0, "self"), (1, "cross")


def test_copies_are_kept_in_memory_until_the_budget_is_spent() -> None:
    kept = Store(budget=1000)
    x = torch.randn(2, 50)
    first, = kept.keep(AT, [x])
    assert torch.equal(first, x) and first.data_ptr() != x.data_ptr()
    view, = kept.keep(AT, [torch.randn(4, 8)[:, ::2].expand(2, 4, 4)[0]])
    assert view.is_contiguous() and kept.kept.total == 464
    assert kept.keep(OTHER, [x, x]) is None
    assert kept.kept.bytes == {AT: 464} and "1.3 KB are more than the 1.0 KB" in kept.kept.missing[OTHER]
    assert kept.keep(OTHER, [x[:, :1]]) is None, "a layer of which something is missing is not kept in part"
    assert kept.keep(AT, [x, x], needed=False) is None and AT not in kept.kept.missing
    assert str(kept.kept).splitlines()[0] == "q and k of 1 calls, 464 bytes of at most 1.0 KB in memory"
    assert str(kept.kept).splitlines()[2].startswith("layer 1 (cross): not kept, ")


def test_a_folder_holds_the_numbers_and_no_file_is_left(tmp_path: Path) -> None:
    kept = Store(tmp_path / "new")
    x = torch.randn(3, 5).bfloat16()
    found, = kept.keep(AT, [x])
    assert torch.equal(found, x) and not list((tmp_path / "new").iterdir()) and str(tmp_path) in kept.kept.where
    assert torch.equal(found.clone(), x)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
                                   torch.OutOfMemoryError("CUDA out of memory"), OSError(28, "No space left on device")])
def test_no_room_is_said_and_no_error(error: Exception) -> None:
    kept = Store()
    place, = kept.kept.places

    def fails(x: torch.Tensor) -> torch.Tensor:
        raise error

    place.copy = fails
    assert kept.keep(AT, [torch.zeros(3)]) is None and list(kept.kept.missing) == [AT] and place.used == 0
    place.copy = lambda x: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size"):
        kept.keep(OTHER, [torch.zeros(3)])


class Gpu:
    """A GPU with this much free memory, as far as a Store asks of it; what is kept on it is a copy beside the original."""

    type = "cuda"

    def __init__(self, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))


def test_what_the_gpu_has_no_room_for_goes_to_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Store(device=Gpu(400, monkeypatch))
    gpu, memory = kept.kept.places
    assert kept.keep(AT, [torch.zeros(20)]) and (gpu.used, memory.used) == (80, 0)
    assert kept.keep(AT, [torch.zeros(20)]) and (gpu.used, memory.used) == (80, 80) and kept.kept.bytes == {AT: 160}
    assert str(kept.kept).startswith("q and k of 1 calls, 80 bytes of at most 100 bytes in the GPU's memory, 80 bytes of at ")
    kept.lost(AT, "it was too long")
    assert gpu.used == memory.used == kept.kept.total == 0
    memory.budget = 10
    assert kept.keep(OTHER, [torch.zeros(30)]) is None
    assert kept.kept.missing[OTHER] == ("the GPU's memory: 120 bytes are more than the 100 bytes that may be taken; "
                                        "memory: 120 bytes are more than the 10 bytes that may be taken")


@pytest.mark.parametrize(("budget", "shares"), [(60, [60, 0]), (250, [100, 150])])
def test_a_budget_is_that_of_all_places(budget: int, shares: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Store(budget=budget, device=Gpu(400, monkeypatch))
    assert [place.budget for place in kept.kept.places] == shares and kept.kept.budget == budget


def test_a_folder_is_the_only_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Store(tmp_path, 50, Gpu(400, monkeypatch)).kept.where == str(tmp_path)


def test_what_is_forgotten_frees_its_share() -> None:
    kept = Store(budget=100)
    assert kept.keep(AT, [torch.zeros(25)]) and kept.keep(OTHER, [torch.zeros(1)]) is None
    kept.lost(AT, "it was too long")
    assert kept.kept.total == 0 and kept.kept.missing[AT] == "it was too long"


def test_the_free_memory_is_a_share_of_what_there_is() -> None:
    assert 2**20 < store.free_memory() < 2**50
    assert Store().kept.budget <= store.free_memory()
    assert [store.size(n) for n in (0, 999, 1000, 12_345, 5 * 10**12)] == ["0 bytes", "999 bytes", "1.0 KB", "12 KB", "5000 GB"]
