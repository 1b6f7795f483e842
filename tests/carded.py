"""A run of training on the card of card.py: `python carded.py CARD.SO KIND FOLDER` prints the losses of its steps, those of
the same run on the processor before them.

It is a process of its own, as torch looks for a GPU once: the library comes before it. A recording of a step is the step done
again over the same memory.
"""

from __future__ import annotations

import ctypes
import os
import sys

_, library, kind, folder = sys.argv
ctypes.CDLL(library)
os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Callable  # noqa: E402
from contextlib import nullcontext  # noqa: E402
from pathlib import Path  # noqa: E402

import card  # noqa: E402
import pytest  # noqa: E402
import test_graphs  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from klieg import checkpoint, graphs  # noqa: E402
from klieg.device import CPU, moved  # noqa: E402
from klieg.parallel import Group  # noqa: E402
from klieg.train import Trainer  # noqa: E402


class Stream:
    """One of a card that does things at once."""

    def __init__(self, *device: torch.device) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        pass


def record(work: Callable[[], Tensor], pool: object) -> tuple[Tensor, Callable[[], None]]:
    told = torch.empty(2, device=card.CARD)     # loss and gradient norm
    return told, lambda: told.copy_(work())


torch.set_num_threads(1)
write = checkpoint._write
with pytest.MonkeyPatch.context() as patch:
    for name, found in {"Stream": Stream, "current_stream": Stream, "stream": nullcontext,
                        "graph_pool_handle": lambda: (0, 0)}.items():
        patch.setattr(torch.cuda, name, found)
    patch.setattr(Tensor, "pin_memory", lambda x: x)
    patch.setattr(graphs, "record", record)
    patch.setattr(checkpoint, "_write", lambda path, tensors, facts: write(path, moved(tensors, CPU), facts))
    patch.setattr(card, "guarded", lambda: None)
    short = {"batch": 2, "context": 16, "validation_rows": 1} if kind == "decoder" else {}
    for name, found in {"steps": 3, "validate_every": 2, "checkpoint_every": 2, **short}.items():
        patch.setitem(test_graphs.SETTINGS, name, found)
    recipe = test_graphs.KINDS[kind](Path(folder))
    print(*(progress.loss for progress in Trainer(recipe, Path(folder) / "here").run()))
    with card.present(patch) as device:
        trainer = Trainer(recipe, Path(folder) / "there", group=Group(device=device))
        print(*(progress.loss for progress in trainer.run()))
        assert {p.device for p in trainer.model.parameters()} == {device}
        assert trainer.stepper._graphs.recorded
