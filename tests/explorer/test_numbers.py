"""Every number on eight screens is the trace's own, to the digits shown: texts, values, titles and what canvases are painted
with, at places drawn by chance, beside the formula in float64. A number of which nobody knows what it is fails too."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable
from urllib.parse import quote

import oracle
import pytest
import torch
from beyond import pronouns, sparse
from made import made
from oracle import Head, bits, cosines, softmax
from screens import CHAT, drawn, settled, until
from shown import KEEP, Entry, Numbers
from streaming import streamed
from walked import walk
from wanted import Claims, Look, card, cells, likely, limit, ramp, sealed

from klieg import models
from klieg.explorer.desk import Desk
from klieg.trace import Trace
from klieg.watch import trace

pytestmark = pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")

TEXT, OTHER, FILM = "I love the little cat", "She gave the cat some milk", "Once upon a time"
RIDDLE = "The animal did not cross the street because it was too tired"
LONGER = ("There was once a small lamp in the window of a house by the sea. Every night an old man lit the lamp, and every "
          "night the boats saw it and came home. One day the old man was ill, and the lamp stayed dark.")


def heads(numbers: Numbers, look: Look) -> None:
    page, own, trace, chance = numbers.page, look.own, look.trace, look.chance
    stage, theme = chance.choice(["dot", "scaled", "masked", "weight", "weight"]), chance.choice(["light", "dark"])
    scale = chance.choice(["linear", "log", "hide"]) if stage == "weight" else "linear"
    all = [[Head(trace, layer, head).statistics() for head in range(trace.heads)] for layer in range(trace.layers)]
    name = chance.choice(list(all[0][0]))
    drawn(page, look.address("heads", f"&stage={stage}&scale={scale}&colour={name}", theme))
    page.wait_for_selector(".card")
    found = [(layer, head, all[layer][head][name]) for layer in reversed(range(trace.layers)) for head in range(trace.heads)]
    ends = min(x for *_, x in found), max(x for *_, x in found)
    values = own.stage(stage)
    top = limit(values[:, 1:]) if scale == "hide" else 1.0 if scale == "log" else limit(values)
    row = own.weight[look.query].tolist()
    statistics = all[look.layer][look.head]
    numbers.claim({
        **sealed(trace), **card(look, page), **likely(look, range(1, 11)), ".grid .cell@data-value": [x for *_, x in found],
        ".grid .cell@aria-label": found, ".grid .cell@title": found, ".limits .ramp": [ends],
        "data.statistic": [statistics[name] for name in ("entropy", "first", "distance")], ".head .sentence": [max(row)],
        ".head .sentence@title": [max(row)],
        ".map .ramp": [[-top if stage != "weight" else oracle.LEAST if scale == "log" else 0, top]],
        ".links small": [w for w in row if w >= 0.005], ".share span": [0.95],
        ".words small": [[w] if j <= look.query else [] for j, w in enumerate(row)],
        "figcaption": [own.rest], ".map .now@aria-label": [float(values[look.query, look.key])],
    }, slack=4e-6)
    size = page.locator(".now").bounding_box()["width"]
    colour = lambda x: ramp(stage, theme, oracle.logarithmic(x, oracle.LEAST) if scale == "log" else x / top)  # noqa: E731
    if scale == "hide":
        values = values.clone()
        values[:, 0] = math.nan
    numbers.digits(".map canvas", 0, (size, size), values.tolist())
    numbers.colours(".map canvas", 0, cells(values, size, size, colour))
    painted = page.eval_on_selector_all(
        ".grid .cell", "all => all.map(e => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number))")
    for shown, (layer, head, x) in zip(painted, found, strict=True):
        share = (x - ends[0]) / (ends[1] - ends[0])
        if any(abs(a - b) > 1.6 for a, b in zip(shown, oracle.along(oracle.STATISTIC[theme], share), strict=True)):
            numbers.wrong.append(f"heads: the colour of {layer}.{head} is {shown}")


def street(numbers: Numbers, look: Look) -> None:
    """The map: as a whole, then so close that its cells have numbers, with one written out."""
    page, own, theme = numbers.page, look.own, look.chance.choice(["light", "dark"])
    n, w = len(look.trace.tokens), own.own
    drawn(page, look.address("map", theme=theme))
    page.wait_for_selector(".map.ready")
    page.wait_for_selector(".hover.light")
    until(page, "document.querySelectorAll('ol button').length >= 6")
    low = 10.0 ** -(math.ceil(math.log10(n)) + 1)
    lit = [int(x) for x in page.eval_on_selector_all(".lit", "all => all.map(e => e.dataset.token)")]
    claims = {
        **sealed(look.trace), **linked(look, page), ".foot .ramp": [[low, 1]], ".hover data.max": [look.weight],
        ".hover .formula": [[float(own.scaled[look.query, look.key]), float(own.call.lse[0, look.head, look.query])]],
        ".lit@data-weight": [float(w[look.query, token]) for token in lit], ".right .sink": [own.statistics()["first"]],
        ".map@data-low": [low], "#map-cell@aria-label": [look.weight],
    }
    numbers.claim(claims, slack=4e-6)
    box = page.locator(".pane").bounding_box()
    scale, left = box["width"] / n, 66
    colour = lambda x: oracle.along(oracle.WEIGHT[theme], oracle.logarithmic(x, low))  # noqa: E731
    points = {(left + (j + 0.5) * scale, 24 + (i + 0.5) * scale): colour(float(w[i, j]))
              for i in range(n) for j in range(1, i + 1) if i != look.query and j != look.key}
    numbers.colours(".map canvas", 0, points)
    numbers.colours(".square canvas", 0, {((j + 0.5) * 132 / n, (i + 0.5) * 132 / n): colour(float(w[i, j]))
                                          for i in range(n) for j in range(i + 1)})
    for _ in range(6):
        i = look.chance.randrange(1, n)
        j = look.chance.randrange(i)
        page.mouse.move(box["x"] + (j + 0.5) * scale, box["y"] + (i + 0.5) * scale)
        page.wait_for_selector(f".hover:not(.light) data.max[data-query='{i}'][data-key='{j}']")
        parts = [float(own.scaled[i, j]), float(own.call.lse[0, look.head, i])]
        numbers.claim({".hover data.max": [float(w[i, j])], ".hover .formula": [parts]}, slack=4e-6, all=False)
    page.mouse.move(5, 5)
    closely(numbers, look, theme, low)


def linked(look: Look, page) -> Claims:
    """The list of the strongest links of a whole map, and its one sentence."""
    links = look.own.links()[:page.locator("ol button").count()]
    strongest, query, key = links[0]
    found = {f"ol button@data-{name}": [link[n] for link in links] for n, name in enumerate(("weight", "query", "key"))}
    return {**found, "ol button data": [weight for weight, *_ in links], ".right .sentence": [[query - key, strongest]]}


def closely(numbers: Numbers, look: Look, theme: str, low: float) -> None:
    page, own, n = numbers.page, look.own, len(look.trace.tokens)
    box = page.locator(".pane").bounding_box()
    across = 12
    drawn(page, look.address("map", f"&map.at={look.query},{look.key},{across}", theme))
    page.wait_for_selector(".map.ready[data-bucket='1']")
    scale = min(box["width"], box["height"]) / across
    corner = lambda at, room: min(max(at + 0.5 - room / scale / 2, 0), n - room / scale)  # noqa: E731
    x, y = corner(look.key, box["width"]), corner(look.query, box["height"])
    values = own.own.masked_fill(~own.seen, math.nan)
    inside = lambda at, start, room: start + 0.2 < at < start + room / scale - 1.2  # noqa: E731
    for i in range(n):
        for j in range(n):
            if not (inside(i, y, box["height"]) and inside(j, x, box["width"])):
                values[i, j] = math.nan
    origin = 66 - x * scale, 24 - y * scale
    points = {(origin[0] + j * scale + 5, origin[1] + i * scale + 5): float(values[i, j])
              for i in range(n) for j in range(n) if not values[i, j].isnan() and i != look.query and j != look.key}
    numbers.colours(".map canvas", 0, {at: oracle.along(oracle.WEIGHT[theme], oracle.logarithmic(w, low))
                                       for at, w in points.items()})
    numbers.digits(".map canvas", 0, (scale, scale), values.tolist(), origin, all=False)
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    numbers.claim(card(look, page), all=False)


def film(numbers: Numbers, look: Look) -> None:
    page, found, own = numbers.page, look.trace, look.own
    start, temperature = len(CHAT.own[1].encode(FILM)), look.chance.choice([0.5, 0.7, 1.3])
    step = look.chance.randrange(1, len(found.tokens) - start)
    place, w = start + step, own.weight
    row = w[place - 1, :place].tolist()
    drawn(page, look.address("film", f"&film.at={step}&film.sampling={temperature} 0 1", text=FILM))
    page.wait_for_selector("li.chosen data")
    until(page, "document.querySelectorAll('.frame').length === it && document.querySelector('.peak')",
          len(found.tokens) - start)
    until(page, f"document.querySelector('.sentence p').textContent.startsWith('Step {step + 1} ')")
    folded = place + 1 - page.locator(".word").count()
    share = lambda x: Entry([100 * x] if x >= 0.005 else [], x)  # noqa: E731
    before = [max(w[start + n - 1, :start + n].tolist()) for n in range(step)]
    trails = before + [x for x in sorted(row)[-24:] if x >= 0.002]
    chosen = [float(softmax(found.logits[at - 1])[found.ids[at]]) for at in range(start, len(found.tokens))]
    p = softmax(found.logits[place - 1].double() / temperature)
    best = p.argsort(descending=True)[:5].tolist()
    best = best if found.ids[place] in best else [found.ids[place], *best[:4]]
    folds = {".fold data": [share(sum(row[:folded]))], ".fold@title": [[folded, sum(row[:folded])]]} if folded else {}
    numbers.claim({
        **sealed(found), **folds, **cache(page, found, place), ".peak": [max(row)],
        ".word data": [share(x) for x in row[folded:]],
        ".word .text@title": [*row[folded:], []], "figure path title": trails, ".film output": [temperature, [], 1.0],
        "li data": [float(p[id]) for id in best], ".frame@data-p": chosen, ".frame small": [x for x in chosen if x < 0.995],
        ".frame@title": [[n + 1, x] for n, x in enumerate(chosen)], ".axis": [[1, 0]],
    })


def cache(page, found: Trace, tokens: int) -> Claims:
    """The bytes of keys and values: of 4 bytes a number, for as many K/V heads as query heads, as the model has, and one."""
    each = [2 * 4 * found.layers * heads * found.calls[0].width for heads in (found.heads, found.kv_heads, 1)]
    most = each[0] * (len(found.tokens) - 1)
    # A tick stands where its number is: nothing at the floor, all of it at the top.
    ticks = page.eval_on_selector_all("aside svg line.grid", "all => all.map(e => +e.getAttribute('y1'))")
    return {"aside header data": [tokens], "aside td data": [bytes * n for bytes in each for n in (tokens, 1, 131072)],
            "aside svg .grid + text": [most * (1 - (y - 26) / 150) for y in ticks]}


def silenced(layer: int, head: int):
    """A copy of the bundled model in which a head's columns of W_O are zero."""
    model, width = copy.deepcopy(CHAT.own[0]), CHAT.own[0].head_width
    with torch.no_grad():
        model.model.layers[layer].self_attn.o_proj.weight[:, head * width:(head + 1) * width] = 0
    return model


@torch.no_grad()
def effects(found: Trace) -> list[tuple[int, int, float, float]]:
    """What muting each head does: layer, head, the divergence, and the change of log2 of the likeliest token's probability."""
    model, ids, said = CHAT.own[0], torch.tensor([found.ids]), []
    p, width = softmax(found.logits[-1]), CHAT.own[0].head_width
    for layer in range(found.layers):
        for head in range(found.heads):
            def mute(_, given: tuple, head: int = head) -> tuple:
                joined = given[0].clone()
                joined[..., head * width:(head + 1) * width] = 0
                return (joined,)
            hook = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(mute)
            q = softmax(model(ids)[0, -1])
            hook.remove()
            said.append((layer, head, bits(p, q), float((q[p.argmax()] / p.max()).log2())))
    return said


def what_if(numbers: Numbers, look: Look) -> None:
    page, before, chance = numbers.page, look.trace, look.chance
    layer, head = chance.randrange(look.layer) if look.layer else 0, chance.randrange(before.heads)
    after = trace((silenced(layer, head), CHAT.own[1]), TEXT, name="chat")
    drawn(page, look.address("whatif", f"&whatif.changes=mute {layer}.{head}"))
    page.locator(".kl").wait_for()
    until(page, f"document.querySelectorAll('.ranking .cell[data-divergence]').length === {before.layers * before.heads}")
    p, q = softmax(before.logits[-1]), softmax(after.logits[-1])
    first, then = (x.argsort(descending=True)[:8].tolist() for x in (p, q))
    ids = [*first, *(id for id in then if id not in first)]
    now = [float(x) for x in (p[ids[0]], q[ids[0]], q.max())]
    muted, error = effects(before), after.certificate
    grid = [effect for at in reversed(range(before.layers)) for effect in muted if effect[0] == at]
    missed = sorted(muted, key=lambda effect: -effect[2])[:10]
    w, v = look.own.weight, Head(after, look.layer, look.head).weight
    numbers.claim({
        **sealed(before), ".before": [float(p[id]) for id in ids], ".later": [float(q[id]) for id in ids],
        ".points data": [float(100 * (q[id] - p[id])) for id in ids], ".kl": [bits(p, q)],
        ".sealed": [[1, error.row_sum_error, error.output_error]],
        ".prediction .sentence": [now if ids[0] != then[0] else now[:2]],
        ".edge .was": [look.weight], ".edge .is": [float(v[look.query, look.key])], ".views .ramp": [[0, limit(w)]],
        ".views .now@aria-label": [look.weight], ".chips li button@title": [float(f"{layer}.{head}")],
        ".chips li button@aria-label": [float(f"{layer}.{head}")],
        ".ranking .cell@data-divergence": [kl for _, _, kl, _ in grid], ".ranking .cell@data-change": [x for *_, x in grid],
        ".ranking .cell@aria-label": [effect[:3] for effect in grid], ".ranking .cell@title": [effect[:3] for effect in grid],
        ".ranking .ramp": [[0, missed[0][2]]], ".ranking td data": [x for *_, kl, change in missed for x in (kl, change)],
        ".ranking td data@title": [x for *_, change in missed for x in ([], 2 ** change)],
        ".ticks i": [0, 0.25, 1, 4], ".factor": [Entry([], 1)],
    }, slack=1e-4)
    size = float(page.locator(".pane").get_attribute("data-cell"))
    hidden = w.masked_fill(~look.own.seen, math.nan)
    for view, values in (("Before", hidden), ("After", v + 0 * hidden), ("Difference", v - w + 0 * hidden)):
        page.locator(".views label", has_text=view).click()
        settled(page)
        top, stage = limit(values), "dot" if view == "Difference" else "weight"
        numbers.claim({".views .ramp": [[-top if stage == "dot" else 0, top]]}, slack=1e-4, all=False)
        numbers.colours(".views canvas", 0, cells(values, size, size, lambda x, s=stage, top=top: ramp(s, "light", x / top)))
        said = values.masked_fill(values.abs() < 0.005, math.nan) if stage == "dot" else values
        numbers.digits(".views canvas", 0, (size, size), said.tolist())


def compare(numbers: Numbers, look: Look) -> None:
    page, a, b, chance = numbers.page, look.trace, trace(CHAT.own, OTHER, name="chat"), look.chance
    i, j = chance.randrange(1, len(a.tokens)), chance.randrange(1, len(b.tokens))
    drawn(page, look.address("compare", f"&compare.text={quote(OTHER)}&compare.a={i}&compare.b={j}"))
    page.wait_for_selector("data.cosine")
    page.wait_for_selector("td.p.b data")
    until(page, "document.querySelectorAll('.one canvas').length === 2")
    x, y = ([s.embedded[0], *(block.output[0] for block in s.blocks)] for s in (a.stream(), b.stream()))
    pairs = [cosines(u, v) for u, v in zip(x, y, strict=True)]
    near = pairs[1 + look.layer]
    both = [Head(each, look.layer, look.head).weight for each in (a, b)]
    rows = [sorted(weights[at, :at + 1].tolist(), reverse=True)[:6] for weights, at in zip(both, (i, j), strict=True)]
    top = max(float(weights.max()) for weights in both)
    ticks = page.eval_on_selector_all(".chart svg text", "all => all.map(e => +e.innerHTML.replace('−', '-'))")
    numbers.claim({
        **sealed(a), "data.cosine": [float(c[i, j]) for c in pairs], "data.mean": [float(c.mean()) for c in pairs],
        "#compare-a [role=option] data": near[:, j].tolist(), "#compare-b [role=option] data": near[i].tolist(),
        "main > .sentence, .compare > .sentence": [[float(pairs[0][i, j]), float(pairs[-1][i, j]), a.layers - 1]],
        "td.p": following(softmax(a.logits[i]), softmax(b.logits[j])), ".one ol data": [*rows[0], *rows[1]],
        ".heads .ramp .ramp": [[0, top]], ".chart svg text": ticks,
    }, slack=4e-6)
    # The axis of the chart: equal steps from 1 down, evenly apart.
    assert ticks[-1] == 1 and len({round(u - t, 9) for t, u in itertools.pairwise(ticks)}) == 1
    for n, weights in enumerate(both):
        values = weights.masked_fill(~torch.ones_like(weights).tril().bool(), math.nan)
        size = page.locator(".one canvas").nth(n).bounding_box()["width"] / len(values)
        numbers.colours(".one canvas", n, cells(values, size, size, lambda x: ramp("weight", "light", x / top)))
        if size >= 30:
            numbers.digits(".one canvas", n, (size, size), values.tolist())


def following(p: torch.Tensor, q: torch.Tensor) -> list[float]:
    """The likeliest five after either token, side by side; of a token that is not among the first 200 of a side stands the
    last of those, which it cannot exceed."""
    lists = [x.argsort(descending=True)[:200].tolist() for x in (p, q)]
    ids = dict.fromkeys([*lists[0][:5], *lists[1][:5]])
    own = [{id: float(x[id]) for id in known} for x, known in zip((p, q), lists, strict=True)]
    order = sorted(ids, key=lambda id: -max(own[0].get(id, 0), own[1].get(id, 0)))
    return [side.get(id, float(x[known[-1]])) for id in order for side, x, known in zip(own, (p, q), lists, strict=True)]


# ---- all of them ----

@pytest.fixture
def looks(served) -> Callable[[str, random.Random], Look]:
    """looks("chat", chance) -> a place in a trace that the page is given: of the bundled model, "long" of a longer text,
    "riddle" of one with a pronoun,
    "film" of what it writes, or "saved", made of random numbers."""
    random_numbers = streamed(made("saved", "one two three four five"))
    random_numbers.vocabulary = [f"word {letter}" for letter in "abcdefghijklmnop"]
    host = served(Desk({"chat": CHAT}, {"saved": random_numbers}))
    model, tokenizer = CHAT.own
    ids = tokenizer.encode(FILM)
    for _ in range(16):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == tokenizer.eos:
            break
    found = {"chat": trace(CHAT.own, TEXT, name="chat"), "long": trace(CHAT.own, LONGER, name="chat"),
             "film": trace(CHAT.own, ids, name="chat"), "riddle": trace(CHAT.own, RIDDLE, name="chat"), "saved": random_numbers}
    return lambda name, chance: Look(host, found[name].model, found[name], chance)


ROUNDS = [(walk, "chat"), (walk, "saved"), (heads, "chat"), (heads, "chat"), (heads, "saved"), (street, "long"), (film, "film"),
          (what_if, "chat"), (compare, "chat"), (sparse, "chat"), (pronouns, "riddle")]


def test_every_number_on_eight_screens_is_the_traces_own(page, looks) -> None:
    page.add_init_script(KEEP)
    numbers, chance = Numbers(page), random.Random(20170612)
    for screen, name in ROUNDS:
        numbers.screen = screen.__name__
        screen(numbers, looks(name, chance))
    print("numbers:", dict(numbers.compared), "colours:", dict(numbers.painted))
    assert not numbers.wrong, "\n".join(numbers.wrong)
    assert len(numbers.compared) == 8 and min(numbers.compared.values()) >= 50 and sum(numbers.compared.values()) >= 500


LIE = """(() => {
    const { toFixed } = Number.prototype
    Number.prototype.toFixed = function (digits) { return toFixed.call(this + 10 ** -digits, digits) }
})()"""


def test_a_wrong_last_digit_is_found(page, looks) -> None:
    """The measure measures: where every rounded number is one too high in its last digit, all are found."""
    page.add_init_script(KEEP)
    page.add_init_script(LIE)
    numbers = Numbers(page, "heads")
    heads(numbers, looks("chat", random.Random(1)))
    for css in (".card .headline", ".card tr.q td", ".card .under", ".links small", "ol:has(.name) data", ".map canvas",
                ".grid .cell"):
        assert any(css in line for line in numbers.wrong), css
