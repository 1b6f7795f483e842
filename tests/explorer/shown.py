"""The numbers that stand on a page, read off it: texts and attributes of elements, and what canvases were painted with."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

# Keeps every text that is painted on a canvas by its place, until the canvas is cleared. It runs before the page's own scripts.
KEEP = """(() => {
    const pen = CanvasRenderingContext2D.prototype, { fillText, clearRect } = pen
    pen.fillText = function (text, x, y, ...rest) {
        const { a, b, c, d, e, f } = this.getTransform()
        this.canvas.painted ??= new Map()
        this.canvas.painted.set([a * x + c * y + e, b * x + d * y + f].map(Math.round).join(), text)
        return fillText.call(this, text, x, y, ...rest)
    }
    pen.clearRect = function (...box) { this.canvas.painted = new Map(); return clearRect.apply(this, box) }
    for (const name of ['width', 'height']) {
        const own = Object.getOwnPropertyDescriptor(HTMLCanvasElement.prototype, name)
        const set = function (n) { this.painted = new Map(); own.set.call(this, n) }
        Object.defineProperty(HTMLCanvasElement.prototype, name, { ...own, set })
    }
})()"""

# Of each claim the elements that can be seen: their text or attribute, and their value.
READ = """claims => claims.map(([css, attribute]) => [...document.querySelectorAll(css)]
    .filter(e => e.tagName === 'title' || e.checkVisibility())
    .map(e => ({ text: attribute ? e.getAttribute(attribute) ?? '' : e.innerText ?? e.textContent,
                 value: !attribute && e.tagName === 'DATA' ? e.getAttribute('value') : null })))"""

# What is measured and belongs to no claim: numbers with a point, percentages and bytes in texts, titles and labels,
# every value, and every number that is kept in an attribute for tests.
LEFT = """claims => {
    const number = /\\d\\.\\d|\\d ?%|e[−-]\\d|\\d ?[KMGT]iB/, found = []
    const texts = claims.filter(([, attribute]) => !attribute).map(([css]) => css).join(',')
    const held = 'bdi, textarea, select, script, .examples', named = at => at.className?.baseVal ?? at.className
    const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT)
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const at = node.parentElement
        if (!number.test(node.data) || at.closest(held) || at.closest(texts)) continue
        if (at.closest('title') || at.checkVisibility()) found.push(`text ${named(at)}: ${node.data}`)
    }
    for (const at of document.querySelectorAll('main *')) {
        if (!at.checkVisibility() || at.closest(held)) continue
        for (const { name, value } of at.attributes) {
            const kept = name.startsWith('data-') && /^-?\\d+\\.\\d+(e-?\\d+)?$/.test(value)
            const told = /^(title|aria-label)$/.test(name) && number.test(value)
            if ((kept || told) && !claims.some(([css, attribute]) => attribute === name && at.matches(css)))
                found.push(`${name} of ${at.tagName} ${named(at)}: ${value}`)
        }
        if (at.tagName === 'DATA' && !at.closest(texts)) found.push(`value of ${at.className}: ${at.getAttribute('value')}`)
    }
    return found
}"""

PIXELS = """([css, n, points]) => {
    const canvas = document.querySelectorAll(css)[n], copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d')
    copy.drawImage(canvas, 0, 0)
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height)
    return points.map(([x, y]) => [...data.slice(4 * (Math.floor(y) * canvas.width + Math.floor(x))).slice(0, 4)])
}"""
PAINTED = """([css, n]) => [...(document.querySelectorAll(css)[n].painted ?? [])]
    .map(([at, text]) => [...at.split(',').map(Number), text])"""

_NUMBER = re.compile(r"(< |≤ )?([−+-])?(\d[\d,]*(?:\.\d+)?|\.\d+)(?:e([−-]?\d+))?( ?(?:%|KiB|MiB|GiB|B\b))?")
_UNITS = {"": 1.0, "%": 0.01, "B": 1.0, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}


def numbers(text: str) -> list[tuple[float, float]]:
    """The numbers of a text as what they can stand for: from and to, half a unit of the last digit on either side; of a
    bound the whole unit below it."""
    found = []
    for kind, sign, digits, power, unit in _NUMBER.findall(text):
        scale = _UNITS[unit.strip()] * 10.0 ** int(power.replace("−", "-") or 0)
        half = 0.5 * scale * 10.0 ** -len(digits.partition(".")[2])
        x = float(digits.replace(",", "")) * scale * (-1 if sign and sign in "−-" else 1)
        found.append({"< ": (0.0, half), "": (x - half, x + half)}.get(kind, (x - 2 * half, x)))
    return found


@dataclass(frozen=True)
class Entry:
    """What one element should say: the numbers of its text, and its value where that is another."""

    text: Sequence[float]
    value: float | None = None


Wanted = Sequence[float | Sequence[float] | Entry]


@dataclass
class Numbers:
    """Compares what stands on a page with what should, and counts: of every screen the numbers and the colours of cells."""

    page: object
    screen: str = ""
    compared: Counter[str] = field(default_factory=Counter)
    painted: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def one(self, where: str, shown: tuple[float, float], wanted: float, said: str, slack: float) -> None:
        """Whether a number may stand for the wanted one; `slack` is the rounding of float32, relative."""
        self.compared[self.screen] += 1
        room = slack * abs(wanted) + 1e-9
        if not shown[0] - room <= wanted <= shown[1] + room:
            self.wrong.append(f"{self.screen} {where}: {said!r} should be {wanted!r}")

    def entry(self, where: str, said: dict, entry: float | Sequence[float] | Entry, slack: float) -> None:
        if not isinstance(entry, Entry):
            entry = Entry([entry] if isinstance(entry, float | int) else entry)
        found = numbers(said["text"])
        if len(found) != len(entry.text):
            self.wrong.append(f"{self.screen} {where}: {said['text']!r} should have {list(entry.text)}")
            return
        for shown, wanted in zip(found, entry.text, strict=True):
            self.one(where, shown, wanted, said["text"], slack)
        value = entry.text[0] if entry.value is None and entry.text else entry.value
        if said["value"] is not None and value is not None:
            self.one(f"{where} value", (float(said["value"]),) * 2, value, said["value"], 5 * slack)

    def claim(self, claims: dict[str, Wanted], slack: float = 2e-6, all: bool = True) -> None:
        """Each claim names elements, as "css" or "css@attribute", and what every one of them should say. With `all`, no
        other number stands on the screen."""
        places = [css.split("@") if "@" in css else [css, None] for css in claims]
        for (css, wanted), found in zip(claims.items(), self.page.evaluate(READ, places), strict=True):
            if len(found) != len(wanted):
                self.wrong.append(f"{self.screen} {css}: {len(found)} elements, and not {len(wanted)}: {found[:3]}")
                continue
            for n, (said, entry) in enumerate(zip(found, wanted, strict=True)):
                exact = "@data-" in css      # the number itself, with every digit
                if exact:
                    self.one(f"{css} {n}", (float(said["text"]),) * 2, float(entry), said["text"], 5 * slack)
                else:
                    self.entry(f"{css} {n}", said, entry, slack)
        if all:
            self.wrong += [f"{self.screen}: nobody knows {left}" for left in self.page.evaluate(LEFT, places)]

    def colours(self, css: str, n: int, wanted: dict[tuple[float, float], Sequence[float] | None]) -> None:
        """The colours of a canvas at its pixels, red, green and blue, as near as two roundings; None is unpainted."""
        found = self.page.evaluate(PIXELS, [css, n, list(wanted)])
        for (at, colour), shown in zip(wanted.items(), found, strict=True):
            self.painted[self.screen] += 1
            if shown[3] != 0 if colour is None else any(abs(a - b) > 1.6 for a, b in zip(shown, colour, strict=False)):
                self.wrong.append(f"{self.screen} {css} {n}: {shown} at {at} should be {colour}")

    def digits(self, css: str, n: int, cell: tuple[float, float], wanted: Sequence[Sequence[float]],
               origin: tuple[float, float] = (0, 0), all: bool = True) -> None:
        """The digits in the cells of a canvas: of every text that stands in a cell the number that is wanted there; NaN is
        none. With `all`, every cell with a number has its text, and no other has one."""
        said = {}
        for x, y, text in self.page.evaluate(PAINTED, [css, n]):
            i, j = math.floor((y - origin[1]) / cell[1]), math.floor((x - origin[0]) / cell[0])
            if 0 <= i < len(wanted) and 0 <= j < len(wanted[0]):
                said[i, j] = text
        cells = {(i, j): w for i, row in enumerate(wanted) for j, w in enumerate(row) if not math.isnan(w)}
        if all and set(said) != set(cells):
            self.wrong.append(f"{self.screen} {css} {n}: digits stand in {sorted(said)}")
        for at in set(said) & set(cells):
            text = "1.000" if said[at] == "1" else said[at]     # "1" is written where three noughts would follow
            self.entry(f"{css} {n} {at}", {"text": text, "value": None}, [cells[at]], 2e-6)
