"""Experiments on one page: what is said, the charts, and what follows from them. No script, and nothing from outside."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from klieg.views import svg
from klieg.views.chart import picture
from klieg.views.document import document
from klieg.views.experiment import Finding, Lab
from klieg.views.palette import LIGHT
from klieg.views.words import LANGUAGES, say

_STYLE = f"body{{max-width:46rem}}h2{{margin-top:3.5rem}}.claim,footer{{color:{LIGHT.ink2}}}"


def gallery(tried: Iterable[tuple[str, Lab, Finding]], language: str = "en") -> str:
    """One HTML file of (name, lab, finding), in their order."""
    tongue = LANGUAGES.index(language)
    parts = []
    for name, lab, found in tried:
        parts.append(f"<section id=\"{escape(name)}\"><h2>{escape(lab.title[tongue])}</h2>"
                     f"<p class=\"claim\">{escape(say('lab claim', language, claim=lab.claim[tongue]))}</p>")
        parts += [f"<figure>{svg.lower(picture(chart, language=language))}</figure>" for chart in found.charts]
        parts.append(f"<p><strong>{escape(found.conclusion[tongue])}</strong></p><footer>{escape(lab.source)} · "
                     f"<code>klieg lab {escape(name)}</code></footer></section>")
    return document(say("labs", language), "\n".join(parts), _STYLE, language=language)
