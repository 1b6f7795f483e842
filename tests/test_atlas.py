"""The atlas: its sums against means and intervals of the texts themselves, however they are shared out and interrupted."""

from __future__ import annotations

import gzip
import json
import math
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from test_models import GPT2, LLAMA, lively

from klieg import foreign, models
from klieg.analysis.atlas import SCORES, Atlas, Line, begin, compare, gather, student
from klieg.analysis.atlas.corpus import LONGEST, Corpus
from klieg.analysis.behaviour import Meter, Score, Text
from klieg.analysis.reader import Heads, Reader, load, punctuates
from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, train
from klieg.trace import Trace
from klieg.watch import trace

WORDS = "the cat, the moon and the cat. I love you; you love the moon! a little house, a little cat".split()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter([" ".join(WORDS)] * 2), 290)


@pytest.fixture(scope="module")
def reader(tokenizer: Tokenizer) -> Reader:
    return Reader(lively(LLAMA), tokenizer, "tiny", "print")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Nine documents; the last is too short."""
    texts = [" ".join(WORDS[(n * 5 + m * m) % len(WORDS)] for m in range(16 + 9 * n)) for n in range(8)]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join([*texts, "I"]), "utf-8")
    return Corpus(path)


def whole(reader: Reader, corpus: Corpus) -> Atlas:
    atlas = begin(reader, corpus, 32)
    gather(atlas, reader, corpus)
    return atlas


@pytest.fixture(scope="module")
def atlas(reader: Reader, corpus: Corpus) -> Atlas:
    return whole(reader, corpus)


@pytest.fixture(scope="module")
def texts(reader: Reader, corpus: Corpus) -> list[list[tuple[Heads, dict[str, Score]]]]:
    """The scores of every window by themselves."""
    return [reader.scores(ids, number << 20 | n) for number, piece in enumerate(corpus.pieces())
            for n, ids in enumerate(reader.windows(piece.text, 32)) if len(ids) >= 8]


# ---- sums ----

def test_means_and_intervals_are_those_of_the_texts(atlas: Atlas, texts: list) -> None:
    assert atlas.counts["windows"] == len(texts) > 15 and atlas.counts["short"] >= 1 and atlas.whole
    for score in ("previous", "induction", "positional", "entropy"):
        lines = {(line.layer, line.head): line for line in atlas.table(score)}
        assert len(lines) == 18
        for layer, head in ((0, 0), (2, 5)):
            line = lines[layer, head]
            values = torch.stack([found[layer][1][score].weight[head] for found in texts if score in found[layer][1]])
            chance = torch.stack([found[layer][1][score].chance[head] for found in texts if score in found[layer][1]])
            assert line.texts == len(values) and line.mean == pytest.approx(values.mean().item())
            assert line.chance == pytest.approx(chance.mean().item())
            half = student(len(values) - 1) * values.std().item() / len(values) ** 0.5
            assert (line.low, line.high) == (pytest.approx(line.mean - half), pytest.approx(line.mean + half))
    means = [line.mean for line in atlas.table("previous")]
    of_rows = [mean for row in atlas.means("previous") for mean in row]
    assert means == sorted(means, reverse=True) == sorted(of_rows, reverse=True)
    assert atlas.table("next") == [] and not atlas.has("next")        # a decoder sees nothing after its query


def test_texts_may_be_shared_out_in_any_way(atlas: Atlas, texts: list) -> None:
    parts = [Atlas("tiny", 32) for _ in range(3)]
    for n, found in enumerate(texts):
        parts[n * n % 3].add(found)
    for total in (parts[0] + parts[1] + parts[2], Atlas("tiny", 32) + (parts[2] + (parts[1] + parts[0]))):
        assert total.rows == atlas.rows
        for name, x in atlas.sums.items():
            assert torch.allclose(total.sums[name], x, rtol=1e-12, atol=1e-12)
    with pytest.raises(KliegError, match="differ in probe"):
        parts[0] + Atlas("tiny", 32, {"probe": "needle"})
    one, other = (Atlas("tiny", 32, {"corpus": name}, parts[n].rows, parts[n].sums) for n, name in enumerate("ab"))
    assert (one + other).identity == {"corpus": "a+b"} and not (one + other).whole
    one.whole = True
    assert not (one + other).whole and not (other + one).whole      # whole only where both were read to their ends
    other.whole = True
    assert (one + other).whole
    with pytest.raises(KliegError, match="count twice"):
        (one + other) + one
    with pytest.raises(KliegError, match="cannot be added"):
        parts[0] + Atlas("other", 32, rows=parts[0].rows, sums=parts[0].sums)
    with pytest.raises(KliegError, match="cannot be added"):
        parts[0] + Atlas("tiny", 16)


@pytest.mark.parametrize("freedom,expected", [(1, 12.7062047362), (2, 4.3026527297), (4.5, 2.6585), (10, 2.2281388520),
                                              (30, 2.0422724563), (1000, 1.9623390808), (1e9, 1.9599639845)])
def test_student(freedom: float, expected: float) -> None:
    """Values of printed tables."""
    assert student(freedom) == pytest.approx(expected, abs=1e-3 if freedom == 4.5 else 2e-6)


def test_a_single_text_has_no_interval(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("the cat loves the moon and the cat", "utf-8")
    one = whole(reader, Corpus(tmp_path / "one.txt"))
    line = one.table("previous")[0]
    assert line.texts == 1 and math.isnan(line.low) and line.whole


def test_all_lines(atlas: Atlas) -> None:
    assert atlas.lines() == [line for score in SCORES for line in atlas.table(score)]
    assert {line.score for line in atlas.lines()} == {score for score in SCORES if atlas.has(score)}
    assert {line.unit for line in atlas.lines() if line.score in ("entropy", "distance")} == {"nats", "tokens"}
    assert atlas.everywhere("previous") and not atlas.everywhere("next")


def test_differences(atlas: Atlas, corpus: Corpus, tokenizer: Tokenizer) -> None:
    a, b = atlas, whole(Reader(lively(LLAMA, seed=1), tokenizer, "other"), corpus)
    found = compare(a, b, "previous")
    assert [abs(one.by) for one in found] == sorted((abs(one.by) for one in found), reverse=True)
    one = found[0]
    assert isinstance(one.a, Line) and one.by == pytest.approx(one.b.mean - one.a.mean)
    errors = [(line.high - line.mean) / student(line.texts - 1) for line in (one.a, one.b)]
    x, y, n = errors[0] ** 2, errors[1] ** 2, one.a.texts
    half = student((x + y) ** 2 / (x ** 2 / (n - 1) + y ** 2 / (n - 1))) * (x + y) ** 0.5
    assert (one.low, one.high) == (pytest.approx(one.by - half), pytest.approx(one.by + half))
    assert all(same.by == 0 and same.low <= 0 <= same.high for same in compare(a, a, "entropy"))
    with pytest.raises(KliegError, match="one shape"):
        compare(a, whole(Reader(lively(GPT2), tokenizer, "gpt2"), corpus), "previous")


# ---- on disk, and interrupted ----

def test_saved_and_loaded(atlas: Atlas, tmp_path: Path) -> None:
    atlas.save(tmp_path / "atlas.safetensors")
    again = Atlas.load(tmp_path / "atlas.safetensors")
    assert (again.model, again.window, again.rows, again.place, again.counts, again.whole, again.identity) == (
        atlas.model, atlas.window, atlas.rows, atlas.place, atlas.counts, atlas.whole, atlas.identity)
    assert all(torch.equal(again.sums[name], x) for name, x in atlas.sums.items())


def test_going_on_counts_nothing_twice_and_loses_nothing(atlas: Atlas, reader: Reader, corpus: Corpus, tmp_path: Path) -> None:
    """A process that ends between any two checkpoints, and another that goes on from the file."""
    path, runs = tmp_path / "atlas.safetensors", 0

    class Killed(Exception):
        pass

    def step(done: int, expected: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    for steps in (1, 5, 4, 3, 7, 1000):
        found, runs, left = begin(reader, corpus, 32, path), runs + 1, steps
        with suppress(Killed):
            gather(found, reader, corpus, None, path, every=2, step=step)
        if path.exists() and runs < 6:
            assert 0 < Atlas.load(path).counts["windows"] < atlas.counts["windows"]
    found = Atlas.load(path)
    assert found.whole and found.counts == atlas.counts
    assert all(torch.equal(found.sums[name], x) for name, x in atlas.sums.items())


def test_tokens_are_a_limit_that_can_be_raised(atlas: Atlas, reader: Reader, corpus: Corpus, tmp_path: Path) -> None:
    path, told = tmp_path / "atlas.safetensors", []
    first = begin(reader, corpus, 32)
    gather(first, reader, corpus, 100, path, step=lambda done, expected: told.append((done, expected)))
    assert 100 <= first.counts["tokens"] < 132 and not first.whole and told[-1][0] == first.counts["tokens"]
    assert all(expected <= 100 for _, expected in told)
    more = begin(reader, corpus, 32, path)
    gather(more, reader, corpus, None, path)
    assert more.counts == atlas.counts and all(torch.equal(more.sums[name], x) for name, x in atlas.sums.items())


def test_another_model_corpus_or_window_is_refused(reader: Reader, corpus: Corpus, tokenizer: Tokenizer,
                                                   tmp_path: Path) -> None:
    path = tmp_path / "atlas.safetensors"
    gather(begin(reader, corpus, 32), reader, corpus, 50, path)
    with pytest.raises(KliegError, match="another model than 'other'"):
        begin(Reader(lively(LLAMA, 1), tokenizer, "other", "different"), corpus, None, path)
    (tmp_path / "new.txt").write_text("another text", "utf-8")
    with pytest.raises(KliegError, match="another corpus"):
        begin(reader, Corpus(tmp_path / "new.txt"), None, path)
    with pytest.raises(KliegError, match="windows of 32"):
        begin(reader, corpus, 16, path)
    with pytest.raises(KliegError, match="windows of 8 to 64"):
        begin(reader, corpus, 65)


def test_a_damaged_atlas_is_one_line(reader: Reader, corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "atlas.safetensors"
    gather(begin(reader, corpus, 32), reader, corpus, 50, path)
    body = path.read_bytes()
    for broken in (b"", body[:100], body[:-8], b"\xff" * 64, body[:-8] + b"\xff" * 8,
                   body.replace(b'\\"place\\"', b'\\"plaec\\"')):
        path.write_bytes(broken)
        with pytest.raises(KliegError, match="damaged"):
            Atlas.load(path)
    path.write_bytes(body.replace(b"klieg-atlas/2", b"klieg-atlas/9"))
    with pytest.raises(KliegError, match="another version"):
        Atlas.load(path)
    with pytest.raises(KliegError, match="no atlas"):
        Atlas.load(tmp_path / "none")


# ---- readers ----

def test_klieg_and_transformers_find_the_same_heads(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A random GPT-2 that both can open: Klieg's own pass and the watched one."""
    folder = tmp_path / "gpt2"
    models.save(folder, lively(GPT2), tokenizer)
    own, watched = load(str(folder)), Reader(foreign.load(str(folder)), Tokenizer.load(folder), "watched")
    assert isinstance(own.model, models.Decoder)
    ids = next(own.windows("I love you and the cat loves the moon, and you love the cat. ", 40))
    theirs = next(watched.windows("I love you and the cat loves the moon, and you love the cat. ", 40))
    assert torch.equal(theirs.ids, ids.ids) and len(ids) > 15
    ours, theirs = own.scores(ids, 5), watched.scores(ids, 5)
    assert [row for row, _ in ours] == [row for row, _ in theirs] and len(ours) > 1
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        assert list(a) == list(b) and {"previous", "induction", "positional", "entropy"} <= set(a)
        for name in a:
            assert torch.allclose(a[name].weight, b[name].weight, atol=1e-5), name
            assert torch.allclose(a[name].chance, b[name].chance, atol=1e-5), name


def test_a_model_without_attention_is_one_line(tokenizer: Tokenizer) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=tokenizer.size, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()
    bare = Reader(foreign.Foreign("mamba", model, tokenizer), tokenizer, "mamba")
    with pytest.raises(KliegError, match="has no attention"):
        bare.scores(next(bare.windows(" ".join(WORDS), 32)))


def test_a_reader_scores_what_a_trace_shows(reader: Reader, tokenizer: Tokenizer) -> None:
    ids = next(reader.windows(" ".join(WORDS), 32))
    found: Trace = trace((lively(LLAMA), tokenizer), ids.ids.tolist())
    marks = torch.tensor([punctuates(tokenizer.token_bytes(id)) for id in ids.ids.tolist()])
    meter = Meter(Text(ids.ids, marks), torch.Generator().manual_seed(3))
    for call, (heads, scores) in zip(found.calls, reader.scores(ids, 3), strict=True):
        assert (heads.layer, heads.heads, heads.kv_heads) == (call.layer, 6, 2) and heads.group(5) == call.group(5)
        expected = meter.read(call)
        assert list(expected) == list(scores)
        assert all(torch.allclose(expected[name].weight, scores[name].weight, atol=1e-6) for name in scores)
    previous = torch.stack([found[1].weights(head).diagonal(-1).mean() for head in range(6)])
    assert torch.allclose(reader.scores(ids)[1][1]["previous"].weight, previous.double(), atol=1e-6)


def test_windows(reader: Reader, tokenizer: Tokenizer) -> None:
    text = " ".join(WORDS * 3)
    found, body = [text.ids.tolist() for text in reader.windows(text, 20)], tokenizer.encode(text, bos=False)
    assert all(ids[0] == tokenizer.bos for ids in found) and [len(ids) for ids in found[:-1]] == [20] * (len(found) - 1)
    assert [id for ids in found for id in ids[1:]] == body
    assert (reader.window(None), reader.window(40)) == (64, 40)
    encoder = Reader(lively(LLAMA), tokenizer, "tiny")
    encoder._closing = [tokenizer.eos]
    assert all(len(ids) <= 20 and ids.ids[-1] == tokenizer.eos for ids in encoder.windows(text, 20))


@pytest.mark.parametrize("token,is_mark", [(b".", True), (b" ,", True), ("，。".encode(), True), (b"\n", True), (b" ", False),
                                           (b"a.", False), (b"\xe4", False), ("⟨s⟩", True), (b"+", False), (b"", False)])
def test_punctuation(token: bytes | str, is_mark: bool) -> None:
    assert punctuates(token) == is_mark


# ---- corpora ----

def faults(path: Path) -> list[str]:
    return [piece.fault or piece.text for piece in Corpus(path).pieces()]


def test_documents_are_set_apart_by_blank_lines_and_form_feeds(tmp_path: Path) -> None:
    body = "\ufeffone\r\ntwo\r\n\r\n\r\n three \n \t\nfour\ffive\n\n\n\n\f\n"
    path = tmp_path / "text.txt"
    path.write_bytes(body.encode())
    assert faults(path) == ["one\ntwo", "three", "four", "five"]
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(body.encode()))
    assert faults(tmp_path / "text.txt.gz") == faults(path)
    corpus = Corpus(path)
    for _ in corpus.pieces():
        assert 0 < corpus.read <= 1
    assert corpus.read == 1


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl.gz"
    lines = [json.dumps({"text": "one 小\n\ntwo", "id": 3}), "", "{", '{"text": 5}', '["text"]', '{"texts": ""}',
             '{"text": " "}', '{"text": "\\ud800"}', '{"text": "last"}', "[" * 100_000]
    path.write_bytes(gzip.compress("\n".join(lines).encode() + b'\n{"text": "\xff"}'))
    assert faults(path) == ["one 小\n\ntwo", "broken", "broken", "broken", "broken", "empty", "junk", "last", "broken", "junk"]


def test_one_long_line_is_cut_and_nothing_is_lost(tmp_path: Path) -> None:
    path, line = tmp_path / "long.txt", "word小 " * 60_000 + "x" * 40_000
    path.write_text(line, "utf-8")
    found = faults(path)
    assert all(len(piece) <= LONGEST for piece in found) and len(found) > 20
    assert "".join(found).replace(" ", "") == line.replace(" ", "")
    (tmp_path / "blank.txt").write_text("\n" + " " * 300_000, "utf-8")
    assert faults(tmp_path / "blank.txt") == []


def test_junk_is_counted_and_the_rest_is_read(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "mixed.txt"
    path.write_bytes(b"the cat loves the moon and you\n\n\x89PNG\xff\xfe\0\0\n\nyou love the little cat and the moon")
    found = whole(reader, Corpus(path))
    assert found.counts["junk"] == 1 and found.counts["windows"] == 2


def test_what_cannot_be_read_is_one_line_and_keeps_what_was_read(reader: Reader, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(KliegError, match=r"no corpus.*no such file"):
        Corpus(tmp_path / "missing.txt")
    with pytest.raises(KliegError, match=r"no corpus.*directory"):
        Corpus(tmp_path)
    path, kept = tmp_path / "cut.txt.gz", tmp_path / "atlas.safetensors"
    # A document and the beginning of another, stored as they are; the end of the file is lost.
    path.write_bytes(gzip.compress((" ".join(WORDS) + "\n\n" + "\0" * 160_000).encode(), 0)[:70_000])
    broken = Corpus(path)
    with pytest.raises(KliegError, match="damaged"):
        gather(begin(reader, broken, 64), reader, broken, None, kept)
    assert Atlas.load(kept).counts["windows"] >= 1 and not Atlas.load(kept).whole
    path.write_bytes(b"no gzip")
    with pytest.raises(KliegError, match="damaged"):
        list(Corpus(path).pieces())
