"""A model for transformers and for what reads its folders: the same tensors, with what generate() and AutoTokenizer need.

Klieg's folders are in this layout already. The export adds how to generate, has transformers open the
result, and gives it up unless every tensor is found and logits and ids are ours.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from klieg import checkpoint
from klieg.errors import KliegError, first_line
from klieg.export.vocabulary import standing_alone, unwritten
from klieg.tokenizers import Tokenizer

PACKAGES = ("transformers",)

CLOSE = 1e-4  # how far a number may be from ours, all in float32
PROBE = "Two dogs play in the snow. 两只狗。"


def write(model: nn.Module, tokenizer: Tokenizer, folder: Path, source: Path) -> list[str]:
    """Fills `folder` from the model's own folder `source`; returns what the user should know."""
    config, kind = checkpoint.read_config(source), model.config.model_type
    if config["model_type"] == "klieg":
        raise KliegError(f"transformers has no model with {_variants(model.config)}; export to ctranslate2 or onnx.")
    for path in source.glob("model*.safetensors*"):
        shutil.copyfile(path, folder / path.name)
    files = {"config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n", **standing_alone(tokenizer, kind)}
    if kind != "bert":
        files["generation_config.json"] = json.dumps(_generation(model, tokenizer), indent=2) + "\n"
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    name = (config.get("architectures") or ["none"])[0]
    return [f"transformers' {name} opens it; its numbers are ours within {_compare(model, tokenizer, folder, name):.1e}."]


def _variants(config: object) -> str:
    """The fields of a translator that Marian does not have, as the config says them."""
    names = ("pre_norm", "learned_positions", "head_dim", "kv_heads")
    return " and ".join(f"{name} = {json.dumps(getattr(config, name))}" for name in names if getattr(config, name))


def _generation(model: nn.Module, tokenizer: Tokenizer) -> dict:
    """What generate() goes by. A translator searches with five beams and never writes padding, as Marian's models do."""
    marks = {f"{name}_token_id": id for name, id in
             (("bos", tokenizer.bos), ("eos", tokenizer.eos), ("pad", tokenizer.pad)) if id is not None}
    c = model.config
    if c.model_type != "marian":
        return marks
    return {**marks, "eos_token_id": c.eos_token_id, "pad_token_id": c.pad_token_id, "forced_eos_token_id": c.eos_token_id,
            "decoder_start_token_id": c.decoder_start_token_id, "bad_words_ids": [[id] for id in unwritten(model)],
            "num_beams": 5, "max_length": min(512, c.max_position_embeddings)}


@torch.no_grad()
def _compare(model: nn.Module, tokenizer: Tokenizer, folder: Path, name: str) -> float:
    """Opens the folder in transformers' class `name`; the largest difference. KliegError if it is not the same model."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    made = getattr(transformers, name, None)
    if made is None:
        raise KliegError(f"transformers has no {name!r}, which config.json names as the architecture; nothing is exported. "
                         "Correct that name, or update transformers.")
    try:
        other, found = made.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        words = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as e:  # a config that does not fit its weights comes as almost any error
        raise KliegError(f"transformers cannot open the export ({first_line(e)}); nothing is exported. Please report this "
                         "model.") from None
    wrong = sorted([*found["missing_keys"], *found["unexpected_keys"], *(key for key, *_ in found["mismatched_keys"])])
    wrong = [key for key in wrong if not key.startswith("pooler.")]  # beside the way of a BertModel's hidden states
    if wrong:
        raise KliegError(f"transformers and the file do not agree on {wrong[0]} ({len(wrong)} tensors); nothing is exported. "
                         "Please report this model.")
    ids = torch.tensor([[*tokenizer.encode(PROBE), *tokenizer.closing]])
    if words(PROBE)["input_ids"] != ids[0].tolist():
        raise KliegError("transformers' tokenizer gives other ids for the same text; nothing is exported. Please report this "
                         "model.")
    worst = (_ours(model, ids) - _theirs(model, other.eval(), ids)).abs().max().item()
    if not worst <= CLOSE:
        raise KliegError(f"transformers computes other numbers, by {worst:.1e}; nothing is exported. Please report this model.")
    return worst


def _ours(model: nn.Module, ids: Tensor) -> Tensor:
    if model.config.model_type == "marian":
        return model(ids, _target(model, ids))
    return model(ids) if getattr(model.config, "headed", True) else model.hidden(ids)


def _theirs(model: nn.Module, other: nn.Module, ids: Tensor) -> Tensor:
    """Logits, or of an encoder without a head its hidden states."""
    target = {"decoder_input_ids": _target(model, ids)} if model.config.model_type == "marian" else {}
    return other(input_ids=ids, **target)[0]


def _target(model: nn.Module, ids: Tensor) -> Tensor:
    """The source as a target: the mark that one begins with, then its ids."""
    return torch.cat([torch.full_like(ids[:, :1], model.config.decoder_start_token_id), ids], 1)
