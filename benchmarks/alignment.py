"""Does a translator's cross-attention align words better than a statistical aligner trained on the same pairs?

The aligner is eflomal (Östling and Tiedemann 2016: IBM 1, HMM and fertility, by Gibbs sampling), in an
environment of its own. It is trained on the pairs that the translator is trained on and on the gold's
sentences themselves, as such aligners are; of its settings, its two directions and the ways to merge
them it has the best of the test itself. The translator's layer, heads and way are chosen on every
fifth sentence of the gold. Both are tested on the others, on the same words.

The translator is read three times: each sentence by its attention alone; with what the gold's sentences say of their
own words, without their links; and with what some of its training pairs say too, as --pairs has it. eflomal takes half
an hour, and reading all pairs as long again.

    python benchmarks/alignment.py [--model FOLDER [--alone] [--pairs MOST]] [--data FOLDER] [--environment FOLDER]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import venv
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from klieg.analysis.alignment import Part, Reading, choose, read
from klieg.analysis.alignment.chains import ROUNDS, posteriors
from klieg.analysis.alignment.gold import Gold, read_gold
from klieg.analysis.alignment.links import WAYS, Agreement, Links, links, merged
from klieg.bitexts import lines, read_pairs
from klieg.data import data_folder
from klieg.models import find, load
from klieg.recipe import PairSource
from klieg.seq2seq import Marian
from klieg.tokenizers import Tokenizer

PACKAGES = ("eflomal==2.0.0", "jieba==0.42.1")
CORPORA = {"de": ("tatoeba",), "fr": ("tatoeba",), "zh": ("tatoeba", "captions")}
WRITTEN = {"de": ("de",), "fr": ("fr",), "zh": ("zh", "en")}     # what the translator writes, of a language and English
STEMS = (0, 4)      # eflomal's other setting: words are told apart by so many first letters; 0: by all
USUAL = "eflomal, words, grow-diag-final-and"      # how it is mostly used; printed beside its best
DEVELOPMENT = 5     # one sentence in so many
LONGEST = 40        # words of a side; longer training pairs are not learned from

# French as the gold of en-fr writes it: every article and preposition a word of its own, in full.
_WHOLE = {"du": "de le", "des": "de les", "au": "à le", "aux": "à les"}
_ELIDED = {"l": "le", "d": "de", "j": "je", "m": "me", "t": "te", "s": "se", "n": "ne", "c": "ce", "qu": "que"}


@dataclass(frozen=True)
class Text:
    """Sentence pairs with gold links, of English and `other`; links are (word of other, word of English)."""

    other: str
    sides: tuple[list[str], list[str]]
    gold: Gold

    def part(self, test: bool) -> Text:
        """Every fifth sentence, or the others."""
        chosen = [n for n in range(len(self.gold.sure)) if (n % DEVELOPMENT == 0) != test]
        return Text(self.other, tuple([side[n] for n in chosen] for side in self.sides), self.gold.part(chosen))


def turn(found: Links) -> Links:
    return {(b, a) for a, b in found}


def turned(found: Iterable[Links]) -> list[Links]:
    return [turn(one) for one in found]


def texts(data: Path) -> list[Text]:
    """zh-en (Liu et al.), de-en (Bicici 2011) and en-fr (Och and Ney's Hansards), whose gold is turned to fr-en."""
    folder, bicici = data / "eval/alignment_awesome_align", data / "eval/alignment_de_en_bicici/German-English_WordAlignment"
    chinese, english = zip(*(line.split("|||") for line in lines(folder / "zhen.src-tgt")), strict=True)
    first, french = zip(*(line.split("|||") for line in lines(folder / "enfr.src-tgt")), strict=True)
    gold = read_gold(folder / "enfr.gold")
    return [Text("zh", (list(chinese), list(english)), read_gold(folder / "zhen.gold")),
            Text("de", (lines(bicici / "test.de"), lines(bicici / "test.en")), read_gold(bicici / "de-en.wa")),
            Text("fr", (list(french), list(first)), Gold(turned(gold.sure), turned(gold.possible), gold.first))]


# ---- the statistical aligner ----

def environment(folder: Path) -> Path:
    """The programs of eflomal's own environment, made if it is not there."""
    ready = folder / "ready"
    if not ready.exists() or ready.read_text().split() != list(PACKAGES):
        venv.create(folder, clear=True, with_pip=True)
        given = {name: value for name, value in os.environ.items() if "CONSTRAINT" not in name}
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True, env=given)
        ready.write_text("\n".join(PACKAGES))
    return folder / "bin"


def tokenized(text: str, language: str) -> str:
    """A sentence of the training pairs as the gold has its own: words and marks set apart."""
    text = text.replace("’", "'")
    if language == "fr":
        text = re.sub(r"\b(qu|[ldjmtsnc])'", lambda found: _ELIDED[found[1].lower()] + " ", text, flags=re.IGNORECASE)
        text = re.sub(r"\b(du|des|aux?)\b", lambda found: _WHOLE[found[1].lower()], text, flags=re.IGNORECASE)
        return " ".join(re.findall(r"\w+|[^\w\s]", text))
    text = re.sub(r"n't\b", " n't", text) if language == "en" else text
    return " ".join(re.findall(r"n't\b|'(?:s|m|d|ll|re|ve)\b|\d+(?:[.,]\d+)+|\w+(?:-\w+)*|[^\w\s]", text))


def segmented(texts: list[str], programs: Path) -> list[str]:
    """Chinese sentences as words, by jieba."""
    code = "import sys, jieba; jieba.setLogLevel(60)\nfor line in sys.stdin: print(*jieba.cut(line.strip()))"
    done = subprocess.run([programs / "python", "-X", "utf8", "-c", code], input="\n".join(texts) + "\n", text=True,
                          encoding="utf-8", stdout=subprocess.PIPE, check=True)
    return done.stdout.splitlines()


def characters(text: str) -> tuple[str, list[int]]:
    """Chinese words as characters, other words whole; and the number of the word of each."""
    single = re.compile(r"[\u3400-\u9fff]|[^\u3400-\u9fff]+")
    found = [(part, n) for n, word in enumerate(text.split()) for part in single.findall(word)]
    return " ".join(part for part, _ in found), [n for _, n in found]


def training(other: str, data: str | None) -> tuple[list[str], list[str]]:
    """The pairs that the translator is trained on: (sentences of other, sentences of English)."""
    pairs = [pair for name in CORPORA[other] for pair in read_pairs(PairSource(name, other, "en"), data, "train")]
    return [a for a, _ in pairs], [b for _, b in pairs]


def aligned(sides: tuple[list[str], list[str]], stem: int, programs: Path) -> tuple[list[Links], list[Links]]:
    """eflomal's links of every pair, (first side, second side): from the first to the second, and the way back."""
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder) / name for name in ("source", "target", "forward", "backward")]
        for name, side in zip(names[:2], sides, strict=True):
            name.write_text("".join(line + "\n" for line in side), "utf-8")
        stems = ["--source-prefix", str(stem), "--target-prefix", str(stem)] if stem else []
        subprocess.run([programs / "eflomal-align", "-s", names[0], "-t", names[1], "-f", names[2], "-r", names[3],
                        "--overwrite", *stems], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return tuple(read_gold(name, first=0).sure for name in names[2:])


def statistical(text: Text, data: str | None, programs: Path) -> list[tuple[str, Agreement]]:
    """Every setting and way of the statistical aligner on the test part, the best first."""
    foreign, english = training(text.other, data)
    english = [tokenized(line, "en") for line in english]
    count, found = len(text.gold.sure), []
    for unit in ("words", "characters") if text.other == "zh" else ("words",):
        mine, words = text.sides[0], None
        if text.other != "zh":
            train = [tokenized(line, text.other) for line in foreign]
        elif unit == "words":
            train = segmented(foreign, programs)
        else:
            train = [characters(line)[0] for line in foreign]
            mine, words = zip(*map(characters, text.sides[0]), strict=True)
        kept = [(a, b) for a, b in zip(train, english, strict=True) if a.split() and b.split()]
        for stem in STEMS:
            both = aligned(tuple([*(pair[side] for pair in kept), *own] for side, own in enumerate((mine, text.sides[1]))),
                           stem, programs)
            both = [one[-count:] for one in both]
            if words is not None:
                both = [[{(place[s], t) for s, t in one} for one, place in zip(side, words, strict=True)] for side in both]
            for way in WAYS:
                made = [merged(f, b, way) for n, (f, b) in enumerate(zip(*both, strict=True)) if n % DEVELOPMENT]
                name = f"eflomal, {unit}{f' by {stem} letters' if stem else ''}, {way}"
                found.append((name, text.part(test=True).gold.against(made)))
    return sorted(found, key=lambda one: one[1].aer)


# ---- the translator ----

def parts(text: Text) -> list[Part]:
    """The directions in which the translator reads a text: from English, and for Chinese into it too."""
    (foreign, english), gold = text.sides, text.gold
    both = {text.other: Part(english, foreign, Gold(turned(gold.sure), turned(gold.possible), gold.first), text.other),
            "en": Part(foreign, english, gold, "en")}
    return [both[language] for language in WRITTEN[text.other]]


def cased(text: Text, data: str | None) -> Text:
    """The text with the capitals that its words mostly have in the training pairs, and one at the start of each sentence.

    The gold of Chinese and German is in small letters throughout. eflomal reads all words so; to a translator they are others.
    """
    sides = []
    for mine, theirs, language in zip(text.sides, training(text.other, data), (text.other, "en"), strict=True):
        spelt: dict[str, Counter[str]] = defaultdict(Counter)
        for line in theirs:
            for word in tokenized(line, language).split()[1:]:
                spelt[word.lower()][word] += 1
        usual = {word: found.most_common(1)[0][0] for word, found in spelt.items()}
        lines = [" ".join(usual.get(word.lower(), word) for word in line.split()) for line in mine]
        sides.append([line[:1].upper() + line[1:] for line in lines])
    return replace(text, sides=tuple(sides))


def worded(other: str, data: str | None, programs: Path, most: int) -> tuple[list[str], list[str]]:
    """Training pairs in words, as the gold has its own: (sentences of other, of English); where there are more than `most`,
    every second, third and so on."""
    foreign, english = training(other, data)
    every = -(-len(foreign) // most)
    foreign, english = foreign[::every], english[::every]
    foreign = segmented(foreign, programs) if other == "zh" else [tokenized(line, other) for line in foreign]
    pairs = zip(foreign, (tokenized(line, "en") for line in english), strict=True)
    kept = [pair for pair in pairs if all(0 < len(line.split()) < LONGEST for line in pair)]
    return [a for a, _ in kept], [b for _, b in kept]


def attended(text: Text, model: Marian, tokenizer: Tokenizer, reading: Reading,
             pairs: tuple[list[str], list[str]]) -> list[tuple[str, Agreement]]:
    """What cross-attention gives on the test part, where it is read alone and where the text, and `pairs` too, are learned
    from; each by the way that is best on the development part."""
    foreign, english = (side + more for side, more in zip(text.sides, pairs, strict=True))
    looks = []
    for to in WRITTEN[text.other]:
        given = (foreign, english) if to == "en" else (english, foreign)
        found = (w.astype(np.float32) for w in read(model, tokenizer, *given, reading, to))
        looks.append([w.T for w in found] if to == "en" else list(found))
    weights = [sum(each) / len(each) for each in zip(*looks, strict=True)]       # a row for each word of other
    count, rows = len(text.gold.sure), []
    kinds = {"attention alone": (count, 0), "learned from the gold's sentences": (count, ROUNDS)}
    if pairs[0]:
        kinds[f"learned from {len(pairs[0]):,} pairs too"] = (len(weights), ROUNDS)
    for kind, (used, rounds) in kinds.items():
        given = weights[:used], english[:used], foreign[:used]
        both = posteriors(*given, rounds)[:count] if rounds else [(w, None) for w in weights[:count]]
        ways = {way: [*map(turn, (links(*pair, way=way) for pair in both))] for way in WAYS}
        way = min(WAYS, key=lambda way: scored(text, ways[way], test=False).aer)
        rows.append((f"klieg, {kind}, {way}", scored(text, ways[way], test=True)))
    return rows


def scored(text: Text, found: list[Links], test: bool) -> Agreement:
    """The links of every sentence of a text, on one of its parts."""
    return text.part(test).gold.against([one for n, one in enumerate(found) if (n % DEVELOPMENT == 0) != test])


def row(text: Text, name: str, found: Agreement) -> str:
    return f"| {text.other}-en | {name} | {100 * found.aer:.1f} | {100 * found.precision:.1f} | {100 * found.recall:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a bundled name or a folder; by default only the statistical aligner is measured")
    parser.add_argument("--data", help="folder of texts; by default KLIEG_DATA")
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "klieg-eflomal",
                        help="folder for eflomal's environment; kept")
    parser.add_argument("--all", action="store_true", help="every setting of the statistical aligner, not only two")
    parser.add_argument("--save", action="store_true", help="keep what was chosen beside the model, for klieg align")
    parser.add_argument("--alone", action="store_true", help="the model alone, in minutes")
    parser.add_argument("--pairs", type=int, metavar="MOST", help="learn from so many training pairs of each language too")
    given = parser.parse_args()
    if given.alone and not given.model:
        parser.error("--alone measures a model; name one with --model")
    gold = texts(data_folder(given.data))
    programs = environment(given.environment) if given.pairs or not given.alone else None
    reading = None
    if given.model:
        model, tokenizer = load(given.model)
        spelt = [cased(text, given.data) for text in gold]
        reading = choose(model, tokenizer, [part for text in spelt for part in parts(text.part(test=False))])
        if given.save:
            reading.save(find(given.model))
    print("| gold | aligner | AER | precision | recall |\n|---|---|---|---|---|")
    for number, text in enumerate(gold):
        for place, (name, found) in enumerate(() if given.alone else statistical(text, given.data, programs)):
            if given.all or not place or name == USUAL:
                print(row(text, name, found), flush=True)
        if reading is None:
            continue
        pairs = worded(text.other, given.data, programs, given.pairs) if given.pairs else ([], [])
        for name, found in attended(spelt[number], model, tokenizer, reading, pairs):
            print(row(text, name, found), flush=True)
    if reading:
        print(f"\nChosen on every fifth sentence: {reading}")


if __name__ == "__main__":
    main()
