"""A picture as one SVG file: no script, no reference to anything outside, every text escaped.

Numbers that are too small to be written stand in the title of their cell, which browsers show
on hover and screen readers speak.
"""

from __future__ import annotations

from html import escape

from klieg.views.glyphs import wide
from klieg.views.palette import interpolate
from klieg.views.picture import MARGIN, Bar, Cell, Inset, Link, Medium, Picture, Ramp, Rule, Text

FONTS = ("Inter, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', 'PingFang SC', 'Noto Sans CJK SC', 'Noto Sans SC', "
         "'Microsoft YaHei', sans-serif")
STRIPES = 64     # steps of a colour bar; no gradient, so that two pictures in one document share no ids


def lower(picture: Picture) -> str:
    """The picture as a standalone SVG document."""
    x, y = picture.medium.pixels
    title = escape(picture.title)
    width, height = (f"{length + 2 * MARGIN:.0f}" for length in (picture.width * x, picture.height * y))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'role="img" aria-label="{title}" font-family="{FONTS}" style="font-variant-numeric:tabular-nums">'
            f'<title>{title}</title><rect width="{width}" height="{height}" fill="{picture.theme.panel}"/>'
            + f'<g transform="translate({_n(MARGIN)} {_n(MARGIN)})">' + "".join(_marks(picture)) + "</g></svg>\n")


def _marks(picture: Picture) -> list[str]:
    return [_LOWER[type(mark)](mark, picture) for mark in picture.marks]


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _box(mark: Cell | Bar | Rule | Ramp, medium: Medium) -> tuple[float, float, float, float]:
    """x, y, width, height in pixels."""
    across, down = medium.pixels
    return mark.x * across, mark.y * down, mark.width * across, mark.height * down


def _rect(x: float, y: float, width: float, height: float, fill: str, radius: float = 0, rest: str = "") -> str:
    rounded = f' rx="{_n(radius)}"' if radius else ""
    return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"{rounded} fill="{fill}"{rest}/>'


def _dot(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<circle cx="{_n(x + width / 2)}" cy="{_n(y + height / 2)}" r="0.9" fill="{fill}"/>'


def _cell(cell: Cell, picture: Picture) -> str:
    x, y, width, height = _box(cell, picture.medium)
    theme, fill = picture.theme, picture.theme.colour(cell.paint)
    if cell.state == "masked":
        body = _dot(x, y, width, height, theme.colour(cell.paint))
    elif cell.state == "hidden":
        fill = theme.sunk
        ends = [(x + s, x + min(s + height, width), y + max(height - width + s, 0)) for s in range(0, int(width), 6)]
        lines = "".join(f"M{_n(start)} {_n(y + height)}L{_n(end)} {_n(top)}" for start, end, top in ends)
        body = _rect(x, y, width, height, fill) + f'<path d="{lines}" stroke="{theme.strong}" fill="none"/>'
    else:
        body = _rect(x, y, width, height, fill, 4 if min(width, height) > 20 else 0)
    if cell.digits:
        size = 11 if picture.medium.char > 1 else 13
        body += (f'<text x="{_n(x + width / 2)}" y="{_n(y + height / 2)}" dy=".36em" text-anchor="middle" '
                 f'font-size="{size}" fill="{theme.on(fill)}">{escape(cell.digits)}</text>')
    return f'<g role="img" aria-label="{escape(cell.title)}"><title>{escape(cell.title)}</title>{body}</g>'


def _bar(bar: Bar, picture: Picture) -> str:
    x, y, width, height = _box(bar, picture.medium)
    fill = picture.theme.colour(bar.paint)
    if bar.value is None:
        body = _dot(x, y + height - 2, width, 0, picture.theme.ink3)
    elif bar.upright:
        filled = max(height * bar.part, 1.5)
        body = _rect(x, y + height - filled, width - 0.5, filled, fill)
    else:
        body = _rect(x, y, max(width * bar.part, 1), height, fill, 2)
    return f'<g role="img" aria-label="{escape(bar.title)}"><title>{escape(bar.title)}</title>{body}</g>'


def _link(link: Link, picture: Picture) -> str:
    across, down = picture.medium.pixels
    x, y, to_x, to_y = link.x * across, link.y * down, link.to_x * across, link.to_y * down
    middle = (x + to_x) / 2
    bend = "L" if link.straight else f"C{_n(middle)} {_n(y)} {_n(middle)} {_n(to_y)} "
    curve = f"M{_n(x)} {_n(y)}{bend}{_n(to_x)} {_n(to_y)}"
    return (f'<path d="{curve}" fill="none" '
            f'stroke="{picture.theme.colour(link.paint)}" stroke-width="{_n(max(link.value * 12, 0.75))}" '
            f'role="img" aria-label="{escape(link.title)}"><title>{escape(link.title)}</title></path>')


def _text(text: Text, picture: Picture) -> str:
    across, down = picture.medium.pixels
    x, y = text.x * across, (text.y + picture.medium.line / 2) * down
    size = text.size if picture.medium.char > 1 else 13
    spans = "".join(f'<tspan fill="{picture.theme.colour(span.paint)}"{_bold(span.bold)}>{escape(span.text)}</tspan>'
                    for span in text.spans)
    turn = f' transform="rotate({text.turn} {_n(x)} {_n(y)})"' if text.turn else ""
    hint = f"<title>{escape(text.title)}</title>" if text.title else ""
    return (f'<text x="{_n(x)}" y="{_n(y)}" dy=".36em" font-size="{_n(size)}" text-anchor="{text.anchor}"{turn} '
            f'{_language(text.string)}style="white-space:pre;unicode-bidi:isolate">{spans}{hint}</text>')


def _bold(bold: bool) -> str:
    return ' font-weight="600"' if bold else ""


def _language(text: str) -> str:
    """Chinese shapes for Chinese characters, where a font has several."""
    return 'lang="zh-Hans" ' if wide(text) else ""


def _rule(rule: Rule, picture: Picture) -> str:
    x, y, width, height = _box(rule, picture.medium)
    style = f'fill="none" stroke="{picture.theme.colour(rule.paint)}" stroke-width="{_n(rule.thickness)}"'
    style += ' stroke-dasharray="3 3"' if rule.dashed else ""
    if rule.bracket:
        return f'<path d="M{_n(x)} {_n(y + 6)}v-2q0 -4 4 -4h{_n(width - 8)}q4 0 4 4v2" {style}/>'
    if rule.width and rule.height:
        return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="5" {style}/>'
    return f'<path d="M{_n(x)} {_n(y)}h{_n(width)}v{_n(height)}" {style}/>'


def _ramp(ramp: Ramp, picture: Picture) -> str:
    x, y, width, height = _box(ramp, picture.medium)
    stops, ink = getattr(picture.theme, ramp.name), picture.theme.ink3
    low = len(ramp.low) * 6.5 + 8
    step = width / STRIPES
    stripes = "".join(_rect(x + low + n * step, y, step + 0.6, height, interpolate(stops, n / (STRIPES - 1)))
                      for n in range(STRIPES))
    text = '<text x="{}" y="{}" dy=".36em" font-size="11" fill="{}">{}</text>'
    middle = _n(y + height / 2)
    return (text.format(_n(x), middle, ink, escape(ramp.low)) + stripes
            + text.format(_n(x + low + width + 8), middle, ink, escape(ramp.high)))


def _inset(inset: Inset, picture: Picture) -> str:
    x, y = inset.x * picture.medium.pixels[0], inset.y * picture.medium.pixels[1]
    return f'<g transform="translate({_n(x)} {_n(y)})">{"".join(_marks(inset.picture))}</g>'


_LOWER = {Cell: _cell, Bar: _bar, Link: _link, Text: _text, Rule: _rule, Ramp: _ramp, Inset: _inset}
