"""The numbers of the walk: its three matrices, its strips and what each of their numbers follows from, and its sentences."""

from __future__ import annotations

import oracle
from screens import drawn, settled
from shown import Entry, Numbers
from torch import Tensor
from wanted import Look, card, cells, likely, limit, ramp, sealed


def walk(numbers: Numbers, look: Look) -> None:
    page, own, n = numbers.page, look.own, len(look.trace.tokens)
    drawn(page, look.address("walk"))
    page.wait_for_selector(".strip[data-name=fed]")
    stages = ["dot", "masked", "weight"]
    tops = [limit(own.stage(stage)) for stage in stages]
    common = {
        **sealed(look.trace), **likely(look, [*range(1, 7), 30, 300]), ".one > p": [[], [], [own.rest]],
        ".one > p@title": [[], [], [own.rest]],
        "[role=gridcell].now@aria-label": [float(own.stage(stage)[look.query, look.key]) for stage in stages],
        ".one .ramp": [[-tops[0], tops[0]], [-tops[1], tops[1]], [0, tops[2]]],
    }
    numbers.claim({**common, **card(look, page, True), ".sentence": [[1, look.weight]]})
    page.locator(".card .all").click()
    numbers.claim(card(look, page, True), all=False)
    for m, stage in enumerate(stages):
        values = own.stage(stage)
        box = page.locator("canvas[data-matrix]").nth(m).bounding_box()
        size = box["width"] / n, box["height"] / n
        written = any(map(str.isdigit, page.locator("canvas[data-matrix]").nth(m).get_attribute("data-digits")))
        numbers.digits("canvas[data-matrix]", m, size, values.tolist(), all=written)     # or none, where one has no room
        numbers.colours("canvas[data-matrix]", m, cells(values, *size, lambda x, m=m, s=stage: ramp(s, "light", x / tops[m])))
    strips(numbers, look)
    sentences(numbers, look)


def strips(numbers: Numbers, look: Look) -> None:
    """A number of every strip, pointed at: its colour, itself, and what it follows from."""
    page, trace, call = numbers.page, look.trace, look.own.call
    block, start = trace.stream().blocks[look.layer], trace.stream()
    rows = {"embed": start.blocks[0].input[0], "norm": block.normed[0], "q": call.q[0, look.head],
            "k": call.k[0, look.own.group], "v": call.v[0, look.own.group], "mixed": call.output[0, look.head],
            "joined": call.output[0].transpose(0, 1).flatten(1), "projected": block.attended[0], "fed": block.fed[0]}
    for name, vectors in rows.items():
        css = f".strip[data-name={name}]"
        box, row = page.locator(css).bounding_box(), look.chance.randrange(len(vectors))
        vector, width = vectors[row].double(), vectors.shape[1]
        parts = min(int(box["width"]), width)
        part = look.chance.randrange(1, parts - 1)
        first, after = part * width // parts, (part + 1) * width // parts
        index = first + int(vector[first:after].abs().argmax())
        x, y = (part + 0.5) * box["width"] / parts, (row + 0.5) * box["height"] / len(vectors)
        hue = name if name in "qkv" else "o" if name in ("mixed", "joined", "projected") else "ink"
        numbers.colours(f"{css} canvas", 0, {(x, y): oracle.role(hue, float(vector[index] / vector.abs().max()))})
        page.mouse.move(5, 5)
        page.wait_for_selector("[role=tooltip]", state="detached")
        page.locator(css).evaluate("e => e.scrollIntoView({ block: 'center' })")     # a page that scrolls shows none
        settled(page)
        box = page.locator(css).bounding_box()
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.wait_for_selector("[role=tooltip]")
        lines = [*follows(look, name, row, index), *([[0, after - first]] if after - first > 1 else [])]   # a line of several
        numbers.claim({"[role=tooltip] p:first-child": [Entry([index, float(vector[index])])],
                       "[role=tooltip] data": [float(vector[index])], "[role=tooltip] p:not(:first-child)": lines}, all=False)
    page.mouse.move(5, 5)


def follows(look: Look, name: str, row: int, index: int) -> list[list[float]]:
    """What the lines under a number of a strip say, each with its numbers."""
    call, stream = look.own.call, look.trace.stream()
    block = stream.blocks[look.layer]
    middle = block.input + block.attended

    def at(x: Tensor) -> float:
        return float(x[0, row, index])

    if name in ("q", "k"):
        turned, of = (call.unrotated_q, look.head) if name == "q" else (call.unrotated_k, look.own.group)
        return [] if turned is None else [[float(turned[0, of, row, index])]]
    if name == "mixed":
        w, v = look.own.weight[row, :row + 1].tolist(), look.own.v[:row + 1, index].tolist()
        order = sorted(range(row + 1), key=lambda j: -abs(w[j] * v[j]))
        rest = [[len(order) - 4, sum(w[j] * v[j] for j in order[4:])]] if len(order) > 4 else []
        return [[], *[[w[j], v[j], w[j] * v[j]] for j in order[:4]], *rest]
    each = call.output.shape[3]
    if name == "joined":
        return [[index % each, index // each]]
    if name == "v":
        return [[look.own.group]]
    if name == "embed":
        return [[]] if stream.positions is None else [[at(stream.embedded), at(stream.positions)]]
    parts = {"norm": [block.input], "projected": [block.input, block.attended, middle],
             "fed": [middle, block.fed, block.output]}
    return [[at(x) for x in parts[name]]]


def sentences(numbers: Numbers, look: Look) -> None:
    """The one sentence of each of the fourteen steps."""
    page, trace, own, block = numbers.page, look.trace, look.own, look.trace.stream().blocks[look.layer]
    n, layer, last, call = len(trace.tokens), look.layer, trace.layers - 1, look.own.call
    long = lambda x: float(x[0, look.query].double().norm())  # noqa: E731
    width, d, (dot, scaled) = block.input.shape[2], call.width, (float(x[look.query, look.key]) for x in (own.dot, own.scaled))
    each, middle = call.output.shape[3], block.input + block.attended
    wanted = [
        [n, width], [layer, long(block.input), long(block.normed)], [d, n], [dot], [d ** -0.5, dot, scaled],
        [n * (n - 1) // 2, n * n, 0], [1, look.weight], [look.weight, 1 - look.weight],
        [call.heads, call.heads, each, look.head, look.head * each, look.head * each + each - 1], [long(block.attended)],
        [long(block.input), long(block.attended), long(middle)], [long(block.fed)],
        [layer] if layer == last else [layer, layer + 1] if layer == last - 1 else [layer, layer + 1, last - layer - 1],
        [look.next(look.query)[0], len(trace.vocabulary)],
    ]
    for step, said in enumerate(wanted):
        page.locator(".player li button").nth(step).click()
        numbers.claim({".sentence": [said]}, all=False)
