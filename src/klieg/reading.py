"""A model reads a text, and a trace is what was seen: a bundled model's whole, of any other what watching keeps.

What will be kept and what it costs is said before it is kept, and what was not kept after all, with why.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from klieg.device import CPU
from klieg.errors import KliegError
from klieg.survey import SurveySpec
from klieg.tokenizers import check_text
from klieg.trace import Trace
from klieg.watching.store import SHARE, free_memory, size

if TYPE_CHECKING:
    from rich.console import Console

    from klieg.foreign import Foreign


FEWEST, TOKENS, MOST = 256, 128, 1024


def buckets(count: int) -> int:
    """Rows and columns of the pooled maps of a text of `count` tokens: one for TOKENS of them, but FEWEST to MOST.

    A long map that is looked at in parts too large to be computed while one waits is then there already.
    """
    return min(max(-(-count // TOKENS), FEWEST), MOST)


def bundled(name: str, text: str, top: int, pooled: int | None, tokens: int | None, out: Path | None = None) -> Trace:
    """The whole trace of a model that comes with Klieg, saved to `out` if there is one; see watched()."""
    from klieg.models import Decoder, load
    from klieg.watch import trace

    decoder, tokenizer = load(name)
    if not isinstance(decoder, Decoder):
        raise KliegError(f"{name!r} is a translator, and reads a text for a language; save its trace with klieg explain TEXT "
                         f"--model {name} --to zh --save FILE.klieg, which klieg heads and klieg zoom open.")
    if tokens is None:
        # trace() would offer what only klieg explain has.
        tokenizer.fitting(check_text(text), decoder.positions, offer=_offer(decoder.positions, out))
    else:
        # trace() cuts a text where the model's positions end.
        decoder.positions = min(tokens, decoder.positions)
    found = trace((decoder, tokenizer), text, cut=tokens is not None, name=name, spec=_spec(top, pooled, decoder.positions))
    if out is not None:
        found.save(out)
    return found


def watched(name: str, text: str, top: int, pooled: int | None, tokens: int | None, layers: list[int] | None,
            kept: list[int] | bool | None, out: Path | None, console: Console, say: Callable[[str], str] = str,
            device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Trace:
    """What was watched of any other model, saved to `out` if there is one. top and pooled: as SurveySpec has them, None for
    as many buckets() as the text is long; layers: those to survey, None for all; kept: those whose q and k are kept, None
    for all and False for none. What the console shows meanwhile is as `say` has it. The model computes on the device in the
    type, and what was seen lies there too."""
    from klieg import foreign
    from klieg.views.progress import counted
    from klieg.watch import watch

    model = foreign.load(name, device, dtype)
    ids = model.ids(text, tokens, _offer(model.positions, out))
    for option, numbers in (("layers", layers), ("keep", kept)):
        if isinstance(numbers, list) and numbers and max(numbers) >= model.shape[0]:
            raise KliegError(f"--{option} names layer {max(numbers)}; {name!r} has layers 0 to {model.shape[0] - 1}.")
    spec = _spec(top, pooled, len(ids))
    needed = _cost(model, len(ids), spec, layers, kept)
    if out is not None:
        _announce(model, len(ids), needed, kept, out, lambda line: console.print(say(line), soft_wrap=True))
    # What is too much for the memory is mapped from the disk that the trace goes to.
    folder = out.absolute().parent if out is not None and needed[1] * SHARE > free_memory() else None
    with counted(say("layers"), console) as step, watch(
            model.model, spec.top, spec.map, layers=layers, keep_qk=kept, folder=folder, tokenizer=model.tokenizer,
            on_call=step) as seen:
        model.run(ids)
    for (layer, _), why in seen.kept.missing.items():
        if kept is None or (isinstance(kept, list) and layer in kept):      # nobody misses what was not asked for
            console.print(say(f"q and k of layer {layer} were not kept: {why}"), soft_wrap=True)
    found = seen.trace()
    found.model = name
    if out is not None:
        found.save(out)
    return found


def _offer(positions: int | None, out: Path | None) -> str:
    """What is offered where a text is too long: of the commands that read here, klieg map alone takes its first tokens."""
    return "" if out is None else f", or take its first tokens only with --tokens {positions}"


def _spec(top: int, pooled: int | None, count: int) -> SurveySpec:
    return SurveySpec(top=top, map=buckets(count) if pooled is None else pooled)


def _cost(model: Foreign, count: int, spec: SurveySpec, layers: list[int] | None,
          kept: list[int] | bool | None) -> tuple[int, int]:
    """About how many bytes the surveys and q and k take."""
    every, heads, groups, width = model.shape
    # Seven numbers of 4 bytes a row, two of 8, and 4 + 8 for each of the largest weights; two maps a head.
    survey = heads * (count * (48 + 12 * spec.top) + 8 * min(spec.map, count) ** 2)
    pair = count * (heads + groups) * width * model.model.dtype.itemsize
    chosen = len(set(layers)) if layers is not None else every
    return survey * chosen, pair * (len(set(kept)) if isinstance(kept, list) else 0 if kept is False else chosen)


def _announce(model: Foreign, count: int, needed: tuple[int, int], kept: list[int] | bool | None, out: Path,
              say: Callable[[str], None]) -> None:
    """What will be kept, what it costs and where; KliegError if the disk has no room for it."""
    layers, heads, groups, _ = model.shape
    say(f"{count:,} tokens · {layers} layers × {heads} heads · {groups} K/V groups")
    which = f"layers {', '.join(map(str, kept))}" if isinstance(kept, list) else "all layers"
    pairs = "no q and k" if kept is False else f"q and k of {which}, about {size(needed[1])}"
    say(f"keeps the surveys, about {size(needed[0])}, and {pairs}, in {out}")
    free = shutil.disk_usage(out.absolute().parent).free
    if sum(needed) > free:
        raise KliegError(f"{out} needs about {size(sum(needed))} and {size(free)} are free there; free some space, or keep "
                         "less: --keep none, or fewer layers.")
