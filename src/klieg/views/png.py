"""A picture as PNG: the same geometry as the SVG, drawn with Pillow at twice the size."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise

from PIL import Image, ImageDraw

from klieg.errors import KliegError
from klieg.views import fonts
from klieg.views.palette import interpolate
from klieg.views.picture import MARGIN, Bar, Cell, Inset, Link, Picture, Ramp, Rule, Text

LARGEST = 120_000_000     # pixels; a larger picture is refused before memory is


def lower(picture: Picture, zoom: float = 2.0) -> bytes:
    """The picture as a PNG file; `zoom` device pixels for each CSS pixel."""
    across, down = picture.medium.pixels
    width, height = (round((length + 2 * MARGIN) * zoom) for length in (picture.width * across, picture.height * down))
    if width * height > LARGEST:
        raise KliegError(f"a PNG of {width} x {height} pixels is too large; choose SVG, or a shorter text.")
    image = Image.new("RGB", (width, height), picture.theme.panel)
    _Brush(image, zoom * across, zoom * down, zoom).draw(picture, MARGIN * zoom, MARGIN * zoom)
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


class _Brush:
    """Draws marks on an image; x and y are the pixels of one unit of the picture, zoom those of a CSS pixel."""

    def __init__(self, image: Image.Image, x: float, y: float, zoom: float) -> None:
        self.image, self.pen = image, ImageDraw.Draw(image, "RGB")
        self.x, self.y, self.zoom = x, y, zoom

    def draw(self, picture: Picture, x: float, y: float) -> None:
        """Every mark, later ones over earlier ones; x and y are pixels."""
        for mark in picture.marks:
            at = (x + mark.x * self.x, y + mark.y * self.y)
            if isinstance(mark, Inset):
                self.draw(mark.picture, *at)
            else:
                _DRAW[type(mark)](self, mark, picture, *at)

    def rect(self, x: float, y: float, width: float, height: float, fill: str, radius: float = 0) -> None:
        if width > 0 and height > 0:
            box = (round(x), round(y), max(round(x + width) - 1, round(x)), max(round(y + height) - 1, round(y)))
            self.pen.rounded_rectangle(box, radius, fill) if radius else self.pen.rectangle(box, fill)

    def dot(self, x: float, y: float, fill: str) -> None:
        self.pen.circle((x, y), 0.9 * self.zoom, fill)

    def write(self, pieces: list[tuple[str, float, bool, str]], x: float, y: float, anchor: str, turn: int = 0) -> None:
        """Pieces (text, size, bold, colour) on one line whose middle is at y; turned about its anchor."""
        runs = [(run, face, colour) for text, size, bold, colour in pieces
                for run, face in fonts.runs(text, size * self.zoom, bold)]
        length = sum(face.getlength(run) for run, face, _ in runs)
        left = {"start": 0.0, "middle": -length / 2, "end": -length}[anchor]
        if turn:
            return self._turned(runs, length, x + left, y, turn)
        self._runs(self.pen, runs, x + left, y)
        return None

    def _runs(self, pen: ImageDraw.ImageDraw, runs: list, x: float, y: float) -> None:
        for run, face, colour in runs:
            capital = face.getbbox("x", anchor="ls")[1] * 0.72
            pen.text((x, y - capital), run, colour, face, anchor="ls")
            x += face.getlength(run)

    def _turned(self, runs: list, length: float, x: float, y: float, turn: int) -> None:
        """Writes on a sheet of its own, turns it about the start of the line, and lays it on."""
        reach = int(length) + 8
        for colour in dict.fromkeys(run[2] for run in runs):
            sheet = Image.new("L", (2 * reach, 2 * reach))
            masked = [(run, face, 255 if own == colour else 0) for run, face, own in runs]
            self._runs(ImageDraw.Draw(sheet), masked, reach, reach)
            sheet = sheet.rotate(-turn, Image.Resampling.BICUBIC, center=(reach, reach))
            self.image.paste(colour, (round(x) - reach, round(y) - reach), sheet)


def _cell(brush: _Brush, cell: Cell, picture: Picture, x: float, y: float) -> None:
    width, height, theme = cell.width * brush.x, cell.height * brush.y, picture.theme
    fill = theme.colour(cell.paint)
    if cell.state == "masked":
        return brush.dot(x + width / 2, y + height / 2, fill)
    if cell.state == "hidden":
        fill = theme.sunk
        brush.rect(x, y, width, height, fill)
        for s in range(0, int(width), round(6 * brush.zoom)):
            end = (min(x + s + height, x + width), max(y + height - width + s, y))
            brush.pen.line((x + s, y + height, *end), theme.strong, round(brush.zoom))
    else:
        brush.rect(x, y, width, height, fill, 4 * brush.zoom if min(width, height) > 20 * brush.zoom else 0)
    if cell.digits:
        size = 11 if picture.medium.char > 1 else 13
        brush.write([(cell.digits, size, False, theme.on(fill))], x + width / 2, y + height / 2, "middle")
    return None


def _bar(brush: _Brush, bar: Bar, picture: Picture, x: float, y: float) -> None:
    width, height, fill = bar.width * brush.x, bar.height * brush.y, picture.theme.colour(bar.paint)
    if bar.value is None:
        brush.dot(x + width / 2, y + height - 2 * brush.zoom, picture.theme.ink3)
    elif bar.upright:
        filled = max(height * bar.part, 1.5 * brush.zoom)
        brush.rect(x, y + height - filled, width - 0.5 * brush.zoom, filled, fill)
    else:
        brush.rect(x, y, max(width * bar.part, brush.zoom), height, fill, 2 * brush.zoom if bar.part * width > 8 else 0)


def _link(brush: _Brush, link: Link, picture: Picture, x: float, y: float) -> None:
    """The SVG's line, straight or a cubic with level ends, as dots so close that they are one."""
    dx, dy = (link.to_x - link.x) * brush.x, (link.to_y - link.y) * brush.y
    radius = max(link.value * 6, 0.4) * brush.zoom
    steps = max(int(abs(dx) + abs(dy)), 1)
    for t in (n / steps for n in range(steps + 1)):
        along, down = (t, t) if link.straight else (1.5 * t * (1 - t) + t ** 3, t * t * (3 - 2 * t))
        at = (x + min(max(dx * along, radius), dx - radius), y + dy * down)
        brush.pen.circle(at, radius, picture.theme.colour(link.paint))


def _text(brush: _Brush, text: Text, picture: Picture, x: float, y: float) -> None:
    size = text.size if picture.medium.char > 1 else 13
    pieces = [(span.text, size, span.bold, picture.theme.colour(span.paint)) for span in text.spans]
    brush.write(pieces, x, y + picture.medium.line * brush.y / 2, text.anchor, text.turn)


def _rule(brush: _Brush, rule: Rule, picture: Picture, x: float, y: float) -> None:
    width, height, colour = rule.width * brush.x, rule.height * brush.y, picture.theme.colour(rule.paint)
    thick = round(rule.thickness * brush.zoom)
    if rule.bracket:
        drop = 6 * brush.zoom
        brush.pen.line([(x, y + drop), (x, y), (x + width, y), (x + width, y + drop)], colour, thick)
    elif rule.dashed:
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
        for (ax, ay), (bx, by) in pairwise(corners):
            length = abs(bx - ax) + abs(by - ay)
            dx, dy = (bx - ax) / length, (by - ay) / length
            for start in range(0, int(length), round(6 * brush.zoom)):
                end = min(start + 3 * brush.zoom, length)
                brush.pen.line((ax + dx * start, ay + dy * start, ax + dx * end, ay + dy * end), colour, thick)
    elif width and height:
        half = thick / 2
        box = (x - half, y - half, x + width + half, y + height + half)
        brush.pen.rounded_rectangle(box, 5 * brush.zoom, None, colour, thick)
    else:
        brush.pen.line((x, y, x + width, y + height), colour, thick)


def _ramp(brush: _Brush, ramp: Ramp, picture: Picture, x: float, y: float) -> None:
    stops, ink = getattr(picture.theme, ramp.name), picture.theme.ink3
    width, height = round(ramp.width * brush.x), ramp.height * brush.y
    low = (len(ramp.low) * 6.5 + 8) * brush.zoom
    middle = y + height / 2
    brush.write([(ramp.low, 11, False, ink)], x, middle, "start")
    for n in range(width):
        brush.rect(x + low + n, y, 1, height, interpolate(stops, n / max(width - 1, 1)))
    brush.write([(ramp.high, 11, False, ink)], x + low + width + 8 * brush.zoom, middle, "start")


_DRAW = {Cell: _cell, Bar: _bar, Link: _link, Text: _text, Rule: _rule, Ramp: _ramp}
