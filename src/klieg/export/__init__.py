"""Klieg's models as other programs open them: one file for each target, and export(), which chooses.

    export("runs/multi30k/model", "ctranslate2", Path("translator"), "int8")

An export is a folder, written whole or not at all, that does without Klieg. Its export.json says
what it was made of; a folder that holds anything else is left alone.
"""

from __future__ import annotations

import contextlib
import json
from importlib.util import find_spec
from pathlib import Path

from klieg import checkpoint, models
from klieg.atomic import atomic
from klieg.errors import KliegError, nearest
from klieg.export import ctranslate2, gguf, huggingface, onnx
from klieg.export.vocabulary import standing_alone

__all__ = ["TARGETS", "export"]

TARGETS = {"ctranslate2": ctranslate2, "gguf": gguf, "huggingface": huggingface, "onnx": onnx}
CARD = "export.json"


def export(name: str, to: str, out: Path, quantization: str = "none") -> list[str]:
    """Writes the model `name` (a bundled name, a folder, or a Hugging Face id) into the folder `out` for the target `to`.

    quantization: one of ctranslate2.QUANTIZATIONS; of other targets only "none". Returns lines that the
    user should read. KliegError where the target has no such model, and nothing is written then.
    """
    if to not in TARGETS:
        raise KliegError(f"there is no export to {to!r}." + nearest(to, list(TARGETS)))
    _check_quantization(to, quantization)
    missing = [package for package in TARGETS[to].PACKAGES if find_spec(package) is None]
    if missing:
        raise KliegError(f"an export to {to} needs {' and '.join(missing)}; `pip install {' '.join(missing)}`.")
    source, out = models.find(name), Path(out)
    _check_place(source, out, to)
    model, tokenizer = models.load(name)
    with contextlib.suppress(OSError):
        out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out, folder=True) as part:
        if to == "ctranslate2":
            said = ctranslate2.write(model, tokenizer, part, quantization)
        elif to == "gguf":
            said = gguf.write(model, tokenizer, part, source.name)
        elif to == "huggingface":
            said = huggingface.write(model, tokenizer, part, source)
        else:
            said = onnx.write(model, part)
        if to != "huggingface":  # which has its own, with more in it
            body = standing_alone(tokenizer, model.config.model_type)["tokenizer.json"]
            (part / "tokenizer.json").write_text(body, "utf-8")
        card = {"target": to, "model": source.name, "quantization": quantization,
                "files": sorted(path.name for path in part.iterdir())}
        (part / CARD).write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", "utf-8")
    return said


def _check_quantization(to: str, quantization: str) -> None:
    if to != "ctranslate2" and quantization != "none":
        raise KliegError(f"quantization is {quantization!r}, and only an export to ctranslate2 has one; leave it out.")
    if quantization not in ctranslate2.QUANTIZATIONS:
        raise KliegError(f"there is no quantization {quantization!r}." + nearest(quantization, list(ctranslate2.QUANTIZATIONS)))


def _check_place(source: Path, out: Path, to: str) -> None:
    """An export may replace one of the same target; every other folder with something in it is left alone."""
    there = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if not there:
        return
    if out.resolve() == source.resolve() or CARD not in there:
        raise KliegError(f"{out} holds {there[0]} and is no export of Klieg; choose a folder of its own.")
    card = checkpoint.read_json(out / CARD)
    if card.get("target") != to:
        raise KliegError(f"{out} is an export to {card.get('target')}; choose another folder.")
    files = card.get("files")
    others = [name for name in there if name != CARD and name not in (files if isinstance(files, list) else [])]
    if others:
        raise KliegError(f"{out} also holds {others[0]}, which would be lost; choose a folder of its own.")
