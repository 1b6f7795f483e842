"""The KV cache: the keys and values of every layer, kept between steps of generation.

Room for the longest text is taken once, so a step writes its keys in place and reads a view;
nothing is copied as the text grows. The keys of one slot lie together, all texts side by side: a
step writes one piece of memory, however many texts there are.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Keys (b, g, j, d) and values (b, g, j, e) of each layer, up to `capacity` slots."""

    def __init__(self, layers: int, batch: int, kv_heads: int, head_width: int, capacity: int,
                 dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> None:
        shape = (layers, capacity, batch, kv_heads, head_width)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new slots of one layer; returns all keys and values so far, as views."""
        stop = self.length + k.shape[2]
        self._keys[layer, self.length:stop] = k.permute(2, 0, 1, 3)
        self._values[layer, self.length:stop] = v.permute(2, 0, 1, 3)
        return self._keys[layer, :stop].permute(1, 2, 0, 3), self._values[layer, :stop].permute(1, 2, 0, 3)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows (n,) of the batch, of which there may be fewer than now; those that stay where they are
        are not copied."""
        count = len(rows)
        to = (rows != torch.arange(count)).nonzero().squeeze(1)
        rows = rows[to]
        for x in (*self._keys, *self._values):
            used = x[:self.length]
            used.index_copy_(1, to, used.index_select(1, rows))
        self._keys, self._values = self._keys[:, :, :count], self._values[:, :, :count]

    def advance(self, slots: int) -> None:
        """Called once a step, when every layer has written its slots."""
        self.length += slots

    @property
    def batch(self) -> int:
        """Texts that are kept."""
        return self._keys.shape[2]

    @property
    def bytes_per_token(self) -> int:
        """What one slot costs in all layers, for one text of the batch."""
        layers, _, _, kv_heads, width = self._keys.shape
        return 2 * layers * kv_heads * width * self._keys.element_size()

    @property
    def bytes(self) -> int:
        """What is in use now, over the whole batch."""
        return self.bytes_per_token * self.length * self.batch
