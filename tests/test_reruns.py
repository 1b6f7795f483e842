"""A text read again with changes: what comes out is that of a whole pass, and what lies below a change runs once."""

from __future__ import annotations

import torch
from test_models import LLAMA, lively

from klieg.changes import Heads, Mute, changed
from klieg.reruns import reruns


def test_the_layers_below_a_change_run_once() -> None:
    model, ids = lively(LLAMA), torch.arange(3, 15)[None]
    ran: list[int] = []
    for n, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *given, n=n: ran.append(n))
    usual, runs = reruns(model, ids, [Mute(Heads(2, 1)), Mute(Heads(1)), Mute(Heads())])
    found = [stream for _, stream in runs]
    assert ran == [0, 1, 2, 2, 1, 2, 0, 1, 2]
    assert torch.equal(model.normed(usual), model.hidden(ids))
    for stream, heads in zip(found, (Heads(2, 1), Heads(1), Heads()), strict=True):
        assert torch.allclose(model.normed(stream), changed(model, [Mute(heads)]).hidden(ids), atol=1e-6)
