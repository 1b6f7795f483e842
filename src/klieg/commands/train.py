"""The commands of a training run: `train` makes a model by a recipe, `data` fetches the texts that it names."""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klieg import shell
from klieg.errors import KliegError
from klieg.shell import Language
from klieg.tongue import asked

if TYPE_CHECKING:
    from rich.console import Console

    from klieg.analysis.atlas.diary import Diary
    from klieg.parallel import Group
    from klieg.train import Trainer

TEXTS = 8       # pieces of a text on which heads are scored


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; see recipes/.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run, where it also goes on; by default runs/NAME.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of texts; by default KLIEG_DATA.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Processor threads; by default all.")] = None,
    shard: Annotated[bool, typer.Option("--shard", help="Spread a model that outgrows a card over the processes of "
                                                        "torchrun.")] = False,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so long, with a model of what was learnt till then; "
                                                  "the same command goes on. 0: only prepare the folder.")] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what memory and time the run needs here.")] = False,
    heads: Annotated[Path | None, typer.Option(metavar="TEXT", help="Score all heads on the beginning of a text at every so "
                                               "many steps, into the folder heads of the run; klieg atlas --compare reads "
                                               "them.")] = None,
    heads_every: Annotated[int, typer.Option(min=1, help="Steps between these scores.")] = 100,
    lang: Language = None,
) -> None:
    """Train a model by a recipe. Interrupt it at any time and give the same command to go on.

    Several processes share a run that is started with: torchrun --nproc-per-node 2 -m klieg train RECIPE
    """
    import torch

    from klieg.estimate import estimated
    from klieg.parallel import group
    from klieg.recipe import read
    from klieg.train import Trainer, check

    shell.language(lang)
    if threads:
        torch.set_num_threads(threads)
    console = shell.console(error=True)
    with group(shard) as processes:
        def say(line: str) -> None:
            if processes.rank == 0:
                console.print(shell.said(line), style="dim", soft_wrap=True)

        processes.lead(partial(read, recipe))
        found = read(recipe)
        folder = out or Path("runs") / found.name
        if heads is not None:
            processes.lead(partial(_scorable, heads, found.model.model_type, processes))
        begun = bool(processes.sum(any(folder.glob("state-*"))))
        if not begun and not estimate:
            processes.lead(partial(check, found, folder, data))
        seconds = None
        if not begun or estimate:
            needs = estimated(found, processes)
            say(needs.line)
            processes.lead(needs.check)
            seconds = needs.seconds
        if not estimate:
            trainer = Trainer(found, folder, data, say, processes)
            diary = None
            if heads is not None and processes.rank == 0:
                diary = _diary(trainer, heads, heads_every)
                say(diary.forecast(seconds))
            _train(trainer, console, diary, math.inf if minutes is None else 60 * minutes)


def _scorable(heads: Path, kind: str, processes: Group) -> None:
    """KliegError now, and not after a hundred steps, if the heads of a run cannot be scored on a text."""
    from klieg.analysis.atlas.corpus import Corpus

    Corpus(heads)
    if kind == "marian" or processes.sharded or processes.device.type != "cpu":
        raise KliegError("the heads of a model that translates, is sharded or is on a card are not scored while it is trained; "
                         "leave --heads away, and use klieg atlas afterwards.")


def _diary(trainer: Trainer, heads: Path, every: int) -> Diary:
    """Scores of heads on the beginning of a text, in the run's own folder; the first are those of the model as it is now."""
    from klieg.analysis.atlas.corpus import Corpus
    from klieg.analysis.atlas.diary import Diary

    texts = [piece.text for piece in islice((piece for piece in Corpus(heads).pieces() if piece.fault is None), TEXTS)]
    diary = Diary(trainer.folder / "heads", trainer.tokenizer, texts, every)
    diary.look(trainer.model, trainer.step)
    return diary


def _train(trainer: Trainer, console: Console, diary: Diary | None, seconds: float) -> None:
    """To the last step, or for so many seconds; process 0 shows how it goes, draws the curve and scores the heads."""
    from klieg.views.progress import watched

    if trainer.group.rank:
        deque(trainer.run(seconds), maxlen=0)
        return

    def say(line: str) -> None:
        console.print(shell.said(line), soft_wrap=True)

    for progress in watched(trainer.run(seconds), trainer.step, console, shell.said):
        if diary is not None:
            diary.step(trainer.model, progress.step)
        if progress.validation_loss is not None:
            try:
                _curve(trainer.curve, trainer.folder / "loss.png")
            except KliegError as e:  # a machine without fonts can still train
                say(f"no picture of the loss: {e}")
    if diary is not None:
        console.print(shell.said(diary.cost), style="dim", soft_wrap=True)
    if trainer.finished and trainer.step < trainer.recipe.train.steps:
        say(f"ended at step {trainer.step:,} of {trainer.recipe.train.steps:,}: the last {trainer.recipe.train.patience:,} "
            "looks at the held-out texts were no better")
    if not trainer.finished:
        say(f"stopped at step {trainer.step:,} of {trainer.recipe.train.steps:,}; the same command goes on")
    if not trainer.step:
        return
    asked = {"marian": 'translate "I love you"', "bert": 'fill "It was a [MASK] night"'}
    ask, model = asked.get(trainer.recipe.model.model_type, 'generate "Once upon a time"'), trainer.folder / "model"
    say(f"the model is in {model}; try: klieg {ask} --model {model}")


def _curve(curve: list, path: Path) -> None:
    from klieg.checkpoint import atomic
    from klieg.views import png
    from klieg.views.curve import curve as picture

    body = png.lower(picture([(p.step, p.loss) for p in curve],
                             [(p.step, p.validation_loss) for p in curve if p.validation_loss is not None],
                             language=asked()))
    with atomic(path) as part:
        part.write_bytes(body)


def data(
    name: Annotated[str, typer.Argument(help="wmt14-en-de, wmt14-en-fr or multi30k.")],
    out: Annotated[Path, typer.Option(help="Folder of texts, as docs/data.md lays it out.")] = Path("texts"),
    lang: Language = None,
) -> None:
    """Fetch public parallel texts and check them. Interrupt it at any time and give the same command to go on."""
    from klieg.download import download
    from klieg.views.progress import counted

    shell.language(lang)
    console = shell.console(error=True)
    with counted(name, console) as step:
        place = download(name, out, lambda file, done, size: step(done // 2**20, size // 2**20))
    console.print(shell.said(f"the texts are in {place}; name them by: klieg train RECIPE --data {out}"), soft_wrap=True)
