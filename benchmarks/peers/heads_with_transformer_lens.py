"""TransformerLens's detect_head over texts of given ids: one line of JSON with the mean scores (layers, heads) of each.

    python heads_with_transformer_lens.py FOLDER TEXTS.safetensors
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from job import load
from safetensors.torch import load_file
from transformer_lens.head_detector import HEAD_NAMES, detect_head
from transformer_lens.model_bridge import TransformerBridge


@torch.no_grad()
def main() -> None:
    folder, texts = Path(sys.argv[1]), load_file(sys.argv[2])
    bridge = TransformerBridge.boot_transformers(str(folder), hf_model=load(folder, "eager"), device="cpu")
    sums = {name: torch.zeros(bridge.cfg.n_layers, bridge.cfg.n_heads, dtype=torch.float64) for name in HEAD_NAMES}
    for ids in texts.values():
        # detect_head asks for a string and makes tokens of it; these are the same tokens for both.
        bridge.to_tokens = lambda text, ids=ids: ids[None]
        _, cache = bridge.run_with_cache(ids[None], remove_batch_dim=True)
        for name, total in sums.items():
            total += detect_head(bridge, "", name, cache=cache).double()
    print(json.dumps({name: (total / len(texts)).tolist() for name, total in sums.items()}))


if __name__ == "__main__":
    main()
