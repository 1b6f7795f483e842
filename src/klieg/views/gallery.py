"""Experiments on one page: what is said, the charts, and what follows from them. No script, and nothing from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Protocol

from klieg.views import svg
from klieg.views.chart import Chart, Words, picture
from klieg.views.palette import LIGHT
from klieg.views.words import LANGUAGES, say

_STYLE = ("body{max-width:46rem;margin:3rem auto;padding:0 1rem;font:16px/1.6 system-ui,sans-serif;"
          f"color:{LIGHT.ink};background:{LIGHT.page}}}"
          f"h2{{margin-top:3.5rem}}.claim,footer{{color:{LIGHT.ink2}}}figure{{margin:1.5rem 0;overflow-x:auto}}")


class Lab(Protocol):
    """What is tried."""

    @property
    def title(self) -> Words: ...
    @property
    def claim(self) -> Words: ...
    @property
    def source(self) -> str: ...


class Finding(Protocol):
    """What came of it."""

    @property
    def charts(self) -> Sequence[Chart]: ...
    @property
    def conclusion(self) -> Words: ...
    @property
    def numbers(self) -> Mapping[str, float]: ...


def gallery(tried: Iterable[tuple[str, Lab, Finding]], language: str = "en") -> str:
    """One HTML file of (name, lab, finding), in their order."""
    tongue = LANGUAGES.index(language)
    parts = [f"<!doctype html><html lang=\"{('en', 'zh-Hans')[tongue]}\"><meta charset=\"utf-8\">",
             f"<meta name=\"viewport\" content=\"width=device-width\"><title>{escape(say('labs', language))}</title>",
             f"<style>{_STYLE}</style><h1>{escape(say('labs', language))}</h1>"]
    for name, lab, found in tried:
        parts.append(f"<section id=\"{escape(name)}\"><h2>{escape(lab.title[tongue])}</h2>"
                     f"<p class=\"claim\">{escape(say('lab claim', language, claim=lab.claim[tongue]))}</p>")
        parts += [f"<figure>{svg.lower(picture(chart, language=language))}</figure>" for chart in found.charts]
        parts.append(f"<p><strong>{escape(found.conclusion[tongue])}</strong></p><footer>{escape(lab.source)} · "
                     f"<code>klieg lab {escape(name)}</code></footer></section>")
    return "\n".join(parts) + "\n</html>\n"
