"""The page of an atlas: every head's scores in a table that sorts itself, and pictures of all heads. Nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from klieg.views import svg
from klieg.views.atlas import word
from klieg.views.document import document
from klieg.views.glyphs import safe
from klieg.views.palette import LIGHT
from klieg.views.picture import Picture

COLUMNS = ("score", "layer", "kind", "head", "mean", "low", "high", "chance", "texts")
NAMES = ("score", "relation", "to", "kind")      # columns of words
_STYLE = (f"body{{max-width:62rem}}p,summary,th button{{color:{LIGHT.ink2}}}table{{border-collapse:collapse;width:100%}}"
          f"th,td{{padding:.15rem .6rem;text-align:right;border-bottom:1px solid {LIGHT.line}}}"
          "td{font-variant-numeric:tabular-nums}"
          "th.word,td.word{text-align:left}th button{font:inherit;background:none;border:0;padding:0;cursor:pointer}"
          "th[aria-sort=descending] button::after{content:' ↓'}th[aria-sort=ascending] button::after{content:' ↑'}"
          "thead th{position:sticky;top:0;background:inherit}thead{background:" + LIGHT.page + "}select{font:inherit}")
_SCRIPT = """
const table = document.querySelector('table'), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells]
const value = (row, n) => {
  const cell = row.cells[n]
  return cell.dataset.v === undefined ? cell.textContent : cell.dataset.v === '' ? -Infinity : +cell.dataset.v
}
heads.forEach((head, n) => head.firstElementChild.addEventListener('click', () => {
  const first = head.className === 'word' ? 'ascending' : 'descending'
  const up = (head.getAttribute('aria-sort') === first) !== (first === 'ascending')
  heads.forEach(other => other.removeAttribute('aria-sort'))
  head.setAttribute('aria-sort', up ? 'ascending' : 'descending')
  const found = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a, n), value(b, n)]
    return x < y ? (up ? -1 : 1) : x > y ? (up ? 1 : -1) : 0
  })
  body.append(...found)
}))
document.querySelector('select').addEventListener('change', event => {
  for (const row of body.rows) row.hidden = event.target.value !== '' && row.cells[0].textContent !== event.target.value
})
"""


def ledger(model: str, lines: Sequence[Any], pictures: Mapping[str, Picture], said: Sequence[str], partial: str = "",
           columns: Sequence[str] = COLUMNS, language: str = "en") -> str:
    """One HTML file: what was read (`said`, a paragraph each, after the first what is `partial` in bold), pictures by their
    titles, the first of them open, and all lines of an atlas. Without scripts the table stands as the lines do."""
    parts = [f"<p>{escape(text)}</p>" for text in said]
    if partial:
        parts.insert(1, f"<p><strong>{escape(partial)}</strong></p>")
    for n, (title, picture) in enumerate(pictures.items()):
        parts.append(f"<details{' open' * (n == 0)}><summary>{escape(safe(title))}</summary>"
                     f"<figure>{svg.lower(picture)}</figure></details>")
    first = columns[0]
    names = list(dict.fromkeys(safe(getattr(line, first)) for line in lines))
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in names)
    parts.append(f'<p><select aria-label="{escape(word(first, language))}"><option value="">'
                 f"{escape(word('all', language))}</option>{options}</select> {escape(word('sorted', language))}</p>")
    heads = "".join(f'<th scope="col"{_class(name)}><button type="button">{escape(word(name, language))}</button></th>'
                    for name in columns)
    rows = "\n".join(f"<tr>{''.join(_cell(line, name) for name in columns)}</tr>" for line in lines)
    parts.append(f"<table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>")
    return document(word("heads of", language, model=safe(model)), "\n".join(parts), _STYLE, _SCRIPT, language)


def _class(name: str) -> str:
    return ' class="word"' if name in NAMES else ""


def _cell(line: Any, name: str) -> str:
    """One value as it is read, and as it is sorted by."""
    value = getattr(line, name)
    if name in NAMES:
        return f"<td{_class(name)}>{escape(safe(value))}</td>"
    if isinstance(value, float):
        missing = math.isnan(value)
        return f'<td data-v="{"" if missing else f"{value:.9g}"}">{"—" if missing else f"{value:.3f}"}</td>'
    return f'<td data-v="{value}">{value}</td>'
