"""What a model writes after a text, one token at a time, each with the probability that the model gave it.

One loop for all models: a step takes the ids that are new and gives the logits after them, and what
was read stays in the model's cache of keys and values. Tokens are chosen as generate.py chooses them.

    for written in own(model, tokenizer, "I love you", None, [], 20).write(Sampling(temperature=0)):
        print(written.id, written.p)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from klieg.device import room
from klieg.errors import KliegError
from klieg.generate import Sampling, choose
from klieg.models import Decoder, Model
from klieg.seq2seq import Marian
from klieg.tokenizers import Tokenizer, check_text
from klieg.watching.runs import LOGITS

if TYPE_CHECKING:
    from klieg.foreign import Foreign

Step = Callable[[list[int]], Tensor]
"""New ids in, logits (1, vocabulary) of the token after them out."""


@dataclass(frozen=True)
class Written:
    """A token that was chosen, and its label."""

    id: int
    token: str
    p: float
    """What the model itself gave it: at temperature 1, before anything was cut."""


@dataclass(frozen=True, eq=False)
class Pen:
    """A model in front of a text that it goes on with."""

    ids: list[int]
    """What it reads before the next token."""
    step: Step
    count: int
    """How many tokens it may still write."""
    ends: set[int | None]
    """The marks at which it stops."""
    labels: Callable[[list[int]], list[str]]

    @torch.inference_mode()
    def write(self, sampling: Sampling) -> Iterator[Written]:
        """The tokens, each as soon as it is chosen; an end mark is the last."""
        generator, read, new = sampling.generator(), [*self.ids], self.ids
        for _ in range(self.count):
            logits = self.step(new).float()
            id = int(choose(logits, sampling, [generator])[0])
            read, new = [*read, id], [id]
            yield Written(id, self.labels(read)[-1], float(logits[0].double().softmax(-1)[id]))
            if id in self.ends:
                return


def own(model: Model, tokenizer: Tokenizer, text: str, to: str | None, written: list[int], count: int) -> Pen:
    """One of Klieg's decoders or translators, after a text and what was `written` after it; of a translator in its target."""
    from klieg.watch import known, read_source

    if isinstance(model, Marian):
        ids = known([model.config.decoder_start_token_id, *written], model.config.vocab_size, model.positions)
        count = min(count, model.positions - len(ids))
        step = _translating(model, read_source(model, tokenizer, text, to).ids, len(ids) + count)
    elif isinstance(model, Decoder):
        read = tokenizer.fitting(check_text(text), model.positions)
        ids = known([*read, *written], len(model.vocabulary), model.positions)
        count = min(count, model.positions - len(ids))
        step = _going_on(model, len(ids) + count)
    else:
        raise KliegError("this model is an encoder: it reads a whole text at once and writes none, so it has no film; "
                         "choose a model that writes.")
    return Pen(ids, step, 0 if written and written[-1] == tokenizer.eos else count, {tokenizer.eos}, tokenizer.labels)


def foreign(found: Foreign, text: str, written: list[int], count: int) -> Pen:
    """A model of transformers, after a text and what was `written` after it; stops where not all logits could be kept."""
    from klieg.watch import known

    size, read = found.model.config.get_text_config().vocab_size, found.ids(text)
    ids = known([*read, *written], size, found.positions or len(read) + LOGITS)
    room = LOGITS // size - len(written) - 1
    if found.positions is not None:
        room = min(room, found.positions - len(ids))
    marks = getattr(found.model.generation_config, "eos_token_id", None)
    ends = {found.tokenizer.eos, *(marks if isinstance(marks, list) else [marks])}
    over = bool(written) and written[-1] in ends
    return Pen(ids, _caching(found), 0 if over else min(count, room), ends, found.tokenizer.labels)


def _going_on(model: Decoder, capacity: int) -> Step:
    cache = model.new_cache(1, max(capacity, 1))
    return lambda ids: model.head(model.hidden(torch.tensor([ids]), cache=cache)[:, -1])


@torch.inference_mode()
def _translating(model: Marian, source: list[int], capacity: int) -> Step:
    memory, cache = model.encode(torch.tensor([source])), model.new_cache(1, max(capacity, 1))
    never = [model.config.pad_token_id, model.config.decoder_start_token_id]

    def step(ids: list[int]) -> Tensor:
        logits = model.head(model.decode(torch.tensor([ids]), memory, cache=cache)[:, -1])
        logits[:, never] = -torch.inf   # nobody writes padding, or the mark that a target begins with
        return logits

    return step


def _caching(found: Foreign) -> Step:
    model, name = found.model, found.name
    if not model.can_generate():
        raise KliegError(f"{name!r} reads a whole text at once and writes none, so it has no film; choose a model that writes.")
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    read, cache = 0, None

    def step(ids: list[int]) -> Tensor:
        nonlocal read, cache
        read += len(ids)
        with room(f"{name!r} read {len(ids):,} tokens"):
            given = model(torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True, **last,
                          attention_mask=torch.ones(1, read, dtype=torch.int64, device=model.device))
        cache = getattr(given, "past_key_values", None)
        if cache is None:
            raise KliegError(f"{name!r} keeps no keys and values between its steps, so it has no film; choose another model.")
        return given.logits[:, -1].cpu()

    return step
