"""What happens around attention: the residual stream of a stack, from its embeddings through every block to its end.

A Block keeps each part's own numbers, taken from the model as it ran: what the attention and the
feed-forward read, and what each gave. What lies between follows by addition and is not kept:

    pre       output == input + attended (+ crossed) + fed, where each part reads a norm of the sum before it
    parallel  the same sum, but the feed-forward too reads the stream as it was before attention
    post      each part reads the stream itself, and their sum is normed: normed, cross_input and fed_input
              are the streams, and output is the norm of fed_input + fed

A recorder (watching/streams.py) believes no block that does not add up so. All tensors are float32.

Source of the words: Vaswani et al. 2017 (post), Xiong et al. 2020, "On Layer Normalization in the Transformer
Architecture" (pre), Wang & Komatsuzaki 2021, GPT-J (parallel), Elhage et al. 2021 (residual stream).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

ORDERS = ("pre", "post", "parallel")


class Unclear(Exception):
    """Why a stream is not believed."""


def adds_up(total: Tensor, *parts: Tensor, eps: float = torch.finfo(torch.float32).eps) -> bool:
    """Whether `total` is the sum of the parts, to the rounding of a type with this eps, at every number."""
    bound = sum(part.abs() for part in parts) * (eps * len(parts))
    return bool(((total - sum(parts)).abs() <= bound).all())


@dataclass(frozen=True, eq=False)
class Block:
    """One layer: what enters it, what its parts read and give, and what leaves it. Tensors (b, i, width), float32."""

    layer: int
    kind: str
    """"self" in a decoder or in the only stack, or "encoder"; as the kind of its own attention's Call."""
    order: str
    """Where the norms stand: pre, post or parallel."""
    input: Tensor
    """The residual stream that enters."""
    normed: Tensor
    """What attention reads: the normed input, or in a post-norm block the input itself."""
    attended: Tensor
    """What attention adds to the stream: its heads joined, times W_O."""
    fed_input: Tensor
    """What the feed-forward reads."""
    fed: Tensor
    """What the feed-forward gave."""
    output: Tensor
    """The residual stream that leaves."""
    cross_input: Tensor | None = None
    """What the cross-attention reads, in a decoder with an encoder."""
    crossed: Tensor | None = None
    """What the cross-attention adds to the stream."""

    @property
    def middle(self) -> Tensor:
        """The stream that the feed-forward's output is added to: (b, i, width)."""
        if self.order == "post":
            return self.fed_input
        attended = self.input + self.attended
        return attended if self.crossed is None else attended + self.crossed

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that there are, by the names of their fields."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: x for name, x in found.items() if isinstance(x, Tensor)}


@dataclass(eq=False)
class Stream:
    """The residual stream of one stack. Tensors (b, i, width), float32.

    The first block's input is embedded + positions + types, normed after the addition where `embedding_norm` is set.
    """

    embedded: Tensor
    """The tokens' rows of the embedding matrix, times the model's scale."""
    positions: Tensor | None
    """The rows of the positions, (b or 1, i, width); None where they are rotary or a bias, and are not added."""
    blocks: list[Block]
    final: Tensor
    """What leaves the stack, after its final norm where it has one: what a decoder's vocabulary matrix multiplies, what
    cross-attention reads of an encoder. BERT's head sends it through one more transform first."""
    types: Tensor | None = None
    """The rows of the text's number, 0 or 1, in BERT: (b or 1, i, width)."""
    embedding_norm: bool = False

    kind = property(lambda self: self.blocks[0].kind)

    @property
    def final_norm(self) -> bool:
        """Whether a norm stands behind the last block."""
        return not torch.equal(self.final, self.blocks[-1].output)

    def tensors(self) -> dict[str, Tensor]:
        """Its own tensors that there are, without those of its blocks."""
        found = {name: getattr(self, name) for name in ("embedded", "positions", "types", "final")}
        return {name: x for name, x in found.items() if x is not None}

    def share(self, text: int, rows: int) -> Stream:
        """The first `rows` tokens of one text, as a batch of one: views, not copies."""
        return combined([self], lambda each: each[0][text:text + 1, :rows] if len(each[0]) > 1 else each[0][:, :rows])


def joined(parts: Sequence[Stream]) -> Stream:
    """The streams of a text's pieces, one after another: those of a prompt and of every token that was written."""
    return parts[0] if len(parts) == 1 else combined(parts, lambda each: torch.cat(each, dim=1))


def combined(streams: Sequence[Stream], combine: Callable[[list[Tensor]], Tensor]) -> Stream:
    """One stream out of several of the same model; tensors that stand in several places stay one tensor."""
    known: dict[tuple[int, ...], Tensor] = {}

    def of(each: list[Tensor]) -> Tensor:
        name = tuple(map(id, each))
        if name not in known:
            known[name] = combine(each)
        return known[name]

    def fill(things: Sequence[Block] | Sequence[Stream]) -> dict[str, Tensor]:
        held = [thing.tensors() for thing in things]
        return {name: of([one[name] for one in held]) for name in held[0]}

    blocks = [replace(each[0], **fill(each)) for each in zip(*(stream.blocks for stream in streams), strict=True)]
    return replace(streams[0], blocks=blocks, **fill(streams))


def entrance(x: Tensor, rows: dict[str, Tensor], norms: list[tuple[Tensor, Tensor]], eps: float) -> dict[str, Any]:
    """Stream's fields from before the first block, which reads x (b, i, width); Unclear if they do not add up to it.

    `rows` are the rows that were looked up, by their fields, and `norms` what each norm was given and gave.
    """
    token = rows.get("embedded")
    if token is None or x.ndim != 3 or token.shape != x.shape:
        raise Unclear("its first layer does not read rows of an embedding of tokens")

    def choices(name: str) -> list[Tensor | None]:
        row = rows.get(name)
        row = row[None] if row is not None and row.ndim == 2 else row
        return [None] if row is None or row.shape[1:] != x.shape[1:] else [row, None]

    for positions in choices("positions"):
        for types in choices("types"):
            for scale in (1.0, x.shape[2] ** 0.5):
                embedded = token if scale == 1 else token * scale
                parts = [part for part in (embedded, positions, types) if part is not None]
                normed = any(torch.equal(out, x) and adds_up(given, *parts, eps=eps) for given, out in norms)
                if normed or adds_up(x, *parts, eps=eps):
                    return {"embedded": embedded, "positions": positions, "types": types, "embedding_norm": normed}
    raise Unclear("what its first layer reads is not the sum of its embeddings")


def order_of(kept: dict[str, Tensor], norms: list[tuple[Tensor, Tensor]], eps: float, where: str) -> str:
    """Where the norms of a block stand, proved by its tensors: pre, post or parallel; Unclear if they do not add up."""
    pairs = [("normed", "attended"), ("cross_input", "crossed"), ("fed_input", "fed")]
    steps = [(kept[read], kept[gave]) for read, gave in pairs if read in kept]
    stream, output = kept["input"], kept["output"]
    # What each part reads, before the norm that gave it.
    before = [next((given for given, out in norms if torch.equal(out, read)), read) for read, _ in steps]
    if adds_up(output, stream, *(gave for _, gave in steps), eps=eps):
        sums = [[stream, *(gave for _, gave in steps[:n])] for n in range(len(steps))]
        if all(adds_up(given, *parts, eps=eps) for given, parts in zip(before, sums, strict=True)):
            return "pre"
        if len(steps) == 2 and all(torch.equal(given, stream) for given in before):
            return "parallel"
        raise Unclear(f"{where}: one of its parts does not read the stream, or a norm of it")
    for read, gave in steps:
        after = next((out for given, out in norms if adds_up(given, stream, gave, eps=eps)), None)
        if after is None or not torch.equal(read, stream):
            off = (output - kept["input"] - sum(gave for _, gave in steps)).abs().max().item()
            raise Unclear(f"{where}: what enters, what attention gave and what the feed-forward gave do not add up to what "
                          f"leaves (off by up to {off:.2g}), and their sums are not normed either")
        stream = after
    if not torch.equal(stream, output):
        raise Unclear(f"{where}: what leaves is not its last norm")
    return "post"
