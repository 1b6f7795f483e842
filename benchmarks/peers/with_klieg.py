"""Klieg: the model on its fused kernel, watched. Any row of weights can be had afterwards, exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from job import CELLS, TOP, Found, Statistics, load, main
from torch import Tensor

import klieg


def prepare(folder: Path, want: str) -> Callable[[Tensor], Found]:
    assert want == "statistics"
    model = load(folder, "sdpa")
    layers = range(model.config.n_layer)

    def watched(ids: Tensor) -> Found:
        with klieg.watch(model, top=TOP, map=CELLS) as seen:
            model(ids, logits_to_keep=1)
        assert seen.certificate.passed, f"the certificate fails: {seen.certificate}"
        found = []
        for layer in layers:
            s = seen[layer].survey
            found.append(Statistics(s.entropy[0], s.received[0], s.top_weights[0], s.map_mean[0], s.distance_mean[0]))

        def row(layer: int, query: int) -> Tensor:
            call = seen[layer]
            tiles = [call.tile(head, slice(query, query + 1), slice(0, call.keys)) for head in range(call.heads)]
            return torch.cat(tiles)

        return Found(statistics=found, row=row)

    return watched


if __name__ == "__main__":
    main(prepare)
