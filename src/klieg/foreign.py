"""Any Hugging Face model from its folder, ready to be watched: safetensors only, and none of its own code is run.

Its config names the class of transformers that is built; the Auto classes are not asked, as they
may offer to run code that lies beside the weights. Weights that the folder lacks would be made up
by transformers at random: that is refused here.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from klieg import checkpoint
from klieg.device import CPU, room
from klieg.errors import KliegError, first_line
from klieg.models import find
from klieg.tokenizers import Tokenizer, check_text

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True, eq=False)
class Foreign:
    """A model of transformers with its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: Tokenizer

    @property
    def positions(self) -> int | None:
        """The tokens that the model was made for; None where its config sets no limit."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        # RoBERTa and its kin begin to count behind their padding mark.
        table = next((m for name, m in self.model.named_modules() if name.endswith("position_embeddings")), None)
        start = getattr(table, "padding_idx", None)
        return found if found is None or start is None else found - start - 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Layers, heads, key/value heads and the width of a head, as the config says; the most where layers differ."""
        config = self.model.config.get_text_config()
        layers, heads, groups = (_number(config, name) for name in
                                 ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"))
        if not layers or not heads:
            raise KliegError(f"the config of {self.name!r} names no layers with attention heads, so there is nothing to watch; "
                             "name another model.")
        width = _number(config, "qk_head_dim") or _number(config, "head_dim") or config.hidden_size // heads
        return layers, heads, groups or heads, width

    def ids(self, text: str, most: int | None = None, offer: str = "") -> list[int]:
        """The ids of a text between the tokenizer's own marks, the first `most` of them; KliegError with an `offer` if the
        model has no positions for all."""
        check_text(text)
        positions, closing = self.positions, self.tokenizer.closing
        if most is not None and (positions is None or most <= positions):
            return [*self.tokenizer.fitting(text, most, cut=True), *closing][:most]
        if positions is None:
            return [*self.tokenizer.encode(text), *closing]
        return [*self.tokenizer.fitting(text, positions - len(closing), offer=offer), *closing]

    @torch.no_grad()
    def run(self, ids: list[int], logits: int = 1) -> None:
        """One forward pass over a text, without a cache, and where the model can, with `logits` for its last tokens only."""
        known = inspect.signature(self.model.forward).parameters
        options = {"use_cache": False, "logits_to_keep": logits}
        with room(f"{self.name!r} read {len(ids):,} tokens"):
            self.model(torch.tensor([ids], device=self.model.device),
                       **{name: value for name, value in options.items() if name in known})


def _number(config: PretrainedConfig, name: str) -> int | None:
    """A number of the config; the largest where every layer has its own, None where there is none."""
    found = getattr(config, name, None)
    return max(found) if isinstance(found, list) and found else found if isinstance(found, int) else None


def load(name: str, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Foreign:
    """A model by its folder or Hugging Face id, on a device and in a type; KliegError says why it cannot be opened."""
    folder = find(name)
    config = checkpoint.read_config(folder)
    try:
        import transformers
    except ImportError:
        raise KliegError(f"{name!r} is opened by transformers, which is not installed; `pip install transformers`.") from None
    kind, made = _class(transformers, folder, config)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = Tokenizer.load(folder)
    try:
        model, found = made.from_pretrained(folder, config=kind.from_pretrained(folder, local_files_only=True), dtype=dtype,
                                            use_safetensors=True, local_files_only=True, output_loading_info=True)
    except Exception as e:  # a config that does not fit its weights comes as almost any error
        raise KliegError(f"{folder} cannot be opened by transformers ({first_line(e)}); it needs whole safetensors and a "
                         "config.json that fits them.") from None
    missing = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    if missing:
        raise KliegError(f"{folder}: the weights lack {sorted(missing)[0]} ({len(missing)} in all), and transformers would "
                         "make them up; take the config.json that came with them.")
    with room(f"{name!r} was brought to {device}"):
        model = model.to(device)
    return Foreign(name, model.eval().requires_grad_(False), tokenizer)


def _class(transformers: object, folder: Path, config: dict) -> tuple[type, type]:
    """The classes of the config and of the model."""
    kind, names = config.get("model_type"), config.get("architectures") or []
    if config.get("is_encoder_decoder"):
        raise KliegError(f"{folder} is an encoder and a decoder, and one text is not enough for both; watch it in Python: "
                         "with klieg.watch(model): model(**inputs).")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise KliegError(f"{folder} is of the kind {kind!r}, which transformers {transformers.__version__} does not have; "
                         "update it if a newer one has it, as code that comes with a model is not run.")
    name = names[0] if isinstance(names, list) and names else None
    made = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(made, type) and issubclass(made, transformers.PreTrainedModel)):
        raise KliegError(f"{folder} says its architecture is {name!r}, which transformers {transformers.__version__} does not "
                         "have; update it if a newer one has it, as code that comes with a model is not run.")
    return transformers.CONFIG_MAPPING[kind], made
