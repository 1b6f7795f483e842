"""The commands for translators: `translate` turns texts into another language, `evaluate` measures how well, `align` says
which word stands for which.

Standard input is translated as it comes, a file as a whole: lines of like length go together then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import IO, TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Language, Model

if TYPE_CHECKING:
    from klieg.beam import Search
    from klieg.evaluate import Perplexity, Scores
    from klieg.generate import Sampling
    from klieg.translate import Told, Translator

CHUNK = 2**16  # bytes of standard input that are waited for at once, at most

To = Annotated[str | None, typer.Option(help="Language to translate into, where the model has several.")]
Beam = Annotated[int, typer.Option(min=1, max=1000, help="Hypotheses that are followed at once; 1 is greedy search.")]
Alpha = Annotated[float, typer.Option(help="Length penalty; 0 ranks by probability, which prefers short texts.")]
Beta = Annotated[float, typer.Option(help="Coverage penalty; above 0, what nobody looked at in the source costs.")]
TopP = Annotated[float | None, typer.Option(help="Draw among the likeliest tokens of this probability; only with --sample.")]


def translate(
    text: Annotated[str | None, typer.Argument(help="The text; by default standard input, line by line; on a terminal a "
                                                    "conversation.")] = None,
    model: Model = "translate", to: To = None,
    input_file: Annotated[Path | None, typer.Option("--input", "-i", metavar="FILE", help="Its lines; - for standard input, "
                                                                                        "which is the default.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Whole or not at all.")] = None,
    beam: Beam = 5, alpha: Alpha = 1.0, beta: Beta = 0.0,
    n_best: Annotated[int | None, typer.Option(min=1, help="So many translations of each line, the best first, as rank "
                                                           "(from 0), score and text, with tabs between.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw by probability; no search.")] = False,
    temperature: Annotated[float | None, typer.Option(help="Below 1 sharpens, above 1 flattens; only with --sample.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest tokens; only with --sample.")] = None,
    top_p: TopP = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same texts; only with --sample.")] = None,
    interactive: Annotated[bool, typer.Option("--interactive", help="Translate a line at a time, as you write.")] = False,
    lang: Language = None,
) -> None:
    """Translate a text, a file, or what is written."""
    language = shell.language(lang)
    if sum((text is not None, input_file is not None, interactive)) > 1:
        raise KliegError("a text, --input and --interactive exclude each other; choose one.")
    drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    way = _sampling(sample, n_best, {name: value for name, value in drawn.items() if value is not None})
    search = _search(beam, alpha, beta, n_best or 1)
    output = None if str(output) == "-" else output
    if output is not None:
        shell.writable(output)
    if text is not None and text != "-":
        from klieg.tokenizers import check_text
        check_text(text)
    given = _lines(input_file) if input_file is not None and str(input_file) != "-" else None
    work = _Work(_load(model, to), to, search, way, n_best is not None)
    if interactive or (text is None and input_file is None and sys.stdin.isatty()):
        if output is not None:
            raise KliegError("a conversation is not written to a file; leave --output away.")
        _converse(work, language)
    elif text is not None and text != "-":
        _deliver(iter([work.done(text.split("\n"))]), output)
    elif given is not None:
        from klieg.views.progress import counted
        with counted(shell.said("lines"), shell.console(error=True)) as step:
            done = work.done(given, told=step)
        _deliver(iter([done]), output)
    else:
        with _watched() as step:
            _deliver(_streamed(work, _arriving(sys.stdin.buffer), step), output)


def evaluate(
    reference: Annotated[Path, typer.Option("--reference", "-r", metavar="FILE", help="What people translated, a line each.")],
    source: Annotated[Path | None, typer.Option("--source", "-s", metavar="FILE", help="What is to be translated.")] = None,
    hypotheses: Annotated[Path | None, typer.Option(metavar="FILE", help="Translations that are there already; no model is "
                                                                         "asked.")] = None,
    model: Model = "translate", to: To = None,
    tokenized: Annotated[bool, typer.Option("--tokenized", help="The texts are cut into words by spaces already, and are "
                                                                "compared as they are.")] = False,
    beam: Beam = 5, alpha: Alpha = 1.0, beta: Beta = 0.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Keep the translations.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Numbers; - for standard output.")] = None,
    lang: Language = None,
) -> None:
    """Measure translations: BLEU, chrF, perplexity, speed."""
    from klieg.bitexts import together
    from klieg.evaluate import score

    language = shell.language(lang)
    if (source is None) == (hypotheses is None):
        raise KliegError("give either --source FILE, to be translated, or --hypotheses FILE, which is already.")
    if hypotheses is not None and output is not None:
        raise KliegError("--output keeps new translations; leave it away with --hypotheses.")
    search = _search(beam, alpha, beta, 1)
    shell.files(output=output, json=json_file)
    pairs = together(source or hypotheses, reference)
    if not pairs:
        raise KliegError(f"{reference} is empty, so there is nothing to compare; name a file that has lines.")
    texts, references = map(list, zip(*pairs, strict=True))
    run = _Run.of(_load(model, to), texts, references, to, search, tokenized) if source is not None else None
    if run is not None:
        texts = run.texts
    scores = score(texts, references, to, tokenized)
    bodies = {} if output is None else {output: "".join(f"{line}\n" for line in texts).encode()}
    if json_file is not None:
        made = {} if run is None else {"model": model, "to": to, "search": asdict(search), **run.numbers}
        said = {**asdict(scores), **made}
        bodies[json_file] = (json.dumps(said, ensure_ascii=False, indent=1) + "\n").encode()
    shell.deliver(bodies)
    if json_file is None:
        shell.write("\n".join(_report(scores, run, language)) + "\n")


def align(
    source: Annotated[Path, typer.Argument(help="Sentences, one a line, words set apart by spaces; alone: lines of "
                                                "'source ||| target'.")],
    target: Annotated[Path | None, typer.Argument(help="Their translations, line by line.")] = None,
    model: Model = "translate",
    to: Annotated[str | None, typer.Option(help="Language of the targets, where the model has several.")] = None,
    back: Annotated[str | None, typer.Option(metavar="LANGUAGE", help="Of the sources: read the way back too.")] = None,
    back_model: Annotated[str | None, typer.Option(metavar="MODEL", help="What reads the way back, if another model.")] = None,
    layer: Annotated[int | None, typer.Option(min=0, help="Read all heads of it; by default what is in alignment.json beside "
                                                          "the model, else the middle layer.")] = None,
    way: Annotated[str | None, typer.Option(help="forward, backward, intersection, union, grow-diag, grow-diag-final, or "
                                                 "grow-diag-final-and.")] = None,
    rounds: Annotated[int | None, typer.Option(min=0, max=100, help="How often the sentences are learned from all together; "
                                                                    "0: each by its own attention alone.")] = None,
    gold: Annotated[Path | None, typer.Option(metavar="FILE", help="Links that people made: prints the error rate.")] = None,
    lang: Language = None,
) -> None:
    """Say which word stands for which, as source-target pairs."""
    from klieg import models
    from klieg.analysis.alignment import Reading, joined, read
    from klieg.analysis.alignment.gold import pharaoh, read_gold
    from klieg.analysis.alignment.links import WAYS
    from klieg.views.progress import counted
    from klieg.views.words import say

    tongue = shell.language(lang)
    if way is not None:
        shell.one_of("way", way, list(WAYS))
    wanted = read_gold(gold) if gold else None
    sources, targets = _sentence_pairs(source, target)

    def looked(name: str, given: list[str], made: list[str], language: str | None) -> tuple[Reading, list]:
        """Where a model was read, and what it gave."""
        translator = _load(name, language)
        reading = Reading.load(models.find(name)) or Reading.middle(translator.model)
        if layer is not None:
            reading = replace(reading, layer=layer, heads=tuple(range(translator.model.heads)))
        with counted(shell.said("sentences"), shell.console(error=True)) as step:
            return reading, read(translator.model, translator.tokenizer, given, made, reading, language,
                                 lambda done: step(done, len(given)))

    reading, forward = looked(model, sources, targets, to)
    both = back is not None or back_model is not None
    backward = looked(back_model or model, targets, sources, back)[1] if both else None
    rounds = reading.rounds if rounds is None else rounds
    way = way or ("grow-diag-final" if both and not rounds else reading.way)
    with counted(shell.said("rounds"), shell.console(error=True)) as step:
        found = joined(forward, backward, sources, targets, way, rounds, lambda done: step(done, rounds))
    score = wanted.against(found) if wanted is not None else None
    shell.write("".join(f"{pharaoh(one)}\n" for one in found))
    if score is not None:
        rates = {name: f"{100 * getattr(score, name):.1f}" for name in ("aer", "precision", "recall")}
        print(say("error rate", tongue, **rates, sure=f"{score.sure:,}", first=wanted.first), file=sys.stderr)


# ---- translate ----

@dataclass(frozen=True)
class _Work:
    """How lines are translated, and what is written for each."""

    translator: Translator
    to: str | None
    search: Search
    sampling: Sampling | None
    ranked: bool

    def done(self, lines: list[str], first: int = 1, told: Told = lambda done, all: None) -> list[str]:
        """What is written for some lines: a line for each, or its n best."""
        if self.sampling is not None:
            return self.translator.sample(lines, self.sampling, self.to, told, first)
        found = self.translator.candidates(lines, self.to, self.search, told, first)
        if not self.ranked:
            return [best[0].text for best in found]
        return [f"{rank}\t{c.score:.4f}\t{c.text}" for best in found for rank, c in enumerate(best)]


def _load(model: str, to: str | None) -> Translator:
    """The translator, which has the language."""
    from klieg.translate import Translator, opening

    translator = Translator.load(model)
    opening(translator.tokenizer, to)
    return translator


def _search(beam: int, alpha: float, beta: float, best: int) -> Search:
    from klieg.beam import Search

    return Search(beam, alpha, beta, best)


def _sampling(sample: bool, n_best: int | None, drawn: dict) -> Sampling | None:
    """How texts are drawn, where they are."""
    from klieg.generate import Sampling

    if not sample and drawn:
        raise KliegError(f"--{next(iter(drawn)).replace('_', '-')} is for texts that are drawn; add --sample.")
    if sample and n_best is not None:
        raise KliegError("--n-best is of a search, and --sample draws; leave one of them away.")
    return Sampling(**drawn) if sample else None


def _deliver(parts: Iterator[list[str]], output: Path | None) -> None:
    """Each part to standard output as soon as it is there, or all of them to a file."""
    bodies = []
    for part in parts:
        text = "".join(f"{line}\n" for line in part)
        if output is None:
            shell.write(text)
        else:
            bodies.append(text.encode())
    if output is not None:
        shell.deliver({output: b"".join(bodies)})


def _lines(path: Path) -> list[str]:
    from klieg.bitexts import lines

    return lines(path)


def _watched() -> AbstractContextManager[Told]:
    """A bar for standard input, unless what is read or written shares the screen with it."""
    from klieg.views.progress import counted

    if sys.stdin.isatty() or sys.stdout.isatty():
        return nullcontext(lambda done, expected: None)
    return counted(shell.said("lines"), shell.console(error=True))


def _streamed(work: _Work, parts: Iterator[tuple[int, list[str]]], step: Told) -> Iterator[list[str]]:
    """What is written for each part; of one with a line that cannot be translated, what is written for those before it."""
    from klieg.translate import Untranslatable

    for first, part in parts:
        try:
            yield work.done(part, first, lambda done, all: step(first - 1 + len(part) * done // max(1, all), None))  # noqa: B023
        except Untranslatable as e:
            yield work.done(part[:e.line - first], first)
            raise


def _arriving(stream: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    """(number of the first, lines): those that are there, as soon as there is a whole one."""
    held, first = [], 1
    while chunk := stream.read1(CHUNK):
        whole, newline, rest = chunk.rpartition(b"\n")
        if newline:
            part = b"".join([*held, whole]).split(b"\n")
            yield from _texts(part, first)
            held, first = [], first + len(part)
        held.append(rest)
    if any(held):
        yield from _texts([b"".join(held)], first)


def _texts(part: list[bytes], first: int) -> Iterator[tuple[int, list[str]]]:
    """The lines as texts; where one is not UTF-8, those before it come first."""
    texts: list[str] = []
    try:
        for number, line in enumerate(part, first):
            texts.append(_decoded(line, number))
    except KliegError:
        if texts:
            yield first, texts
        raise
    yield first, texts


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as e:
        raise KliegError(f"standard input is not UTF-8 in line {number:,} at byte {e.start + 1} of it; convert it "
                         "first.") from None


def _converse(work: _Work, language: str) -> None:
    """A line, its translation, and so on; a mistake in a line ends nothing."""
    if sys.stdin.isatty():
        print(shell.said("Write; an empty line ends."), file=sys.stderr)
    number = 1
    while line := shell.ask("› "):
        try:
            shell.write("\n".join(work.done([line], number)) + "\n")
        except KliegError as e:
            shell.tell(str(e), language)
        number += 1


# ---- evaluate ----

@dataclass(frozen=True)
class _Run:
    """Translations of a model, how long they took, and how well it expected the references."""

    texts: list[str]
    seconds: float
    perplexity: Perplexity

    @classmethod
    def of(cls, translator: Translator, sources: list[str], references: list[str], to: str | None, search: Search,
           tokenized: bool) -> _Run:
        from klieg.evaluate import perplexity
        from klieg.views.progress import counted

        console = shell.console(error=True)
        with counted(shell.said("perplexity"), console) as step:
            expected = perplexity(translator, sources, references, to, tokenized, step)
        start = perf_counter()
        with counted(shell.said("translating"), console) as step:
            texts = translator.translate(sources, to, search, step)
        return cls(texts, perf_counter() - start, expected)

    @property
    def numbers(self) -> dict:
        return {"perplexity": asdict(self.perplexity), "seconds": self.seconds,
                "sentences_per_second": len(self.texts) / self.seconds}


def _report(scores: Scores, run: _Run | None, language: str) -> list[str]:
    """What was measured, a row each."""
    from klieg.views.glyphs import width
    from klieg.views.words import say

    rows = [("BLEU", f"{scores.bleu:.2f}   {'/'.join(f'{p:.1f}' for p in scores.precisions)}, BP {scores.brevity_penalty:.3f}"),
            ("", scores.bleu_signature),
            ("chrF", f"{scores.chrf:.2f}"),
            ("", scores.chrf_signature)]
    count = f"{scores.sentences:,}"
    if run is not None:
        p = run.perplexity
        rows += [(say("perplexity", language), say(f"perplexity a {p.word_is}", language, token=f"{p.token:.3f}",
                                                   tokens=f"{p.tokens:,}", word=f"{p.word:.3f}", words=f"{p.words:,}"))]
        count = say("translated", language, sentences=count, seconds=f"{run.seconds:.1f}",
                    speed=f"{scores.sentences / run.seconds:.1f}")
    rows += [(say("sentences", language), count)]
    return [name + " " * (12 - width(name)) + said for name, said in rows]


# ---- align ----

def _sentence_pairs(source: Path, target: Path | None) -> tuple[list[str], list[str]]:
    """Sentences and their translations, from two files or from one that has both in a line."""
    from klieg.bitexts import lines, together

    if target is not None:
        pairs = together(source, target)
    else:
        pairs = [tuple(line.split("|||")) for line in lines(source)]
        for number, pair in enumerate(pairs, 1):
            if len(pair) != 2:
                raise KliegError(f"{source}, line {number:,} is not 'source ||| target'; write it so, or name two files.")
    return [a for a, _ in pairs], [b for _, b in pairs]
