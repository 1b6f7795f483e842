"""The labs: their conclusions follow from their numbers, and these are right where a closed form says what they must be."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from klieg.analysis.flow import correlation
from klieg.analysis.reader import Reader
from klieg.attention import Mask
from klieg.changes import Heads, Mute, changed
from klieg.errors import KliegError
from klieg.labs import NAMES, Finding, cost, embeddings, experts, find, groups, positions, recall, similarity, too
from klieg.layers import Context
from klieg.models import load
from klieg.watch import trace

SLOW = ("positions", "experts")
WORDSIM = Path(os.environ.get("KLIEG_DATA", "no such folder")) / "eval/wordsim"
FOUND: dict[str, Finding] = {}

# What takes more than seconds is tried on little; whole it runs in the tests that are marked slow.
SHORT: dict[str, Callable[[], Finding]] = {
    "cost": lambda: cost.run(lengths=(32, 64, 128), rounds=1, weighed=()),
    "groups": lambda: groups.run(seeds=(0, 1), steps=3, prompt=16, rounds=3, held_out=8),
    "recall": lambda: recall.run(steps={1: 2, 4: 2}, lengths=(8, 16), rounds=1, held_out=64),
}


def found(name: str) -> Finding:
    """Each lab runs once."""
    if name not in FOUND:
        FOUND[name] = find(name).run()
    return FOUND[name]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES])
def test_a_lab_is_whole_and_always_the_same(name: str) -> None:
    lab, again = find(name), SHORT.get(name, find(name).run)
    finding = again() if name in SHORT else found(name)
    assert all(words and words != other for words, other in [lab.title, lab.claim, finding.conclusion]) and lab.source
    assert finding.charts and all(math.isfinite(x) for x in finding.numbers.values())
    for chart in finding.charts:
        assert all(len(values) == len(chart.points) for values in chart.series.values())
    # Both languages say the same numbers.
    english, chinese = (sorted(re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))) for text in finding.conclusion)
    assert len(english) >= 3 and {x for x in chinese if "." in x} == {x for x in english if "." in x}
    other = again()
    assert other.numbers == finding.numbers and other.measured.keys() == finding.measured.keys()
    assert not finding.numbers.keys() & finding.measured.keys() and all(map(math.isfinite, other.measured.values()))


def test_softmax() -> None:
    numbers = found("softmax").numbers
    for scores in ((10, 5, 1), (2.1, 8.7, 4.3), (3.5, -2.1, 8.7, 0.3)):
        for n, score in enumerate(scores):
            exact = math.exp(score) / sum(math.exp(other) for other in scores)
            assert numbers[f"{', '.join(f'{s:g}' for s in scores)}: weight {n}"] == pytest.approx(exact)
    assert numbers["10, 5, 1: weight 0"] == pytest.approx(0.9932, abs=5e-5)
    assert numbers["largest error of what is drawn"] > 0.18
    assert "99.32 %" in found("softmax").conclusion[0] and round(math.exp(5)) == 148


def test_ages() -> None:
    numbers = found("ages").numbers
    assert numbers["weight of 张"] == pytest.approx(0.28079, abs=5e-6) and numbers["weight of the other"] == pytest.approx(
        0.15763, abs=5e-6)
    assert numbers["answer"] == pytest.approx(19.473, abs=5e-4)
    assert numbers["mean of the three"] == 19 and numbers["answer to nothing"] == pytest.approx((18 + 20 + 22 + 19) / 4)
    assert abs(numbers["hard answer"] - 19) < 0.001
    answers = found("ages").charts[0].series["soft answer", "软答案"]
    assert all(one > other for one, other in zip(answers, answers[1:], strict=False))     # stronger is always nearer


def test_scale() -> None:
    numbers, widths = found("scale").numbers, (4, 16, 64, 256, 1024)
    kept = [numbers[f"entropy at d {d}, with 1/√d"] for d in widths]
    lost = [numbers[f"entropy at d {d}, without"] for d in widths]
    assert max(kept) - min(kept) < 0.1 and all(one > other + 0.1 for one, other in zip(lost, lost[1:], strict=False))
    # Scores of spread 1 over many keys have entropy ln n - 1/2, less what few keys and their scatter take.
    assert kept[-1] == pytest.approx(math.log(64) - 0.5, abs=0.05)
    back = [numbers[f"gradient at d {d}, without"] for d in widths]
    assert back[-1] < back[0] / 3 and back[-1] < numbers["gradient at d 1024, with 1/√d"] / 2


def test_length() -> None:
    numbers = found("length").numbers
    assert numbers["growth, spread 3, plain"] > 3 > 0.5 > abs(numbers["growth, spread 3, ln n"])
    assert numbers["growth, spread 1, ln n"] > 4                   # the claim does not hold there
    # Log-normal weights: entropy is ln n - spread^2 / 2 while there are many keys.
    assert numbers["entropy at spread 1, n 16384, 1/√d"] == pytest.approx(math.log(16384) - 0.5, abs=0.01)


def test_context() -> None:
    numbers = found("context").numbers
    assert numbers["cosine of the embeddings"] == pytest.approx(1)
    assert numbers["lowest mean cosine between senses"] < 0.9 and numbers["after layer"] > 0
    # Of 252 ways to part ten sentences, the senses themselves are two.
    assert numbers["chance"] == pytest.approx(2 / 252) and "tells the fruit from the company" in found("context").conclusion[0]
    within, between = found("context").charts[0].series.values()
    assert numbers["widest gap"] == pytest.approx(max(a - b for a, b in zip(within, between, strict=True)))


def test_similarity() -> None:
    numbers = found("similarity").numbers
    assert numbers["product"] == 32 and numbers["product with itself"] == 14
    assert numbers["cosine"] == pytest.approx(32 / math.sqrt(14 * 77))
    total = sum(math.exp(x) for x in (0.53, 0.66, 0.40))
    assert numbers["weight of 沈"] == pytest.approx(math.exp(0.66) / total)
    assert numbers["root of 512"] == pytest.approx(22.627, abs=5e-4)
    assert all(numbers[f"spread at d {d}"] == pytest.approx(math.sqrt(d), rel=0.02) for d in (8, 32, 128, 512))
    assert 0.5 < numbers["pieces that are nearer to another"] < 1
    assert 3 * numbers["the same by chance"] < numbers["largest product is nearest direction"] < 1
    assert "length as well as direction" in found("similarity").conclusion[0]


def test_similarity_counts_by_hand() -> None:
    """Products and cosines taken one by one, from a trace's own numbers."""
    assert similarity.strangers(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])) == pytest.approx(1 / 3)
    read = trace("chat", "The cat saw the dog")
    same, even = [], []
    for call in read.calls:
        for head in range(call.heads):
            keys = call.k[0, call.group(head)].double()
            for query in range(1, call.queries):
                q, seen = call.q[0, head, query].double(), keys[:query + 1]
                products = [float((q * key).sum()) for key in seen]
                cosines = [x / math.sqrt(float((key * key).sum())) for x, key in zip(products, seen, strict=True)]
                same.append(products.index(max(products)) == cosines.index(max(cosines)))
                even.append(1 / (query + 1))
    agree, chance = similarity.agreement([read])
    assert agree == pytest.approx(sum(same) / len(same)) and chance == pytest.approx(sum(even) / len(even))


QUICK = 2       # steps, where only what needs no training is asked


def test_positions_tell_distances() -> None:
    found = positions.run(QUICK)
    numbers = found.numbers
    assert numbers["sines: explained by distance"] == pytest.approx(1, abs=1e-9)
    assert numbers["learned: explained by distance"] < 0.5              # a table that has learnt nothing
    # Angles are float32: 512 positions at one radian each, and a rounding of 6e-8 of them, twice.
    assert numbers["rotary: moved together"] < 512 * 2 ** -23 < 0.01 < numbers["rotary: one place apart"]
    wave, products = positions.sines(8, 16).double(), found.charts[1].series["sines", "正弦"]
    for distance in (1, 2, 5):      # the sum of the cosines of every frequency's angle
        exact = sum(math.cos(distance / 10000 ** (n / 64)) for n in range(0, 64, 2)) / 32
        assert products[distance - 1] == pytest.approx(exact, abs=1e-6)
    means, share = positions.by_distance(wave @ wave.T + torch.eye(8, dtype=torch.float64))
    assert share == pytest.approx(1, abs=1e-6) and len(means) == 7
    # So few steps teach nothing, and the conclusion says so.
    assert all(numbers[f"{kind}: inside"] < 0.5 for kind in positions.KINDS) and "(nobody)" in found.conclusion[0]


def test_positions_leave_torch_as_it_was() -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    positions.run(QUICK)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads


def test_positions_count_what_is_right() -> None:
    """One who knows the token three places earlier up to place 63, and always names another one after it."""
    def half(ids: torch.Tensor) -> torch.Tensor:
        logits = torch.nn.functional.one_hot(ids.roll(3, 1), 16).double()
        return torch.cat([logits[:, :64], logits[:, 64:].roll(1, 2)], 1)

    right = positions.accuracy(half)
    assert right[:3].isnan().all() and right[3:64].eq(1).all() and right[64:].eq(0).all() and len(right) == 128


def test_decoders_without_rotation_do_not_rotate() -> None:
    """Without a table the order of what stands before is not seen: the same tokens in another order give the same answer."""
    none, rotary = (positions.trained(kind, QUICK) for kind in ("none", "rotary"))
    ids, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[3, 1, 2, 4]])
    with torch.no_grad():
        first = [model.blocks[0](model.model.embed_tokens(x), seen) for model in (none, rotary) for x in (ids, other)
                 for seen in [_context(model, x)]]
    assert torch.allclose(first[0][0, -1], first[1][0, -1], atol=1e-6)
    assert not torch.allclose(first[2][0, -1], first[3][0, -1], atol=1e-6)


def _context(model: positions.Llama, ids: torch.Tensor) -> Context:
    context = Context(Mask.causal())
    model.embedded(ids, torch.arange(ids.shape[1])[None], context)
    return context


@pytest.mark.slow
def test_positions_read_on() -> None:
    numbers = found("positions").numbers
    for kind in ("sines", "learned", "rotary"):
        assert numbers[f"{kind}: inside"] > 0.99
    assert numbers["none: inside"] < 0.5
    assert numbers["rotary: beyond"] > 0.9 and numbers["sines: beyond"] < 0.3 and numbers["learned: beyond"] < 0.15
    assert numbers["learned: explained by distance"] < 0.9
    assert "these read on: rotary; these do not: sines, learned." in found("positions").conclusion[0]


def test_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KLIEG_DATA", raising=False)
    finding = find("embeddings").run()
    numbers, (model, tokenizer) = finding.numbers, load("chat")
    rows = model.vocabulary.double()
    one = {word: rows[tokenizer.encode(f" {word}", bos=False)[0]] for word in ("love", "like", "hate", "chair")}
    for word in ("like", "hate", "chair"):
        exact = float(one["love"] @ one[word] / (one["love"].norm() * one[word].norm()))
        assert numbers[f"cosine of love and {word}"] == pytest.approx(exact)
        near = torch.nn.functional.cosine_similarity(rows, one["love"][None])
        assert numbers[f"rank of {word}"] == int((near > near[tokenizer.encode(f" {word}", bos=False)[0]] + 1e-12).sum())
    assert numbers["rank of hate"] == 1 and numbers["rank of like"] == 7 and numbers["rank of chair"] > 1000
    assert "hate is nearer" in finding.conclusion[0] and "left out" in finding.conclusion[0] and len(finding.charts) == 3


def test_embeddings_beside_the_judgement_of_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of our own, against scipy's correlation; then a line that is none."""
    from scipy.stats import spearmanr

    pairs = [("love", "like", 9.0), ("love", "hate", 3.0), ("dog", "cat", 8.0), ("dog", "chair", 1.0), ("king", "queen", 9.0),
             ("tree", "hill", 5.0), ("database", "dog", 0.5)]
    folder = tmp_path / "eval/wordsim"
    folder.mkdir(parents=True)
    (folder / "EN-WS-353-ALL.txt").write_text("".join(f"{one}\t{other}\t{score}\n" for one, other, score in pairs), "utf-8")
    monkeypatch.setenv("KLIEG_DATA", str(tmp_path))
    finding, (model, tokenizer) = find("embeddings").run(), load("chat")
    rows = model.vocabulary.double()
    mean = {word: rows[tokenizer.encode(f" {word}", bos=False)].mean(0) for pair in pairs for word in pair[:2]}
    cosines = [float(mean[a] @ mean[b] / (mean[a].norm() * mean[b].norm())) for a, b, _ in pairs]
    assert len(tokenizer.encode(" database", bos=False)) > 1
    people = [score for *_, score in pairs]
    assert finding.numbers["WordSim-353: layer 0"] == pytest.approx(spearmanr(cosines[:-1], people[:-1]).statistic)
    assert finding.numbers["WordSim-353: mean of pieces"] == pytest.approx(spearmanr(cosines, people).statistic)
    assert (finding.numbers["WordSim-353: pairs of whole words"], finding.numbers["WordSim-353: pairs"]) == (6, 7)
    assert "SimLex" not in finding.conclusion[0] and len(finding.charts) == 4
    (folder / "EN-SIMLEX-999.txt").write_text("love like 3\n", "utf-8")
    with pytest.raises(KliegError, match=r"EN-SIMLEX-999.txt is damaged; its lines must be two words and a number"):
        find("embeddings").run()


def test_embeddings_layers_are_those_of_a_trace() -> None:
    model, tokenizer = load("chat")
    found = embeddings.vectors(model, tokenizer, ["love", "database", "dog"])
    for place, word in enumerate(("love", "database", "dog")):
        stream = trace((model, tokenizer), f" {word}").stream()
        for layer, state in enumerate([stream.embedded, *(block.output for block in stream.blocks)]):
            exact = torch.nn.functional.normalize(state[0, 1:].double().mean(0), dim=0)
            assert torch.allclose(found[layer, place], exact, atol=1e-5)


def test_an_interval_of_a_correlation() -> None:
    """Wide for few pairs, narrow for many, never beyond 1; of many independent numbers it holds 0 in 95 of 100."""
    low, high = embeddings.interval(0.5, 100)
    assert low < 0.5 < high < 1 and embeddings.interval(0.5, 10_000)[0] > low
    chance = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(400):
        rho = correlation(torch.randn(50, generator=chance), torch.randn(50, generator=chance))
        low, high = embeddings.interval(rho, 50)
        held += low < 0 < high
    assert 0.92 < held / 400 < 0.98


@pytest.mark.skipif(not WORDSIM.is_dir(), reason="KLIEG_DATA has no eval/wordsim")
def test_embeddings_agree_with_people_little() -> None:
    numbers = find("embeddings").run().numbers
    for name, pairs in (("WordSim-353", 353), ("SimLex-999", 999)):
        assert numbers[f"{name}: pairs"] == pairs and 0 < numbers[f"{name}: low"] < numbers[f"{name}: layer 0"] < 0.3
    assert numbers["WordSim-353: layer 6"] > 0.4 > 0.15 > numbers["SimLex-999: layer 6"]


def test_too() -> None:
    numbers = found("too").numbers
    for name, prompt in (("dialogue", "I love you\nI love you"), ("alone", "I love you")):
        model, tokenizer = load("chat")
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer.encode(prompt)]))[0, -1].double()
        word, chair = (tokenizer.encode(f" {word}", bos=False)[0] for word in ("too", "chair"))
        p = logits.softmax(0)
        assert numbers[f"{name}: too after 6 layers"] == pytest.approx(p[word].item(), rel=1e-4)
        assert numbers[f"{name}: chair after 6 layers"] == pytest.approx(p[chair].item(), rel=1e-4)
        assert numbers[f"{name}: rank of too after 6 layers"] == 1 + int((p > p[word]).sum())
        # The parts add up to the model's own difference, whatever norm stands before its vocabulary.
        parts = sum(numbers[f"{name}: part {n}"] for n in range(13))
        assert parts == pytest.approx((logits[word] - logits[chair]).item(), abs=1e-4)
        assert numbers[f"{name}: error of the sum"] < 1e-4
    assert numbers["dialogue: too after 6 layers"] > 0.2 > 0.05 > numbers["alone: too after 6 layers"]
    assert numbers["dialogue: rank of too after 3 layers"] == 1
    assert "likelier than “chair” and “database” in both" in found("too").conclusion[0]


def test_too_takes_away_what_a_part_adds() -> None:
    """A stream without one part, normed by the whole one's scale, loses just what that part is said to add."""
    model, tokenizer = load("chat")
    read = trace((model, tokenizer), "I love you")
    walk, stream = too.walk(model, tokenizer, read), read.stream()
    last, norm = stream.blocks[-1].output[0, -1].double(), model.model.norm
    word, chair = (tokenizer.encode(f" {word}", bos=False)[0] for word in ("too", "chair"))

    def difference(state: torch.Tensor) -> float:
        normed = state / math.sqrt(float((last * last).mean()) + norm.eps) * norm.weight.double()
        return float((model.vocabulary[word].double() - model.vocabulary[chair].double()) @ normed)

    for layer, block in enumerate(stream.blocks):
        for n, part in ((1 + 2 * layer, block.attended), (2 + 2 * layer, block.fed)):
            assert walk.parts[n].item() == pytest.approx(difference(last) - difference(last - part[0, -1].double()), abs=1e-6)


@pytest.mark.slow
def test_experts() -> None:
    finding = found("experts")
    numbers = finding.numbers
    assert numbers["heads"] == 48 and numbers["heads with none"] + numbers["heads with several"] <= 48
    for name in ("previous", "first", "positional"):
        assert numbers[f"{name}: heads"] > 0 and numbers[f"{name}: its excess"] > 0.2
        assert numbers[f"{name}: held by the best"] > experts.BEST / 48
    for name in ("duplicate", "induction", "copy"):
        assert numbers[f"{name}: heads"] == 0
    assert "by place, and none by what was said before" in finding.conclusion[0]
    # Its best head for the token before is not missed on text.
    assert numbers["previous muted, text, rank"] > 10


def test_experts_excess_is_the_weight_beyond_an_even_look() -> None:
    """The token before, by a trace's own weights; a sentence that repeats nothing has no duplicates."""
    model, tokenizer = load("chat")
    texts = ("The cat saw the old dog.", "狗在门口，猫也在门口。")
    found = experts.excess(Reader(model, tokenizer, "chat"), texts)
    for row, text in enumerate(texts):
        read = trace((model, tokenizer), text)
        count = len(read.tokens)
        even = sum(1 / (query + 1) for query in range(1, count)) / (count - 1)
        for layer, head in ((0, 3), (2, 6), (5, 7)):
            weight = read[layer].weights(head).diagonal(-1).double().mean().item()
            assert found["previous"][row, 8 * layer + head].item() == pytest.approx(weight - even, abs=1e-6)
    assert found["duplicate"].shape == (2, 48)
    assert found["duplicate"][0].isnan().all() and found["duplicate"][1].isfinite().all()


def test_experts_chances_and_shares_by_hand() -> None:
    """A sign test over three sentences, of which a head may lack one; what the best three hold of six."""
    nan = math.nan
    rows = torch.tensor([[1.0, 1.0, -1.0], [2.0, nan, 1.0], [0.5, 3.0, -2.0]], dtype=torch.float64)
    assert experts.chances(rows).tolist() == [1 / 8, 1 / 4, 7 / 8]
    assert experts.concentration(torch.tensor([3.0, -9.0, 1.0, 2.0, 4.0, 0.0])) == pytest.approx(9 / 10)


def test_experts_muted_losses_are_those_of_the_muted_model() -> None:
    """Layers that run once give what whole passes give, and a loss is the mean of the targets' own."""
    model, _ = load("chat")
    ids, targets = torch.tensor([[1, 300, 400, 500, 300]]), torch.tensor([[-100, 400, -100, 300, -100]])
    losses = list(experts._losses(model, ids, targets))
    for place, changes in ((0, []), (1 + 5, [Mute(Heads(0, 5))]), (1 + 3 * 8 + 2, [Mute(Heads(3, 2))])):
        with torch.no_grad():
            p = changed(model, changes)(ids)[0].double().log_softmax(-1)
        assert losses[place] == pytest.approx(-(p[1, 400] + p[3, 300]).item() / 2, abs=1e-4)
    assert len(losses) == 49 and len(set(losses)) > 40


def test_an_unknown_lab() -> None:
    with pytest.raises(KliegError, match=r"there is no lab 'scal'; .*scale"):
        find("scal")
