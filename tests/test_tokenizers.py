"""The tokenizer: exact round trips, the user's text as text, streams, and what other engines make of our files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.errors import KliegError
from klieg.tokenizers import Tokenizer, check_text, train

TEXTS = ["I love you, and you love me.", "Do you love the lighthouse, or the 3 boats?", "It's 12 o'clock; don't go!",
         "我爱你，你也爱我。", "小沈阳江西演唱会邀请了，我们去看灯塔。", "灯塔和船，船和灯塔。"] * 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(iter(TEXTS), 330)


AWKWARD = "I love我爱 \n\t<s>/1'👍🏽\u200d\u0301م\x1b\x00\ufeff"
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text(AWKWARD)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(ANY_TEXT)
def test_every_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos
    assert tokenizer.bos not in ids[1:] and tokenizer.eos not in ids and tokenizer.pad not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text, bos=False) == ids[1:]
    assert list(tokenizer.encode_all([text, text])) == [ids[1:]] * 2


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 340)))
def test_a_stream_joins_to_the_whole_and_never_shows_half_a_character(tokenizer: Tokenizer, ids: list[int]) -> None:
    stream = tokenizer.stream()
    assert "".join(stream.push(i) for i in ids) + stream.end() == tokenizer.decode(ids)
    raw = b"".join(b for b in map(tokenizer.token_bytes, ids) if isinstance(b, bytes))
    assert tokenizer.decode(ids) == raw.decode("utf-8", "replace")


@pytest.mark.parametrize("text", ["沈阳🎤", "👩‍👩‍👧 é 中"])
def test_a_stream_of_real_text_has_no_replacement_signs(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.stream()
    pieces = [stream.push(i) for i in tokenizer.encode(text)]
    assert "�" not in "".join(pieces) and stream.end() == ""
    assert "".join(pieces) == text
    assert "" in pieces, "some character of this text takes several tokens, so a stream has to wait"


def test_specials_are_the_first_ids_and_bytes_are_all_there(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (0, 1, 2)
    single = {tokenizer.token_bytes(i) for i in range(tokenizer.size)}
    assert {bytes([b]) for b in range(256)} <= single
    assert tokenizer.size <= 330


def test_the_users_marks_are_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<s>hi</s><pad>", bos=False)
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode(ids) == "<s>hi</s><pad>"
    assert tokenizer.decode([0, *ids, 1, 2]) == "<s>hi</s><pad>", "marks themselves are left out"


def test_words_are_cut_where_a_reader_would() -> None:
    whole = train(iter(TEXTS), 900)
    shown = whole.labels(whole.encode("I love you, 12 我爱你"))
    assert shown == ["⟨s⟩", "I", "love", "you", ",", "1", "·2", "␣", "我", "爱", "你"]
    marks = train(iter(["cafe\u0301 नमस्ते\n\n  x"] * 9), 400)
    assert marks.labels(marks.encode("cafe\u0301 नमस्ते\n\n  x", bos=False)) == ["cafe\u0301", "नमस्ते", "↩↩", "␣", "␣x"]


def test_training_is_deterministic() -> None:
    assert train(iter(TEXTS), 300).files() == train(iter(TEXTS), 300).files()


def test_too_few_pieces_are_refused() -> None:
    with pytest.raises(KliegError, match="too few"):
        train(iter(TEXTS), 258)


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    loaded = Tokenizer.load(tmp_path)
    assert loaded.files() == tokenizer.files()
    assert loaded.encode("I love 沈阳") == tokenizer.encode("I love 沈阳")
    assert (loaded.bos, loaded.eos, loaded.pad, loaded.size) == (0, 1, 2, tokenizer.size)


@pytest.mark.parametrize("config", [None, {"model_type": "llama"}, {"model_type": "gpt2"}])
def test_transformers_opens_it_with_the_same_ids(tokenizer: Tokenizer, tmp_path, config: dict | None) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.PreTrainedTokenizerFast)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2)
    for text in ("I love you", "小沈阳江西演唱会邀请了，", "  a\n\n12 , don't . 👍🏽 !"):
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def _llama_2() -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, processors

    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", *bytes_, "▁", "I", "▁I", "l", "o", "▁l", "▁lo"])}
    merges = [("▁", "I"), ("▁", "l"), ("▁l", "o")]
    backend = Backend(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                         decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Tokenizer(backend)


def test_a_sentence_piece_tokenizer_decodes_as_its_own_library_does() -> None:
    theirs = _llama_2()
    for text in ("I lo lo", " I", "I 沈 lo", "👍"):
        ids = theirs.encode(text)
        assert ids[0] == theirs.bos == 1
        assert theirs.decode(ids) == theirs._backend.decode(ids) == text
    assert theirs.labels(theirs.encode("I lo沈")) == ["⟨s⟩", "I", "lo", "沈 1/3", "沈 2/3", "沈 3/3"]
    assert (theirs.eos, theirs.pad) == (2, None)


def test_word_pieces_decode_with_their_spaces() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    backend = Backend(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    theirs = Tokenizer(backend)
    assert theirs.decode(theirs.encode("playing now")) == "playing now"
    assert theirs.labels(theirs.encode("playing now")) == ["play", "·ing", "now"]


def test_gpt2_opens_a_text_with_nothing(tmp_path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors

    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(vocab, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens(["<|endoftext|>"])
    backend.enable_truncation(3)
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    alone = Tokenizer.load(tmp_path)
    assert alone.decode(alone.encode("I love 沈")) == "I love 沈", "a stored truncation does not cut the text"
    assert len(alone.encode("I")) == 1 and alone.eos == 256 and alone.bos is None
    beside = tmp_path / "tokenizer_config.json"
    beside.write_text(json.dumps({"bos_token": {"content": "<|endoftext|>"}, "eos_token": None}))
    named = Tokenizer.load(tmp_path)
    assert len(named.encode("I")) == 1 and named.bos == 256 and named.eos is None
    beside.write_text(json.dumps({"bos_token": "<|endoftext|>", "add_bos_token": True}))
    assert Tokenizer.load(tmp_path).encode("I")[0] == 256
    assert alone.piece(256) == "⟨endoftext⟩"


def test_unused_ids_have_a_label_and_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.piece(tokenizer.size + 5) == f"⟨unused {tokenizer.size + 5}⟩"
    assert tokenizer.decode([tokenizer.size + 5]) == ""


def test_pieces_tell_different_tokens_apart(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.piece(i) for i in range(tokenizer.size)]
    assert len(set(pieces)) == len(pieces)
    assert tokenizer.piece(tokenizer.encode("x love", bos=False)[-1]) == "love"


@pytest.mark.parametrize("text, place", [("a\ud800b", "character 1"), ("沈\udcff", "character 1"),
                                         ("\udfff", "character 0")], ids=["high", "byte", "low"])
def test_lone_surrogates_are_refused_with_their_place(tokenizer: Tokenizer, text: str, place: str) -> None:
    for refuse in (tokenizer.encode, check_text, lambda t: list(tokenizer.encode_all(["fine", t]))):
        with pytest.raises(KliegError, match=place) as caught:
            refuse(text)
        assert "\n" not in str(caught.value) and str(caught.value).isascii(), "the message itself can be printed"


@pytest.mark.parametrize("text, word", [("", "empty"), ("   ", "white space"), ("\n\t\u3000\u00a0", "white space")])
def test_check_text_refuses_what_shows_nothing(text: str, word: str) -> None:
    with pytest.raises(KliegError, match=word):
        check_text(text)
    assert check_text(" I ") == " I "


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 1}', "\x00\xff", '{"version":"1.0","model":{}}'])
def test_a_damaged_file_is_one_line(tmp_path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(KliegError, match=r"tokenizer\.json is damaged") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_damaged_neighbour_is_one_line(tokenizer: Tokenizer, tmp_path) -> None:
    with pytest.raises(KliegError, match=r"tokenizer\.json is not there"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('["x"]')
    with pytest.raises(KliegError, match=r"tokenizer_config\.json is damaged"):
        Tokenizer.load(tmp_path)
