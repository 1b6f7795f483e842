"""Text to token ids and back: byte-level BPE, ours or anybody's tokenizer.json.

Wraps Hugging Face's `tokenizers`, with two departures. Text is only ever text: a user who
writes "<s>" gets the pieces of those three characters, never the mark. And decoding rests on
the bytes of single tokens, so that whole texts, streams and labels cannot disagree.

    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode("I love you")            # opens with <s> where the tokenizer says so
    tokenizer.decode(ids)                           # "I love you"
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from klieg.atomic import atomic
from klieg.checkpoint import read_json
from klieg.errors import KliegError, first_line
from klieg.labels import labels, mark

if TYPE_CHECKING:
    import tokenizers

MASK = "[MASK]"      # stands for a token that is to be found; see masked.py
LONGEST_PIECE = 128  # characters; a text of more than this many for each position need not be encoded to be too long

# Where a text may be cut before merging: contractions, single Chinese characters (a map wants a
# cell for each), words with the space before them, single digits, punctuation, lines, spaces.
_WORDS = (r"'(?i:[sdmt]|ll|ve|re)(?!\p{L})|\p{Han}| ?[[\p{L}\p{M}]&&[^\p{Han}]]+| ?\p{N}"
          r"| ?[^\s\p{L}\p{M}\p{N}]+|[\r\n]+|[^\S\r\n]+(?!\S)|[^\S\r\n]+")

_NOTE = "tokenizer-made-of.json"

# Names of the marks where tokenizer_config.json is silent; only marks that the file declares special count.
_USUAL = {"bos": ("<s>", "<bos>", "<|begin_of_text|>", "[CLS]"),
          "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
          "pad": ("<pad>", "<|pad|>", "[PAD]")}


def train(texts: Iterable[str], size: int, specials: tuple[str, str, str] = ("<s>", "</s>", "<pad>"),
          marks: Sequence[str] = (), opened: bool = True, closed: bool = False) -> Tokenizer:
    """Byte-level BPE of at most `size` pieces, the specials (begin, end, padding) being ids 0, 1 and 2.

    Further `marks` follow them. An `opened` text begins with the first special, a `closed` one ends with
    the second: a decoder's texts are opened, a translator's closed, an encoder's both. All 256 bytes are
    pieces, so there is no unknown token and every text comes back exactly.
    The same texts in the same order give the same tokenizer.
    """
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
    from tokenizers import Tokenizer as Backend

    count = len(specials) + len(marks)
    if size < 256 + count:
        raise KliegError(f"{size} pieces are too few; a tokenizer needs 256 bytes and {count} marks.")
    backend = Backend(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_WORDS), "isolated"), byte_level])
    backend.decoder = decoders.ByteLevel()
    # The space before a mask belongs to the word that it hides.
    further = [AddedToken(mark, lstrip=mark == MASK, normalized=False, special=True) for mark in marks]
    backend.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, special_tokens=[*specials, *further], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    frame = [(specials[n], n) for n, wanted in enumerate((opened, closed)) if wanted]
    single = " ".join([specials[0]] * opened + ["$A"] + [specials[1]] * closed)
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} {single.replace('$A', '$B')}", special_tokens=frame)
    names = dict(zip(("bos_token", "eos_token", "pad_token"), specials, strict=True))
    names |= {"mask_token": MASK} if MASK in marks else {}
    return Tokenizer(backend, {"tokenizer_class": "PreTrainedTokenizerFast", **names,
                               "clean_up_tokenization_spaces": False})


def made_of(folder: Path) -> dict | None:
    """What save() was told that a tokenizer was made of; None where it was not."""
    note = Path(folder) / _NOTE
    return read_json(note) if note.is_file() else None


def check_text(text: str) -> str:
    """The text itself, or a KliegError if there is nothing in it to look at or it is not Unicode."""
    if not text:
        raise KliegError("the text is empty; give at least one word.")
    if not text.strip():
        raise KliegError("the text is only white space; give at least one word.")
    return _unicode(text)


def _unicode(text: str) -> str:
    lone = re.search("[\ud800-\udfff]", text)
    if lone:
        raise KliegError(f"the text is not valid Unicode: half a surrogate pair (U+{ord(lone[0]):04X}) "
                         f"at character {lone.start()}; remove it.")
    return text


class Tokenizer:
    """Ids of a text, text of ids. `bos`, `eos` and `pad` are ids, None where the tokenizer has none."""

    def __init__(self, backend: tokenizers.Tokenizer, config: dict | None = None) -> None:
        """backend: of the `tokenizers` library. config: what tokenizer_config.json says."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend, self._config = backend, dict(config or {})
        self._specials = {i: t.content for i, t in backend.get_added_tokens_decoder().items() if t.special}
        self._added = {i: t.content for i, t in backend.get_added_tokens_decoder().items() if not t.special}
        self.size: int = backend.get_vocab_size(with_added_tokens=True)
        self.bos, self.eos, self.pad = (self._find(name) for name in ("bos", "eos", "pad"))

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Opens tokenizer.json, and tokenizer_config.json if it is there; no other file is read."""
        from tokenizers import Tokenizer as Backend

        path, beside = Path(folder) / "tokenizer.json", Path(folder) / "tokenizer_config.json"
        if not path.is_file():
            raise KliegError(f"{path} is not there; save the tokenizer in the `tokenizers` format first.")
        try:
            backend = Backend.from_str(path.read_text("utf-8"))
        except Exception as e:  # the library raises plain Exception for a file it cannot parse
            raise KliegError(f"{path} is damaged ({first_line(e)}); fetch it again.") from None
        return cls(backend, read_json(beside) if beside.is_file() else None)

    def files(self) -> dict[str, str]:
        """What save() writes, name to text: transformers opens it with the same ids and marks."""
        return {"tokenizer.json": self._backend.to_str(pretty=False),
                "tokenizer_config.json": json.dumps(self._config, ensure_ascii=False, indent=2) + "\n"}

    def save(self, folder: Path, made_of: dict | None = None) -> None:
        """Writes tokenizer.json and tokenizer_config.json, each whole or not at all; beside them what it was `made_of`."""
        note = Path(folder) / _NOTE
        note.unlink(missing_ok=True)
        told = {} if made_of is None else {_NOTE: json.dumps(made_of, ensure_ascii=False) + "\n"}
        for name, text in (self.files() | told).items():
            with atomic(Path(folder) / name) as path:
                path.write_text(text, "utf-8")

    def check_marks(self, *names: str) -> None:
        """KliegError unless the tokenizer has these marks, by the names of this class."""
        for name in names:
            if getattr(self, name) is None:
                raise KliegError(f"the tokenizer names no {name}_token, without which nothing can be trained; name one of its "
                                 "pieces in tokenizer_config.json.")

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Ids of the text. With bos=True it opens as the tokenizer itself opens a text: ours with <s>, GPT-2's bare."""
        ids = self._backend.encode(_unicode(text), add_special_tokens=False).ids
        return [*self._opening, *ids] if bos else ids

    def placed(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """encode(), and of each token the characters (start, end) of the text that it has a part in; of a mark (0, 0).

        Tokens that share one character have it all; the space before a word may or may not be in its token's place.
        """
        found = self._backend.encode(_unicode(text), add_special_tokens=False)
        return [*self._opening, *found.ids], [*((0, 0) for _ in self._opening), *found.offsets]

    def fitting(self, text: str, positions: int, cut: bool = False, bos: bool = True, offer: str = "") -> list[int]:
        """encode(), but a text of more tokens than `positions` is refused with an `offer`, or cut at its end."""
        most = positions * LONGEST_PIECE
        size = f"{len(text):,} characters"
        if cut or len(text) <= most:
            ids = self.encode(text[:most], bos)
            if cut or len(ids) <= positions:
                return ids[:positions]
            size = f"{len(ids):,} tokens"
        raise KliegError(f"the text has {size} and the model has positions for {positions} tokens; shorten it{offer}.")

    def encode_all(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """Ids of many texts, bare, on all cores; a thousand texts are held at a time."""
        texts = list(texts)
        for start in range(0, len(texts), 1000):
            part = [_unicode(text) for text in texts[start:start + 1000]]
            for encoding in self._backend.encode_batch_fast(part, add_special_tokens=False):
                yield encoding.ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text, marks left out; bytes that are no character become U+FFFD."""
        stream = self.stream()
        return "".join([stream.push(i) for i in ids]) + stream.end()

    def stream(self) -> Stream:
        """A decoder for ids that arrive one at a time."""
        return Stream(self)

    def piece(self, id: int) -> str:
        """The label of one vocabulary entry by itself, as next-token tables show it; see labels.py."""
        token = self.token_bytes(id)
        return labels([b"a", token])[1] if isinstance(token, bytes) else token

    def labels(self, ids: Iterable[int]) -> list[str]:
        """One readable label a token, in context; see labels.py."""
        tokens = [self.token_bytes(i) for i in ids]
        for n, token in enumerate(tokens):
            if isinstance(token, bytes) and self._drops_first_space:
                tokens[n] = token.removeprefix(b" ") or b" "
                break
        return labels(tokens)

    def token_bytes(self, id: int) -> bytes | str:
        """The bytes a token stands for; of a mark its label, as a string."""
        if id in self._specials:
            return mark(self._specials[id])
        if id in self._added:
            return self._added[id].encode()
        token = self._backend.id_to_token(id)
        return mark(f"unused {id}") if token is None else _BYTES[self._kind](token)

    @cached_property
    def _decoder_state(self) -> str:
        """The decoder as JSON; '' where there is none."""
        decoder = self._backend.decoder
        return decoder.__getstate__().decode() if decoder is not None else ""

    @cached_property
    def _kind(self) -> str:
        """How pieces spell bytes, told from the decoder: letters for bytes, ▁ for a space, or ## for none."""
        if '"ByteLevel"' in self._decoder_state:
            return "byte level"
        return "word piece" if '"WordPiece"' in self._decoder_state else "sentence piece"

    @cached_property
    def _drops_first_space(self) -> bool:
        """Whether the space before a text's first word is the tokenizer's own addition."""
        adds = '"Strip"' in self._decoder_state or '"Metaspace"' in self._decoder_state
        return self._kind == "word piece" or (adds and '"never"' not in self._decoder_state)

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The tokenizer of the `tokenizers` library."""
        return self._backend

    @cached_property
    def marks(self) -> dict[str, int]:
        """All marks by their characters."""
        return {content: id for id, content in self._specials.items()}

    @cached_property
    def closing(self) -> list[int]:
        """The marks that the tokenizer itself puts after a text."""
        encoding = self._backend.encode("a", add_special_tokens=True)
        last = next((n for n, is_mark in enumerate(reversed(encoding.special_tokens_mask)) if not is_mark), 0)
        return encoding.ids[len(encoding.ids) - last:] if last else []

    @cached_property
    def _opening(self) -> list[int]:
        """The marks that the tokenizer itself puts before a text."""
        if self._config.get("add_bos_token") is not None:
            return [self.bos] if self._config["add_bos_token"] and self.bos is not None else []
        encoding = self._backend.encode("a", add_special_tokens=True)
        bare = next((n for n, is_mark in enumerate(encoding.special_tokens_mask) if not is_mark), 0)
        return encoding.ids[:bare]

    def _find(self, name: str) -> int | None:
        """The id of a mark: as tokenizer_config.json names it; where that is silent, by its usual name."""
        if f"{name}_token" in self._config:
            named = self._config[f"{name}_token"]
            content = named.get("content") if isinstance(named, dict) else named
            return self._backend.token_to_id(content) if isinstance(content, str) else None
        ids = {content: i for i, content in self._specials.items()}
        return next((ids[content] for content in _USUAL[name] if content in ids), None)


class Stream:
    """Text as it grows: push() gives whole characters only and keeps the bytes of an unfinished one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer._drops_first_space

    def push(self, id: int) -> str:
        """What the text grows by: '' while a character is unfinished, and for marks."""
        token = self._tokenizer.token_bytes(id)
        if isinstance(token, str):
            return ""
        if self._at_start:
            token, self._at_start = token.removeprefix(b" "), False
        return self._decoder.decode(token)

    def end(self) -> str:
        """The rest: U+FFFD if the last character was never finished."""
        return self._decoder.decode(b"", final=True)


def _byte_letters() -> dict[str, int]:
    """The letters byte-level BPE writes for bytes: printable ones stand for themselves, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(hidden)}


_LETTERS = _byte_letters()


def _from_letters(token: str) -> bytes:
    return bytes(_LETTERS[c] for c in token) if all(c in _LETTERS for c in token) else token.encode()


def _from_sentence_piece(token: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-F]{2})>", token)
    return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()


def _from_word_piece(token: str) -> bytes:
    return token[2:].encode() if token.startswith("##") else f" {token}".encode()


_BYTES = {"byte level": _from_letters, "sentence piece": _from_sentence_piece, "word piece": _from_word_piece}
