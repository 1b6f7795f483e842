"""What `klieg explain --cell` prints: every number recomputed from the printed numbers beside it.

The models are random ones that transformers saved, so nothing of ours but the arithmetic is trusted.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_cli import run

import klieg
from klieg.tokenizers import train

NUMBER = r"-?(?:\d[\d.]*(?:e-?\d+)?|∞)"
VECTORS = "[qk](?: (?:before|after) rotation)?|q·k|v|weight × v|output"


def number(text: str) -> float:
    return float(text.replace("∞", "inf"))


@dataclass(frozen=True)
class Card:
    """What `--cell` printed, read back: vectors by name, steps by name, the row by key."""

    vectors: dict[str, torch.Tensor]
    steps: dict[str, str]
    row: dict[int, tuple[float, float]]

    @staticmethod
    def read(text: str) -> Card:
        vectors: dict[str, list[float]] = {}
        steps: dict[str, str] = {}
        row: dict[int, tuple[float, float]] = {}
        for line in text.splitlines():
            if re.fullmatch(rf"(?: +\d+ +{NUMBER} +{NUMBER}  )+", line):
                row |= {int(j): (number(s), number(e)) for j, s, e in re.findall(rf"(\d+) +({NUMBER}) +({NUMBER})  ", line)}
            elif vector := re.fullmatch(rf"({VECTORS})((?: +{NUMBER})+)", line):
                vectors.setdefault(vector[1], []).extend(map(number, vector[2].split()))
            elif re.fullmatch(rf".{{31}} (.*= )?{NUMBER}", line):
                steps[line[:32].strip()] = line[32:]
        return Card({name: torch.tensor(v, dtype=torch.float64) for name, v in vectors.items()}, steps, row)

    def numbers(self, name: str) -> list[float]:
        """The numbers of a step, in order; the last is its result."""
        return [number(n) for n in re.findall(rf"(?<![\w√]){NUMBER}", self.steps[name])]

    def result(self, name: str) -> float:
        return self.numbers(name)[-1]


def near(found: object, expected: object, among: object = 0.0) -> None:
    """Equal to 1e-5 of their size; of a sum, of the size of its terms."""
    found, expected, among = (torch.as_tensor(x, dtype=torch.float64) for x in (found, expected, among))
    size = torch.maximum(expected.abs(), among.abs().sum(-1))
    assert torch.isfinite(found).all() and ((found - expected).abs() <= 1e-5 * size + 1e-30).all(), (found, expected)


def check_card(card: Card, place: tuple[int, int, int, int], theta: float | None) -> None:
    """Recompute each number from those printed before it."""
    _, _, query, key = place
    v, width = card.vectors, len(card.vectors["q·k"])
    if theta:
        for name, at in (("q", query), ("k", key)):
            plain, turned = v[f"{name} before rotation"], v[f"{name} after rotation"]
            angle = at * theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
            a, b = plain.chunk(2)
            for found, terms in ((turned[:width // 2], (a * angle.cos(), -b * angle.sin())),
                                 (turned[width // 2:], (b * angle.cos(), a * angle.sin()))):
                near(found, sum(terms), torch.stack(terms, -1))
    q, k = (v.get(f"{name} after rotation", v.get(name)) for name in "qk")
    near(v["q·k"], q * k)
    near(card.result(f"sum of the {width} products"), v["q·k"].sum(), v["q·k"])
    dot, scale, scaled = (card.numbers("scale")[n] for n in (0, 1, -1))
    near(dot, card.result(f"sum of the {width} products"))
    near(scale, width ** -0.5)
    near(scaled, dot * scale)
    scores, parts = (torch.tensor([entry[n] for entry in card.row.values()], dtype=torch.float64) for n in (0, 1))
    assert sorted(card.row) == list(range(query + 1))
    top, total = card.result("row maximum"), card.result("row sum of exponentials")
    near(top, scores.max())
    near(parts, (scores - top).exp(), 1e-5)
    near(total, parts.sum())
    weight = card.result("weight")
    if key <= query:
        near(card.result("score s"), scaled)
        near(card.row[key][0], scaled)
        near(card.result("exp(s - max)"), card.row[key][1])
        near(weight, card.result("exp(s - max)") / total)
    else:
        assert card.steps["score s"] == "-∞" and weight == 0
    assert abs(weight - card.result("the model's own: exp(s - lse)")) < 1e-5
    assert abs(card.result("difference") - abs(weight - card.result("the model's own: exp(s - lse)"))) < 1e-6
    near(v["weight × v"], weight * v["v"])
    mine, whole, share = card.numbers("share of the output")
    near(mine, v["weight × v"] @ v["output"], v["weight × v"] * v["output"])
    near(whole, v["output"] @ v["output"])
    near(share, mine / whole)


def foreign(kind: str, heads: int, groups: int, width: int, seed: int, folder: Path) -> float | None:
    """A random model saved by transformers; the base of its rotation."""
    import transformers

    torch.manual_seed(seed)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=300, n_embd=heads * width, n_layer=2, n_head=heads, n_positions=32,
                                         bos_token_id=0, eos_token_id=1)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(vocab_size=300, hidden_size=heads * width, intermediate_size=40, num_hidden_layers=2,
                                          num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=32,
                                          rope_parameters={"rope_type": "default", "rope_theta": 500.0 + seed})
        model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    model.save_pretrained(folder)
    train(iter(["the cat sat on the mat"]), 270).save(folder)
    return None if kind == "gpt2" else 500.0 + seed


@given(st.sampled_from(["gpt2", "llama"]), st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]), st.sampled_from([2, 6, 16]),
       st.integers(0, 99), st.data())
@settings(max_examples=6, phases=[Phase.generate])
def test_every_printed_number_of_a_cell_follows_from_its_neighbours(kind: str, heads: tuple[int, int], width: int, seed: int,
                                                                    data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        theta = foreign(kind, *heads, width, seed, Path(folder))
        tokens = len(klieg.trace(folder, "the cat sat, on a mat").tokens)
        layer, head = data.draw(st.integers(0, 1)), data.draw(st.integers(0, heads[0] - 1))
        query = data.draw(st.integers(0, tokens - 1))
        row = []
        for key in range(tokens):
            ran = run("explain", "the cat sat, on a mat", "--model", folder, "--cell", f"{layer}.{head}.{query}.{key}")
            assert (ran.status, ran.err) == (0, "")
            row.append(Card.read(ran.text))
            check_card(row[-1], (layer, head, query, key), theta)
        outputs = torch.stack([card.vectors["weight × v"] for card in row], -1)
        near(outputs.sum(-1), row[0].vectors["output"], outputs)
        assert abs(sum(card.result("share of the output") for card in row) - 1) < 1e-5
