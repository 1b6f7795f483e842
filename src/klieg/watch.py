"""From a model to what its attention saw: trace() runs one of Klieg's own models, watch() looks on while any other runs.

    trace = klieg.trace("chat", "I love you")            # a bundled name, a folder, a Hugging Face id
    trace = klieg.trace((model, tokenizer), "I love you")   # what klieg.load() gave
    trace = klieg.trace("translate", "I love you", to="zh")  # a translator: encoder, decoder and cross-attention

    with klieg.watch(model) as seen:                     # any model of transformers
        model.generate(**inputs)
    seen[5].survey.entropy
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from klieg.beam import search
from klieg.device import home
from klieg.encoders import Bert
from klieg.errors import KliegError
from klieg.kernels import survey
from klieg.layers import Observation
from klieg.masked import read
from klieg.models import Decoder, Model, opened
from klieg.seq2seq import Marian
from klieg.survey import SurveySpec
from klieg.tokenizers import Tokenizer, check_text
from klieg.trace import Call, Source, Trace
from klieg.translate import opening
from klieg.watching.runs import Labels
from klieg.watching.streams import Recorder

if TYPE_CHECKING:
    from klieg.watching.watcher import Watched

OFFER = ", or have its end cut off with --cut (in Python, cut=True)"


@torch.no_grad()
def trace(model: str | tuple[Model, Tokenizer], text: str | Sequence[int], *, target: str | Sequence[int] | None = None,
          to: str | None = None, cut: bool = False, name: str | None = None, spec: SurveySpec | None = None,
          kernel: str | None = None) -> Trace:
    """Run `model` over `text`, and keep q, k, v, lse and output of every call of attention, and the residual stream around it.

    `model` is a bundled name, a folder, a Hugging Face id of one of Klieg's architectures, or what klieg.load() gave. A
    translator reads the text and the `target`, by default the best that its own beam search finds, in one pass; `to` is the
    target's language, if the model has several. A text longer than the model's positions is refused, or with `cut` cut at
    its end. With `spec` every call also has a survey. `kernel` names one of klieg.kernels.KERNELS. To trace exactly what a
    model wrote, give its ids instead of the text, or for a translator instead of the target.

    KliegError for a model, text, target or kernel that cannot be used, and for a pass that fails its certificate.
    """
    if isinstance(text, str):
        check_text(text)
    network, tokenizer = opened(model)
    name = name or (model if isinstance(model, str) else type(network).__name__)
    calls: list[Call] = []

    def keep(seen: Observation) -> None:
        found = seen.attention
        kept = survey(seen.q, seen.k, found.lse, seen.mask, spec, scale=seen.scale) if spec else None
        calls.append(Call(seen.layer, seen.kind, seen.q, seen.k, seen.v, found.lse, found.output, seen.mask, seen.scale,
                          found.kernel, unrotated_q=seen.unrotated_q, unrotated_k=seen.unrotated_k, survey=kept))

    source = None
    if isinstance(network, Marian):
        source = read_source(network, tokenizer, text, to, cut)
        text, ids = _target(network, tokenizer, source, target, cut)
    elif target is not None or to is not None:
        raise KliegError(f"{name!r} is no translator; leave --target and --to (in Python, target and to) away.")
    elif not isinstance(text, str):
        ids = known(text, len(network.vocabulary), network.positions)
        text = tokenizer.decode(ids)
    elif isinstance(network, Bert):
        ids = read(tokenizer, text, network.positions, cut, offer=OFFER)
    else:
        ids = tokenizer.fitting(text, network.positions, cut, offer=OFFER)
    given = torch.tensor([ids])
    with Recorder(network) as recorder:
        if source is not None:
            logits = network(torch.tensor([source.ids]), given, observe=keep, kernel=kernel)
        elif isinstance(network, Bert):
            # What it says at a token is that token itself, and no next one.
            logits = network.hidden(given, observe=keep, kernel=kernel).new_zeros(1, 0, len(network.vocabulary))
        else:
            logits = network(given, observe=keep, kernel=kernel)
    streams, why = recorder.take()
    logits = logits[0].float()
    return Trace(name, text, ids, tokenizer.labels(ids), calls, logits, Labels(tokenizer, logits.shape[-1]), source, streams,
                 why)


def read_source(model: Marian, tokenizer: Tokenizer, text: str | Sequence[int], to: str | None, cut: bool = False) -> Source:
    """What a translator's encoder reads: the mark of the language, where there is one, the text, and the end mark."""
    if not isinstance(text, str):
        raise KliegError("a translator reads a text; give ids for its target only.")
    before, text = opening(tokenizer, to), check_text(text).strip()
    body = tokenizer.fitting(text, model.positions - len(before) - 1, cut, bos=False, offer=OFFER)
    ids = [*before, *body, model.config.eos_token_id]
    return Source(text, ids, tokenizer.labels(ids))


def _target(model: Marian, tokenizer: Tokenizer, source: Source, target: str | Sequence[int] | None,
            cut: bool) -> tuple[str, list[int]]:
    """A target, given or the best that is found, and its ids as the decoder reads them: after the start mark."""
    if target is None:
        ids = search(model, [source.ids])[0][0].ids
        target = tokenizer.decode(ids)
    elif not isinstance(target, str):
        ids = known(target, model.config.vocab_size, model.positions - 1)
        target = tokenizer.decode(ids)
    else:
        target = check_text(target).strip()
        ids = tokenizer.fitting(target, model.positions - 1, cut, bos=False, offer=OFFER)
    return target, [model.config.decoder_start_token_id, *ids]


def known(ids: Sequence[int], size: int, positions: int) -> list[int]:
    """Ids that were given, checked against the vocabulary and the model's positions."""
    unknown = [id for id in ids if not 0 <= id < size]
    if unknown:
        raise KliegError(f"there is no token {unknown[0]}; the vocabulary has tokens 0 to {size - 1}.")
    if not 0 < len(ids) <= positions:
        raise KliegError(f"{len(ids):,} ids were given and the model has positions for 1 to {positions} of them.")
    return [*ids]


def watch(model: nn.Module, top: int = 16, map: int = 64, *, bins: int = 20, survey: bool = True,
          layers: Sequence[int] | None = None, keep_qk: Sequence[int] | bool | None = None,
          folder: str | Path | None = None, budget: int | None = None, tokenizer: Any = None,
          on_call: Callable[[int, int], None] | None = None, streams: bool = False) -> Watched:
    """Watch a model of transformers while it runs. It keeps its own fast attention, and its output stays the same bit for bit.

        with klieg.watch(model) as seen:
            model(**inputs)                      # or model.generate(**inputs)
        seen[5].survey.entropy                   # (b, h, i); seen[5, "cross"] for another kind
        seen[5].tile(head=3, rows=slice(0, 512), keys=slice(0, 512))

    `top`, `map` and `bins` are those of SurveySpec; with `survey=False` no surveys are made. `layers` are the layers to
    look at, by default all. `keep_qk` says for which of them q and k are kept: all (None), some, or none (False). They are
    kept on the model's GPU and in memory, or in `folder`, within `budget` bytes; see Store. `on_call(done, expected)` is
    called for every call of attention. With a tokenizer, `seen.trace()` has labels for its tokens. With `streams` that
    trace also has the residual stream around attention (blocks.py), in memory: seven numbers or more for every number of
    the stream, in every layer.

    A padded text is kept as the model reads it: its trace has tokens of padding, whose rows count in statistics of whole maps.

    A model that cannot be watched exactly raises a KliegError that says why. A call that fails its certificate raises one
    too, at the end of the block, when the model's own run is complete.
    """
    if isinstance(model, Decoder | Marian | Bert):
        raise KliegError("watch() is for models of transformers; klieg.trace((model, tokenizer), text) traces a model of "
                         "Klieg's own.")
    if not isinstance(model, nn.Module):
        raise KliegError(f"watch() looks on while a model of transformers runs, and {type(model).__name__} was given; load the "
                         "model first, for example with AutoModelForCausalLM.from_pretrained().")
    from klieg.watching.store import Store
    from klieg.watching.streams import StreamWatched
    from klieg.watching.watcher import Options, Watched

    options = Options(SurveySpec(top, map, bins) if survey else None, None if layers is None else frozenset(layers),
                      keep_qk if keep_qk is None or isinstance(keep_qk, bool) else frozenset(keep_qk), tokenizer, on_call)
    return (StreamWatched if streams else Watched)(model, options, Store(folder, budget, home(model)))
