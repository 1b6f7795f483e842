"""From a model and a text to a Trace: run once, and keep what attention saw.

    trace = klieg.trace("chat", "I love you")            # a bundled name, a folder, a Hugging Face id
    trace = klieg.trace((model, tokenizer), "I love you")   # what klieg.load() gave
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from klieg.layers import Observation
from klieg.models import Decoder, load
from klieg.survey import SurveySpec, survey
from klieg.tokenizers import Tokenizer, check_text
from klieg.trace import Call, Trace


class Vocabulary(Sequence[str]):
    """The label of every id, made when somebody asks for it. A model may have more ids than its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._tokenizer, self._size = tokenizer, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, id: int) -> str:
        if not 0 <= id < self._size:
            raise IndexError(id)
        return self._tokenizer.piece(id)


@torch.no_grad()
def trace(model: str | tuple[Decoder, Tokenizer], text: str, *, cut: bool = False, name: str | None = None,
          spec: SurveySpec | None = None, kernel: str | None = None) -> Trace:
    """Run `model` over `text` and keep q, k, v, lse and output of every attention call.

    A text longer than the model's positions is refused, or cut at its end where `cut` is set.
    With a SurveySpec every call also carries its survey.
    """
    check_text(text)
    decoder, tokenizer = load(model) if isinstance(model, str) else model
    name = name or (model if isinstance(model, str) else type(decoder).__name__)
    ids = tokenizer.fitting(text, decoder.positions, cut, offer=", or have its end cut off with --cut (in Python, cut=True)")
    calls: list[Call] = []

    def keep(seen: Observation) -> None:
        found = seen.attention
        kept = survey(seen.q, seen.k, found.lse, seen.mask, spec, scale=seen.scale) if spec else None
        calls.append(Call(seen.layer, "self", seen.q, seen.k, seen.v, found.lse, found.output, seen.mask, seen.scale,
                          found.kernel, unrotated_q=seen.unrotated_q, unrotated_k=seen.unrotated_k, survey=kept))

    logits = decoder(torch.tensor([ids]), observe=keep, kernel=kernel)[0].float()
    return Trace(name, text, ids, tokenizer.labels(ids), calls, logits, Vocabulary(tokenizer, logits.shape[-1]))
