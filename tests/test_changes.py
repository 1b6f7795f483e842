"""Changes of attention against the formula in float64 by hand, and against weights that were changed instead."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from test_models import GPT2, LLAMA, lively
from test_seq2seq import lively as lively_translator

from klieg.attention import Mask
from klieg.changes import Change, Cut, Heads, HideFirst, Keep, Mute, Replace, Sharpen, changed, read, stacks
from klieg.errors import KliegError
from klieg.layers import Observation
from klieg.patterns import Pattern

IDS = torch.tensor([[5, 17, 200, 3, 44, 90, 5]])
SHAPES = {"llama": LLAMA, "gpt2": GPT2}


def by_hand(model, ids: list[int], edits: dict[tuple[int, int], object]) -> torch.Tensor:
    """GPT-2's logits (i, vocabulary) from the weights alone, in float64; edits[layer, head] changes scores (i, j)."""
    c, w = model.config, {name: x.double() for name, x in model.state_dict().items()}
    n, width = len(ids), c.n_embd // c.n_head

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + c.layer_norm_epsilon).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][:n]
    for layer in range(c.n_layer):
        at = f"transformer.h.{layer}"
        qkv = norm(x, f"{at}.ln_1") @ w[f"{at}.attn.c_attn.weight"] + w[f"{at}.attn.c_attn.bias"]
        outputs = []
        for head in range(c.n_head):
            q, k, v = (qkv[:, part * c.n_embd + head * width:][:, :width] for part in range(3))
            s = q @ k.T / math.sqrt(width)
            for i in range(n):
                s[i, i + 1:] = -math.inf
            s = edits.get((layer, head), lambda s: s)(s)
            outputs.append(torch.exp(s) / torch.exp(s).sum(-1, keepdim=True) @ v)
        x = x + torch.cat(outputs, -1) @ w[f"{at}.attn.c_proj.weight"] + w[f"{at}.attn.c_proj.bias"]
        inner = norm(x, f"{at}.ln_2") @ w[f"{at}.mlp.c_fc.weight"] + w[f"{at}.mlp.c_fc.bias"]
        inner = inner / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + inner @ w[f"{at}.mlp.c_proj.weight"] + w[f"{at}.mlp.c_proj.bias"]
    return norm(x, "transformer.ln_f") @ w["transformer.wte.weight"].T


def cut(i: int, j: int):
    def edit(s: torch.Tensor) -> torch.Tensor:
        s = s.clone()
        s[i, j] = -math.inf
        return s
    return edit


def without_first(s: torch.Tensor) -> torch.Tensor:
    s = s.clone()
    s[1:, 0] = -math.inf
    return s


def kept(seen):
    """Scores of which only the pairs (i, j) with seen(i, j) are left."""
    def edit(s: torch.Tensor) -> torch.Tensor:
        at = torch.tensor([[seen(i, j) for j in range(len(s))] for i in range(len(s))])
        return s.masked_fill(~at, -math.inf)
    return edit


def largest(count: int):
    """Scores of which only the `count` largest of each row are left."""
    def edit(s: torch.Tensor) -> torch.Tensor:
        return torch.stack([row.masked_fill(row < row.sort(descending=True).values[:count][-1], -math.inf) for row in s])
    return edit


def everywhere(edit) -> dict:
    return {(layer, head): edit for layer in range(3) for head in range(4)}


def near(ours: torch.Tensor, expected: torch.Tensor, factor: float = 1e-5) -> bool:
    return (ours.double() - expected).abs().max().item() < factor * expected.abs().max().item()


@pytest.mark.parametrize("changes,edits", [
    (["cut 1.2.4.1"], {(1, 2): cut(4, 1)}),
    (["cut 1.2.4.1", "cut 1.2.4.0", "cut 0.all.6.6"],
     {(1, 2): lambda s: cut(4, 0)(cut(4, 1)(s)), **{(0, h): cut(6, 6) for h in range(4)}}),
    (["hide-first 2.1"], {(2, 1): without_first}),
    (["hide-first all"], {(layer, head): without_first for layer in range(3) for head in range(4)}),
    (["sharpen 0.3=2.5"], {(0, 3): lambda s: s * 2.5}),
    (["sharpen 1.g0=0.5"], {(1, 0): lambda s: s * 0.5}),
    (["keep all=window:2"], everywhere(kept(lambda i, j: i - j < 2))),
    (["keep all=strided:2+global:1"], everywhere(kept(lambda i, j: i - j < 2 or (i - j) % 2 == 0 or j == 0))),
    (["keep 1.2=block:3"], {(1, 2): kept(lambda i, j: i // 3 == j // 3)}),
    (["keep all=top:2"], everywhere(largest(2))),
    (["keep 0.3=top:2", "keep 2.all=window:3"],
     {(0, 3): largest(2), **{(2, h): kept(lambda i, j: i - j < 3) for h in range(4)}}),
    (["sharpen 1.0=0.5", "sharpen 1.0=4", "hide-first 1.0"], {(1, 0): lambda s: without_first(s * 2)}),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
@torch.no_grad()
def test_scores_are_changed_as_the_formula_says(changes: list[str], edits: dict) -> None:
    model = lively(GPT2)
    expected = by_hand(model, IDS[0].tolist(), edits)
    assert near(model(IDS)[0], by_hand(model, IDS[0].tolist(), {}))
    assert not near(model(IDS)[0], expected, 1e-4)
    assert near(changed(model, list(map(read, changes)))(IDS)[0], expected)


@torch.no_grad()
def test_a_pattern_in_all_heads_is_a_rule_and_not_a_table() -> None:
    seen: list[Observation] = []
    changed(lively(LLAMA), [Keep(Heads(), Pattern("strided", 2, 1))])(IDS, observe=seen.append)
    assert all([rule.table for rule in call.mask.rules] == [None, None] for call in seen) and len(seen) == 3
    assert seen[1].mask.reason(4, 1) == "off the stride" and seen[1].mask.reason(4, 0) is None


@torch.no_grad()
def test_a_cache_keeps_what_the_whole_text_keeps() -> None:
    """Blocks, strides and largest scores stand where they stand, however many tokens come at a time."""
    for pattern in ("block:3", "strided:3+global:1", "window:2", "top:2"):
        model = changed(lively(LLAMA), [read(f"keep all={pattern}"), read("keep 1.2=top:3")])
        cache = model.new_cache(1, IDS.shape[1])
        steps = [model(IDS[:, at], cache=cache) for at in (slice(0, 4), slice(4, 5), slice(5, 7))]
        torch.testing.assert_close(torch.cat(steps, 1), model(IDS), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cross_attention_keeps_its_largest_and_has_no_positions() -> None:
    model = lively_translator()
    source, target = torch.tensor([[7, 8, 9, 10, 1]]), torch.tensor([[2, 3, 4]])
    usual = model(source, target)
    assert not torch.equal(changed(model, [read("keep all=top:1")])(source, target), usual)
    assert torch.equal(changed(model, [read("keep all=top:5")])(source, target), usual)
    assert not torch.equal(changed(model, [read("keep encoder:all=window:2")])(source, target), usual)
    with pytest.raises(KliegError, match="keep all=window:2: window:2 goes by position"):
        changed(model, [read("keep all=window:2")])(source, target)


@torch.no_grad()
def test_scores_without_a_slope_give_the_mean_of_what_is_seen() -> None:
    model = lively(GPT2)
    even = {(1, 2): lambda s: torch.where(s == -math.inf, s, 0.0)}
    assert near(changed(model, [Sharpen(Heads(1, 2), 0)])(IDS)[0], by_hand(model, IDS[0].tolist(), even))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("written,muted", [("mute 1.2", [(1, 2)]), ("mute 0.g1", None), ("mute 2.all", "layer")])
@torch.no_grad()
def test_a_muted_head_is_one_whose_rows_of_the_output_matrix_are_zero(name: str, written: str, muted: object) -> None:
    model = lively(SHAPES[name])
    share = model.heads // model.kv_heads
    muted = [(0, share + n) for n in range(share)] if muted is None else [(2, n) for n in range(model.heads)] \
        if muted == "layer" else muted
    other, width = copy.deepcopy(model), model.head_width
    for layer, head in muted:
        at = slice(head * width, (head + 1) * width)
        if name == "llama":
            other.model.layers[layer].self_attn.o_proj.weight[:, at] = 0
        else:
            other.transformer.h[layer].attn.c_proj.weight[at] = 0
    assert not near(model(IDS), other(IDS), 1e-4)
    assert near(changed(model, [read(written)])(IDS), other(IDS), 1e-6)


@pytest.mark.parametrize("kind", ["encoder", "self", "cross"])
@torch.no_grad()
def test_a_head_of_a_translator_is_muted(kind: str) -> None:
    model, source, target = lively_translator(), torch.tensor([[7, 8, 9, 1]]), torch.tensor([[2, 11, 12]])
    other = copy.deepcopy(model)
    stack = other.model.encoder if kind == "encoder" else other.model.decoder
    part = stack.layers[1].encoder_attn if kind == "cross" else stack.layers[1].self_attn
    width = 32 // stacks(model)[kind].heads
    part.out_proj.weight[:, width:2 * width] = 0
    assert not near(model(source, target), other(source, target), 1e-4)
    assert near(changed(model, [Mute(Heads(1, 1, kind=kind))])(source, target), other(source, target), 1e-6)


@torch.no_grad()
def test_what_a_translator_does_not_see_does_not_matter() -> None:
    """With every look at source token 1 cut, only what the encoder did with that token is left; cut there too, nothing is."""
    model, target = lively_translator(), torch.tensor([[2, 11, 12]])
    sources = torch.tensor([[7, 8, 9, 1], [7, 250, 9, 1]])
    edges = [Cut(Heads(kind="cross"), query, 1) for query in range(3)]
    edges += [Cut(Heads(kind="encoder"), query, 1) for query in (0, 2, 3)]
    other = changed(model, edges)
    one, two = (other(source[None], target) for source in sources)
    assert torch.equal(one, two) and not torch.equal(model(sources[:1], target), model(sources[1:], target))


@torch.no_grad()
def test_an_encoder_hides_its_first_token_from_all() -> None:
    from klieg import models
    from klieg.config import BertConfig

    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
                        max_position_embeddings=8)
    model = models.build(config).eval()
    other = changed(model, [HideFirst()])
    one, two = other(torch.tensor([[3, 4, 5], [9, 4, 5]]))
    assert torch.equal(one[1:], two[1:]) and not torch.equal(one[0], two[0])


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_the_factor_one_changes_nothing_and_the_given_model_stays(name: str) -> None:
    model = lively(SHAPES[name])
    usual = model(IDS)
    assert torch.equal(changed(model, [Sharpen(Heads(), 1)])(IDS), usual)
    other = changed(model, [Mute(Heads())])
    assert not torch.equal(other(IDS), usual) and torch.equal(model(IDS), usual)
    assert other.vocabulary is model.vocabulary


@torch.no_grad()
def test_changes_of_a_changed_model_are_made_too() -> None:
    model = lively(LLAMA)
    one, two = Mute(Heads(0, 1)), Cut(Heads(1, 3), 4, 2)
    assert torch.equal(changed(changed(model, [one]), [two])(IDS), changed(model, [one, two])(IDS))


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_a_cache_changes_nothing(name: str) -> None:
    model = changed(lively(SHAPES[name]), list(map(read, ["mute 1.2", "cut 0.1.5.2", "hide-first 2.all", "sharpen 1.g1=3"])))
    whole, cache = model(IDS), model.new_cache(1)
    parts = [model(IDS[:, start:stop], cache=cache) for start, stop in ((0, 3), (3, 6), (6, 7))]
    assert near(torch.cat(parts, 1), whole, 1e-6)


@torch.no_grad()
def test_what_is_observed_is_what_was_computed() -> None:
    model, seen = lively(LLAMA), []
    changed(model, list(map(read, ["mute 1.2", "mute 2.g1", "sharpen 1.4=2", "cut 1.4.5.2"])))(IDS, observe=seen.append)
    usual: list[Observation] = []
    model(IDS, observe=usual.append)
    assert [call.k.shape[1] for call in seen] == [2, 6, 2]     # one head of a group gets keys and values of its own
    call, was = seen[1], usual[1]
    assert not call.v[:, 2].any() and not call.attention.output[:, 2].any() and call.attention.output[:, 1].all()
    assert torch.equal(call.k, was.k.repeat_interleave(3, 1)) and call.unrotated_k.shape == call.k.shape
    torch.testing.assert_close(call.q[:, 4], was.q[:, 4] * 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(call.unrotated_q[:, 4], was.unrotated_q[:, 4] * 2, rtol=1e-6, atol=0)
    assert call.mask.reason(5, 2, head=4) == "not allowed" and call.mask.reason(5, 2, head=3) is None
    assert not seen[2].v[:, 1].any() and not seen[2].attention.output[:, 3:].any() and seen[2].attention.output[:, :3].all()


# ---- how they are written, and what is refused ----

@pytest.mark.parametrize("text,change", [
    ("mute 3.2", Mute(Heads(3, 2))), ("mute 3.g1", Mute(Heads(3, group=1))), ("mute 3.all", Mute(Heads(3))),
    ("mute all", Mute(Heads())), ("mute cross:3.2", Mute(Heads(3, 2, kind="cross"))),
    ("hide-first encoder:all", HideFirst(Heads(kind="encoder"))), ("cut 3.2.4.1", Cut(Heads(3, 2), 4, 1)),
    ("cut all.4.1", Cut(Heads(), 4, 1)), ("cut self:3.g0.4.1", Cut(Heads(3, group=0, kind="self"), 4, 1)),
    ("sharpen 3.2=2", Sharpen(Heads(3, 2), 2)), ("sharpen all=0.5", Sharpen(Heads(), 0.5)),
    ("keep all=window:128", Keep(Heads(), Pattern("window", 128))),
    ("keep 3.g1=strided:8+global:2", Keep(Heads(3, group=1), Pattern("strided", 8, 2))),
    ("keep encoder:0.1=top:4", Keep(Heads(0, 1, kind="encoder"), Pattern("top", 4))),
    ("sharpen 0.0=1e-07", Sharpen(Heads(0, 0), 1e-7)), ("replace I love=you hate", Replace("I love", "you hate")),
    ("replace =x=", None), ("replace love=", Replace("love", "")),
])
def test_what_is_written_is_read(text: str, change: Change | None) -> None:
    if change is None:
        with pytest.raises(KliegError, match="OLD=NEW"):
            read(text)
    else:
        assert read(text) == change and str(change) == text


@pytest.mark.parametrize("text,said", [
    ("silence 3.2", "no change 'silence'; it must be one of mute, cut"), ("mute 3", "mute is given '3'.*LAYER.HEAD"),
    ("mute", "mute is given ''"), ("mute 3.2.1", "LAYER.HEAD"), ("mute -1.2", "LAYER.HEAD"), ("mute 3.²", "LAYER.HEAD"),
    ("mute sideways:3.2", "LAYER.HEAD"), ("cut 3.2", "QUERY.KEY"), ("cut 3.2:4>1", "for example 3.2.4.1"),
    ("keep 3.2", "keep is given '3.2'.*LAYER.HEAD=PATTERN"), ("keep all=window", "must be KIND:SIZE"),
    ("keep all=top:0", "at least 1"), ("keep all=wndow:3", "Did you mean 'window'"), ("keep 9.0=top:1", "no layer 9"),
    ("sharpen 3.2", "FACTOR"), ("sharpen 3.2=-1", "FACTOR"), ("sharpen 3.2=nan", "FACTOR"),
    ("sharpen 3.2=1e999", "not between"),
    ("mute 9.0", "no layer 9; the model has layers 0 to 2"), ("mute 0.6", "no head 6; the model has heads 0 to 5"),
    ("mute 0.g2", "no K/V group 2.*0 to 1"), ("mute cross:0.0", "no attention of kind 'cross'; the model has self"),
    ("sharpen 0.0=101", "the factor of sharpen 0.0=101 is not between 0 and 100"),
    ("cut 1.2.0.0", r"layer 1 \(self\), head 2, token 0 would see nothing without token 0"),
    ("cut 1.2.3.4", r"layer 1 \(self\), head 2, token 3 does not see token 4; there is no edge"),
    ("cut 1.2.3.99", "does not see token 99"),
])
def test_what_cannot_be_is_one_line(text: str, said: str) -> None:
    with pytest.raises(KliegError, match=said) as raised, torch.no_grad():
        changed(lively(LLAMA), [read(text)])(IDS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("heads,said", [(Heads(head=1), "say which layer"), (Heads(0, 1, 1), "exclude each other"),
                                        (Heads(-1), "no layer -1")])
def test_heads_that_are_none(heads: Heads, said: str) -> None:
    with pytest.raises(KliegError, match=said):
        changed(lively(LLAMA), [Mute(heads)])


@torch.no_grad()
def test_an_edge_of_a_search_is_refused() -> None:
    from klieg.beam import search

    model = lively_translator()
    search(changed(model, [HideFirst(), Mute(Heads(0, 1))]), [[7, 8, 1]])
    with pytest.raises(KliegError, match="whole target"):
        search(changed(model, [Cut(Heads(), 1, 1)]), [[7, 8, 1]])


@pytest.mark.parametrize("text,old,new,expected", [
    ("I love you", "love", "hate", "I hate you"), ("I love lovely love.", "love", "hate", "I hate lovely hate."),
    ("我吃了苹果。", "苹果", "梨", "我吃了梨。"), ("I am I", "I", r"\1", r"\1 am \1"),
    ("Grüße grün", "grün", "rot", "Grüße rot"),
])
def test_a_word_is_replaced(text: str, old: str, new: str, expected: str) -> None:
    assert Replace(old, new).of(text) == expected


@pytest.mark.parametrize("old", ["lov", "ove", "hate", "", "Love"])
def test_a_word_that_is_not_there(old: str) -> None:
    with pytest.raises(KliegError, match=f"no word '{old}' to replace"):
        Replace(old, "x").of("I love you")


def test_padding_stays_hidden() -> None:
    """A row that saw nothing before is none that a cut has left empty."""
    model = lively(LLAMA)
    real = torch.arange(7)[None] > 1
    with torch.no_grad():
        usual = model(IDS, mask=Mask.padding(real))
        found = changed(model, [Cut(Heads(0), 4, 2), HideFirst(Heads(2))])(IDS, mask=Mask.padding(real))
    assert found.isfinite().all() and torch.equal(found[:, :4], usual[:, :4]) and not torch.equal(found[:, 4], usual[:, 4])
