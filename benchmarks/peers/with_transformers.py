"""transformers alone: the floor without weights, all weights at once, or each layer's looked at and dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from job import Found, load, main, statistics
from torch import Tensor


def prepare(folder: Path, want: str) -> Callable[[Tensor], Found]:
    model = load(folder, "sdpa" if want == "floor" else "eager")

    def floor(ids: Tensor) -> Found:
        model(ids, logits_to_keep=1)
        return Found()

    def weights(ids: Tensor) -> Found:
        return Found([w[0] for w in model(ids, logits_to_keep=1, output_attentions=True).attentions])

    def dropped(ids: Tensor) -> Found:
        kept = []

        def look(module: torch.nn.Module, given: object, gives: tuple[Tensor, Tensor]) -> None:
            kept.append(statistics(gives[1][0]))

        hooks = [block.attn.register_forward_hook(look) for block in model.transformer.h]
        model(ids, logits_to_keep=1)
        for hook in hooks:
            hook.remove()
        return Found(statistics=kept)

    return {"floor": floor, "weights": weights, "statistics": dropped}[want]


if __name__ == "__main__":
    main(prepare)
