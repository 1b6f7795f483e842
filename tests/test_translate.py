"""Translators: what is asked of the search and what is made of its answer, against doing it by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from test_beam import MARIAN, PAD, forced
from test_models import LLAMA, lively

from klieg import models
from klieg.beam import Search, padded, search
from klieg.errors import KliegError
from klieg.generate import Sampling
from klieg.tokenizers import train
from klieg.translate import Translator, languages, opening

WORDS = {"cat": ("katze", "猫"), "dog": ("hund", "狗"), "moon": ("mond", "月"), "sees": ("sieht", "看"),
         "loves": ("liebt", "爱"), "big": ("gross", "大")}
FEW = Search(beam=3, ratio=1, extra=4)


def pair(draw: Random, to: int) -> tuple[str, str]:
    """Some words and what stands for them, in the first or the second language."""
    words = draw.choices(list(WORDS), k=draw.randint(1, 4))
    joint, stop = (" ", ".") if to == 0 else ("", "。")
    return " ".join(words) + ".", joint.join(WORDS[word][to] for word in words) + stop


@cache
def taught(marks: tuple[str, ...] = (">>de<<", ">>zh<<")) -> Translator:
    """A translator of 40 positions that knows six words and their order by halves; without marks, into the first language."""
    draw = Random(0)
    tokenizer = train([text for n in range(200) for text in pair(draw, n % 2)], 330, marks=marks, opened=False, closed=True)
    torch.manual_seed(0)
    model = models.build(replace(MARIAN, vocab_size=330, dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        sides = [(to, *(tokenizer.encode(text, bos=False) for text in pair(draw, to)))
                 for to in (n % max(len(marks), 1) for n in range(16))]
        source, real = padded([[*([tokenizer.marks[marks[to]]] if marks else []), *s, 1] for to, s, _ in sides], PAD)
        inputs, _ = padded([[PAD, *t] for _, _, t in sides], PAD)
        wanted, _ = padded([[*t, 1] for _, _, t in sides], -100)
        loss = torch.nn.functional.cross_entropy(model(source, inputs, real).flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Translator(model.eval().requires_grad_(False), tokenizer)


@pytest.fixture
def both() -> Translator:
    return taught()


@pytest.fixture
def one() -> Translator:
    return taught(())


def by_hand(t: Translator, line: str, to: str | None, options: Search) -> str:
    """One line, searched by itself."""
    mark = [] if to is None else [t.tokenizer.marks[f">>{to}<<"]]
    found = search(t.model, [[*mark, *t.tokenizer.encode(line, bos=False), 1]], options)
    return " ".join(t.tokenizer.decode(found[0][0].ids).replace("\r", "\n").split("\n")) if line else ""


def test_each_line_is_what_the_search_finds_for_it(both: Translator, one: Translator) -> None:
    texts = ["cat sees dog.", "", "moon.", "big dog loves cat.", "big moon.\ncat\n\ndog sees dog."]
    for t, to in ((both, "de"), (both, "zh"), (one, None)):
        heard: list[tuple[int, int]] = []
        found = t.translate(texts, to, FEW, lambda done, all, heard=heard: heard.append((done, all)))
        assert found == ["\n".join(by_hand(t, line, to, FEW) for line in text.split("\n")) for text in texts]
        assert len(set(found)) == 5 and found[1] == "" and heard[-1] == (6, 6)
    assert both.translate([], "de") == []
    assert both.translate(["  cat sees dog. \r"], "de", FEW) == both.translate(texts[:1], "de", FEW) != [""]


def test_candidates_are_the_hypotheses_with_their_scores(both: Translator) -> None:
    options = replace(FEW, best=3, alpha=0.6)
    [found, empty] = both.candidates(["cat loves dog", " "], "zh", options)
    [expected] = search(both.model, [[4, *both.tokenizer.encode("cat loves dog", bos=False), 1]], options)
    assert [c.text for c in found] == [both.tokenizer.decode(h.ids) for h in expected] and len(found) == 3
    assert [c.score for c in found] == pytest.approx([h.score for h in expected])
    assert [c.log_p for c in found] == pytest.approx([h.log_p for h in expected])
    assert [(c.text, c.log_p, c.score) for c in empty] == [("", 0, 0)]


def test_a_long_line_is_translated_sentence_by_sentence(both: Translator) -> None:
    sentences = ["cat sees dog.", "big dog (3.5) sees the moon!)", '"moon?"', "猫爱狗。", "大。", "dog 3.5 moon", "..."]
    line = f"{sentences[0]} {sentences[1]}  {sentences[2]} {sentences[3]}{sentences[4]}{sentences[5]} {sentences[6]}"
    found = both.translate(["cat", line], "de", FEW)
    assert found[0] == both.translate(["cat"], "de", FEW)[0]
    parts = both.translate([*sentences[:5], f"{sentences[5]} {sentences[6]}"], "de", FEW)
    assert found[1].replace(" ", "") == "".join(parts).replace(" ", "") and len(both.tokenizer.encode(line)) > 40
    short = " ".join(sentences[:1] + sentences[2:3])
    assert both.translate([short], "de", FEW)[0] == by_hand(both, short, "de", FEW)  # one that fits is not cut


def test_sentences_are_joined_by_a_space_where_their_script_has_one(both: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence, said = "big cat loves the other big cat. ", []
    monkeypatch.setattr(type(both.tokenizer), "decode", lambda self, ids: said.pop(0))
    for written, joined in ((["Ja.", "", "Nein.", "Ja"], "Ja.  Nein. Ja"), (["我。", "你。", "Ja", "爱"], "我。你。Ja 爱"),
                            (["", "a\r\n b", "c", "d"], "a b c d")):
        said[:] = written
        assert both.translate([sentence * 4], "de", FEW) == [joined]
    said[:] = ["x", "", "a", "b", "c"]
    assert both.translate([f"cat\n{sentence * 4}"], "de", FEW) == ["x\na b c"]


def test_the_best_of_several_sentences_are_the_best_sums(one: Translator) -> None:
    options = replace(FEW, best=3)
    sentences = ["big cat loves the other dog.", "moon sees the old dog.", "dog, who sees the full moon?"]
    parts = one.candidates(sentences, None, options)
    [found] = one.candidates([" ".join(sentences)], None, options)
    sums = sorted((a.score + b.score + c.score for a in parts[0] for b in parts[1] for c in parts[2]), reverse=True)
    assert [c.score for c in found] == pytest.approx(sums[:3], abs=1e-4) and len(one.tokenizer.encode(" ".join(sentences))) > 40
    assert found[0].log_p == pytest.approx(sum(part[0].log_p for part in parts), abs=1e-4)
    assert found[0].text == " ".join(part[0].text for part in parts)


@pytest.mark.parametrize("text", ["word " * 10_000, "." * 10**6 + "x", "a。" * 3 + "字" * 9_000, "x" * 10**6],
                         ids=["words", "dots", "characters", "a megabyte"])
def test_a_sentence_that_is_too_long_is_named(text: str, both: Translator) -> None:
    with pytest.raises(KliegError, match=r"line 4: the text has [\d,]+ (tokens|characters) and the model has positions for 38 "
                                         "tokens; shorten it, or end a sentence in it"):
        both.translate(["cat\ndog", "", text, "cat"], "de", FEW)
    with pytest.raises(KliegError, match="line 103: "):
        both.translate(["cat\ndog", "", text, "cat"], "de", FEW, first=100)


def test_what_is_scored_is_read_as_a_whole(both: Translator) -> None:
    """Sentences that translate() would take one by one are no help there, and are not offered."""
    whole = "cat sees dog. " * 20
    assert both.translate([whole], "de", FEW)[0].strip()
    for given in ([whole, "katze"], ["cat", whole]):
        with pytest.raises(KliegError, match=r"line 1: the text has .* positions for \d\d tokens; shorten it\.$"):
            both.forced(*([text] for text in given), "de")


def test_languages_are_those_of_the_marks(both: Translator, one: Translator) -> None:
    assert both.languages == ["de", "zh"] and one.languages == []
    assert languages(both.tokenizer) == {"de": 3, "zh": 4}
    assert opening(both.tokenizer, "zh") == [4] and opening(one.tokenizer, None) == []
    only = Translator(one.model, train(["cat"], 330, marks=[">>de<<"], opened=False, closed=True))
    assert opening(only.tokenizer, None) == opening(only.tokenizer, "de") == [3]
    for t, to, said in ((both, None, "writes de, zh; say which, for example --to de"),
                        (both, "German", "no language 'German'. It writes de, zh"),
                        (both, "pl", "no language 'pl'. It writes de, zh"), (one, "de", "one language; leave --to")):
        for ask in (lambda: t.translate(["a"], to), lambda: t.sample(["a"], Sampling(), to), lambda: t.score("a", "b", to)):  # noqa: B023
            with pytest.raises(KliegError, match=said):
                ask()


def test_a_mark_that_is_written_in_a_text_is_only_text(both: Translator) -> None:
    assert both.translate([">>zh<< cat"], "de", FEW) == [by_hand(both, ">>zh<< cat", "de", FEW)]
    assert 4 not in both.tokenizer.encode(">>zh<< cat", bos=False)


def test_scores_are_ln_p_of_the_whole_target(both: Translator, one: Translator) -> None:
    for t, to, mark in ((both, "zh", [4]), (one, None, [])):
        source, target = (t.tokenizer.encode(text, bos=False) for text in ("cat sees dog.", "猫看狗。"))
        expected = forced(t.model, [*mark, *source, 1], target)
        assert t.score("cat sees dog.", "猫看狗。", to) == pytest.approx(expected, abs=1e-4)
        many = t.forced(["cat", "cat sees dog.", "", "big moon."], ["katze mond hund", "猫看狗。", "hund", ""], to)
        assert many[1] == (pytest.approx(expected, abs=1e-4), len(target) + 1)
        bare = forced(t.model, [*mark, *t.tokenizer.encode("big moon.", bos=False), 1], [])
        assert many[3] == (pytest.approx(bare, abs=1e-4), 1)
    for sources, targets, line in ((["a", "b"], ["c", "word " * 50], 2), (["word " * 50, "b"], ["c", "d"], 1)):
        with pytest.raises(KliegError, match=f"line {line}: the text has .* positions for 39"):
            one.forced(sources, targets)


def test_scores_are_those_of_transformers(one: Translator, tmp_path: Path) -> None:
    from transformers import MarianMTModel

    models.save(tmp_path, one.model, one.tokenizer)
    theirs = MarianMTModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    source, labels = (torch.tensor([[*one.tokenizer.encode(text, bos=False), 1]]) for text in ("big cat.", "katze gross."))
    with torch.no_grad():
        loss = theirs(input_ids=source, labels=labels).loss.item()
    assert one.score("big cat.", "katze gross.") == pytest.approx(-loss * labels.shape[1], abs=1e-4)


def test_samples_depend_on_their_seed_and_place_alone(both: Translator) -> None:
    texts, warm = ["cat sees dog.", "", "big moon.", "big moon."], Sampling(temperature=3, seed=5)
    found = both.sample(texts, warm, "de")
    assert found == both.sample(texts, warm, "de") != both.sample(texts, replace(warm, seed=6), "de")
    assert found[2:] == both.sample(texts[2:], warm, "de", first=3) and found[1] == ""
    assert found[2] != found[3] and "\n" not in "".join(found)
    free = replace(warm, seed=None)
    assert both.sample(texts, free, "de") != both.sample(texts, free, "de")
    parts = both.sample(["big cat loves the other dog. " * 4], warm, "de")[0].split()
    assert len(parts) > 8 and parts != parts[:len(parts) // 4] * 4                  # each part draws for itself
    greedy = both.sample(texts[:1], Sampling(temperature=0), "de")
    assert greedy == both.translate(texts[:1], "de", Search(beam=1))


def test_a_saved_translator_is_loaded(tmp_path: Path, both: Translator) -> None:
    models.save(tmp_path / "model", both.model, both.tokenizer)
    loaded = Translator.load(str(tmp_path / "model"))
    assert loaded.translate(["cat sees dog."], "zh", FEW) == both.translate(["cat sees dog."], "zh", FEW)


def test_only_translators_translate(both: Translator) -> None:
    with pytest.raises(KliegError, match="of the kind llama does not translate"):
        Translator(lively(LLAMA), both.tokenizer)
    with pytest.raises(KliegError, match="no model 'trnslate'"):
        Translator.load("trnslate")
    with pytest.raises(TypeError, match="list of texts"):
        both.translate("I love you", "de")


def test_a_translator_is_widened_when_it_is_loaded(one: Translator, tmp_path: Path) -> None:
    """Its steps have more rows than matrices kept in bfloat16 are good for."""
    models.save(tmp_path, one.model, one.tokenizer, dtype=torch.bfloat16)
    again = Translator.load(str(tmp_path)).model
    assert {x.dtype for x in again.state_dict().values()} == {torch.float32}
    assert all(torch.equal(x, one.model.state_dict()[name].bfloat16().float()) for name, x in again.state_dict().items())
