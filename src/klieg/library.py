"""The compiled library of native/, if Klieg was installed with a C++ compiler.

It has a C interface and is called by ctypes, so it needs no Python headers and no torch headers,
and one build serves every version of both.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# The library's threads are those of the OpenMP runtime that torch brings along: torch comes first.
import torch as torch


@cache
def native() -> ctypes.CDLL | None:
    """The compiled library; None where Klieg was installed without a compiler."""
    spec = find_spec("klieg")
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder, "lib").glob("*klieg_native*")):
            return ctypes.CDLL(str(path))
    return None
