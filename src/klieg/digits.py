"""digits(): autocast off, for a block or as a decorator.

Autocast narrows the matrix products of whoever runs inside it, also those of which a map is made again and again from q,
k and the log-sum-exp. It is asked for by a program that trains or writes, and looks at a map in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def digits() -> Iterator[None]:
    """Matrix products in the types of their tensors, on every device."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
