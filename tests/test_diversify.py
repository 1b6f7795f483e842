"""More pairs out of a corpus's own: which are made, that each is there once, and what an interruption costs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_beam import MARIAN

from klieg import models
from klieg.bitexts import together
from klieg.encoded import Pair
from klieg.errors import KliegError
from klieg.tokenizers import train
from klieg.translate import Translator

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import diversify

PAIRS = [("a dog runs", "ein hund rennt"), ("a cat sees", "eine katze sieht"), ("a dog sees", "ein hund sieht")]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pairs, and beside them translators of both directions and of one; the folder is where we are."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for side, language in enumerate(("en", "de")):
        (tmp_path / f"mine.{language}").write_text("".join(f"{pair[side]}\n" for pair in PAIRS), "utf-8")
    for name, marks in (("both", (">>de<<", ">>en<<")), ("one", ())):
        tokenizer = train([side for pair in PAIRS for side in pair], 300, marks=marks, opened=False, closed=True)
        models.save(tmp_path / name, models.build(replace(MARIAN, vocab_size=300)), tokenizer)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", ["diversify.py", "mine", "en", "de", *argv])
    monkeypatch.setattr(diversify, "read_pairs", lambda source, data, split: PAIRS)
    diversify.main()


def read(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\n")[:-1]       # a model may write any other end of a line


def test_what_models_write_stands_beside_what_they_were_given(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "more/pairs", "--forward", "both", "one", "--backward", "both")
    wanted = {(source, found) for name, to in (("both", "de"), ("one", None))
              for (source, _), found in zip(PAIRS, Translator.load(name).translate([s for s, _ in PAIRS], to), strict=True)}
    back = Translator.load("both").translate([target for _, target in PAIRS], "en")
    wanted |= {(found, target) for (_, target), found in zip(PAIRS, back, strict=True)}
    made = list(zip(read(corpus / "more/pairs.en"), read(corpus / "more/pairs.de"), strict=True))
    assert made and len(set(made)) == len(made) and set(made) == {pair for pair in wanted if all(map(str.strip, pair))}


def test_each_pair_is_there_once_and_none_of_the_corpus_or_without_a_side() -> None:
    forward = [["ein hund rennt", "die katze sieht", " "], ["ein hund läuft", "die katze sieht", "ein hund sieht"]]
    backward = [["a dog runs", "the cat sees", ""], ["a dog is running", "a cat sees", "a dog sees"]]
    assert diversify.further(PAIRS, forward, backward) == [
        ("a cat sees", "die katze sieht"), ("a dog runs", "ein hund läuft"), ("the cat sees", "eine katze sieht"),
        ("a dog is running", "ein hund rennt")]


def test_what_a_model_has_written_is_not_written_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by its weights and its texts, and not by its name or its place in the line."""
    run(monkeypatch, "more/pairs", "--forward", "both", "one", "--backward", "both")
    first = (read(corpus / "more/pairs.en"), read(corpus / "more/pairs.de"))
    (corpus / "one").rename(corpus / "renamed")
    loaded: list[str] = []
    monkeypatch.setattr(diversify, "Translator", SimpleNamespace(load=loaded.append))
    run(monkeypatch, "more/pairs", "--forward", "both", "renamed", "--backward", "both")
    assert (read(corpus / "more/pairs.en"), read(corpus / "more/pairs.de")) == first and not loaded
    run(monkeypatch, "more/others", "--forward", "renamed", "both", "--backward", "both")
    assert {*zip(*(read(corpus / f"more/others.{side}") for side in ("en", "de")), strict=True)} == {*zip(*first, strict=True)}
    sources = [source for source, _ in PAIRS]
    names = {diversify.kept("both", sources, "de"), diversify.kept("both", sources[:2], "de"),
             diversify.kept("renamed", sources, "de")}
    assert len(names) == 3


def stand(places: list[Path]) -> list[Pair] | None:
    """What a training would read; None where it would refuse to."""
    try:
        return together(*places)
    except KliegError:
        return None


def test_a_kill_never_leaves_one_side_new_beside_an_old_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before each of the calls that take or remove a name: as many pairs, so nothing else would tell of it."""
    old, new = PAIRS, [(f"{source} too", f"{target} auch") for source, target in PAIRS]
    found: list[list[Pair] | None] = []

    class Killed(BaseException):
        pass

    while not found or found[-1] != new:
        folder, left = tmp_path / str(len(found)), len(found)
        folder.mkdir()
        places = [folder / "pairs.en", folder / "pairs.de"]
        diversify.deliver(places, old)

        def alive(call: Callable) -> Callable:
            def called(path: Path, *given: object, **named: object) -> object:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return call(path, *given, **named)
            return called

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                patch.setattr(Path, name, alive(getattr(Path, name)))
            with suppress(Killed):
                diversify.deliver(places, new)
        found.append(stand(places))
    assert found[0] == old and all(pairs in (old, None, new) for pairs in found) and len(found) > 2


@pytest.mark.parametrize("argv,said", [
    (["more/pairs"], "--forward, --backward or both"), (["more/pairs", "--forward", "nothing"], "no model 'nothing'"),
    (["more/pairs", "--forward", "both", "--backward", "nothing"], "no model 'nothing'")])
def test_a_mistake_is_one_line(corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                               argv: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *argv)
    assert said in f"{end.value.code}{capsys.readouterr().err}" and not list(corpus.glob("more/*"))


def test_models_that_write_nothing_new_are_told(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (corpus / "more").mkdir()
    place = corpus / "more" / diversify.kept("one", [source for source, _ in PAIRS], "de")
    diversify.write(place, [target for _, target in PAIRS])
    with pytest.raises(SystemExit, match="wrote nothing that the corpus does not have"):
        run(monkeypatch, "more/pairs", "--forward", "one")


def test_a_corpus_without_pairs_is_told(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for language in ("en", "de"):
        (corpus / f"mine.{language}").write_text("", "utf-8")
    monkeypatch.setattr(sys, "argv", ["diversify.py", "mine", "en", "de", "more/pairs", "--forward", "one"])
    with pytest.raises(SystemExit, match="mine has no pairs"):
        diversify.main()
