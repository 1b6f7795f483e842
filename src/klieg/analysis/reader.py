"""A model that reads a corpus window by window and says what each of its heads does: one of Klieg's own, or any other
of transformers, which is watched. Of a window nothing is kept but its scores.

    reader = load("chat")
    for window in reader.windows(text, 256):
        for heads, scores in reader.scores(window, seed=0):
            scores["previous"].weight       # (h,)
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from klieg.analysis.behaviour import Meter, Score, Text
from klieg.device import CPU, home, moved, room
from klieg.encoders import Bert
from klieg.errors import KliegError
from klieg.models import Decoder, Model, find
from klieg.models import load as load_own
from klieg.seq2seq import Marian
from klieg.tokenizers import Tokenizer
from klieg.trace import Call

if TYPE_CHECKING:
    from klieg.foreign import Foreign
    from klieg.layers import Observation

T = TypeVar("T")

SHORTEST = 8        # tokens of a window, its marks among them
USUAL = 256         # tokens of a window unless the model has fewer positions


@dataclass(frozen=True)
class Heads:
    """The heads of one layer."""

    layer: int
    kind: str
    heads: int
    kv_heads: int

    def group(self, head: int) -> int:
        """The key/value head that a query head reads."""
        return head * self.kv_heads // self.heads


class Reader:
    """A model with its tokenizer; `name` is what it is called, `fingerprint` what it is known by."""

    def __init__(self, model: Decoder | Bert | Foreign, tokenizer: Tokenizer, name: str, fingerprint: str = "") -> None:
        self.name, self.fingerprint, self.model, self.tokenizer = name, fingerprint, model, tokenizer
        self.positions: int | None = model.positions
        self._opening = tokenizer.encode("")
        self._closing = [] if isinstance(model, Decoder) else tokenizer.closing
        self._marks: dict[int, bool] = {}

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return home(self.model if isinstance(self.model, Decoder | Bert) else self.model.model)

    def window(self, asked: int | None, usual: int = USUAL) -> int:
        """Tokens of a window: those that were asked for, else the usual; KliegError if the model cannot read so many."""
        most = self.positions or asked or usual
        found = min(usual, most) if asked is None else asked
        if not SHORTEST <= found <= most:
            raise KliegError(f"a window of {found} tokens was asked for; {self.name!r} reads windows of {SHORTEST} to {most}.")
        return found

    def decoder(self) -> Decoder:
        """The model, if it says what comes next and its attention can be changed; KliegError for any other."""
        if not isinstance(self.model, Decoder):
            why = ("is an encoder, which expects no next token" if isinstance(self.model, Bert) else
                   "is not of Klieg's shapes, and its attention cannot be changed exactly")
            raise KliegError(f"{self.name!r} {why}; name a model of Llama's or GPT-2's shape.")
        return self.model

    @property
    def frame(self) -> int:
        """How many marks the tokenizer puts around a text."""
        return len(self._opening) + len(self._closing)

    def room(self, window: int) -> int:
        """Tokens of a window beside its marks; KliegError if there is none."""
        if window <= self.frame:
            raise KliegError(f"a window of {window} tokens has no room beside the {self.frame} marks of {self.name!r}; choose "
                             "a wider one with --window.")
        return window - self.frame

    def encode(self, text: str) -> list[int]:
        """The ids of a text without marks."""
        return self.tokenizer.encode(text, bos=False)

    def ordinary(self) -> list[int]:
        """All ids that stand for text and not for a mark."""
        return [id for id in range(self.tokenizer.size) if isinstance(self.tokenizer.token_bytes(id), bytes)]

    def framed(self, body: Sequence[int], needle: tuple[int, int] | None = None) -> Text:
        """Ids between the tokenizer's own marks. A needle is the place of some of them, and how many they are; the last
        ids are the same."""
        ids = torch.tensor([*self._opening, *body, *self._closing])
        hidden = None
        if needle is not None:
            at, count = needle
            hidden = torch.full_like(ids, -1)
            end = len(self._opening) + len(body) - count - 1
            hidden[end:end + count] = torch.arange(at, at + count) + len(self._opening)
        return Text(ids, torch.tensor([self._is_mark(id) for id in ids.tolist()]), hidden)

    def windows(self, text: str, window: int) -> Iterator[Text]:
        """A text in windows of so many tokens, each between the tokenizer's own marks; the last is what is left."""
        body, room = self.encode(text), self.room(window)
        for start in range(0, max(len(body), 1), room):
            yield self.framed(body[start:start + room])

    def scores(self, text: Text, seed: int = 0) -> list[tuple[Heads, dict[str, Score]]]:
        """What every head of every layer does in one window. The seed is that of `positional`'s shuffle."""
        return self.heard(text.ids, Meter(text, torch.Generator().manual_seed(seed)).read)

    @torch.no_grad()
    def heard(self, ids: Tensor, hear: Callable[[Call], T]) -> list[tuple[Heads, T]]:
        """One pass over a text (n,), and what `hear` makes of each layer that attends from the text to itself, in order."""
        found: list[tuple[Heads, T]] = []

        def told(call: Call) -> None:
            # What a text says of its heads is worked out beside the text, in the processor's memory.
            call = moved(call, CPU)
            if call.queries == call.keys == len(ids):
                found.append((Heads(call.layer, call.kind, call.heads, call.kv_heads), hear(call)))

        if isinstance(self.model, Decoder | Bert):
            self.model.hidden(ids[None].to(self.device), observe=lambda seen: told(_call(seen)))
        else:
            from klieg.watch import watch
            with watch(self.model.model, top=0, map=0, bins=1) as seen:
                self.model.run(ids.tolist())
            for call in seen.calls:
                told(call)
        if not found:
            raise KliegError(f"{self.name!r} has no layer that attends from a text to itself, so there are no heads to score; "
                             "name another model.")
        return found

    def placed(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """A whole text between the tokenizer's own marks, and the characters of each token; see Tokenizer.placed()."""
        ids, places = self.tokenizer.placed(text)
        return [*ids, *self._closing], [*places, *((0, 0) for _ in self._closing)]

    def _is_mark(self, id: int) -> bool:
        if id not in self._marks:
            self._marks[id] = punctuates(self.tokenizer.token_bytes(id))
        return self._marks[id]


def _call(seen: Observation) -> Call:
    """What an observer of one of Klieg's own models is told."""
    found = seen.attention
    return Call(seen.layer, seen.kind, seen.q, seen.k, seen.v, found.lse, found.output, seen.mask, seen.scale, found.kernel)


def punctuates(token: bytes | str) -> bool:
    """Whether a token is a mark of the tokenizer, a line break, or nothing but punctuation of any writing."""
    if isinstance(token, str):
        return True
    text = token.decode("utf-8", "replace")
    return all(unicodedata.category(c).startswith("P") for c in text.strip()) if text.strip() else "\n" in text


def load(name: str, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Reader:
    """A bundled name, a folder or a Hugging Face id, on a device and in a type.

    In float32, what is of Klieg's shapes is Klieg's own; any other, and every model in a narrower type, is watched.
    """
    from klieg import foreign

    folder = find(name)
    model: Any
    own = _own(name) if dtype == torch.float32 else None
    if own is None:
        model = foreign.load(name, device, dtype)
        tokenizer = model.tokenizer
    else:
        model, tokenizer = own
    if isinstance(model, Marian):
        raise KliegError(f"{name!r} is a translator, and a corpus has no translations beside its texts; name a model "
                         "that reads one text.")
    if own is not None:
        with room(f"{name!r} was brought to {device}"):
            model.to(device)
    # Numbers of another type are other numbers.
    narrow = "" if dtype == torch.float32 else f" in {dtype}"
    return Reader(model, tokenizer, name, _fingerprint(folder) + narrow)


def _own(name: str) -> tuple[Model, Tokenizer] | None:
    """The model and its tokenizer, if it is of Klieg's shapes."""
    with suppress(KliegError):
        return load_own(name)
    return None


def _fingerprint(folder: Path) -> str:
    """By which the same model is known again: every byte of its config, its tokenizer and its weights."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", folder / "tokenizer.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
