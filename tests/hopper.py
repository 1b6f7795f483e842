"""Triton's compiler at work for a Hopper GPU that is not there: what the interpreter forgives, it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# A driver that knows no GPU, only what is compiled for. Everything that is launched goes through the compiler, and
# `made` has the machine code by the name of the kernel.
_DRIVER = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

class Driver:
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = get_current_stream = lambda self, *device: 0
    get_active_torch_device = lambda self: torch.device("cpu")

triton.runtime.driver.set_active(Driver())
run, made = JITFunction.run, {}

def compiled(self, *args, grid, warmup, **given):
    found = run(self, *args, grid=grid, warmup=True, **given)
    made[self.fn.__name__] = found.asm["ptx"]
    return found

JITFunction.run = compiled
"""


def compiled(code: str, cache: Path) -> list[str]:
    """The words that the code prints, where kernels are compiled instead of run."""
    given = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _DRIVER + code], capture_output=True, text=True,
                          env={**given, "TRITON_CACHE_DIR": str(cache)})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()
