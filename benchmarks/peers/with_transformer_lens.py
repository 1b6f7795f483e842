"""TransformerLens: a cache of the patterns and of nothing else, or hooks that look at each of them.

Hooks save little memory: in 4.3.0 every attention module keeps its last pattern, and no setting stops it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from job import Found, load, main, statistics
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


def is_pattern(name: str) -> bool:
    return name.endswith("attn.hook_pattern")


def prepare(folder: Path, want: str) -> Callable[[Tensor], Found]:
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=load(folder, "eager"), device="cpu")
    layers = range(bridge.cfg.n_layers)

    def weights(ids: Tensor) -> Found:
        _, cache = bridge.run_with_cache(ids, names_filter=is_pattern, logits_to_keep=1)
        return Found([cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in layers])

    def dropped(ids: Tensor) -> Found:
        kept = []

        def look(pattern: Tensor, hook: object) -> None:
            kept.append(statistics(pattern[0]))

        bridge.run_with_hooks(ids, fwd_hooks=[(is_pattern, look)], logits_to_keep=1)
        return Found(statistics=kept)

    return {"weights": weights, "statistics": dropped}[want]


if __name__ == "__main__":
    main(prepare)
