"""What every test runs under: one thread, fresh memory full of NaN, the same examples each time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from tidy import nothing_is_left_behind as nothing_is_left_behind

# Without a GPU its kernels are interpreted. Triton reads this when it is first imported, by whatever file of tests.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# With one, cuBLAS wants to be told too that its results shall be the same each time.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

settings.register_profile("klieg", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("klieg")


@pytest.fixture(scope="session", autouse=True)
def _uninitialized_memory_is_nan() -> Iterator[None]:
    """Whoever reads what he never wrote gets NaN; torch fills fresh memory in its deterministic mode."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
