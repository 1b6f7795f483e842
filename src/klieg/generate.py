"""Generation: one token at a time from the KV cache, streamed as whole characters.

    for piece in stream(model, tokenizer, "Once upon a time", Sampling(temperature=0.8, seed=1)):
        print(piece, end="", flush=True)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.models import Decoder
from klieg.tokenizers import Stream, Tokenizer


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: temperature 0 takes the likeliest; top_k and top_p cut the tail first."""

    temperature: float = 1.0
    top_k: int = 0
    """Keep only the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the likeliest tokens until their probabilities reach this sum (Holtzman et al. 2019)."""
    seed: int | None = None
    """The same seed gives the same text; None draws one."""

    def __post_init__(self) -> None:
        if self.temperature != 0 and not 1e-6 <= self.temperature < float("inf"):
            raise KliegError(f"temperature is {self.temperature}; it must be 0 (the likeliest token) or at least 1e-6.")
        if self.top_k < 0:
            raise KliegError(f"top-k is {self.top_k}; it must be 0 (all) or more.")
        if not 0 < self.top_p <= 1:
            raise KliegError(f"top-p is {self.top_p}; it must be above 0 and at most 1.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise KliegError(f"seed is {self.seed}; it must be a whole number from 0 to 2^63 - 1.")

    def generator(self) -> torch.Generator:
        """The source of randomness of one text."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities after temperature, top-k and top-p: (b, vocabulary), rows sum to 1. Needs temperature > 0."""
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    p = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = p.sort(descending=True)
        cut = ordered.cumsum(-1) - ordered >= sampling.top_p
        cut[:, 0] = False  # the likeliest stays, also where float32 takes top_p for 0
        p = p.masked_fill(torch.zeros_like(cut).scatter(1, order, cut), 0)
        p = p / p.sum(-1, keepdim=True)
    return p


def choose(logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> Tensor:
    """logits (b, vocabulary) -> ids (b,), each drawn by the generator of its row, whose draws so depend on no other."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    p = filtered(logits, sampling)
    return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in zip(p, generators, strict=True)])


@torch.inference_mode()
def generate(model: Decoder, ids: Tensor, count: int, sampling: Sampling | None = None,
             real: Tensor | None = None) -> Iterator[Tensor]:
    """Up to `count` next tokens of each text, a step at a time: yields (b,).

    ids (b, n); `real` (b, n), bool, marks the tokens of texts padded on the left. Stops where
    the model's positions end.
    """
    sampling = sampling or Sampling(temperature=0)
    generators = [sampling.generator()] * len(ids)
    count = min(count, model.positions - ids.shape[1] + 1)
    cache = model.new_cache(ids.shape[0], min(model.positions, ids.shape[1] + max(count, 0)))
    padded = real is not None and not bool(real.all())
    positions = (real.long().cumsum(1) - 1).clamp(min=0) if padded else None
    for _ in range(count):
        mask = Mask.padding(real) if padded else None
        logits = model.head(model.hidden(ids, mask=mask, positions=positions, cache=cache)[:, -1])
        chosen = choose(logits, sampling, generators)
        yield chosen
        ids = chosen[:, None]
        if padded:
            real = torch.cat([real, real.new_ones(len(real), 1)], dim=1)
            positions = positions[:, -1:] + 1


def stream(model: Decoder, tokenizer: Tokenizer, prompt: str | list[int], sampling: Sampling, count: int = 256,
           stop: tuple[int, ...] = ()) -> Iterator[str]:
    """The continuation of one text, in pieces of whole characters; ends at the end mark or a `stop` id.

    A prompt that is too long is refused at once, before the first piece is asked for.
    """
    ids = tokenizer.fitting(prompt, model.positions) if isinstance(prompt, str) else prompt
    return _pieces(generate(model, torch.tensor([ids]), count, sampling), tokenizer.stream(), {tokenizer.eos, *stop})


def _pieces(tokens: Iterator[Tensor], decoder: Stream, ends: set[int | None]) -> Iterator[str]:
    for chosen in tokens:
        id = int(chosen[0])
        if id in ends:
            return
        yield decoder.push(id)


class Conversation:
    """A dialogue in the form our models learn it: a turn a line, every turn answered by the next.

    When the dialogue outgrows the model's positions its oldest turns are forgotten.
    """

    def __init__(self, model: Decoder, tokenizer: Tokenizer, sampling: Sampling) -> None:
        self._model, self._tokenizer, self._sampling = model, tokenizer, sampling
        self._turns: list[list[int]] = []
        self._said = 0

    def say(self, text: str, count: int = 80) -> Iterator[str]:
        """Add the user's turn; the reply in pieces, at most `count` tokens."""
        newline = self._tokenizer.encode("\n", bos=False)
        turn = self._tokenizer.fitting(" ".join(text.split()), self._model.positions - 1 - len(newline), bos=False)
        self._turns.append([*turn, *newline])
        room = self._model.positions - count - 1
        while len(self._turns) > 1 and sum(map(len, self._turns)) > room:
            del self._turns[0]
        prompt = [*([] if self._tokenizer.bos is None else [self._tokenizer.bos]), *(id for turn in self._turns for id in turn)]
        self._said += 1
        seed = None if self._sampling.seed is None else (self._sampling.seed + self._said) % 2**63
        reply = ""
        sampling = replace(self._sampling, seed=seed)
        for piece in stream(self._model, self._tokenizer, prompt, sampling, count, tuple(newline[-1:])):
            reply += piece
            yield piece
        self._turns.append([*self._tokenizer.encode(reply, bos=False), *newline])
