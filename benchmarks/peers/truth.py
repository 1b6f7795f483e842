"""The model that every tool gets, and what its weights are by the formula in float64.

GPT-2 small's shape with random weights, its positions raised and its queries and keys made four
times larger, so that patterns are not flat. Of a text the weights of a few rows are kept, of all
heads, and in each layer all statistics of one head. The hidden states come from torch's fused
kernel in float64: no eager model has the memory for the long ones.

    python truth.py FOLDER LENGTH
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from job import CELLS, TOP, load, text
from safetensors.torch import save_file
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, GPT2Config, GPT2LMHeadModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

POSITIONS = 2**15
ROWS = 8


def make(folder: Path) -> None:
    """The model's folder, the same for everybody."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_positions=POSITIONS, use_cache=False))
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, :2 * model.config.n_embd] *= 4
    model.save_pretrained(folder)


def survey(q: Tensor, k: Tensor, scale: float) -> dict[str, Tensor]:
    """All statistics of the map of one head, q and k (i, d): a band of the pooled map after another."""
    length = len(q)
    place = torch.arange(length)
    bands: dict[str, list[Tensor]] = {name: [] for name in ("entropy", "top", "map", "distance")}
    received = torch.zeros(length, dtype=q.dtype)
    for rows in place.chunk(CELLS):
        distance = rows[:, None] - place
        w = (q[rows] @ k.T * scale).masked_fill_(distance < 0, -torch.inf).softmax(-1)
        bands["entropy"].append(torch.special.entr(w).sum(-1))
        bands["top"].append(w.topk(TOP).values)
        bands["map"].append(w.mean(0).unflatten(0, (CELLS, -1)).mean(-1)[None])
        bands["distance"].append((w * distance.abs()).sum(-1))
        received += w.sum(0)
    return {"received": received, **{name: torch.cat(parts) for name, parts in bands.items()}}


@torch.no_grad()
def truth(folder: Path, length: int) -> dict[str, Tensor]:
    """Everything, stacked over the layers: weights (layer, h, row, j), entropy (layer, i) and so on."""
    queries = torch.linspace(0, length - 1, ROWS).long()
    layers: list[dict[str, Tensor]] = []

    def attention(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
                  **given: object) -> tuple[Tensor, None]:
        q, k, head = query[0], key[0], len(layers) % query.shape[1]
        hidden = torch.arange(length) > queries[:, None]
        rows = (q[:, queries] @ k.mT * module.scaling).masked_fill_(hidden, -torch.inf).softmax(-1)
        layers.append({"weights": rows, **survey(q[head], k[head], module.scaling)})
        return sdpa_attention_forward(module, query, key, value, mask, **given)

    AttentionInterface.register("truth", attention)
    AttentionMaskInterface.register("truth", sdpa_mask)
    load(folder, "truth").double()(text(length), logits_to_keep=1)
    return {"queries": queries, **{name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}}


def main() -> None:
    folder, length = Path(sys.argv[1]), int(sys.argv[2])
    if not (folder / "config.json").exists():
        make(folder)
    save_file(truth(folder, length), folder / f"truth-{length}.safetensors")


if __name__ == "__main__":
    main()
