"""Models and training states on disk: safetensors and JSON, written whole or not at all.

A model is a folder exactly as Hugging Face lays it out: config.json, model.safetensors (or
shards with model.safetensors.index.json) and tokenizer.json. Nothing is ever unpickled, and
nothing that a file says is believed before it is checked: sizes, names, shapes, finite numbers.
A training state is one safetensors file with a checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from klieg.atomic import atomic
from klieg.errors import KliegError, first_line

KEPT = 2  # training states of a run

# Buffers that older transformers saved although they follow from the config.
_DERIVED = re.compile(r"\.(attn\.(bias|masked_bias)|rotary_emb\.inv_freq|position_ids)$")

# What may be stored a second time under a name of its own, if it is the same.
_TIED = re.compile(r"^lm_head\.weight$|\.embed_tokens\.weight$|^cls\.predictions\.decoder\.(weight|bias)$")

# BERT's heads of whole texts, which stand beside the way of its tokens and are not read.
_BESIDE = re.compile(r"^(bert\.)?pooler\.dense\.(weight|bias)$|^cls\.seq_relationship\.(weight|bias)$")


# ---- reading a model ----

def read_json(path: Path) -> dict:
    """A JSON object from a file; KliegError if it is missing or no object."""
    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise KliegError(f"{path} is not there; name a folder that holds it.") from None
    except (OSError, ValueError, RecursionError) as e:
        raise KliegError(f"{path} is damaged ({first_line(e)}); fetch it again.") from None
    if not isinstance(value, dict):
        raise KliegError(f"{path} is damaged (no JSON object); fetch it again.")
    return value


def read_config(folder: Path) -> dict:
    """config.json of a model's folder."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise KliegError(f"{folder} is no model: config.json is missing; name a folder in Hugging Face's layout.")
    return read_json(path)


def read_tensors(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32,
                 keep: Callable[[Tensor], bool] = lambda tensor: False,
                 derived: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors that `shapes` (from the config) asks for, by name; KliegError unless all are right.

    They come in `dtype`, but for those that `keep` wants as they are stored. A file may also hold what is
    `derived` from the config, by its name, if it is the same.

    Everything is checked from the headers before any weight is read. Some liberties of Hugging
    Face's files are allowed: older names (see _place), derived buffers, a stored matrix that equals
    the embedding it is tied to, and BERT's heads of whole texts.
    """
    stored: dict[str, safe_open] = {}
    for path in _weight_files(Path(folder)):
        file = _open(path)
        stored |= dict.fromkeys(file.keys(), file)
    names = {want: _place(want, stored) for want in shapes}
    missing = [want for want, name in names.items() if name not in stored]
    if missing:
        raise KliegError(f"{folder}: {missing[0]} is missing ({len(missing)} of {len(shapes)} tensors that config.json "
                         f"asks for are); the weights belong to another config; take the config.json that came with them.")
    for want, shape in shapes.items():
        found = tuple(stored[names[want]].get_slice(names[want]).get_shape())
        if found != tuple(shape):
            raise KliegError(f"{folder}: {want} has shape {found} and config.json asks for {tuple(shape)}; "
                             f"the weights belong to another config; take the config.json that came with them.")
    tensors = {want: _finite(folder, want, stored[name].get_tensor(name), dtype, keep) for want, name in names.items()}
    extra = [name for name in stored if name not in names.values() and not (_DERIVED.search(name) or _BESIDE.search(name))
             and not (name in (derived or {}) and _is_same(stored[name].get_tensor(name), derived[name]))
             and not (_TIED.search(name) and _is_tied(stored[name].get_tensor(name).to(dtype), tensors))]
    if extra:
        raise KliegError(f"{folder}: {extra[0]} is not expected ({len(extra)} of {len(stored)} stored tensors "
                         f"are not); the weights belong to another config; take the config.json that came with them.")
    return tensors


def _place(want: str, stored: dict[str, safe_open]) -> str:
    """Where a tensor is stored: by its name, without the base model's prefix (the first `gpt2`), or as BERT's first norms."""
    old = want.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    names = (want, want.partition(".")[2], old, old.partition(".")[2])
    return next((name for name in names if name in stored), want)


def _weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the shards that its index names; files of the folder itself only."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        places = read_json(index).get("weight_map")
        names = set(places.values()) if isinstance(places, dict) else set()
        if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
            raise KliegError(f"{index} is damaged (no list of files beside it); fetch it again.")
        return [folder / name for name in sorted(names)]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise KliegError(f"{folder} has pickled weights only, and loading a pickle runs whatever code is in it; "
                         f"convert them to model.safetensors where you trust their source.")
    raise KliegError(f"{folder} has no weights: model.safetensors is missing; put it there, or name another folder.")


def _open(path: Path) -> safe_open:
    """Maps a file after checking its header against its size; nothing is allocated by what it claims."""
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise KliegError(f"{path} is not there; fetch it again.") from None
    except (SafetensorError, OSError, MemoryError, OverflowError) as e:
        raise KliegError(f"{path} is damaged or cut short ({first_line(e)}); fetch it again.") from None


def _finite(folder: Path, name: str, tensor: Tensor, dtype: torch.dtype, keep: Callable[[Tensor], bool]) -> Tensor:
    if not tensor.is_floating_point():
        raise KliegError(f"{folder}: {name} is stored as {str(tensor.dtype).removeprefix('torch.')}; "
                         f"quantized weights are not supported, use the original ones.")
    tensor = tensor.clone() if keep(tensor) else tensor.to(dtype)
    if tensor.numel() and not torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
        raise KliegError(f"{folder}: {name} holds NaN or infinite weights; fetch it again or train it anew.")
    return tensor


def _is_same(stored: Tensor, derived: Tensor) -> bool:
    """Equal but for the rounding of whoever computed it, in the type that it is stored in."""
    return stored.shape == derived.shape and torch.allclose(stored.float(), derived.to(stored.dtype).float(), atol=1e-4)


def _is_tied(head: Tensor, tensors: dict[str, Tensor]) -> bool:
    return any(head.shape == other.shape and torch.equal(head, other) for other in tensors.values())


# ---- writing a model ----

def save(folder: Path, tensors: dict[str, Tensor], config: dict, extra: dict[str, bytes | str]) -> None:
    """Writes a model's folder in one step: model.safetensors, config.json and the `extra` files by name.

    A folder that holds anything else is left alone with a KliegError: it would be lost.
    """
    folder = Path(folder)
    files = {"config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n", **extra}
    others = [p.name for p in folder.glob("*") if p.name not in {"model.safetensors", *files}
              and not re.fullmatch(r"model.*\.safetensors(\.index\.json)?", p.name)]
    if others:
        raise KliegError(f"{folder} also holds {others[0]}, which would be lost; choose a folder of its own.")
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic(folder, folder=True) as part:
        _write(part / "model.safetensors", tensors, {"format": "pt"})
        for name, body in files.items():
            (part / name).write_bytes(body if isinstance(body, bytes) else body.encode())


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    path.touch()
    usual = path.stat().st_mode  # save_file makes a file that only its owner may read
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
        path.chmod(usual)
    except SafetensorError as e:  # A failing disk comes as "... (os error 28)".
        code = re.search(r"os error (\d+)", str(e))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


# ---- training states ----

def save_state(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict) -> Path:
    """Writes all that a run needs to go on, as one file with a checksum, and keeps the last two.

    tensors: weights, moments, random states, of any dtype. facts: anything JSON can hold.
    """
    path, body = Path(folder) / f"state-{step:08d}.safetensors", json.dumps(facts)
    with atomic(path) as part:
        _write(part, tensors, {"facts": body, "sha256": _digest(tensors, body)})
    states = _states(folder)
    for other in states:  # A state of a later step is of a branch that this run has left.
        if other > step or other in [s for s in states if s <= step][:-KEPT]:
            states[other].unlink(missing_ok=True)
    return path


def load_state(folder: Path, say: Callable[[str], None] = warnings.warn) -> tuple[dict[str, Tensor], dict] | None:
    """(tensors, facts) of the last whole state; None if the run has not saved any.

    A damaged state is passed over for the one before it, and `say` is told; if all are damaged,
    a KliegError says so, because starting anew would throw the run away.
    """
    states = _states(folder)
    for step, path in reversed(states.items()):
        try:
            return _load_whole(path)
        except KliegError as e:
            say(f"{e} Trying the state before step {step}.")
    if states:
        raise KliegError(f"{folder}: all {len(states)} saved states are damaged; remove them to start the run anew.")
    return None


def save_weights(folder: Path, step: int, tensors: dict[str, Tensor], kept: int) -> None:
    """Writes the weights of a look at the held-out texts, and keeps those of the last `kept` looks."""
    with atomic(Path(folder) / f"weights-{step:08d}.safetensors") as part:
        _write(part, tensors, {"step": str(step)})
    looks = _numbered(folder, "weights")
    for other in looks:
        if other > step or other in [s for s in looks if s <= step][:-kept]:
            looks[other].unlink(missing_ok=True)


def forget_weights(folder: Path) -> None:
    """Removes what save_weights() kept: a run that begins anew has nothing to do with it."""
    for path in _numbered(folder, "weights").values():
        path.unlink(missing_ok=True)


def mean_weights(folder: Path, step: int) -> dict[str, Tensor] | None:
    """The mean of the weights that save_weights() kept up to a step (Vaswani et al. 2017, section 6.1), or None."""
    total: dict[str, Tensor] = {}
    files = [path for at, path in _numbered(folder, "weights").items() if at <= step]
    if not files:
        return None
    for path in files:
        stored = _open(path)
        for name in stored.keys():  # noqa: SIM118  (the file is no mapping)
            value = stored.get_tensor(name).double()
            total[name] = total[name] + value if name in total else value
    return {name: (value / len(files)).float() for name, value in total.items()}


def _load_whole(path: Path) -> tuple[dict[str, Tensor], dict]:
    file = _open(path)
    names: list[str] = list(file.keys())
    tensors, said = {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    if said.get("sha256") != _digest(tensors, said.get("facts", "")):
        raise KliegError(f"{path} is damaged (its checksum is wrong).")
    return tensors, json.loads(said["facts"])


def _states(folder: Path) -> dict[int, Path]:
    """Saved states by step, oldest first."""
    return _numbered(folder, "state")


def _numbered(folder: Path, kind: str) -> dict[int, Path]:
    found = {int(p.stem.removeprefix(f"{kind}-")): p for p in Path(folder).glob(f"{kind}-*.safetensors")
             if p.stem.removeprefix(f"{kind}-").isdigit()}
    return dict(sorted(found.items()))


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
