"""nnsight: the weights out of the source of each attention module, saved, or looked at inside the trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from job import Found, load, main, statistics
from nnsight import NNsight
from torch import Tensor


def prepare(folder: Path, want: str) -> Callable[[Tensor], Found]:
    model = NNsight(load(folder, "eager"))
    blocks = model.transformer.h

    def weights(ids: Tensor) -> Found:
        with model.trace(ids, logits_to_keep=1):
            kept = [block.attn.source.attention_interface_1.output[1][0] for block in blocks].save()
        return Found(kept)

    def dropped(ids: Tensor) -> Found:
        with model.trace(ids, logits_to_keep=1):
            kept = [statistics(block.attn.source.attention_interface_1.output[1][0]) for block in blocks].save()
        return Found(statistics=kept)

    return {"weights": weights, "statistics": dropped}[want]


if __name__ == "__main__":
    main(prepare)
