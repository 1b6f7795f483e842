"""The command line: each command is a few lines that call the package and show what it gives.

Files are written whole or not at all, and only after all that was asked for is made. How the
process starts and ends is in shell.py; the commands for long texts are in maps.py.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import atlases, experiments, flows, maps, serving, shell, supposing, translating
from klieg.errors import KliegError
from klieg.shell import Language

if TYPE_CHECKING:
    from rich.console import Console

    from klieg.decoders import Decoder
    from klieg.generate import Sampling
    from klieg.tokenizers import Tokenizer
    from klieg.trace import Trace
    from klieg.train import Trainer

app = typer.Typer(help="Look into Transformers: exact attention, every number of it real.", add_completion=False,
                  rich_markup_mode=None)

bench = typer.Typer(help="Measure Klieg on this machine.", rich_markup_mode=None)
app.add_typer(bench, name="bench")

Model = Annotated[str, typer.Option("--model", "-m", help="A bundled name, a folder, or a Hugging Face id.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token; below 1 sharpens, above 1 flattens.")]
TopK = Annotated[int, typer.Option(help="Choose among the k likeliest tokens; 0 for all.")]
TopP = Annotated[float, typer.Option(help="Choose among the likeliest tokens of this total probability.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]


def main() -> None:
    """Run the command that sys.argv names; ends by SystemExit if it cannot be done."""
    shell.run(app)


@app.command()
def explain(
    text: Annotated[str, typer.Argument(help="The text to look into; - reads standard input.")],
    model: Model = "chat",
    to: Annotated[str | None, typer.Option(help="Language of a translator's target, where it has several.")] = None,
    target: Annotated[str | None, typer.Option(help="Target to look into; by default what the translator finds.")] = None,
    kind: Annotated[str | None, typer.Option(help="Of a translator: encoder, self (the decoder's own) or cross.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to open, from 0; by default the most certain head's.")] = None,
    head: Annotated[int | None, typer.Option(help="Head to open, from 0.")] = None,
    token: Annotated[int | None, typer.Option(help="Token whose view is taken, from 0; by default the last.")] = None,
    cell: Annotated[str | None, typer.Option(metavar="LAYER.HEAD.QUERY.KEY", help="Write out one weight's arithmetic.")] = None,
    scale: Annotated[str, typer.Option(help="linear, log, or no-first (hide the first token's column).")] = "linear",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Numbers; - for standard output.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="The picture, at any size.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="The picture in pixels.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="One page that works offline.")] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="The trace itself, for klieg.Trace.load.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Dark pictures.")] = False,
    cut: Annotated[bool, typer.Option("--cut", help="Cut a text that is longer than the model's positions.")] = False,
    lang: Language = None,
) -> None:
    """Show where every head looks, and the arithmetic of each number."""
    language = shell.language(lang)
    shell.one_of("scale", scale, ["linear", "log", "no-first"])
    if kind is not None:
        shell.one_of("kind", kind, ["encoder", "self", "cross"])
    place = _place(cell) if cell is not None else None
    if str(save) == "-":
        raise KliegError("--save writes a file; name one, for example --save love.klieg.")
    files = shell.files(place is not None, json=json_file, svg=svg, png=png, html=html, save=save)
    given = shell.given(text)
    from klieg.views.focus import focus
    from klieg.watch import trace

    found = trace(model, given, target=target, to=to, cut=cut)
    opened = {"layer": layer, "head": head, "token": token, "kind": kind}
    focus(found, **opened)  # refuses what is not there, also where the export does not need it
    card = found.cell(*place, kind=kind or found.kind) if place is not None else None
    _export(found, opened, scale, dark, language, files)
    if card is not None:
        from klieg.views.arithmetic import arithmetic
        shell.console().print(arithmetic(card, language=language))
    elif not files:
        from klieg.views.terminal import screen
        shell.console().print(screen(found, **opened, scale=scale, language=language))


def _export(found: Trace, opened: dict, scale: str, dark: bool, language: str, files: dict[str, Path]) -> None:
    """Make what was asked for, then write it."""
    from klieg.views.figures import page
    from klieg.views.palette import DARK, LIGHT

    def made(kind: str) -> bytes:
        if kind == "json":
            return _json(found, opened).encode()
        if kind == "html":
            return _page(found)
        theme = DARK if dark else LIGHT
        return shell.drawn(page(found, **opened, scale=scale, theme=theme, language=language), kind)

    shell.deliver({path: made(kind) for kind, path in files.items() if kind != "save"})
    if "save" in files:
        found.save(files["save"])
        print(f"wrote {files['save']}", file=sys.stderr)


def _json(found: Trace, opened: dict) -> str:
    from klieg.views.summary import summary

    return json.dumps(summary(found, **opened), ensure_ascii=False, indent=1) + "\n"


def _page(found: Trace) -> bytes:
    from klieg.views.html import html

    return html(found).encode()


app.command("map")(maps.map_text)
app.command()(maps.heads)
app.command()(maps.zoom)
app.command()(atlases.atlas)
app.command()(supposing.whatif)
app.command()(flows.flow)
app.command()(experiments.lab)
app.command()(translating.translate)
app.command()(translating.evaluate)
app.command()(translating.align)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="How the text begins; - reads standard input.")],
    model: Model = "chat",
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 256,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    seed: Seed = None,
) -> None:
    """Continue a text, token by token."""
    from klieg.generate import stream
    from klieg.tokenizers import check_text

    sampling = _sampling(temperature, top_k, top_p, seed)
    prompt = check_text(shell.given(prompt))
    decoder, tokenizer = _decoder(model)
    pieces = stream(decoder, tokenizer, prompt, sampling, tokens)
    shell.write(prompt)
    for piece in pieces:
        shell.write(piece)
    shell.write("\n")


@app.command()
def chat(model: Model = "chat", temperature: Temperature = 0.7, top_k: TopK = 0, top_p: TopP = 0.9, seed: Seed = None,
         lang: Language = None) -> None:
    """Talk with a model; an empty line or Ctrl-D ends."""
    from klieg.generate import Conversation

    sampling, language = _sampling(temperature, top_k, top_p, seed), shell.language(lang)
    conversation = Conversation(*_decoder(model), sampling)
    if sys.stdin.isatty():
        print({"en": "Talk; an empty line ends.", "zh": "开始聊天；空行结束。"}[language])
    while line := _ask():
        for piece in conversation.say(line):
            shell.write(piece)
        shell.write("\n")


def _ask() -> str:
    """The user's next line; '' at the end."""
    try:
        return input("› " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


@app.command()
def fill(
    text: Annotated[str, typer.Argument(help="A text with [MASK] where tokens are to be found; - reads standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A folder or a Hugging Face id of BERT's shape.")],
    top: Annotated[int, typer.Option(min=1, help="Candidates for each [MASK].")] = 8,
) -> None:
    """Say what may stand at every [MASK] of a text."""
    from rich.table import Table

    from klieg import masked, models

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, side in (("mask", "right"), ("candidate", "left"), ("probability", "right")):
        table.add_column(column, justify=side, overflow="fold")
    for place, guesses in enumerate(masked.fill(*models.load(model), shell.given(text), top)):
        for guess in guesses:
            table.add_row(str(place) if guess.rank == 1 else "", guess.token, f"{guess.p:.2%}")
    shell.console().print(table)


@app.command()
def export(
    to: Annotated[str, typer.Option(help="ctranslate2, gguf, huggingface or onnx.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Written whole or not at all.")],
    model: Model = "chat",
    quantization: Annotated[str, typer.Option(help="Of ctranslate2: none, int8, int16, float16, bfloat16, ...")] = "none",
) -> None:
    """Write a model for another program."""
    from klieg.export import export as written

    for line in written(model, to, out, quantization):
        print(line, file=sys.stderr)
    print(f"wrote {out}", file=sys.stderr)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; see recipes/.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run, where it also goes on; by default runs/NAME.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of texts; by default KLIEG_DATA.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Processor threads; by default all.")] = None,
    shard: Annotated[bool, typer.Option("--shard", help="Spread a model that outgrows a card over the processes of "
                                                        "torchrun.")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what memory and time the run needs here.")] = False,
) -> None:
    """Train a model by a recipe. Interrupt it at any time and give the same command to go on.

    Several processes share a run that is started with: torchrun --nproc-per-node 2 -m klieg train RECIPE
    """
    import torch

    from klieg.estimate import estimated
    from klieg.parallel import group
    from klieg.recipe import read
    from klieg.train import Trainer, check

    found = read(recipe)
    folder = out or Path("runs") / found.name
    if threads:
        torch.set_num_threads(threads)
    console = shell.console(error=True)
    with group(shard) as processes:
        def say(line: str) -> None:
            if processes.rank == 0:
                console.print(line, style="dim", soft_wrap=True)

        begun = bool(processes.sum(any(folder.glob("state-*"))))
        if not begun and not estimate:
            processes.lead(partial(check, found, folder, data))
        if not begun or estimate:
            needs = estimated(found, processes)
            say(needs.line)
            processes.lead(needs.check)
        if not estimate:
            _train(Trainer(found, folder, data, say, processes), console)


def _train(trainer: Trainer, console: Console) -> None:
    """To the last step; process 0 shows how it goes and draws the curve."""
    from klieg.views.progress import watched

    if trainer.group.rank:
        deque(trainer.run(), maxlen=0)
        return
    for progress in watched(trainer.run(), trainer.step, console):
        if progress.validation_loss is not None:
            try:
                _curve(trainer.curve, trainer.folder / "loss.png")
            except KliegError as e:  # a machine without fonts can still train
                console.print(f"no picture of the loss: {e}", soft_wrap=True)
    asked = {"marian": 'translate "I love you"', "bert": 'fill "It was a [MASK] night"'}
    ask, model = asked.get(trainer.recipe.model.model_type, 'generate "Once upon a time"'), trainer.folder / "model"
    console.print(f"the model is in {model}; try: klieg {ask} --model {model}", soft_wrap=True)


def _curve(curve: list, path: Path) -> None:
    from klieg.checkpoint import atomic
    from klieg.views import png
    from klieg.views.curve import curve as picture

    body = png.lower(picture([(p.step, p.loss) for p in curve],
                             [(p.step, p.validation_loss) for p in curve if p.validation_loss is not None]))
    with atomic(path) as part:
        part.write_bytes(body)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="wmt14-en-de, wmt14-en-fr or multi30k.")],
    out: Annotated[Path, typer.Option(help="Folder of texts, as docs/data.md lays it out.")] = Path("texts"),
) -> None:
    """Fetch public parallel texts and check them. Interrupt it at any time and give the same command to go on."""
    from klieg.download import download
    from klieg.views.progress import counted

    console = shell.console(error=True)
    with counted(name, console) as step:
        place = download(name, out, lambda file, done, size: step(done // 2**20, size // 2**20))
    console.print(f"the texts are in {place}; name them by: klieg train RECIPE --data {out}", soft_wrap=True)


@bench.command("attention")
def bench_attention(
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of each; the median of their ratios is printed.")] = 7,
    lang: Language = None,
) -> None:
    """What attention costs here with its survey, beside torch's own attention alone; some minutes."""
    from klieg.bench import USUAL, measured
    from klieg.views.costs import costs

    language = shell.language(lang)
    costs(measured(USUAL, repetitions), len(USUAL), shell.console(), language)


@app.command("models")
def list_models() -> None:
    """The models that come with Klieg."""
    from rich.table import Table

    from klieg import checkpoint, models
    from klieg.config import parse_config

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("name", "shape", "layers", "heads", "K/V heads", "positions", "parameters", "folder"):
        table.add_column(column, overflow="fold")
    for name in models.bundled():
        folder = models.find(name)
        config = parse_config(checkpoint.read_config(folder), str(folder))
        model = models.outline(config)
        table.add_row(name, config.model_type, str(model.layers), str(model.heads), str(model.kv_heads),
                      str(model.positions), f"{model.parameter_count / 1e6:.1f} M", str(folder))
    shell.console().print(table)


app.command()(serving.serve)


def _decoder(name: str) -> tuple[Decoder, Tokenizer]:
    """A model that continues texts; KliegError for any other."""
    from klieg import models

    model, tokenizer = models.load(name)
    if not isinstance(model, models.Decoder):
        use = "klieg translate" if isinstance(model, models.Marian) else "klieg fill"
        raise KliegError(f"{name!r} does not continue texts; it is for {use}.")
    return model, tokenizer


def _sampling(temperature: float, top_k: int, top_p: float, seed: int | None) -> Sampling:
    """The options of sampling, checked."""
    from klieg.generate import Sampling

    return Sampling(temperature, top_k, top_p, seed)


def _place(cell: str) -> tuple[int, int, int, int]:
    parts = cell.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise KliegError(f"--cell is {cell!r}; it must be LAYER.HEAD.QUERY.KEY, four whole numbers, for example 3.2.4.1.")
    return tuple(int(part) for part in parts)


