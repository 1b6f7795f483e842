"""Models by name: the shapes that Klieg builds, where their files are, how they are read and written.

Three assemblies of the same parts: decoders (decoders.py), an encoder with a decoder
(seq2seq.py), an encoder alone (encoders.py). Any engine opens what is saved here, and what
was saved elsewhere in these shapes opens here; so Klieg trains and explains, and deploying
is somebody else's good work.

    model, tokenizer = load("chat")
    logits = model(torch.tensor([tokenizer.encode("I love you")]))
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from klieg import checkpoint, half
from klieg.config import BertConfig, Config, GPT2Config, LlamaConfig, MarianConfig, parse_config
from klieg.decoders import GPT2, Decoder, Llama
from klieg.encoders import Bert
from klieg.errors import KliegError, first_line, nearest
from klieg.layers import Embedding, Linear, TransposedLinear
from klieg.seq2seq import Marian, ProjectedAttention
from klieg.tokenizers import Tokenizer

Model = Decoder | Marian | Bert

_MODELS: dict[type, type[nn.Module]] = {LlamaConfig: Llama, GPT2Config: GPT2, MarianConfig: Marian, BertConfig: Bert}


def outline(config: Config) -> Model:
    """A model whose matrices hold whatever the memory held: to be filled, or asked for its shape."""
    try:
        return _MODELS[type(config)](config)
    except RuntimeError as e:
        raise KliegError(f"a model of this config does not fit into memory ({first_line(e)}); take a smaller one.") from None


@torch.no_grad()
def build(config: Config) -> Model:
    """A model with first weights.

    Decoders and BERT: normal with standard deviation 0.02. The model of 2017: Glorot's uniform matrices, those of
    q, k and v as one, and embeddings of standard deviation 1/sqrt(width), which its scale brings to one. Biases are zero.
    """
    model = outline(config)
    for module in model.modules():
        if isinstance(module, Linear | Embedding | TransposedLinear):
            if not isinstance(model, Marian):
                module.weight.normal_(std=0.02)
            elif isinstance(module, Embedding):
                module.weight.normal_(std=config.d_model ** -0.5)
            else:
                nn.init.xavier_uniform_(module.weight)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
    for attention in model.modules():
        if isinstance(attention, ProjectedAttention):
            # Large scores at first make rows of a single key, and the layers above collapse (docs/training.md).
            joined = attention.q_proj, attention.k_proj, attention.v_proj
            bound = (6 / (config.d_model + sum(len(matrix.weight) for matrix in joined))) ** 0.5
            for matrix in joined:
                matrix.weight.uniform_(-bound, bound)
    return model


def bundled_folder() -> Path:
    """Where the models that come with Klieg lie."""
    return Path(__file__).parent / "weights"


def bundled() -> list[str]:
    """Names of the models that come with Klieg."""
    return sorted(p.parent.name for p in bundled_folder().glob("*/config.json"))


def find(name: str) -> Path:
    """A bundled name, a folder, or a Hugging Face id (`owner/name`: the one case that uses the network)."""
    if name in bundled():
        return bundled_folder() / name
    with suppress(OSError):  # a name that no file could have
        if name and Path(name).is_dir():
            return Path(name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    raise KliegError(f"no model {name!r}.{nearest(name, bundled())} A folder or a Hugging Face id works too.")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json"]))
    except (HfHubHTTPError, OSError, ValueError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise KliegError(f"could not fetch {name!r} from Hugging Face ({reason}), and no folder of that name is here; check "
                         f"the name, or the network.") from None


def load(name: str) -> tuple[Model, Tokenizer]:
    """The model and its tokenizer, ready for inference: it computes in float32, whatever its matrices are kept in."""
    folder = find(name)
    config = parse_config(checkpoint.read_config(folder), str(folder / "config.json"))
    model = outline(config)
    # A step of a beam has more rows than the native product of kept matrices is quick for.
    keep = half.worthwhile if isinstance(model, Llama) else lambda matrix: False
    derived = model.sine_tables() if isinstance(model, Marian) else {}
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(checkpoint.read_tensors(folder, shapes, keep=keep, derived=derived), assign=True)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.size > model.vocabulary.shape[0]:
        raise KliegError(f"{folder}: the tokenizer has {tokenizer.size} pieces and the model {model.vocabulary.shape[0]}; take "
                         "the tokenizer that came with it.")
    return model.eval().requires_grad_(False), tokenizer


def opened(model: str | tuple[Model, Tokenizer]) -> tuple[Model, Tokenizer]:
    """What load() gives of a name, or such a pair itself; KliegError for anything else."""
    if isinstance(model, str):
        return load(model)
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], Model) and isinstance(model[1], Tokenizer):
        return model
    raise KliegError("a model was given that is neither a name nor (model, tokenizer) as klieg.load() gives them; a model of "
                     "transformers is watched: with klieg.watch(model): model(**inputs).")


def save(folder: Path, model: Model, tokenizer: Tokenizer, extra: dict[str, str | bytes] | None = None,
         dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that transformers opens: config.json, model.safetensors, tokenizer.json."""
    names = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
    config = {"architectures": [model.config.architecture], "model_type": model.config.model_type,
              "bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad,
              **model.config.to_json(), "dtype": names[dtype]}
    tensors = {key: value.detach().to(dtype).contiguous() for key, value in model.state_dict().items()}
    checkpoint.save(folder, tensors, config, {**tokenizer.files(), **(extra or {})})
