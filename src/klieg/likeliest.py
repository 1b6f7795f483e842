"""The likeliest next tokens of many rows, in one pass over their logits.

log-softmax and top-k of a large vocabulary cost a search more than the product that makes the logits:
they read and write them again and again. Here a few rows' logits are read while they are near the core,
in memory that is used for every step, and only what was asked for is written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from klieg.library import native

LINES = 128   # rows whose logits are made together


@cache
def _native() -> Callable | None:
    """The native pass over logits; None where there is no native library."""
    library = native()
    if library is None:
        return None
    library.klieg_likeliest.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3, ctypes.c_int]
    library.klieg_likeliest.restype = None
    return library.klieg_likeliest


class Likeliest:
    """The `count` likeliest tokens, or all that there are, of softmax(hidden weight^T + bias).

    weight (vocabulary, width), bias (vocabulary,), float32; for one search, as it keeps memory.
    """

    def __init__(self, weight: Tensor, bias: Tensor, count: int) -> None:
        self._weight, self._bias, self._count = weight, bias, min(count, len(weight))
        self._room = weight.new_empty(LINES, len(weight))

    def __call__(self, hidden: Tensor, also: int) -> tuple[Tensor, Tensor, Tensor]:
        """hidden (n, width) -> ln p (n, count), the largest first; the tokens, likewise; ln p of the token `also` (n,)."""
        found = []
        for lines in hidden.split(LINES):
            logits = torch.mm(lines, self._weight.T, out=self._room[:len(lines)])
            values, tokens, lse = self._top(logits)
            found.append((values - lse[:, None], tokens, logits[:, also] + self._bias[also] - lse))
        log_p, tokens, one = (torch.cat(part) for part in zip(*found, strict=True))
        return log_p, tokens, one

    def _top(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The largest logits with their bias (n, count), their tokens, and the log-sum-exp of all (n,)."""
        run = _native()
        if run is None or logits.device.type != "cpu":
            logits = logits + self._bias
            return *logits.topk(self._count, dim=1), logits.logsumexp(1)
        values = logits.new_empty(len(logits), self._count)
        tokens, lse = torch.empty_like(values, dtype=torch.int64), logits.new_empty(len(logits))
        run(logits.data_ptr(), self._bias.data_ptr(), *logits.shape, self._count, values.data_ptr(), tokens.data_ptr(),
            lse.data_ptr(), torch.get_num_threads())
        return values, tokens, lse
