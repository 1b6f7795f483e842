"""Recipes: what stands in recipes/ is valid, and every mistake is named."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from klieg.config import LlamaConfig
from klieg.errors import KliegError
from klieg.models import load
from klieg.recipe import PairSource, PairTraining, read

RECIPES = Path(__file__).parents[1] / "recipes"
GOOD = """
[model]
model_type = "gpt2"
n_embd = 8
n_layer = 1
n_head = 2
n_positions = 16
[tokenizer]
pieces = 300
[train]
steps = 4
batch = 2
context = 16
[[data]]
name = "stories"
"""


def test_a_recipe_of_another_system_is_read(tmp_path: Path) -> None:
    """With a byte order mark and two characters at the end of a line, as the editor of Windows may write it."""
    (tmp_path / "unix.toml").write_text(GOOD, "utf-8")
    (tmp_path / "windows.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert replace(read(tmp_path / "windows.toml"), name="unix") == read(tmp_path / "unix.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_that_ships_is_valid(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = Path(tomllib.loads(path.read_text("utf-8"))["model"].get("start", ""))
    if start.parts[:1] == ("runs",):  # what another recipe gives
        start.mkdir(parents=True)
        model = read(RECIPES / f"{start.parts[1]}.toml").model
        (start / "config.json").write_text(json.dumps({**model.to_json(), "model_type": model.model_type}), "utf-8")
    recipe = read(path)
    assert recipe.name == path.stem
    assert recipe.train.steps > recipe.train.warmup and recipe.sources


def test_the_chat_recipe_is_the_bundled_shape() -> None:
    model = read(RECIPES / "chat.toml").model
    assert isinstance(model, LlamaConfig) and model.num_attention_heads > model.num_key_value_heads > 1


@pytest.mark.parametrize("change,said", [
    (("steps", "stpes"), "'steps'"), (("n_head = 2", "n_heads = 2"), "n_head"), (("n_head = 2", "n_head = 3"), "multiple"),
    (("steps = 4", "steps = 0"), "positive"), (("steps = 4", 'steps = "4"'), "type int"),
    (("steps = 4", "steps = true"), "type int"), (("batch = 2\n", ""), "batch is missing"),
    (("pieces = 300", "pieces = 3"), "260"), (('name = "stories"', 'nme = "stories"'), "'name'"),
    (("[tokenizer]", "[tokeniser]"), "'tokenizer'"), (("[train]", "[train"), "TOML"),
    (("steps = 4", 'steps = 4\nprecision = "fp8"'), "fp8"), (('"gpt2"', '"gtp2"'), "gtp2"),
    (("n_embd = 8", "n_embd = 8\nwidth = 3"), "'width'"), (("[[data]]", "[data]"), r"\[\[data\]\]"),
])
def test_a_mistake_is_named_with_what_would_be_right(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = tmp_path / "mine.toml"
    assert change[0] in GOOD
    path.write_text(GOOD.replace(*change), "utf-8")
    with pytest.raises(KliegError, match=said) as caught:
        read(path)
    assert "\n" not in str(caught.value) and "mine.toml" in str(caught.value)


PAIRS = """
[model]
model_type = "marian"
d_model = 8
encoder_layers = 1
decoder_layers = 2
encoder_attention_heads = 2
decoder_attention_heads = 2
encoder_ffn_dim = 8
decoder_ffn_dim = 8
max_position_embeddings = 32
[tokenizer]
pieces = 300
[train]
steps = 4
batch_tokens = 64
longest = 30
[[data]]
name = "multi30k"
source = "en"
target = "de"
"""


def test_a_translators_recipe_fills_in_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PAIRS, "utf-8")
    found = read(path)
    assert isinstance(found.train, PairTraining) and found.sources == (PairSource("multi30k", "en", "de"),)
    assert (found.model.pad_token_id, found.model.eos_token_id, found.model.scale_embedding) == (2, 1, True)
    assert found.model.plain
    path.write_text(PAIRS.replace("d_model = 8", "d_model = 8\nkv_heads = 1\npre_norm = true"), "utf-8")
    assert not read(path).model.plain


@pytest.mark.parametrize("change,said", [
    (("longest = 30", "longest = 40"), "longest is 40 and the model has 32"), (("longest = 30", "batch = 2"), "'batch'"),
    (('target = "de"\n', ""), "target is missing"), (("longest = 30", 'schedule = "sqrt"'), "inverse-sqrt"),
    (("longest = 30", "label_smoothing = 1.5"), "label_smoothing"), (("d_model = 8", "d_model = 9"), "multiple"),
    (("longest = 30", 'bleu = "13b"'), "bleu is '13b'; it is 13a or"), (("d_model = 8", "d_modl = 8"), "mean 'd_model'"),
    (("d_model = 8", "d_model = 8\ndropout = 1.0"), "dropout"), (("d_model = 8", "d_model = 8\nkv_heads = 3"), "divisor"),
])
def test_a_mistake_in_a_translators_recipe_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = tmp_path / "mine.toml"
    assert change[0] in PAIRS
    path.write_text(PAIRS.replace(*change), "utf-8")
    with pytest.raises(KliegError, match=said) as caught:
        read(path)
    assert "\n" not in str(caught.value) and "mine.toml" in str(caught.value)


STARTED = """
[model]
start = "translate"
[train]
steps = 4
batch_tokens = 100
[[data]]
name = "mine"
source = "en"
target = "de"
"""


def test_a_run_that_starts_from_a_model_has_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(STARTED.replace('"translate"', '"translate"\ndropout = 0.3'), "utf-8")
    recipe, (model, tokenizer) = read(path), load("translate")
    assert recipe.start == "translate" and recipe.model == replace(model.config, dropout=0.3)
    assert recipe.pieces == tokenizer.size and model.config.dropout != 0.3


@pytest.mark.parametrize("change,said", [
    (('"translate"', '"trnslate"'), "translate"), (('"translate"', "3"), "start is 3"),
    (('"translate"', '"runs/first/model"'), "runs/first/model, is not here; run the recipe that makes it, first, first"),
    (('"translate"', '"translate"\nd_model = 64'), "'d_model' comes from the model to start from, translate"),
    (("[train]", "[tokenizer]\npieces = 300\n[train]"), r"leave \[tokenizer\] away"),
    (('"translate"', '"chat"'), "'batch_tokens'"),
])
def test_a_mistake_in_what_to_start_from_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = tmp_path / "mine.toml"
    assert change[0] in STARTED
    path.write_text(STARTED.replace(*change), "utf-8")
    with pytest.raises(KliegError, match=said) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_no_such_recipe() -> None:
    with pytest.raises(KliegError, match="recipes/"):
        read("nowhere.toml")
