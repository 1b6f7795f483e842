"""The gallery of labs: docs/labs.md, its Chinese sibling and the charts in docs/labs/, by running every lab.

    python docs/gallery.py            # all of them; some take minutes. docs/refresh.py does it too
    python docs/gallery.py ages       # only these anew

Numbers of the clock and of the memory are signed with the machine; all else is the same wherever it is run.
tests/test_gallery.py runs the same functions to see that nothing is out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from klieg.bench import machine
from klieg.labs import NAMES, Finding, Lab, find
from klieg.views import svg
from klieg.views.chart import picture

FOLDER = Path(__file__).parent
FILES = {"en": FOLDER / "labs.md", "zh": FOLDER / "labs.zh.md"}
WORDS = {
    "title": ("Labs: what is said of attention, and what is measured", "实验：关于注意力的说法与实测"),
    "other": ("[中文](labs.zh.md)", "[English](labs.md)"),
    "head": ("Everything below is what the labs found when they were last run; `klieg lab NAME` runs one again, and "
             "`klieg serve` has them as a screen.",
             "以下都是最近一次运行所得；`klieg lab NAME` 可以重做其中一个，`klieg serve` 的页面里也有它们。"),
    "said": ("It is said", "说法"), "numbers": ("Numbers", "数字"), "source": ("Source", "出处"),
    "measured": ("Measured on {name}, threads: {threads}; differs from run to run",
                 "在 {name} 上测得，线程数 {threads}；每次运行都会不同"),
    "name": ("number", "名称"), "value": ("value", "值"), "colon": (": ", "："),
}
_SECTION = re.compile(r"^<!-- lab: (\w+) -->\n(.*?)(?=^<!-- lab: |\Z)", re.MULTILINE | re.DOTALL)


def word(key: str, language: str) -> str:
    """One phrase."""
    return WORDS[key][language == "zh"]


def charts(name: str, found: Finding, language: str) -> dict[Path, str]:
    """The files of a lab's charts, as SVG."""
    suffix = ".zh.svg" if language == "zh" else ".svg"
    return {FOLDER / "labs" / f"{name}-{n}{suffix}": svg.lower(picture(chart, language=language))
            for n, chart in enumerate(found.charts, start=1)}


def section(name: str, lab: Lab, found: Finding, language: str) -> str:
    """What is written of a lab: claim, charts, conclusion, numbers, source and command."""
    tongue, colon = language == "zh", word("colon", language)
    pictures = [f"![{chart.title[tongue]}]({path.relative_to(FOLDER)})"
                for path, chart in zip(charts(name, found, language), found.charts, strict=True)]
    measured: Mapping[str, float] = found.measured
    signed = word("measured", language).format(**dict(zip(("name", "threads"), machine(), strict=True)))
    parts = [f"## {lab.title[tongue]}", f"{word('said', language)}{colon}{lab.claim[tongue]}", *pictures,
             f"**{found.conclusion[tongue].strip()}**", *_table(word("numbers", language), found.numbers, language),
             *(_table(signed, measured, language) if measured else []),
             f"{word('source', language)}{colon}{lab.source}", f"```sh\nklieg lab {name}\n```"]
    return "\n\n".join(parts) + "\n"


def _table(title: str, numbers: Mapping[str, float], language: str) -> list[str]:
    rows = [f"| {name.replace('|', chr(92) + '|')} | {value:.6g} |" for name, value in numbers.items()]
    head = f"| {word('name', language)} | {word('value', language)} |\n|---|---:|"
    return [f"<details><summary>{title}</summary>", "\n".join([head, *rows]), "</details>"]


def steady(text: str) -> str:
    """A section without what the clock changes: its conclusion, and the table of what was measured."""
    text = re.sub(r"<details><summary>(?:Measured on|在 ).*?</details>\n", "", text, flags=re.DOTALL)
    return re.sub(r"^\*\*.*?\*\*$", "", text, flags=re.MULTILINE | re.DOTALL)


def timed(found: Finding, chart: int) -> bool:
    """Whether a chart, counted from 0, shows what the clock or the memory gave."""
    measured = set(found.measured.values())
    return any(value in measured for values in found.charts[chart].series.values() for value in values)


def sections(text: str) -> dict[str, str]:
    """What is written of every lab, by its name."""
    return {name: body.rstrip("\n") + "\n" for name, body in _SECTION.findall(text)}


def document(known: Mapping[str, str], language: str) -> str:
    """The whole page, the labs in their order."""
    head = f"# {word('title', language)}\n\n{word('head', language)} {word('other', language)}\n"
    return "\n".join([head, *(f"<!-- lab: {name} -->\n{known[name]}" for name in NAMES)])


def refresh(names: Iterable[str] = NAMES) -> None:
    """Run these labs, and those of which nothing is written yet; write pages and charts anew."""
    known = {language: sections(path.read_text("utf-8")) if path.exists() else {} for language, path in FILES.items()}
    (FOLDER / "labs").mkdir(exist_ok=True)
    for name in NAMES:
        if name not in names and all(name in one for one in known.values()):
            continue
        lab = find(name)
        found = lab.run()
        for old in (FOLDER / "labs").glob(f"{name}-*.svg"):
            old.unlink()
        for language in FILES:
            known[language][name] = section(name, lab, found, language)
            for path, drawn in charts(name, found, language).items():
                path.write_text(drawn, "utf-8")
        print(f"{name}: written anew", flush=True)
    for language, path in FILES.items():
        path.write_text(document(known[language], language), "utf-8")


if __name__ == "__main__":
    refresh(sys.argv[1:] or NAMES)
