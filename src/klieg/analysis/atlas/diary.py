"""What the heads do while a model is trained: an atlas of the same few texts at every so many steps.

Each is an atlas in a folder of its own, DIARY/step-00001000, and `klieg atlas --compare` reads any two of them. The time
that they take is measured: said from the first on as what is to be expected, and at the end as a share of the whole.

    diary = Diary("runs/mine/heads", tokenizer, ["I love you. ..."], every=100)
    for progress in trainer.run():                              # klieg.train.Trainer
        diary.step(trainer.model, progress.step)
    print(diary.cost)

    trainer = transformers.Trainer(..., callbacks=[callback(diary)])
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from klieg.analysis.atlas import Atlas
from klieg.analysis.atlas.probes import Plain
from klieg.analysis.reader import SHORTEST, Reader
from klieg.encoders import Bert
from klieg.errors import KliegError
from klieg.foreign import Foreign
from klieg.models import Decoder
from klieg.seq2seq import Marian
from klieg.tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import TrainerCallback

FILE = "atlas.safetensors"


class Diary:
    """Atlases by step, in a folder. `every` so many steps `texts` are read, in windows of at most `window` tokens."""

    def __init__(self, folder: str | Path, tokenizer: Tokenizer, texts: Sequence[str], every: int = 100,
                 window: int | None = None) -> None:
        if every < 1 or not any(text.strip() for text in texts):
            raise KliegError("a diary needs texts, and a step every so many; give at least one of each.")
        self.folder, self.every = Path(folder), every
        self.seconds = 0.0
        """What the atlases took so far."""
        self.looks = 0
        self._tokenizer, self._texts, self._window, self._began = tokenizer, list(texts), window, time.perf_counter()

    @property
    def share(self) -> float:
        """Of the time since this diary was made, what it took itself."""
        return self.seconds / max(time.perf_counter() - self._began, 1e-9)

    @property
    def cost(self) -> str:
        """The share in words."""
        each = f", {self.seconds / self.looks:.2f} s each" if self.looks else ""
        steps = f"{self.looks} step{'s' * (self.looks != 1)}"
        return f"scores of heads at {steps} in {self.folder}{each}: {100 * self.share:.1f} % of the time"

    def forecast(self, seconds: float | None) -> str:
        """What they will take, in words, by those so far, at least one; `seconds` of a step of training, if they are known."""
        each = self.seconds / self.looks
        said = f"scores of heads at every {self.every} steps, {each:.2g} s each"
        if seconds is None:
            return said
        return f"{said}: about {100 * each / (each + self.every * seconds):.2g} % of the time"

    def step(self, model: nn.Module, step: int) -> Path | None:
        """The folder of this step's atlas; None at a step that has none. The model is left as it was."""
        return self.look(model, step) if step % self.every == 0 else None

    def look(self, model: nn.Module, step: int) -> Path:
        """The same at any step."""
        started, training = time.perf_counter(), model.training
        if isinstance(model, Marian):
            raise KliegError("a translator reads a text and its translation, and a diary has texts alone; leave it away.")
        if {p.device.type for p in model.parameters()} != {"cpu"}:
            raise KliegError("the heads of a model on a card are not scored while it is trained; leave the diary away.")
        model.eval()
        try:
            atlas = self._atlas(model, step)
        finally:
            model.train(training)
        place = self.folder / f"step-{step:08d}"
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            why = (e.strerror or str(e)).lower()
            raise KliegError(f"the folder {place} cannot be made ({why}); choose another one.") from None
        atlas.save(place / FILE)
        self.looks += 1
        self.seconds += time.perf_counter() - started
        return place

    @torch.no_grad()
    def _atlas(self, model: nn.Module, step: int) -> Atlas:
        name = f"{type(model).__name__} at step {step}"
        own = isinstance(model, Decoder | Bert)
        reader = Reader(model if own else Foreign(name, model, self._tokenizer), self._tokenizer, name)
        corpus = hashlib.sha256("\0".join(self._texts).encode()).hexdigest()
        atlas = Atlas(name, reader.window(self._window), {"model": name, "corpus": corpus, "probe": Plain.name})
        for number, text in enumerate(self._texts):
            for n, window in enumerate(reader.windows(text, atlas.window)):
                if len(window) >= SHORTEST:
                    atlas.add(reader.scores(window, number << 20 | n))
                    atlas.counts.update(windows=1, tokens=len(window))
        if not atlas.rows:
            raise KliegError(f"no text of the diary has {SHORTEST} tokens; give longer ones.")
        atlas.whole = True
        return atlas


def callback(diary: Diary) -> TrainerCallback:
    """A diary as a callback of transformers' Trainer; the first process writes it, and says its cost at the end."""
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                diary.step(kwargs["model"], state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                print(diary.cost)

    return Callback()
