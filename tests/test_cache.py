"""The KV cache: what was written is what is read, in place, and its size is what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from klieg.cache import Cache

LAYERS, BATCH, GROUPS, WIDTH, CAPACITY = 3, 2, 4, 5, 12


def step(slots: int) -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, GROUPS, slots, WIDTH), torch.randn(BATCH, GROUPS, slots, WIDTH)


@pytest.mark.parametrize("chunks", [[12], [5, 1, 6], [1] * 12, [11]])
def test_the_slots_of_every_layer_come_back_in_order(chunks: list[int]) -> None:
    cache = Cache(LAYERS, BATCH, GROUPS, WIDTH, CAPACITY)
    written: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(LAYERS)]
    for slots in chunks:
        for layer in range(LAYERS):
            written[layer].append(step(slots))
            keys, values = cache.extend(layer, *written[layer][-1])
            assert torch.equal(keys, torch.cat([k for k, _ in written[layer]], 2))
            assert torch.equal(values, torch.cat([v for _, v in written[layer]], 2))
        cache.advance(slots)
    assert cache.length == sum(chunks) <= cache.capacity == CAPACITY


def test_nothing_is_copied_as_the_text_grows() -> None:
    cache = Cache(LAYERS, BATCH, GROUPS, WIDTH, CAPACITY)
    first, _ = cache.extend(1, *step(4))
    cache.advance(4)
    second, _ = cache.extend(1, *step(1))
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert torch.equal(second[:, :, :4], first)


def test_layers_do_not_touch_each_other() -> None:
    cache = Cache(LAYERS, BATCH, GROUPS, WIDTH, CAPACITY)
    kept = [step(3) for _ in range(LAYERS)]
    views = [cache.extend(layer, *kept[layer]) for layer in range(LAYERS)]
    for (keys, values), (k, v) in zip(views, kept, strict=True):
        assert torch.equal(keys, k) and torch.equal(values, v)


def test_more_slots_than_there_is_room_for_are_refused() -> None:
    cache = Cache(LAYERS, BATCH, GROUPS, WIDTH, CAPACITY)
    cache.advance(CAPACITY - 1)
    with pytest.raises(RuntimeError):
        cache.extend(0, *step(2))


@pytest.mark.parametrize("dtype,size", [(torch.float32, 4), (torch.bfloat16, 2)])
def test_its_bytes_are_those_of_its_tensors(dtype: torch.dtype, size: int) -> None:
    cache = Cache(LAYERS, BATCH, GROUPS, WIDTH, CAPACITY, dtype)
    assert cache.bytes == 0 and cache.bytes_per_token == 2 * LAYERS * GROUPS * WIDTH * size
    keys, values = [t.to(dtype) for t in step(7)]
    views = cache.extend(0, keys, values)
    cache.advance(7)
    assert cache.bytes == LAYERS * sum(view.numel() * view.element_size() for view in views)
    assert views[0].dtype == dtype


def test_rows_go_on_in_a_new_order_as_often_as_one_likes() -> None:
    """Turned round, one twice, fewer: with slots written in between."""
    cache = Cache(LAYERS, 5, GROUPS, WIDTH, CAPACITY)
    kept = [(torch.empty(5, GROUPS, 0, WIDTH), torch.empty(5, GROUPS, 0, WIDTH)) for _ in range(LAYERS)]
    for rows in ([4, 0, 2, 2, 3], [0, 1, 2, 3, 4], [4, 3, 0, 0], [1, 1, 2], [2, 0], [1]):
        for layer in range(LAYERS):
            new = [torch.randn(cache.batch, GROUPS, 2, WIDTH) for _ in range(2)]
            kept[layer] = tuple(torch.cat(pair, 2) for pair in zip(kept[layer], new, strict=True))
            found = cache.extend(layer, *new)
            assert all(torch.equal(a, b) for a, b in zip(found, kept[layer], strict=True))
        cache.advance(2)
        cache.select(torch.tensor(rows))
        kept = [(k[rows], v[rows]) for k, v in kept]
        assert cache.batch == len(rows) and cache.length == kept[0][0].shape[2]
    assert cache.length == CAPACITY
