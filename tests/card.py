"""A GPU that is not there: tensors that say they lie on cuda:0, while a processor holds and computes them.

What mixes devices fails as it does on a real one, and Triton's kernels are interpreted. For gradients the library must be
there before torch is: carded.py.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from klieg.kernels import backends
from klieg.kernels import gpu as kernel

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
ROOM, SHARED = 8 * 2**30, 227 * 2**10

# Where an argument in the processor's memory is welcome: copies, and indices.
_MIXED = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "lift_fresh", "is_same_size"}

class OnCard(Tensor):
    """A tensor of the card; `held` are its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        with torch.inference_mode(held.is_inference()):     # a view of what was made outside that mode is not of it
            found = Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), dtype=held.dtype, device=CARD,
                                                  storage_offset=held.storage_offset())
        found.held = held
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"OnCard({self.held})"


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnCard) else CPU if isinstance(x, torch.device) and x.type == CARD.type else x


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operator on what the tensors hold; its result lies where its arguments do, or where it was asked for."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    cards = {id(x.held): x for x in tensors if isinstance(x, OnCard)}
    if cards and func.overloadpacket.__name__ not in _MIXED and any(x.ndim and not isinstance(x, OnCard) for x in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({func})")
    asked = kwargs.get("device")
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if not (cards if asked is None else torch.device(asked).type == "cuda"):
        return found
    return tree_map(lambda x: cards.get(id(x), OnCard(x)) if isinstance(x, Tensor) else x, found)


class _Computing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Making(TorchFunctionMode):
    """What is made of Python's numbers is made in memory and brought to the card, and read from what is held."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            device = given.pop("device", None) or (args[0].device if func is Tensor.new_tensor else CPU)
            return func(*map(_held, args), **given).to(device)
        if func is Tensor.tolist:       # torch reads only tensors of its own kind
            return _held(args[0]).tolist()
        return func(*args, **given)


def built(folder: Path) -> Path:
    """card.cpp as a library: what torch's own lacks."""
    home, found = Path(torch.__file__).parent, folder / "card.so"
    subprocess.run(["c++", "-std=c++20", "-shared", "-fPIC", f"-I{home / 'include'}", str(Path(__file__).with_name("card.cpp")),
                    "-o", str(found), f"-L{home / 'lib'}", f"-Wl,-rpath,{home / 'lib'}", "-lc10", "-ltorch_cpu"], check=True)
    return found


@cache
def guarded() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        return ctypes.CDLL(str(built(Path(folder))))


def _interpreted(run: Callable) -> Callable:
    def launch(self: Any, *args: Any, **given: Any) -> Any:
        with _disable_current_modes():
            return run(self, *tree_map(_held, args), **tree_map(_held, given))
    return launch


@contextmanager
def present(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device, for as long as the block lasts. Of torch's fused kernels none works there, so Klieg's own is taken."""
    from triton.runtime import interpreter

    guarded()
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", _interpreted(interpreter.GridExecutor.__call__))
    for name, found in {"is_available": True, "device_count": 1, "_lazy_init": None, "mem_get_info": (ROOM, 2 * ROOM),
                        "get_device_name": "a card that is not there", "get_device_capability": (9, 0),
                        "is_current_stream_capturing": False, "is_bf16_supported": True, "current_device": 0,
                        "synchronize": None, "device_of": nullcontext(),
                        "get_device_properties": SimpleNamespace(shared_memory_per_block_optin=SHARED)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *given, found=found: found)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    none = {(name, CARD, type): False for name in backends._OPERATORS for type in kernel.TYPES}
    monkeypatch.setattr(backends, "_found", none)
    _forget()
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with _Making(), _Computing():
        yield CARD
    torch.__future__.set_overwrite_module_params_on_conversion(before)
    _forget()


def _forget() -> None:
    """What Klieg has found out about cards of that name."""
    kernel._too_old.cache_clear()
    kernel.space.cache_clear()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device while a test runs."""
    if torch.cuda.is_available():
        pytest.skip("there is a real GPU")
    with present(monkeypatch) as device:
        yield device
