"""A decoder reads a text once as it is, and again with each of many changes; what lies below a change runs only once.

    usual, runs = reruns(model, ids, [Mute(Heads(3, 2)), Mute(Heads(4))])
    for change, stream in runs:
        model.head(model.normed(stream))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.changes import Mute, changed
from klieg.decoders import Decoder
from klieg.layers import Context


@torch.no_grad()
def reruns(model: Decoder, ids: Tensor, changes: Sequence[Mute]) -> tuple[Tensor, Iterator[tuple[Mute, Tensor]]]:
    """The stream (b, n, d) behind the last layer: unchanged, then with each change, in their order. ids: (b, n), int64."""
    context = Context(Mask.causal(), change=model.change)
    streams = [model.embedded(ids, torch.arange(ids.shape[1])[None], context)]
    for block in model.blocks:
        streams.append(block(streams[-1], context))

    @torch.no_grad()
    def runs() -> Iterator[tuple[Mute, Tensor]]:
        for change in changes:
            first = change.heads.layer or 0
            context.change = changed(model, [change]).change
            x = streams[first]
            for block in list(model.blocks)[first:]:
                x = block(x, context)
            yield change, x

    return streams[-1], runs()
