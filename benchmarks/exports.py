"""Do exported translators write token for token what ours writes?

Greedy, in float32: the model is exported to Hugging Face, CTranslate2 and ONNX, each export translates the same test
sentences in its own engine, and every sentence whose tokens are all ours counts.

    python benchmarks/exports.py multi30k en-de runs/multi30k-en-de/model [--data FOLDER] [--sentences 1000]
    python benchmarks/exports.py tatoeba en-de translate
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bleu import mark, test_sets

from klieg.beam import Search, padded, search
from klieg.export import export
from klieg.translate import Translator

LONGEST = 100   # tokens that a translation may have, everywhere
ROWS = 50       # sentences of a batch, everywhere
Rows = list[list[int]]


def by_huggingface(folder: Path, sources: Rows, pad: int, eos: int) -> Rows:
    from transformers import MarianMTModel

    model = MarianMTModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids, real = padded(sources, pad)
    mask = torch.ones_like(ids) if real is None else real.long()
    # The last token that it may write is always the end mark.
    return model.generate(input_ids=ids, attention_mask=mask, num_beams=1, max_new_tokens=LONGEST + 1)[:, 1:].tolist()


def by_ctranslate2(folder: Path, sources: Rows, pad: int, eos: int) -> Rows:
    import ctranslate2
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    engine = ctranslate2.Translator(str(folder), intra_threads=1)
    found = engine.translate_batch([[words.id_to_token(id) for id in row] for row in sources], beam_size=1,
                                   max_decoding_length=LONGEST, min_decoding_length=0)
    return [[words.token_to_id(piece) for piece in one.hypotheses[0]] for one in found]


def by_onnx(folder: Path, sources: Rows, pad: int, eos: int) -> Rows:
    import onnxruntime

    encoder, decoder = (onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
                        for name in ("encoder", "decoder"))
    ids, real = padded(sources, pad)
    given = {"mask": (torch.ones_like(ids) if real is None else real.long()).numpy()}
    memory = encoder.run(None, {"ids": ids.numpy(), **given})
    given |= dict(zip((x.name for x in encoder.get_outputs()), memory, strict=True))
    past = {x.name: np.zeros((len(ids), x.shape[1], 0, x.shape[3]), np.float32) for x in decoder.get_inputs()
            if "past." in x.name}
    names, written = [x.name for x in decoder.get_outputs()], [np.full((len(ids), 1), pad)]
    while len(written) <= LONGEST and not (np.concatenate(written, 1) == eos).any(1).all():
        found = dict(zip(names, decoder.run(None, {"ids": written[-1], **given, **past}), strict=True))
        past = {name.replace("present", "past"): value for name, value in found.items() if name != "logits"}
        written.append(found["logits"][:, -1].argmax(-1)[:, None])
    return np.concatenate(written[1:], 1).tolist()


ENGINES: dict[str, Callable[[Path, Rows, int, int], Rows]] = {
    "huggingface": by_huggingface, "ctranslate2": by_ctranslate2, "onnx": by_onnx}


def same(model: str, sources: Rows, eos: int, pad: int, expected: Rows) -> dict[str, int]:
    """By engine, how many sources have all of the tokens that are expected."""
    found = {}
    for to, run in ENGINES.items():
        with tempfile.TemporaryDirectory() as folder:
            export(model, to, Path(folder) / "out")
            rows = [row for start in range(0, len(sources), ROWS)
                    for row in run(Path(folder) / "out", sources[start:start + ROWS], pad, eos)]
        whole = [row[:row.index(eos)] if eos in row else row for row in rows]
        found[to] = sum(a == b for a, b in zip(whole, expected, strict=True))
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("corpus", choices=("multi30k", "tatoeba"))
    options.add_argument("pair", help="en-de, en-fr, en-zh or zh-en")
    options.add_argument("model")
    options.add_argument("--data", help="the folder of the texts; KLIEG_DATA where this is not given")
    options.add_argument("--sentences", type=int, default=1000, help="of the first test set, from its beginning")
    given = options.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    translator, (source, target) = Translator.load(given.model), given.pair.split("-")
    name, pairs = next(iter(test_sets(given.corpus, source, target, given.data).items()))
    tokenizer, language = translator.tokenizer, mark(translator, target)
    before = [] if language is None else [tokenizer.marks[f">>{language}<<"]]
    sources = [[*before, *tokenizer.encode(text), tokenizer.eos] for text, _ in pairs[:given.sentences]]
    # Of ours one more token is the end mark.
    expected = [best[0].ids for best in search(translator.model, sources, Search(beam=1, ratio=0, extra=LONGEST + 1))]
    counts = same(given.model, sources, tokenizer.eos, tokenizer.pad, expected)
    print("| export | sentences with all of our tokens |\n|---|---|")
    for to, count in counts.items():
        print(f"| {to} | {count:,} of {len(sources):,} ({name}) |")
    sys.exit(any(count < len(sources) for count in counts.values()))


if __name__ == "__main__":
    main()
