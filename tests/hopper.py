"""Triton's compiler at work for a GPU that is not there, Hopper or another: what the interpreter forgives, it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Bytes of shared memory that a program may take, by compute capability. Source: NVIDIA's CUDA C++ Programming Guide, table
# "Technical Specifications per Compute Capability", in KB: 163, 99, 99, 227, 227, 99.
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}

# A driver that knows no GPU, only the compute capability that is compiled for; each one counts as a device. Everything that
# is launched goes through the compiler; `made` has the machine code by the name of the kernel, and `needed` the most shared
# memory that it took, by capability and name.
_DRIVER = f"""
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
from klieg.kernels import gpu

class Driver:
    capability = 90
    get_current_target = lambda self: GPUTarget("cuda", self.capability, 32)
    get_current_device = lambda self: self.capability
    get_current_stream = lambda self, device: 0
    get_active_torch_device = lambda self: torch.device("cpu")

triton.runtime.driver.set_active(Driver())
gpu.space = lambda device: {SHARED}[Driver.capability]
run, made, needed = JITFunction.run, {{}}, {{}}

def compiled(self, *args, grid, warmup, **given):
    found, name = run(self, *args, grid=grid, warmup=True, **given), self.fn.__name__
    made[name], at = found.asm["ptx"], (Driver.capability, name)
    needed[at] = max(needed.get(at, 0), found.metadata.shared)

JITFunction.run = compiled
"""


def compiled(code: str, cache: Path) -> list[str]:
    """The words that the code prints, where kernels are compiled instead of run."""
    given = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _DRIVER + code], capture_output=True, text=True,
                          env={**given, "TRITON_CACHE_DIR": str(cache)})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()
