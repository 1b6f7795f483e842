"""The KV cache: the keys and values of every layer, kept between steps of generation.

Room for the longest text is taken once, so a step writes its keys in place and reads a view;
nothing is copied as the text grows.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Keys (b, g, j, d) and values (b, g, j, e) of each layer, up to `capacity` slots."""

    def __init__(self, layers: int, batch: int, kv_heads: int, head_width: int, capacity: int,
                 dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> None:
        shape = (layers, batch, kv_heads, capacity, head_width)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self._spare: tuple[Tensor, Tensor] | None = None
        self.capacity = capacity
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new slots of one layer; returns all keys and values so far, as views."""
        stop = self.length + k.shape[2]
        self._keys[layer, :, :, self.length:stop] = k
        self._values[layer, :, :, self.length:stop] = v
        return self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop]

    def select(self, rows: Tensor) -> None:
        """Go on with these rows (n,) of the batch: fewer, more, or in another order.

        Two rooms take turns: memory that is fresh for every step would cost as much as the copy.
        """
        here, count, used = (self._keys, self._values), len(rows), slice(0, self.length)
        if self._spare is None or self._spare[0].shape[1] < count:
            shape = here[0].shape[0], count, *here[0].shape[2:]
            self._spare = here[0].new_empty(shape), here[1].new_empty(shape)
        there = self._spare[0][:, :count], self._spare[1][:, :count]
        for x, y in zip(here, there, strict=True):
            torch.index_select(x[:, :, :, used], 1, rows, out=y[:, :, :, used])
        self._keys, self._values = there
        self._spare = here

    def advance(self, slots: int) -> None:
        """Called once a step, when every layer has written its slots."""
        self.length += slots

    @property
    def batch(self) -> int:
        """Texts that are kept."""
        return self._keys.shape[1]

    @property
    def bytes_per_token(self) -> int:
        """What one slot costs in all layers, for one text of the batch."""
        layers, _, kv_heads, _, width = self._keys.shape
        return 2 * layers * kv_heads * width * self._keys.element_size()

    @property
    def bytes(self) -> int:
        """What is in use now, over the whole batch."""
        return self.bytes_per_token * self.length * self._keys.shape[1]
