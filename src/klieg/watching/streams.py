"""The residual stream around attention, recorded while a model runs: Klieg's own, or one of transformers.

Forward hooks stand on the parts of every layer, which are found by the names that all these models
share. Names prove nothing, so a block is believed only when its numbers add up (blocks.py says how);
where they do not, or where the parts cannot be told apart, there is no stream, and why is kept in words.
What the hooks see is copied, as a model may add in place. They change nothing, and hear only the
thread that set them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from klieg.blocks import Block, Stream, Unclear, entrance, joined, order_of
from klieg.seq2seq import ProjectedAttention
from klieg.trace import Trace
from klieg.watching import registry
from klieg.watching.runs import Run
from klieg.watching.stacks import Stacks
from klieg.watching.store import Store
from klieg.watching.strands import Pass
from klieg.watching.watcher import Options, Watched

UNKNOWN = "its layers are not each one attention and one feed-forward that can be told apart by their names"
_NO_PART = re.compile(r"norm|drop|^ln|act", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_POSITIONS = re.compile(r"(?:embed\w*_pos|pos\w*_embed)[a-z]*$")
_FEEDS = re.compile(r"mlp|feed_?forward|ffn|moe", re.IGNORECASE)


# ---- the parts of a model ----

@dataclass(frozen=True, eq=False)
class _Layer:
    """The modules of one layer, by what is read of them: `reads` have an input that is kept, `gives` an output."""

    block: nn.Module
    reads: dict[str, nn.Module]
    gives: dict[str, nn.Module]
    norms: list[nn.Module]


@dataclass(frozen=True, eq=False)
class _Stack:
    kind: str
    owner: nn.Module
    layers: list[_Layer]


def _layer(block: nn.Module, known: Stacks) -> tuple[_Layer, str] | None:
    """A layer's parts and the kind of its own attention; None where they cannot be told apart."""
    children = {name: part for name, part in block.named_children() if not _NO_PART.search(name)}
    attending = [part for name, part in children.items() if _ATTENTION.search(name)]
    own = [part for part in attending if known.kind(part) != "cross"]
    cross = [part for part in attending if known.kind(part) == "cross"]
    if {"fc1", "fc2"} <= children.keys():
        first, last = children["fc1"], children["fc2"]
    elif "intermediate" in children and hasattr(children.get("output"), "dense"):
        first, last = children["intermediate"], children["output"].dense
    else:
        feeding = [part for name, part in children.items() if _FEEDS.search(name)]
        first = last = feeding[0] if len(feeding) == 1 else None
    if len(own) != 1 or len(cross) > 1 or first is None:
        return None
    reads, gives = {"normed": own[0], "fed_input": first}, {"attended": _projection(own[0]), "fed": last}
    if cross:
        reads["cross_input"], gives["crossed"] = cross[0], _projection(cross[0])
    kind = own[0].kind if isinstance(own[0], ProjectedAttention) else known.kind(own[0])
    return _Layer(block, reads, gives, [part for part in block.modules() if _is_norm(part)]), kind


def _projection(attention: nn.Module) -> nn.Module:
    """The module that ends in W_O: the attention itself, or in BERT's kin a part of it that also norms."""
    return getattr(getattr(attention, "output", None), "dense", attention)


def _is_norm(part: nn.Module) -> bool:
    return "norm" in type(part).__name__.lower()


def _stacks(model: nn.Module) -> list[_Stack]:
    """Every list of layers all of which are one attention and one feed-forward."""
    known, found = Stacks(model), []
    for owner in model.modules():
        for blocks in owner.children():
            if isinstance(blocks, nn.ModuleList) and len({id(block) for block in blocks}) == len(blocks) > 0:
                layers = [_layer(block, known) for block in blocks]
                if all(layers) and len({kind for _, kind in layers}) == 1:
                    found.append(_Stack(layers[0][1], owner, [layer for layer, _ in layers]))
    return found


# ---- one pass ----

@dataclass(eq=False)
class _Growing:
    """What is known so far of a stack in the pass that runs."""

    stack: _Stack
    start: dict[str, Any]
    """Stream's fields from before the first block."""
    blocks: list[Block] = field(default_factory=list)
    now: dict[str, Tensor] = field(default_factory=dict)
    norms: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """What the norms of the layer that runs were given, and gave."""
    eps: float = torch.finfo(torch.float32).eps
    final: Tensor | None = None

    @property
    def last(self) -> Tensor | None:
        """What left the last block, after it ran."""
        return self.blocks[-1].output if len(self.blocks) == len(self.stack.layers) else None


class Recorder:
    """Hears a model's residual streams: `with Recorder(model) as recorder: model(ids)`, then recorder.take()."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self._stacks = model, _stacks(model)
        self._hooks = ExitStack()
        self._thread: int | None = None
        self._clear()

    def _clear(self) -> None:
        self._rows: dict[str, Tensor] = {}
        self._norms: list[tuple[Tensor, Tensor]] = []
        self._growing: dict[str, _Growing] = {}
        self._why: dict[str, str] = {}

    def take(self) -> tuple[dict[str, Stream], dict[str, str]]:
        """The streams of the pass that has ended, by kind, and why others are missing; the next pass begins anew."""
        found, why = {}, self._why
        for kind, growing in self._growing.items():
            if kind not in why and growing.last is None:
                why[kind] = "not all of its layers ran"
            if kind not in why:
                final = growing.last if growing.final is None else growing.final
                found[kind] = Stream(blocks=growing.blocks, final=final, **growing.start)
        self._clear()
        return found, why

    def __enter__(self) -> Recorder:
        self._thread = threading.get_ident()
        with ExitStack() as hooks:
            inside: set[int] = set()
            for stack in self._stacks:
                self._listen(hooks, stack)
                inside |= {id(part) for layer in stack.layers for part in layer.block.modules()}
            for name, part in self.model.named_modules():
                if isinstance(part, nn.Embedding) or _POSITIONS.search(name):
                    self._hook(hooks, part, None, partial(self._row, _role(name)))
                elif _is_norm(part) and id(part) not in inside:
                    self._pair(hooks, part, self._outer_norm)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    # The hooks.

    def _listen(self, hooks: ExitStack, stack: _Stack) -> None:
        for number, layer in enumerate(stack.layers):
            for name, part in layer.reads.items():
                self._hook(hooks, part, stack, partial(self._part, stack, name), before=True)
            for name, part in layer.gives.items():
                self._hook(hooks, part, stack, partial(self._part, stack, name))
            for part in layer.norms:
                self._pair(hooks, part, partial(self._inner_norm, stack))
            self._hook(hooks, layer.block, stack, partial(self._open, stack, number), before=True)
            self._hook(hooks, layer.block, stack, partial(self._close, stack, number))
        self._hook(hooks, stack.owner, stack, partial(self._end, stack))

    def _hook(self, hooks: ExitStack, part: nn.Module, stack: _Stack | None, do: Callable[[Tensor], None], *,
              before: bool = False) -> None:
        """Call `do` with the first tensor that a part is given or gives; what it finds unclear is kept in words."""
        def heard(x: Tensor | None) -> None:
            if x is None or not self._hears or (stack is not None and stack.kind in self._why):
                return
            try:
                do(x)
            except Unclear as unclear:
                assert stack is not None
                self._why[stack.kind] = str(unclear)
                self._growing.pop(stack.kind, None)

        # While another thread sets or removes its hooks, torch may call them without the keywords.
        def given(part: nn.Module, args: tuple, named: dict[str, Any] | None = None) -> None:
            heard(_first(args, named))

        def gave(part: nn.Module, args: tuple, out: Any) -> None:
            heard(_first(out, out))

        handle = part.register_forward_pre_hook(given, with_kwargs=True) if before else part.register_forward_hook(gave)
        hooks.callback(handle.remove)

    def _pair(self, hooks: ExitStack, part: nn.Module, do: Callable[[Tensor, Tensor], None]) -> None:
        """Call `do` with what a norm is given and what it gives."""
        def heard(part: nn.Module, args: tuple, *rest: Any) -> None:
            x, out = _first(args, rest[0]), _first(rest[-1], None)
            if x is not None and out is not None and self._hears:
                do(x, out)

        hooks.callback(part.register_forward_hook(heard, with_kwargs=True).remove)

    @property
    def _hears(self) -> bool:
        return threading.get_ident() == self._thread and not torch.compiler.is_compiling()

    def _row(self, role: str, out: Tensor) -> None:
        self._rows[role] = _copy(out)

    def _outer_norm(self, x: Tensor, out: Tensor) -> None:
        after = next((growing for growing in self._growing.values() if growing.final is None and _same(x, growing.last)), None)
        if after is not None:
            after.final = _copy(out)
        else:
            self._norms.append((_copy(x), _copy(out)))

    def _inner_norm(self, stack: _Stack, x: Tensor, out: Tensor) -> None:
        growing = self._growing.get(stack.kind)
        if growing is None or not growing.now:
            return
        shape = growing.now["input"].shape
        # Norms of q and k are of other widths; some models norm all texts as one.
        if x.numel() == out.numel() == shape.numel():
            growing.norms.append((_copy(x).reshape(shape), _copy(out).reshape(shape)))

    def _open(self, stack: _Stack, number: int, x: Tensor) -> None:
        eps = torch.finfo(x.dtype).eps
        if number == 0:
            rows = _table(stack.owner, x.shape[1]) | self._rows
            if stack.kind in self._growing:
                raise Unclear(f"several stacks are of the kind {stack.kind!r}, or one runs several times")
            self._growing[stack.kind] = _Growing(stack, entrance(_copy(x), rows, self._norms, eps))
        growing = self._growing.get(stack.kind)
        if growing is None or growing.now or len(growing.blocks) != number:
            raise Unclear(f"layer {number} does not run in its turn")
        # Where one block's output is the next one's input it stays one tensor.
        entering = next((block.output for block in growing.blocks[-1:] if _same(x, block.output)), None)
        growing.now, growing.eps = {"input": _copy(x) if entering is None else entering}, eps

    def _part(self, stack: _Stack, name: str, x: Tensor) -> None:
        now = self._growing[stack.kind].now if stack.kind in self._growing else {}
        if not now:
            return
        if name in now or x.numel() != now["input"].numel():
            raise Unclear(f"layer {len(self._growing[stack.kind].blocks)}: a part of it runs twice, or on other rows")
        x = x.reshape(now["input"].shape)
        now[name] = now["input"] if _same(x, now["input"]) else _copy(x)

    def _close(self, stack: _Stack, number: int, x: Tensor) -> None:
        growing = self._growing.get(stack.kind)
        if growing is None or not growing.now or x.numel() != growing.now["input"].numel():
            raise Unclear(f"layer {number} gives other rows than it is given")
        kept, growing.now = growing.now | {"output": _copy(x).reshape(growing.now["input"].shape)}, {}
        asked = {"input", "output", "normed", "attended", "fed_input", "fed"}
        if "crossed" in kept or "cross_input" in kept:
            asked |= {"crossed", "cross_input"}
        if kept.keys() != asked:
            raise Unclear(f"layer {number}: not all of its parts ran")
        order = order_of(kept, growing.norms, growing.eps, f"layer {number}")
        growing.blocks.append(Block(layer=number, kind=stack.kind, order=order, **kept))
        growing.norms = []

    def _end(self, stack: _Stack, x: Tensor) -> None:
        """The module around the layers has ended; what it gives is what leaves the stack."""
        growing = self._growing.get(stack.kind)
        if growing is None or growing.last is None:
            raise Unclear("not all of its layers ran")
        if not _same(x, growing.last if growing.final is None else growing.final):
            raise Unclear("what stands behind its last layer is no norm")


def _role(name: str) -> str:
    """Which field of a Stream an embedding fills."""
    last = name.split(".")[-1]
    return "positions" if "pos" in last or last == "wpe" else "types" if "type" in last else "embedded"


def _first(given: Any, named: Any) -> Tensor | None:
    """The first tensor of numbers that a module was given, or that it returned alone, in a tuple or by name."""
    if isinstance(given, Tensor):
        return given if given.is_floating_point() else None
    if isinstance(given, tuple) and given:
        return _first(given[0], None)
    if named is not None:
        found = named.get("hidden_states") if isinstance(named, dict) else None
        found = getattr(named, "last_hidden_state", None) if found is None else found
        return found if isinstance(found, Tensor) else None
    return None


def _copy(x: Tensor) -> Tensor:
    return x.detach().to(torch.float32, copy=True)


def _same(x: Tensor, kept: Tensor | None) -> bool:
    return kept is not None and x.shape == kept.shape and torch.equal(x.detach().float(), kept)


def _table(owner: nn.Module, rows: int) -> dict[str, Tensor]:
    """The positions that a stack reads without calling a module, as Klieg's own of 2017 does; none where it calls one."""
    learned = getattr(owner, "embed_positions", None)
    found = learned.weight if isinstance(learned, nn.Embedding) else getattr(owner, "sines", None)
    return {} if found is None else {"positions": _copy(found[:rows])}


# ---- a watched model ----

class StreamWatched(Watched):
    """What watching saw, and of every pass the residual stream: trace() has it."""

    def __init__(self, model: nn.Module, options: Options, store: Store) -> None:
        super().__init__(model, options, store)
        self._recorder = Recorder(model)
        self._heard: list[tuple[Run, Pass, dict[str, Stream], dict[str, str]]] = []

    def __enter__(self) -> StreamWatched:
        super().__enter__()
        self._stack.enter_context(self._recorder)
        return self

    def _begins(self, module: nn.Module, args: tuple, options: dict[str, Any]) -> None:
        if registry.listening(self) and (not self._under_way or module in self._under_way):
            self._recorder.take()
        super()._begins(module, args, options)

    def _ends(self, module: nn.Module, args: tuple, found: Any) -> None:
        super()._ends(module, args, found)
        if registry.listening(self) and not self._under_way and found is not None and self._now.run is not None:
            # An encoder that runs by itself is no pass of its decoder, and belongs to none.
            self._heard.append((self._now.run, self._now.moment or Pass(0), *self._recorder.take()))

    def trace(self, batch: int = 0) -> Trace:
        """One text of the batch as a Trace, with its streams."""
        found, run = super().trace(batch), self._only
        passes = [(moment, streams) for owner, moment, streams, _ in self._heard if owner is run]
        why = {kind: said for owner, _, _, reasons in self._heard if owner is run for kind, said in reasons.items()}
        streams = {}
        for call in found.calls:
            kind = call.kind
            if kind == "cross" or kind in why or kind in streams:
                continue
            if call.texts > 1:
                why[kind] = "it read more texts or pictures than its decoder has texts"
                continue
            parts = (self._encoder(passes, kind, batch * len(run[call.layer, kind].lse) // run.texts) if kind == "encoder"
                     else self._parts(passes, kind, run._rows(call), batch))
            if sum(part.embedded.shape[1] for part in parts) == call.queries:
                streams[kind] = joined(parts)
            else:
                why[kind] = UNKNOWN if not parts else "it was not heard in every pass"
        return replace(found, streams=streams, without_stream=why)

    @staticmethod
    def _encoder(passes: list[tuple[Pass, dict[str, Stream]]], kind: str, text: int) -> list[Stream]:
        """The encoder's stream, of the last time that it ran."""
        last = [streams[kind] for _, streams in passes if kind in streams][-1:]
        return [stream.share(text, stream.embedded.shape[1]) for stream in last]

    @staticmethod
    def _parts(passes: list[tuple[Pass, dict[str, Stream]]], kind: str, rows: dict[Pass, int],
               batch: int) -> list[Stream]:
        """What every pass added to one text, as far as a cache did not take it back."""
        return [streams[kind].share(batch if moment.order is None else int(moment.order[batch]), rows[moment])
                for moment, streams in passes if kind in streams and rows.get(moment)]
