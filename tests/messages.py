"""Messages of views.wire, read back by the letter of their format and not by Klieg."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import load
from torch import Tensor


def unpacked(message: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The body and the tensors of a message: safetensors whose metadata hold the body as JSON under "klieg"."""
    length = int.from_bytes(message[:8], "little")
    return json.loads(json.loads(message[8:8 + length])["__metadata__"]["klieg"]), load(message)
