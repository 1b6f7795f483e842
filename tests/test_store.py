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
    assert str(kept.kept).splitlines()[0] == "q and k of 1 calls, 464 bytes of at most 1.0 KB, in memory"
    assert str(kept.kept).splitlines()[2].startswith("layer 1 (cross): not kept, ")


def test_a_folder_holds_the_numbers_and_no_file_is_left(tmp_path: Path) -> None:
    kept = Store(tmp_path / "new")
    x = torch.randn(3, 5).bfloat16()
    found, = kept.keep(AT, [x])
    assert torch.equal(found, x) and not list((tmp_path / "new").iterdir()) and str(tmp_path) in kept.kept.where
    assert torch.equal(found.clone(), x)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
                                   torch.OutOfMemoryError("CUDA out of memory"), OSError(28, "No space left on device")])
def test_no_room_is_said_and_no_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Store()

    def fails(self: Store, x: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setattr(Store, "_copy", fails)
    assert kept.keep(AT, [torch.zeros(3)]) is None and list(kept.kept.missing) == [AT]
    monkeypatch.setattr(Store, "_copy", lambda self, x: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        kept.keep(OTHER, [torch.zeros(3)])


def test_what_is_forgotten_frees_its_share() -> None:
    kept = Store(budget=100)
    assert kept.keep(AT, [torch.zeros(25)]) and kept.keep(OTHER, [torch.zeros(1)]) is None
    kept.lost(AT, "it was too long")
    assert kept.kept.total == 0 and kept.kept.missing[AT] == "it was too long"


def test_the_free_memory_is_a_share_of_what_there_is() -> None:
    assert 2**20 < store.free_memory() < 2**50
    assert Store().kept.budget <= store.free_memory()
    assert [store.size(n) for n in (0, 999, 1000, 12_345, 5 * 10**12)] == ["0 bytes", "999 bytes", "1.0 KB", "12 KB", "5000 GB"]
