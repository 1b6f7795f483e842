"""A model of transformers that is watched: every call of attention is read, certified and kept.

The model runs as it is (registry.py); this file decides what each call was: which layer of which
stack (stacks.py), under which mask (masks.py), and the continuation of which run (runs.py). What
it adds to its layer (strands.py) is kept only if it is exact (measure.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from klieg.certificate import Certificate
from klieg.device import out_of_memory
from klieg.errors import KliegError, first_line
from klieg.survey import SurveySpec
from klieg.trace import Call, Trace
from klieg.watching import masks, registry
from klieg.watching.masks import Reading
from klieg.watching.measure import measure
from klieg.watching.registry import Heard
from klieg.watching.runs import Run, read_ids
from klieg.watching.stacks import Stacks
from klieg.watching.store import Kept, Store
from klieg.watching.strands import ROW_SUMS, Increment, Pass, Strand

SMALL = 2**26       # weights of all layers: of a smaller model's run v and output are kept as well


@dataclass(frozen=True, eq=False)
class Options:
    """What watch() was asked for."""

    spec: SurveySpec | None
    layers: frozenset[int] | None
    keep: frozenset[int] | bool | None
    tokenizer: Any
    on_call: Callable[[int, int], None] | None


@dataclass(eq=False)
class _Now:
    """The forward pass that is under way."""

    moment: Pass | None = None
    run: Run | None = None
    span: tuple[int, int | None] | None = None
    """(queries, tokens seen before) of its first call with a cache."""
    ids: dict[str, Tensor] = field(default_factory=dict)
    modules: set[int] | None = None
    placed: dict[tuple[int, str], nn.Module] = field(default_factory=dict)     # who attended there
    calls: int = 0
    readings: dict = field(default_factory=dict)
    last: Heard | None = None
    place: tuple[int, str] | None = None


class Watched:
    """What watching saw: `seen[layer]`, `seen[layer, kind]`, `runs`, `calls`, `certificate`, `kept`, `trace()`."""

    def __init__(self, model: nn.Module, options: Options, store: Store) -> None:
        if why := registry.refusal(model):
            raise KliegError(f"{type(model).__name__} cannot be watched: {why}.")
        self.model, self.stacks, self.runs = model, Stacks(model), []
        self._options, self._store = options, store
        self._owned = {id(module) for module in model.modules()}
        self._under_way, self._expected, self._seen, self._ran = [], 0, set(), {}
        self._failure: KliegError | None = None
        self._now = _Now()
        self._stack: ExitStack | None = None

    def __deepcopy__(self, memo: object) -> Watched:
        """What the copy of a watched model has in its hooks: nobody who listens."""
        return object.__new__(type(self))

    def __enter__(self) -> Watched:
        if self._stack is not None:
            raise KliegError("this watch() is under way already; call klieg.watch() again for another block.")
        with ExitStack() as stack:
            for part in self.model.modules():
                if hasattr(part, "_can_set_attn_implementation"):
                    before = part.register_forward_pre_hook(self._begins, with_kwargs=True)
                    after = part.register_forward_hook(self._ends, always_call=True)
                    stack.callback(before.remove)
                    stack.callback(after.remove)
            stack.enter_context(registry.listen(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        self._stack.close()
        if self._under_way:
            self._broken()
        self._stack, self._now, self._under_way = None, _Now(), []
        if kind is None:
            self._check()

    def _check(self) -> None:
        """KliegError unless all that attends was heard and certified."""
        if self._failure is not None:
            raise self._failure
        name = type(self.model).__name__
        if not self._seen:
            raise KliegError(f"{name} cannot be watched: no call of attention came through transformers' registry; it did not "
                             "run here, is compiled, has no attention, or computes it in its own way.")
        missing = self.stacks.missing(self._ran.values())
        if missing:
            raise KliegError(f"{name} cannot be watched whole: {', '.join(missing)} did not attend through transformers' "
                             "registry of attention functions; watch a part of it that does.")
        there = {layer for layer, _ in self._seen}
        for option, chosen in (("layers", self._options.layers), ("keep_qk", self._options.keep)):
            unknown = sorted(chosen - there) if isinstance(chosen, frozenset) else []
            if unknown:
                raise KliegError(f"{option} names layer {unknown[0]}, and {name} has no map of it; it has maps of layers "
                                 f"{', '.join(map(str, sorted(there)))}.")
        _ = self.without_map            # raises where a layer that attends was not heard

    # What came of it.

    @property
    def _only(self) -> Run:
        if self._failure is not None:
            raise self._failure
        if len(self.runs) == 1:
            return self.runs[0]
        raise KliegError("nothing has been watched yet; run the model inside the block." if not self.runs else
                         f"{len(self.runs)} runs were watched; take one of them, seen.runs[0] to seen.runs[-1].")

    def __getitem__(self, at: int | tuple[int, str]) -> Call:
        layer = at[0] if isinstance(at, tuple) else at
        if self._options.layers is not None and layer not in self._options.layers:
            raise KliegError(f"layer {layer} was not watched; name it in layers={sorted(self._options.layers)}.")
        reason = self.without_map.get(layer) if not isinstance(at, tuple) else None
        if reason:
            raise KliegError(f"layer {layer} has no map of attention: it is {reason}.")
        return self._only[at]

    calls = property(lambda self: self._only.calls)
    certificate: Certificate = property(lambda self: self._only.certificate)
    kept: Kept = property(lambda self: self._store.kept)

    @property
    def without_map(self) -> dict[int, str]:
        """The layers that have no attention map, with what they are instead."""
        return self.stacks.without_map(layer for layer, kind in self._seen if kind == "self")

    def follow(self, beam_indices: Tensor) -> None:
        """The texts become those that generate() returned; see Run.follow()."""
        self._only.follow(beam_indices)

    def trace(self, batch: int = 0) -> Trace:
        """One text of the batch as a Trace."""
        return self._only.trace(batch)

    # What the model does, as registry.Listener and as hooks.

    def owns(self, module: nn.Module) -> bool:
        return id(module) in self._owned

    def reordered(self, cache: object, order: Tensor) -> None:
        for run in self.runs:
            if run.goes_on_with(cache):
                run.reorder(order)

    def generated(self, model: nn.Module, found: object) -> None:
        indices = getattr(found, "beam_indices", None)
        if indices is not None and self.runs and self._failure is None:
            self.runs[-1].follow(indices)

    def _begins(self, module: nn.Module, args: tuple, options: dict[str, Any]) -> None:
        if not registry.listening(self):
            return
        if module in self._under_way:
            self._under_way = []            # Ctrl-C ended the pass before, and its hooks were not called
            self._broken()
        self._under_way.append(module)
        self._ran[id(module)] = module
        if len(self._under_way) > 1:
            return
        self._expected = self._now.calls or self._expected
        self._now = _Now(ids=read_ids(module, args, options, self.stacks), modules=set())
        self.stacks.begin()

    def _ends(self, module: nn.Module, args: tuple, found: Any) -> None:
        if not registry.listening(self):
            return
        self._under_way = self._under_way[:-1]
        now, logits = self._now, getattr(found, "logits", None)
        if not self._under_way and found is None:
            self._broken()
        elif not self._under_way and now.run is not None and now.moment is not None:
            if isinstance(logits, Tensor) and logits.ndim == 3 and len(logits) == now.moment.texts:
                now.run.predicted(now.moment, logits)
            now.readings, now.last = {}, None

    def _broken(self) -> None:
        """The pass did not come to its end: it is taken back, and its run is one no more if it was the first."""
        if self._now.run in self.runs and not self._now.run.without(self._now.moment):
            self.runs.remove(self._now.run)

    def heard(self, call: Heard) -> None:
        if self._failure is not None:
            return
        try:
            self._hear(call)
        except KliegError as failure:
            self._failure = failure
        except (MemoryError, RuntimeError) as e:
            if isinstance(e, RuntimeError) and not out_of_memory(e):
                raise
            self._failure = self._exhausted(first_line(e))

    def _exhausted(self, why: str) -> KliegError:
        """What is said where memory ran out between two calls: the model's own run goes on."""
        done, kept = self._now.calls - 1, str(self.kept).splitlines()[0]
        return KliegError(
            f"watching ran out of memory after {done} calls of attention ({why}); kept until then: {kept}. The model's own run "
            "is complete. Watch fewer layers (layers=), keep less (keep_qk=, budget=), or leave top and map away.")

    def _hear(self, call: Heard) -> None:
        again = self._again(call)
        layer, kind = self._place(call.module) if again is None else again
        block = again is None and self._repeats(call, layer, kind)
        self._seen.add((layer, kind))
        self._now.calls += 1
        if self._options.on_call is not None:
            self._options.on_call(self._now.calls, max(self._expected or self.stacks.expected, self._now.calls))
        if self._options.layers is not None and layer not in self._options.layers:
            return
        if call.options.get("dropout"):
            raise KliegError(f"layer {layer} ({kind}) drops weights at random; put the model into eval().")
        if call.options.get("cache") is not None:
            raise KliegError(f"layer {layer} ({kind}) reads its keys from a paged cache inside its kernel; use another cache.")
        if call.update is not None and call.update.keys.shape[2] != call.k.shape[2]:
            raise KliegError(f"layer {layer} ({kind}) attends to {call.k.shape[2]} keys which are not those of its cache, so "
                             "its passes cannot be joined; run the model with use_cache=False.")
        seen = self._before(call, layer, kind)
        reading = self._read(call, seen)
        if again is not None:
            # A second product with the weights of the first: differential attention. Both are certified.
            measure(call, reading, layer, kind, 0, ROW_SUMS)
            return
        self._add(call, reading, self._run(call, layer, kind, seen), layer, kind, seen or 0, block)

    def _again(self, call: Heard) -> tuple[int, str] | None:
        """Where the same module with the same q was a moment ago."""
        last = self._now.last
        self._now.last = call
        same = last is not None and last.module is call.module and last.q.shape == call.q.shape
        return self._now.place if same and last.q.data_ptr() == call.q.data_ptr() else None

    def _place(self, module: nn.Module) -> tuple[int, str]:
        if self._now.modules is None or (not self._under_way and id(module) in self._now.modules):
            # Somebody calls a part of the model that is no model by itself.
            self._now = _Now(modules=set())
            self.stacks.begin()
        self._now.modules.add(id(module))
        self._now.place = self.stacks.place(module)
        return self._now.place

    def _repeats(self, call: Heard, layer: int, kind: str) -> bool:
        """Whether a layer attends once more in this pass, to keys of its own: the towers of pictures go block by block."""
        placed = self._now.placed
        if (layer, kind) not in placed:
            placed[layer, kind] = call.module
            return False
        if placed[layer, kind] is not call.module:
            raise KliegError(f"{self.stacks.names[id(placed[layer, kind])]} and {self.stacks.names[id(call.module)]} are both "
                             f"layer {layer} ({kind}) of one pass; this model cannot be watched.")
        if call.update is not None and call.update.seen:
            return False
        if kind == "self" and (call.update is not None or next(reversed(placed)) != (layer, kind)):
            raise KliegError(f"layer {layer} ({kind}) attends again in the same pass after other layers, and would have "
                             "several maps; this model cannot be watched.")
        return True

    def _before(self, call: Heard, layer: int, kind: str) -> int | None:
        """How many tokens a cache had seen before these queries; None without a cache."""
        if kind != "self":
            return None
        queries, keys = call.q.shape[2], call.k.shape[2]
        if call.update is not None:
            self._now.span = self._now.span or (queries, call.update.seen)
            return call.update.seen
        if self._now.span is not None and self._now.span[0] == queries:
            return self._now.span[1]                # layers that share the keys of another
        if keys == queries:
            return None
        strand = self.runs[-1].strands.get((layer, kind)) if self.runs else None
        return strand.start + strand.rows if strand and keys == strand.start + strand.rows + queries else max(keys - queries, 0)

    def _read(self, call: Heard, seen: int | None) -> Reading:
        """The mask of a call; layers that are given the same tensors share it."""
        options, module = call.options, call.module
        causal = options.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        bias, window = options.get("position_bias"), options.get("sliding_window")
        key = (call.way, id(call.mask), id(bias), call.q.shape[2], call.k.shape[2], causal, seen, window)
        if key not in self._now.readings:
            found = masks.read(call.way, call.mask, call.q.shape[2], call.k.shape[2], causal=bool(causal), seen=seen,
                               bias=bias, window=window)
            # The tensors stay with their names: an id is one of a thing that lives.
            self._now.readings[key] = found, call.mask, bias
        return self._now.readings[key][0]

    def _run(self, call: Heard, layer: int, kind: str, seen: int | None) -> Run:
        now, cache = self._now, call.update.cache if call.update is not None and kind == "self" else None
        if cache is not None and seen:
            run = next((run for run in reversed(self.runs) if run.goes_on_with(cache)), None)
            if run is not None and now.run is not None and now.run is not run and now.run.waiting:
                self.runs.remove(now.run)           # an encoder that ran again for the next tokens of its decoder
                now.run = run
            now.run = now.run or run
        if now.run is None:
            last = self.runs[-1] if self.runs else None
            shares = kind == "self" and cache is None and seen
            there = last is not None and (layer, kind) in last.strands
            goes_on = last is not None and ((last.waiting and (kind != "encoder" or not there)) or (shares and there))
            now.run = last if goes_on else self._new()
        if kind != "encoder" and now.moment is None:
            now.moment = Pass(len(call.q), call.q.shape[2])
            now.run.enter(now.moment)
        if cache is not None:
            now.run.remember(cache)
        ids = now.ids.pop("encoder" if kind == "encoder" else "self", None)
        if ids is not None:
            now.run.ids.setdefault(kind, []).append((self._moment(call, kind), ids))
        return now.run

    def _moment(self, call: Heard, kind: str) -> Pass:
        """An encoder's texts stay where they are when those of its decoder are reordered."""
        return Pass(len(call.q)) if kind == "encoder" else self._now.moment

    def _new(self) -> Run:
        self.runs.append(Run(type(self.model).__name__, self._options.tokenizer))
        return self.runs[-1]

    def _add(self, call: Heard, reading: Reading, run: Run, layer: int, kind: str, seen: int, block: bool) -> None:
        """Certify a call, and join it to what its layer did before; the keys of a `block` are all its own."""
        queries, wanted = call.q.shape[2], self._options.spec
        position = max(seen + queries - reading.keys, 0) if kind == "self" else 0
        strand = run.strands.get((layer, kind))
        if strand is None:
            strand = Strand(layer, kind, call.name, call.scale, call.softcap, call.sinks, call.k.shape[1], call.output.dtype,
                            wanted, start=seen, origin=position, kept=self._keeps(layer))
            if not strand.kept:
                self._store.lost((layer, kind), "keep_qk leaves it out")
        elif block and len(call.q) != strand.increments[0].moment.texts:
            raise KliegError(f"layer {layer} ({kind}) attends for {strand.increments[0].moment.texts} texts and again for "
                             f"{len(call.q)} in the same pass, which have no common map; this model cannot be watched.")
        elif kind == "self" and not block:
            self._follows(strand, seen)
        # What is joined is surveyed as a whole when somebody asks, if q and k are kept until then.
        later = None if wanted is None else replace(wanted, map=0)
        spec = wanted if not strand.increments else None if strand.kept else later
        row, start = strand.rows, strand.keys if block else position - strand.origin
        found = measure(call, reading, layer, kind, row, spec or ROW_SUMS)
        fresh = slice(min(max(strand.keys - start, 0), reading.keys), reading.keys)
        was, kept = strand.kept, self._kept(call, run, strand, fresh)
        if was and not strand.kept and spec is None and later is not None:
            spec, found = later, measure(call, reading, layer, kind, row, later)
        strand.increments.append(Increment(
            self._moment(call, kind), reading.mask, reading.keys, start, *kept, reading.bias, found.survey.lse,
            found.probe[:, :, fresh], found.mixed, found.certificate, found.survey if spec else None))
        run.strands[layer, kind] = strand

    def _follows(self, strand: Strand, seen: int) -> None:
        """The next rows of a strand stand after `seen` tokens: forget what the cache forgot, refuse a gap."""
        if seen < strand.start + strand.rows:
            strand.truncate(seen)
        end = strand.start + strand.rows
        if seen != end:
            raise KliegError(f"layer {strand.layer} ({strand.kind}): tokens {end} to {seen - 1} of its cache were read "
                             "unwatched; watch the whole run.")

    def _keeps(self, layer: int) -> bool:
        keep = self._options.keep
        return keep is None or keep is True or (keep is not False and layer in keep)

    def _kept(self, call: Heard, run: Run, strand: Strand, fresh: slice) -> list[Tensor | None]:
        """q, k, v and output of the new rows and keys, as far as they are kept."""
        none = [None] * 4
        if not strand.kept:
            return none
        at = strand.layer, strand.kind
        found = self._store.keep(at, [call.q, call.k[:, :, fresh]])
        if found is None:
            strand.forget(run.history)
            return none
        cells = call.q.shape[0] * call.q.shape[1] * (strand.rows + call.q.shape[2]) * max(strand.keys, fresh.stop)
        rest = [call.v[:, :, fresh], call.output] if cells * (self.stacks.layers or 1) <= SMALL else None
        rest = rest and self._store.keep(at, rest, needed=False)
        if rest is None:
            for part in strand.increments:
                part.v = part.output = None
        return [*found, *(rest or [None, None])]
