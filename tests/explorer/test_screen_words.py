"""Every string of the page exists in English and in Chinese, and none was left in the other language."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from screens import CHAT, drawn, registered, turned

from klieg import models
from klieg.explorer.desk import Desk
from klieg.explorer.reader import Reader
from klieg.explorer.turns import Turn
from klieg.kernels import KERNELS
from klieg.trace import Trace

WEB = Path(__file__).parents[2] / "web"
FILES = sorted(path.relative_to(WEB).as_posix() for path in (WEB / "src").rglob("words.ts"))

# Reads every file of words and prints its strings by their place, in both languages; what is a function is called.
READ = """
import { createServer } from 'vite'
const quiet = { configFile: false, logLevel: 'error', appType: 'custom', server: { middlewareMode: true, ws: false } }
const server = await createServer(quiet)
const called = (f) => {
  for (const given of ['7', 7, true, ['7', '7'], { query: 7, key: 7 }])
    try { return f(...Array(Math.max(f.length, 6)).fill(given)) } catch { continue }
  return null
}
const leaves = (x, place) => typeof x === 'function' ? leaves(called(x), place)
  : x !== null && typeof x === 'object' ? Object.entries(x).flatMap(([key, y]) => leaves(y, `${place}.${key}`)) : [[place, x]]
const found = {}
for (const file of process.argv.slice(1)) {
  const { WORDS } = await server.ssrLoadModule('/' + file)
  found[file] = Object.fromEntries(['en', 'zh'].map((language) => [language, Object.fromEntries(leaves(WORDS[language], ''))]))
}
await new Promise((done) => process.stdout.write(JSON.stringify(found), done))     // a pipe takes it piece by piece
await server.close()
process.exit(0)
"""

# The same in both languages: names, signs of a formula.
SAME = {"Klieg", "Softmax", "Wᴼ", "q", "k", "v", "q·k", "Q K V", "× V", "lse", "Top-k", "Top-p", "MHA", "GQA", "MQA"}
# Latin words that a Chinese page may show, besides single letters: names, formulas, keys of the keyboard and units.
LATIN = {"Klieg", "EN", "Softmax", "softmax", "QK", "KL", "log", "lse", "Top", "MHA", "GQA", "MQA", "KiB", "MiB", "GiB", "Esc",
         "Space", "Tab", "Shift", "Enter", "exp", "max", "JSON", "rollout", *KERNELS}


@pytest.fixture(scope="module")
def words() -> dict[str, dict[str, dict[str, object]]]:
    if shutil.which("node") is None or not (WEB / "node_modules" / "vite").is_dir():
        pytest.skip("needs the page's tools: npm ci in web/")
    node = ["node", "--input-type=module", "-e", READ, *FILES]
    done = subprocess.run(node, cwd=WEB, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_both_languages_have_the_same_places_and_no_empty_one_for_a_full_one(words: dict) -> None:
    assert FILES and set(words) == set(FILES)
    for file, both in words.items():
        assert both["en"].keys() == both["zh"].keys(), file
        for place, english in both["en"].items():
            chinese = both["zh"][place]
            assert isinstance(english, str) and isinstance(chinese, str), f"{file} {place}"
            assert bool(english.strip()) == bool(chinese.strip()), f"{file} {place}"


def test_no_string_is_the_same_in_both_languages(words: dict) -> None:
    same = {f"{file} {place}: {english}" for file, both in words.items() for place, english in both["en"].items()
            if re.search("[A-Za-z]", str(english)) and english == both["zh"][place] and english not in SAME}
    assert same == set()


def test_each_language_is_its_own(words: dict) -> None:
    """No English string has a Chinese character, and no Chinese one has a word in English and none in Chinese."""
    for file, both in words.items():
        for place, english in both["en"].items():
            chinese = str(both["zh"][place])
            named = place.startswith(".exampleNames.")  # a text may be named by itself
            assert named or not re.search("[\u3400-\u9fff]", str(english)), f"{file} {place}: {english}"
            latin = set(re.findall("[A-Za-z]{2,}", chinese)) - LATIN
            assert re.search("[\u3400-\u9fff]", chinese) or not latin, f"{file} {place}: {chinese}"


class Vocabulary(Sequence):
    """A vocabulary without a Latin letter."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, id: int) -> str:
        return "天地玄黄宇宙洪荒"[id % 8]


class Chinese(Reader):
    """The bundled model with words of its own, so that what is Latin on the page is the page's."""

    def read(self, text: str, to: str | None, turn: Turn, written: list[int] | None = None) -> Trace:
        found = super().read(text, to, turn, written)
        found.vocabulary = Vocabulary(len(found.vocabulary))
        found.tokens = [found.vocabulary[n] for n in range(len(found.tokens))]
        found.text, found.model = "".join(found.tokens), self.name
        return found


# What is seen, pointed at or read aloud, without what the user chose: the text, its examples, the model's name.
SEEN = """() => {
    const own = '.examples, .pairs, textarea, input, .model, bdi, code'
    const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const at = node.parentElement
        if (!at.closest(`script, style, noscript, ${own}`) && at.checkVisibility()) texts.push(node.data)
    }
    for (const at of document.querySelectorAll('[aria-label], [title], [placeholder]'))
        if (!at.closest('.examples, .pairs, .model'))
            texts.push(...['aria-label', 'title', 'placeholder'].map((name) => at.getAttribute(name) ?? ''))
    return texts
}"""


@pytest.mark.skipif("chat" not in models.bundled(), reason="the bundled model is not there")
def test_no_screen_shows_english_in_chinese(page, served) -> None:
    model = Chinese("chat")
    model._own, model.name = CHAT.own, "模型"
    address = served(Desk({model.name: model})) + "#lang=zh&text=天地玄黄宇宙洪荒"
    drawn(page, address)
    left = {}
    for screen in registered(page):
        turned(page, screen)
        found = {word for text in page.evaluate(SEEN) for word in re.findall("[A-Za-z]{2,}", text)} - LATIN
        if found:
            left[screen] = sorted(found)
    assert left == {}
