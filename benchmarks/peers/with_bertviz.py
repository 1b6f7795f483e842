"""BertViz: the drawn head view, of all layers or of one, with the weights that transformers' eager gives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from bertviz import head_view
from job import Found, load, main
from torch import Tensor


def prepare(folder: Path, want: str) -> Callable[[Tensor], Found]:
    model = load(folder, "eager")
    layers = {"page": list(range(model.config.n_layer)), "layer": [0]}[want]

    def draw(ids: Tensor) -> Found:
        kept = model(ids, logits_to_keep=1, output_attentions=True).attentions
        tokens = [str(id) for id in ids[0].tolist()]
        page = head_view(kept, tokens, include_layers=layers, html_action="return").data
        return Found([w[0] for w in kept], page=page, check=lambda: corners(page, kept[layers[0]], kept[layers[-1]]))

    return draw


def corners(page: str, first: Tensor, last: Tensor) -> None:
    """The page's first row and its last one are rows of the first and last weights (1, h, i, j) shown."""
    begin, end = page.index('"attn": [[[[') + len('"attn": [[[['), page.index("]]]]")
    rows = page[begin:page.index("]", begin)], page[page.rindex("[", begin, end) + 1:end]
    for row, weights in zip(rows, (first[0, 0, 0], last[0, -1, -1]), strict=True):
        assert torch.equal(torch.tensor(json.loads(f"[{row}]")), weights), "the page shows other weights"


if __name__ == "__main__":
    main(prepare)
