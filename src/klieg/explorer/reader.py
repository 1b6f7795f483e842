"""A model that the page may ask, loaded when it is asked first: one of Klieg's own, or any other through transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from klieg.device import CPU, moved
from klieg.errors import KliegError
from klieg.explorer.turns import Turn
from klieg.survey import SurveySpec
from klieg.trace import Trace

if TYPE_CHECKING:
    from klieg.explorer.writing import Written
    from klieg.foreign import Foreign
    from klieg.generate import Sampling
    from klieg.models import Model
    from klieg.tokenizers import Tokenizer

SPEC = SurveySpec(top=16, map=256)
STREAMED = 512  # tokens up to which the residual stream of a watched model is kept too


class Reader:
    """A model by its name; on another device, or in a narrower type, it is watched whatever its shape. What computes holds
    its asker's turn."""

    def __init__(self, name: str, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> None:
        self.name, self._where = name, (device, dtype)
        self._own: tuple[Model, Tokenizer] | None = None
        self._foreign: Foreign | None = None

    @property
    def own(self) -> tuple[Model, Tokenizer] | None:
        """The model and its tokenizer, where it is one of Klieg's own."""
        self._load()
        return self._own

    @property
    def foreign(self) -> Foreign | None:
        """The model of transformers, where it is of any other shape."""
        self._load()
        return self._foreign

    def _load(self) -> None:
        from klieg import foreign, models

        if self._own is not None or self._foreign is not None:
            return
        if self._where != (CPU, torch.float32):
            self._foreign = foreign.load(self.name, *self._where)
            return
        try:
            self._own = models.load(self.name)
        except KliegError as own:
            try:
                self._foreign = foreign.load(self.name)
            except KliegError as other:
                raise other from own

    @property
    def languages(self) -> list[str]:
        """The target languages of a translator of several; none of any other model."""
        from klieg.translate import languages

        return list(languages(self.own[1])) if self.own is not None else []

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
        """What the model's attention saw of a text, and of the ids that it has `written` after it, in one pass.

        A translator translates the text `to` a language, by default its first; what it has written is the target.
        """
        if self.own is None:
            if to is not None:
                raise KliegError(f"{self.name!r} is no translator; leave the language away.")
            return self._watched(text, written or [], turn)
        from klieg.seq2seq import Marian
        from klieg.watch import trace

        (model, tokenizer), to = self.own, to or next(iter(self.languages), None)
        translates = isinstance(model, Marian)
        given = [*tokenizer.fitting(text, model.positions), *written] if written and not translates else text
        return trace(self.own, given, target=(written or None) if translates else None, to=to, name=self.name,
                     spec=SurveySpec(top=0, map=0))

    def write(self, text: str, to: str | None, written: list[int], count: int, sampling: Sampling) -> Iterator[Written]:
        """Up to `count` tokens after a text and what was `written` after it, each as soon as it is chosen."""
        from klieg.explorer import writing

        if self.own is None:
            assert self._foreign is not None
            return writing.foreign(self._foreign, text, written, count).write(sampling)
        return writing.own(*self.own, text, to or next(iter(self.languages), None), written, count).write(sampling)

    def _watched(self, text: str, written: list[int], turn: Turn) -> Trace:
        from klieg.watch import known, watch

        model = self._foreign
        assert model is not None
        ids = [*model.ids(text), *written]
        if written:
            ids = known(ids, model.model.config.get_text_config().vocab_size, model.positions or len(ids))
        with watch(model.model, SPEC.top, SPEC.map, keep_qk=True, tokenizer=model.tokenizer, streams=len(ids) <= STREAMED,
                   on_call=lambda done, expected: turn.offer()) as seen:
            model.run(ids, len(written) + 1)
        found = moved(seen.trace(), CPU)
        found.model = self.name
        return found
