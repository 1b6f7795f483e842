"""One run of a watched model: a pass over a text, or a prompt and all that was written after it.

A run is found again by its cache. Its calls are made when somebody asks for them, from the
strands of all layers; what was read and what was predicted is noted beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from klieg.certificate import Certificate, joined
from klieg.errors import KliegError
from klieg.trace import Call, Trace
from klieg.watching.stacks import Stacks
from klieg.watching.strands import Pass, Strand

LOGITS = 2**24      # of all tokens are kept up to so many; beyond, those of the last pass


class Run:
    """`run[layer]` and `run[layer, kind]` are Calls with all texts of the batch; see also `calls` and `trace()`."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.strands: dict[tuple[int, str], Strand] = {}
        self.passes: list[Pass] = []
        self.ids: dict[str, list[tuple[Pass, Tensor]]] = {}
        self.logits: list[tuple[Pass, Tensor]] = []
        self._cache: Any = None
        self._version = 0
        self.history: list[Tensor] = []
        self._until: int | None = None
        self._known: dict = {}

    def remember(self, cache: object) -> None:
        """The run goes on with this cache."""
        self._cache = ref(cache)

    def goes_on_with(self, cache: object) -> bool:
        return self._cache is not None and self._cache() is cache

    @property
    def waiting(self) -> bool:
        """Only an encoder has run; its decoder comes."""
        return all(kind == "encoder" for _, kind in self.strands)

    def enter(self, moment: Pass) -> None:
        """A pass belongs to this run."""
        if moment not in self.passes:
            moment.step = len(self.history)
            self.passes.append(moment)

    def without(self, moment: Pass | None) -> bool:
        """Take a pass back of which not all layers have rows; whether anything is left."""
        for strand in self.strands.values():
            strand.increments = [part for part in strand.increments if part.moment is not moment]
        self.strands = {at: strand for at, strand in self.strands.items() if strand.increments}
        self._changed()
        return not self.waiting

    def reorder(self, order: Tensor) -> None:
        """Its texts are now in the places that order (b,) names."""
        for moment in self.passes:
            now = torch.arange(moment.texts) if moment.order is None else moment.order
            moment.order = now[order]
        self.history.append(order)
        self._changed()

    def follow(self, indices: Tensor) -> None:
        """The run's texts become those that generate() returned: `indices` are its beam_indices (texts, steps).

        Without it they are the beams that are alive at the end. A text that ended before others has
        rows that see nothing after its end.
        """
        indices = torch.as_tensor(indices).cpu()
        if indices.ndim != 2 or indices.shape[1] > len(self.history) + 1:
            raise KliegError(f"follow() got beam_indices {tuple(indices.shape)}; expected (texts, steps) of the generate() "
                             f"that was watched, which took {len(self.history) + 1} steps.")
        for moment in self.passes:
            if moment.step < indices.shape[1]:
                at = indices[:, moment.step]
                moment.order, moment.dead = at.clamp(min=0), at < 0
        self._until = indices.shape[1]
        self._changed()

    def _changed(self) -> None:
        self._version += 1
        self._known = {}

    def __getitem__(self, at: int | tuple[int, str]) -> Call:
        layer, kind = at if isinstance(at, tuple) else (at, "self")
        if (layer, kind) not in self.strands:
            there = ", ".join(str(n) for n, other in self.strands if other == kind)
            kinds = ", ".join(repr(other) for other in dict.fromkeys(kind for _, kind in self.strands))
            raise KliegError(f"there is no map of layer {layer} ({kind}); there are {f'layers {there}' if there else kinds}.")
        return self.strands[layer, kind].call(self._version, self._until, self._known)

    @property
    def calls(self) -> list[Call]:
        """All calls, layer by layer within a stack, in the order of the first pass."""
        return [self[at] for at in self.strands]

    @property
    def certificate(self) -> Certificate:
        """The worst of all calls."""
        return joined(call.certify() for call in self.calls)

    @property
    def texts(self) -> int:
        return next(call.texts for (_, kind), call in zip(self.strands, self.calls, strict=True)
                    if kind != "encoder" or self.waiting)

    def trace(self, batch: int = 0) -> Trace:
        """One text of the batch as a Trace, for the views and to be saved.

        Nobody says which text each of many pictures belongs to: where an encoder read more than there are texts, its
        calls have all of them.
        """
        if not 0 <= batch < self.texts:
            raise KliegError(f"there is no text {batch} in the batch of {self.texts}.")
        calls = [call if call.texts > self.texts else _text(call, batch * call.texts // self.texts) for call in self.calls]
        main = next((call for call in calls if call.kind == "self"), calls[0])
        ids, logits = self._ids(batch, main), self._logits(batch, main)
        labels = Labels(self.tokenizer, logits.shape[-1] if len(logits) else max(ids, default=0) + 1)
        return Trace(self.name, labels.text(ids), ids, labels.of(ids), calls, logits, labels)

    def _ids(self, batch: int, main: Call) -> list[int]:
        """What was read, in the order of rows; places count where no ids are known (pictures, sound, embeddings)."""
        rows = self._rows(main)
        parts = [(moment, moment.of(ids)[batch].tolist()) for moment, ids in self.ids.get(main.kind, [])]
        found = [n for moment, part in parts for n in (part[:rows.get(moment, 0)] if main.kind == "self" else part)]
        return found if len(found) == main.queries else list(range(main.queries))

    def _logits(self, batch: int, main: Call) -> Tensor:
        """(m, vocabulary) of the last m rows."""
        rows, found = self._rows(main), []
        for moment, x in self.logits:
            left = rows.get(moment, 0)
            if x.shape[1] != moment.rows and left != moment.rows:
                found.clear()           # the tokens whose logits these are were taken back
            elif left:
                found.append(moment.of(x)[batch].float()[:left])
        return torch.cat(found)[-main.queries:] if found else torch.zeros(0, 0)

    def _rows(self, main: Call) -> dict[Pass, int]:
        """How many rows of every pass are left of what a cache took back, and a beam left behind."""
        rows: dict[Pass, int] = {}
        for part in self.strands[main.layer, main.kind].increments:
            left = self._until is None or part.moment.step < self._until
            rows[part.moment] = rows.get(part.moment, 0) + left * part.queries
        return rows

    def predicted(self, moment: Pass, logits: Tensor) -> None:
        """The logits (b, n, vocabulary) of the last n tokens of a pass."""
        if logits.shape[1] < moment.rows or (sum(x.numel() for _, x in self.logits) + logits.numel()) > LOGITS:
            self.logits.clear()
        if logits.numel() > LOGITS:
            logits = logits[:, -1:]
        self.logits.append((moment, logits.detach().clone()))


def _text(call: Call, text: int) -> Call:
    """One text of a call, as a batch of one: views, not copies."""
    one = slice(text, text + 1)

    def of(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[one] if len(x) > 1 else x

    mask = replace(call.mask, rules=tuple(replace(rule, table=of(rule.table)) for rule in call.mask.rules))
    tensors = {name: of(getattr(call, name)) for name in ("q", "k", "v", "lse", "output", "bias")}
    survey = None if call.survey is None else call.survey.share(one, slice(None))
    return replace(call, **tensors, mask=mask, survey=survey, certificate=replace(call.certificate, heads=call.heads))


class Labels(Sequence[str]):
    """The label of every id: by a tokenizer of ours or of transformers, else the number itself."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._tokenizer, self._size = tokenizer, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, id: int) -> str:
        if not 0 <= id < self._size:
            raise IndexError(id)
        if hasattr(self._tokenizer, "piece"):
            return self._tokenizer.piece(id)
        return self.of([id])[0]

    def of(self, ids: list[int]) -> list[str]:
        """The label of every token of a text."""
        if hasattr(self._tokenizer, "labels"):
            return self._tokenizer.labels(ids)
        if hasattr(self._tokenizer, "convert_ids_to_tokens"):
            return [str(token) for token in self._tokenizer.convert_ids_to_tokens(ids)]
        return [str(id) for id in ids]

    def text(self, ids: list[int]) -> str:
        """The text of the ids."""
        return self._tokenizer.decode(ids) if hasattr(self._tokenizer, "decode") else " ".join(map(str, ids))


def read_ids(module: nn.Module, args: tuple, options: dict[str, Any], stacks: Stacks) -> dict[str, Tensor]:
    """The token ids that a pass was given, by the kind of stack that reads them."""
    given = {name: x for name, x in options.items() if name in ("input_ids", "decoder_input_ids")}
    if args and "input_ids" not in given:
        given["input_ids"] = args[0]
    given = {name: x.detach().cpu() for name, x in given.items()
             if isinstance(x, Tensor) and x.ndim == 2 and not x.is_floating_point()}
    found = {}
    if "input_ids" in given:
        found["encoder" if stacks.encodes(module) else "self"] = given["input_ids"]
    if "decoder_input_ids" in given:
        found["self"] = given["decoder_input_ids"]
    return found
