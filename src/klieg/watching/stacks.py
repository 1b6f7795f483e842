"""Which module of a model is which layer of which stack, and which layers have no map at all.

A layer has the number that the model gives it (`layer_idx`), so stacks with other layers between
have gaps. Where a model gives none, modules are counted in their stack; where one module serves
many layers, its calls are. A model may have several stacks of one kind, such as the two parts of a
picture's tower: the one that runs later is numbered on from the one before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from klieg.errors import KliegError

_CROSS = re.compile(r"cross|encoder_?attn|enc_?dec_?attention|encoder_decoder_attention", re.IGNORECASE)
_TOWER = re.compile(r"^(vision|visual|image|video|audio|speech|pixel|qformer|connector|perceiver)(_|$)|_(vision|visual|audio)_",
                    re.IGNORECASE)
_ATTENDS = re.compile(r"attention$|^attn|hybrid|^full|sliding|chunked|^global|^local", re.IGNORECASE)


@dataclass(eq=False)
class _Group:
    """The modules of one class in one stack."""

    kind: str
    modules: list[nn.Module]
    numbers: list[int] | None
    """Their layers; None where a module serves many, and calls are counted."""
    calls: int = 0
    """In the pass that runs."""
    seen: set[int] = field(default_factory=set)


class Stacks:
    """The attention of a model by (layer, kind), learned from its names and from the calls that come."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = {id(module): name for name, module in model.named_modules()}
        self.config: Any = next((part.config for part in model.modules() if hasattr(part, "config")), None)
        self.text: Any = self.config.get_text_config() if hasattr(self.config, "get_text_config") else self.config
        self._groups: dict[tuple[type, str, str], _Group] = {}
        self._kinds: dict[int, str] = {}
        encoder = self._encoder()
        self._encoding = {id(module) for module in encoder.modules()} if encoder is not None else set()

    def _encoder(self) -> nn.Module | None:
        if not getattr(self.config, "is_encoder_decoder", False):
            return None
        found = self.model.get_encoder() if hasattr(self.model, "get_encoder") else None
        return found if found is not self.model else None

    def kind(self, module: nn.Module) -> str:
        """self, encoder or cross."""
        if id(module) not in self._kinds:
            name = self.names[id(module)]
            composite = self.text is not self.config
            if getattr(module, "is_cross_attention", False) is True or _CROSS.search(name):
                kind = "cross"
            elif id(module) in self._encoding or (composite and any(_TOWER.search(part) for part in name.split("."))):
                kind = "encoder"
            else:
                kind = "self"
            self._kinds[id(module)] = kind
        return self._kinds[id(module)]

    @property
    def types(self) -> list[str] | None:
        """What the config says of every layer: full_attention, mamba and so on."""
        for name in ("layer_types", "layers_block_type", "layers_type"):
            found = getattr(self.text, name, None)
            if isinstance(found, list | tuple) and all(isinstance(x, str) for x in found):
                return list(found)
        return None

    @property
    def layers(self) -> int | None:
        """How many layers the decoder or only stack has."""
        for name in ("decoder_layers", "num_decoder_layers", "num_hidden_layers"):
            found = getattr(self.text, name, None)
            if isinstance(found, int):
                return found
        return None

    @property
    def expected(self) -> int:
        """About how many calls a pass makes."""
        count = len(self._attending() or []) or self.layers or 1
        encoder = getattr(self.text, "encoder_layers", None) or getattr(self.text, "num_layers", None) or count
        return count if not self._encoding else 2 * count + encoder

    def encodes(self, module: nn.Module) -> bool:
        """Whether input_ids that this part is given are read by an encoder: it is the encoder, or has both."""
        return bool(self._encoding) and (id(module) in self._encoding
                                         or any(id(part) in self._encoding for part in module.modules()))

    def begin(self) -> None:
        """A pass of the model begins."""
        for group in self._groups.values():
            group.calls = 0

    def place(self, module: nn.Module) -> tuple[int, str]:
        """The layer and kind of the module that now calls."""
        group = self._group(module)
        if group.numbers is None:
            attending = self._attending() if group.kind == "self" else None
            layer = group.calls if attending is None or group.calls >= len(attending) else attending[group.calls]
            group.calls += 1
        else:
            layer = group.numbers[next(n for n, other in enumerate(group.modules) if other is module)]
        group.seen.add(layer)
        return layer, group.kind

    def _attending(self) -> list[int] | None:
        return None if self.types is None else [n for n, said in enumerate(self.types) if attends(said)]

    def _group(self, module: nn.Module) -> _Group:
        """The group of a module: same class, same kind, same stack, which is the name up to its first number."""
        kind, stack = self.kind(module), re.split(r"\.\d+(\.|$)", self.names[id(module)])[0]
        key = type(module), kind, stack
        if key not in self._groups:
            alike = [other for other in self.model.modules() if type(other) is type(module) and self.kind(other) == kind
                     and re.split(r"\.\d+(\.|$)", self.names[id(other)])[0] == stack]
            self._groups[key] = _Group(kind, alike, self._onward(self._numbers(alike, kind), kind))
        return self._groups[key]

    def _numbers(self, modules: list[nn.Module], kind: str) -> list[int] | None:
        given = [getattr(module, "layer_idx", None) for module in modules]
        if all(isinstance(n, int) and n >= 0 for n in given) and len(set(given)) == len(given):
            return given
        attending = self._attending()
        if kind == "self" and attending and len(attending) == len(modules):
            return attending
        expected = len(attending or []) or self.layers or 0
        return None if kind == "self" and len(modules) < expected else list(range(len(modules)))

    def _onward(self, numbers: list[int] | None, kind: str) -> list[int] | None:
        """The numbers of a stack, after those of its kind that ran before it if they would be the same."""
        taken = {n for group in self._groups.values() if group.kind == kind for n in group.numbers or []}
        if numbers is None or taken.isdisjoint(numbers):
            return numbers
        return [max(taken) + 1 + n for n in numbers]

    def missing(self, ran: Iterable[nn.Module] = ()) -> list[str]:
        """Names of modules that did not call although others of their stack did; and of models within, of those that `ran`,
        that have attention of which nothing was heard."""
        silent = [self.names[id(module)] for group in self._groups.values() if group.numbers is not None and group.seen
                  for module, layer in zip(group.modules, group.numbers, strict=True) if layer not in group.seen]
        return silent + [self.names[id(part)] for part in ran if has_attention(part)
                         and not any(id(module) in self._kinds for module in part.modules())]

    def without_map(self, seen: Iterable[int]) -> dict[int, str]:
        """The layers of the decoder or only stack that attend to nothing, each with what it is instead."""
        seen, types, count = set(seen), self.types, self.layers
        if not seen or count is None:
            return {}
        types = types if types is not None and len(types) == count else None
        found = {}
        for layer in range(count):
            if layer not in seen:
                mixer = self._mixer(layer)
                said = types[layer] if types else mixer or "no attention"
                found[layer] = f"{said} ({mixer})" if types and mixer else said
        silent = [layer for layer in found if types and attends(types[layer])]
        if silent:
            raise KliegError(f"layers {', '.join(map(str, silent))} of {type(self.model).__name__} attend "
                             f"({found[silent[0]]}), but not through transformers' registry of attention functions; this "
                             "model cannot be watched.")
        return found

    def _mixer(self, layer: int) -> str:
        """The class of what stands in a layer where others have attention; '' if that is not to be seen."""
        attending = {id(module) for group in self._groups.values() if group.kind == "self" for module in group.modules}
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.layers and any(
                    id(part) in attending for block in module for part in block.modules()):
                parts = [type(part).__name__ for part in module[layer].children()
                         if not re.search(r"norm|mlp|moe|expert|feed|dropout|identity", type(part).__name__, re.IGNORECASE)]
                return parts[0] if parts else ""
        return ""


def has_attention(part: nn.Module) -> bool:
    """Whether the name of a module within says that it attends."""
    return any("attention" in type(module).__name__.lower() for module in part.modules())


def attends(said: str) -> bool:
    """Whether a layer type of a config has a map of attention."""
    return bool(_ATTENDS.search(said)) and not said.startswith("linear")
