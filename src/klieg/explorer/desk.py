"""What lies open: the models that were named when the server started, and the traces that were made since.

A trace is kept until its page closes it, or until newer ones need its room: the one that was
looked at longest ago goes first. Nothing else can be opened: no path and no address comes from
the page.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from klieg.errors import KliegError
from klieg.explorer.turns import Turn, Turns
from klieg.trace import Trace

if TYPE_CHECKING:
    from klieg.analysis.atlas import Atlas
    from klieg.analysis.syntax import Syntax
    from klieg.explorer.writing import Written
    from klieg.generate import Sampling

ROOM = 4 << 30  # bytes of traces


class Reads(Protocol):
    """What a model on the desk can do: see reader.Reader."""

    languages: list[str]

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace: ...

    def write(self, text: str, to: str | None, written: list[int], count: int, sampling: Sampling) -> Iterator[Written]: ...


class Closed(KliegError):
    """A trace that is not open any more."""


class Desk:
    """Models and atlases by name, traces by id, and whose turn it is to compute."""

    def __init__(self, models: Mapping[str, Reads], files: Mapping[str, Trace] | None = None, room: int = ROOM,
                 atlases: Mapping[str, Atlas | Syntax] | None = None) -> None:
        """`files` are traces that were opened at the start; they and the atlases, of corpora and of treebanks, stay."""
        self.models, self.files, self.turns = dict(models), dict(files or {}), Turns()
        self.atlases = dict(atlases or {})
        self._room = room
        self._traces: OrderedDict[str, tuple[Trace, int]] = OrderedDict()   # and its bytes
        self._lock = threading.Lock()

    def model(self, name: str) -> Reads:
        if name not in self.models:
            has = ", ".join(self.models)
            raise KliegError(f"this server was not started with the model {name!r}. It has: {has or 'none'}.")
        return self.models[name]

    def atlas(self, name: str) -> Atlas | Syntax:
        if name not in self.atlases:
            has = ", ".join(self.atlases)
            raise KliegError(f"this server was not started with the atlas {name!r}. It has: {has or 'none'}.")
        return self.atlases[name]

    def put(self, trace: Trace) -> str:
        """Keep a trace; its id cannot be guessed."""
        id, held = secrets.token_urlsafe(12), size(trace)
        with self._lock:
            self._traces[id] = trace, held
            while len(self._traces) > 1 and sum(bytes for _, bytes in self._traces.values()) > self._room:
                self._traces.popitem(last=False)
        return id

    def trace(self, id: str) -> Trace:
        """An open trace, or a file by its name; Closed if there is none."""
        if id in self.files:
            return self.files[id]
        with self._lock:
            if id not in self._traces:
                raise Closed("this text is not open any more; show it again.")
            self._traces.move_to_end(id)
            return self._traces[id][0]

    def close(self, id: str) -> None:
        """Give back what a trace held."""
        with self._lock:
            self._traces.pop(id, None)


def size(trace: Trace) -> int:
    """Bytes of the memory behind a trace's tensors; what several of them share counts once, and a part counts as all of it."""
    found: list[Tensor | None] = [trace.logits]
    for call in trace.calls:
        found += [call.q, call.k, call.v, call.output, call.lse, call.bias, call.unrotated_q, call.unrotated_k]
        found += call.survey.tensors().values() if call.survey is not None else ()
    for stream in (trace.streams or {}).values():
        found += [*stream.tensors().values(), *(x for block in stream.blocks for x in block.tensors().values())]
    held = [x.untyped_storage() for x in found if x is not None]
    return sum({memory.data_ptr(): memory.nbytes() for memory in held}.values())
