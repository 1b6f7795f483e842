"""How likely a text is to a decoder: the sum of the log-probabilities of its tokens, each given those before it.

Texts go through the model in batches of like length; padding stands behind a text, where a causal model does not look.

    scorer = Scorer.load("chat")
    scorer.total(["The cats sleep.", "The cats sleeps."])       # (n,), nats
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from klieg.device import CPU, home, room
from klieg.errors import KliegError
from klieg.models import Decoder
from klieg.tokenizers import Tokenizer, check_text

if TYPE_CHECKING:
    from klieg.analysis.reader import Reader
    from klieg.foreign import Foreign

CELLS = 2**24       # logits that are held at once

Told = Callable[[int, int], None]


class Scorer:
    """A decoder with its tokenizer, Klieg's own or one of transformers; KliegError for a model that continues no texts."""

    def __init__(self, model: Decoder | Foreign, tokenizer: Tokenizer, name: str) -> None:
        if not continues(model):
            raise KliegError(f"{name!r} is an encoder and gives no probability to a text; name a model that continues texts.")
        self.name, self._model, self._tokenizer = name, model, tokenizer
        # Without a mark before it the first token would have no probability.
        before = [] if tokenizer.encode("") else [mark for mark in (tokenizer.bos, tokenizer.eos) if mark is not None][:1]
        self._before, self._opened = before, len(before) + len(tokenizer.encode(""))
        if not self._opened:
            raise KliegError(f"the tokenizer of {name!r} has no mark that begins or ends a text, so the first token has no "
                             "probability; name another model.")

    @classmethod
    def of(cls, reader: Reader) -> Scorer:
        """The model of a reader."""
        return cls(reader.model, reader.tokenizer, reader.name)

    @classmethod
    def load(cls, name: str, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Scorer:
        """A bundled name, a folder or a Hugging Face id; as klieg.analysis.reader.load() has it."""
        from klieg.analysis.reader import load

        return cls.of(load(name, device, dtype))

    @torch.no_grad()
    def total(self, texts: Sequence[str], starts: Sequence[int] | None = None,
              told: Told = lambda done, expected: None) -> Tensor:
        """log P of each text in nats: (n,), float64; with `starts` only of its tokens that reach past that character.

        -inf for a text that is longer than the model has positions. `told` hears how many texts are done.
        """
        rows, counted = [], []
        for n, text in enumerate(texts):
            ids, places = self._tokenizer.placed(check_text(text))
            rows.append([*self._before, *ids])
            start = 0 if starts is None else starts[n]
            counted.append([*([False] * self._opened), *(end > start for _, end in places[self._opened - len(self._before):])])
        most = self._model.positions
        found = torch.full((len(texts),), -torch.inf, dtype=torch.float64)
        order = sorted((n for n, row in enumerate(rows) if most is None or len(row) <= most), key=lambda n: len(rows[n]))
        done = len(texts) - len(order)
        while order:
            size = 1
            # As many as fit with the longest of them; they come shortest first.
            while size < len(order) and (size + 1) * len(rows[order[size]]) * self._tokenizer.size <= CELLS:
                size += 1
            part, order = order[:size], order[size:]
            width = len(rows[part[-1]])
            ids = torch.tensor([[*rows[n], *[0] * (width - len(rows[n]))] for n in part])
            picked = torch.tensor([[*counted[n], *[False] * (width - len(rows[n]))] for n in part])
            found[part] = self._logged(ids).where(picked[:, 1:], 0.0).sum(1)
            done += size
            told(done, len(texts))
        return found

    @torch.no_grad()
    def each(self, text: str) -> tuple[list[int], Tensor]:
        """The ids of a text without the mark before it, and log P of each in nats, given all before it: (n,), float64."""
        ids = [*self._before, *self._tokenizer.encode(check_text(text))]
        if self._model.positions is not None and len(ids) > self._model.positions:
            raise KliegError(f"the text has {len(ids):,} tokens and {self.name!r} has positions for {self._model.positions}; "
                             "shorten it.")
        return ids[self._opened:], self._logged(torch.tensor([ids]))[0, self._opened - 1:]

    def labels(self, ids: Sequence[int]) -> list[str]:
        """A readable label for every token."""
        return self._tokenizer.labels(ids)

    def _logged(self, ids: Tensor) -> Tensor:
        """The log-probability of every token but the first, given those before it: ids (b, i) -> (b, i - 1), float64."""
        own = isinstance(self._model, Decoder)
        ids = ids.to(home(self._model if own else self._model.model))
        with room(f"{self.name!r} read {ids.numel():,} tokens"):
            logits = (self._model(ids) if own else self._model.model(ids, use_cache=False).logits)[:, :-1].float()
            return (logits.gather(2, ids[:, 1:, None])[:, :, 0] - logits.logsumexp(-1)).double().cpu()

    def likeliest(self, choices: Sequence[Sequence[str]]) -> list[int]:
        """The place of the likeliest text of each list; of equal ones the first."""
        flat = iter(self.total([text for texts in choices for text in texts]).tolist())
        scores = [[next(flat) for _ in texts] for texts in choices]
        return [row.index(max(row)) for row in scores]


def continues(model: object) -> bool:
    """Whether a model says what comes next in one text."""
    if isinstance(model, Decoder):
        return True
    inner = getattr(model, "model", None)
    return hasattr(inner, "can_generate") and bool(inner.can_generate())
