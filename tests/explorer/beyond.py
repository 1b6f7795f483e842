"""What the screens of sparse attention and of pronouns should show: weights from q and k in float64, masks by what their names
say, pair by pair, and what is said under them by transformers, which is given the mask as a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from urllib.parse import quote

import torch
from oracle import Head, bits, softmax
from screens import CHAT, drawn, until
from shown import Numbers
from torch import Tensor
from transformers import AutoModelForCausalLM
from wanted import Look, cells, limit, ramp, sealed

from klieg.analysis.sparsity import USUAL, applied
from klieg.models import find
from klieg.patterns import Pattern

Keeps = Callable[[int, int], bool]


def keeps(written: str) -> Keeps:
    """Whether a pattern of positions keeps a pair, by its name; of the largest scores all of so short a text."""
    name, _, first = written.partition("+global:")
    kind, n = name.split(":")
    size, some = int(n), int(first or 0)
    rule = {"window": lambda i, j: abs(i - j) < size, "block": lambda i, j: i // size == j // size, "top": lambda i, j: True,
            "strided": lambda i, j: abs(i - j) < size or (i - j) % size == 0}[kind]
    return lambda i, j: rule(i, j) or i < some or j < some


class Under:
    """A pattern on a trace: what every head loses of every row, and what transformers says under it."""

    def __init__(self, look: Look, written: str, network: torch.nn.Module) -> None:
        trace, kept = look.trace, keeps(written)
        n = len(trace.tokens)
        self.kept = torch.tensor([[j <= i and kept(i, j) for j in range(n)] for i in range(n)])
        self.rows = [[(Head(trace, layer, head).weight * ~self.kept).sum(1) for head in range(trace.heads)]
                     for layer in range(trace.layers)]
        self.share = float(self.kept.sum() / (n * (n + 1) / 2))
        self.means = [[float(row.mean()) for row in layer] for layer in self.rows]
        self.mean = sum(map(sum, self.means)) / (trace.layers * trace.heads)
        self.worst = max(((layer, head) for layer in range(trace.layers) for head in range(trace.heads)),
                         key=lambda at: self.means[at[0]][at[1]])
        self.most = self.means[self.worst[0]][self.worst[1]]
        table = torch.zeros(1, 1, n, n).masked_fill(~self.kept, torch.finfo(torch.float32).min)
        with torch.no_grad():
            under = network(torch.tensor([trace.ids]), attention_mask=table).logits[0]
        self.p, self.q = ([softmax(row) for row in logits] for logits in (trace.logits, under))
        self.bits = [bits(p, q) for p, q in zip(self.p, self.q, strict=True)]


def sparse(numbers: Numbers, look: Look) -> None:
    page, trace, chance = numbers.page, look.trace, look.chance
    written = chance.choice(["window:2", "block:3", "strided:2", "window:2+global:1"])
    drawn(page, look.address("sparse", f"&sparse.pattern={quote(written)}"))
    page.locator(".kl").wait_for()
    until(page, "document.querySelectorAll('.beside tbody tr').length === it", len(USUAL) + 1)
    until(page, "document.querySelector('.pairs .pane').dataset.fates === it", written)
    network = AutoModelForCausalLM.from_pretrained(find("chat"), attn_implementation="eager", dtype=torch.float32).eval()
    own, beside = Under(look, written, network), [Under(look, each, network) for each in USUAL]
    p, q = own.p[-1], own.q[-1]
    best = [x.argsort(descending=True)[:8].tolist() for x in (p, q)]
    ids = [*best[0], *(id for id in best[1] if id not in best[0])]
    grid = [(layer, head, own.means[layer][head]) for layer in reversed(range(trace.layers)) for head in range(trace.heads)]
    rows = own.rows[look.layer][look.head]
    error = applied(CHAT.own, trace, Pattern.read(written)).certificate
    named = lambda at: float(f"{at[0]}.{at[1]}")  # noqa: E731
    numbers.claim({
        **sealed(trace), ".sparse > header .sentence": [[own.share, own.mean, named(own.worst), own.most]],
        ".pairs .ramp": [[0, limit(look.own.weight)]], "figcaption": [float(rows[look.query])],
        ".pairs .now@aria-label": [look.weight], ".lost .cell@data-lost": [x for *_, x in grid],
        ".lost .cell@aria-label": grid, ".lost .cell@title": grid, ".lost .ramp": [[0, own.most]],
        ".lost > .worst": [[named((look.layer, look.head)), float(rows.mean()), float(rows.max())]],
        ".before": [float(p[id]) for id in ids], ".later": [float(q[id]) for id in ids],
        ".points data": [float(100 * (q[id] - p[id])) for id in ids], ".kl": [own.bits[-1]],
        ".said .mean": [sum(own.bits) / len(own.bits)], ".said .sealed": [[1, error.row_sum_error, error.output_error]],
        "data.kept": [1.0, *(each.share for each in beside)], "data.lost": [0.0, *(each.mean for each in beside)],
        "data.worst": [each.most for each in beside], "data.bits": [each.bits[-1] for each in beside],
        "data.mean": [sum(each.bits) / len(each.bits) for each in beside],
        "data.next": [float(p.max()), *(float(each.q[-1].max()) for each in beside)],
        ".beside td > span.quiet": [named(each.worst) for each in beside],
    }, slack=2e-4)
    size = float(page.locator(".pane").get_attribute("data-cell"))
    seen = look.own.weight.masked_fill(~look.own.seen, math.nan)
    top = limit(seen)
    numbers.colours(".pairs canvas", 0, cells(seen, size, size, lambda x: ramp("weight", "light", x / top)))
    # The others are crossed out.
    numbers.digits(".pairs canvas", 0, (size, size), seen.masked_fill(~own.kept, math.nan).tolist())


def pronouns(numbers: Numbers, look: Look) -> None:
    page, trace, text = numbers.page, look.trace, look.trace.text
    it, right, wrong = (text.index(word) for word in ("it was", "animal", "street"))
    more = f"&coref.it={it}-{it + 2} it&coref.of={right}-{right + 6} animal;{wrong}-{wrong + 6} street"
    drawn(page, look.address("coref", more))
    page.locator("data.itself").first.wait_for()
    until(page, "document.querySelectorAll('data.given').length > 0")
    at = {word: trace.tokens.index(word) for word in ("animal", "street", "it")}     # each is one token
    heads = {(layer, head): Head(trace, layer, head).weight[at["it"]] for layer in range(trace.layers)
             for head in range(trace.heads)}
    both = {place: (float(row[at["animal"]]), float(row[at["street"]])) for place, row in heads.items()}
    leader = max(both, key=lambda place: both[place][0])
    share = {place: a / (a + b) for place, (a, b) in both.items()}
    grid = [(layer, head, share[layer, head]) for layer in reversed(range(trace.layers)) for head in range(trace.heads)]
    own, named, leads = both[look.layer, look.head], float(f"{look.layer}.{look.head}"), float(f"{leader[0]}.{leader[1]}")
    row = heads[look.layer, look.head]
    given = [float(w) for n, w in enumerate(row) if n != at["it"] and w >= 0.005]
    numbers.claim({
        **sealed(trace),
        "header .sentence": [[sum(a > b for a, b in both.values()), len(both), leads, both[leader][0]]],
        "data.given": given, ".cell@data-share": [x for *_, x in grid], ".cell@aria-label": grid, ".cell@title": grid,
        ".limits .ramp": [[0, 1]], ".columns .open h2": [named], ".columns .open@aria-label": [named],
        ".columns .open > .quiet": [1.0],
        "td data.weight": list(own), "td data.elsewhere": [1 - sum(own)],
        "data.itself": instead(text, it, ("the animal", "the street")),
    }, slack=2e-5)
    grammar(numbers, look, more)


@torch.no_grad()
def surprise(text: str, after: int = 0) -> list[float]:
    """-log2 of the probability of every token but the mark, as far as it reaches past a character."""
    model, tokenizer = CHAT.own
    ids, places = tokenizer.placed(text)
    p = torch.stack([softmax(row) for row in model(torch.tensor([ids]))[0]])
    return [-float(p[n - 1, ids[n]].log2()) for n in range(1, len(ids)) if places[n][1] > after]


def instead(text: str, at: int, names: tuple[str, ...]) -> list[float]:
    """Of each name in the place of "it" its part of the probability of the rest."""
    rest = [2.0 ** -sum(surprise(text[:at] + name + text[at + 2:], at + len(name))) for name in names]
    return [x / sum(rest) for x in rest]


def grammar(numbers: Numbers, look: Look, more: str) -> None:
    """Two sentences that differ in their last word but one, of one token each."""
    page, texts = numbers.page, ("The cat is here.", "The cat are here.")
    drawn(page, look.address("coref", f"{more}&coref.view=grammar&coref.right={texts[0]}&coref.wrong={texts[1]}"))
    page.locator("data.difference").wait_for()
    one, other = (surprise(text) for text in texts)
    gains = [b - a for a, b in zip(one, other, strict=True)]
    most = max(map(abs, gains))
    by: Tensor = torch.tensor(gains, dtype=torch.float64).sum()
    numbers.claim({
        **sealed(look.trace), "header .sentence": [abs(float(by))], "data.bits": [*one, *other],
        "data.total": [sum(one), sum(other)],
        "data.gain": gains, "data.difference": [float(by)], ".ramps .ramp": [[0, max(*one, *other)], [-most, most]],
    }, slack=2e-5)
