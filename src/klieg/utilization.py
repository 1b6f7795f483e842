"""How much of a card's arithmetic a model's own products take: model FLOPs utilization.

Counted are two operations for each weight that a token meets on the way there and four on the way back, and the
same for each pair of a query and a key: what the model needs, whatever was computed for it. Tokens of padding count
for nothing, pairs of them with others do.

Source: Chowdhery et al. 2022, "PaLM", appendix B. Peaks are the makers', in bfloat16 without sparsity, as their data sheets
have them: https://www.nvidia.com/en-us/data-center/h200 and its neighbours for the other names.
"""

from __future__ import annotations

import torch
from torch import nn

from klieg.models import Model
from klieg.pairs import PairBatch
from klieg.rows import Batch
from klieg.seq2seq import Marian

PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 80GB HBM3": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
         "RTX 4090": 165e12, "RTX 3090": 71e12}
"""Operations a second by a part of the card's name."""


def peak(device: torch.device) -> float | None:
    """What a card can do at most; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((most for part, most in PEAKS.items() if part in name), None)


def operations(model: Model, batch: Batch | PairBatch) -> float:
    """Floating-point operations of a batch's forward and backward pass."""
    vocabulary = model.vocabulary.numel()
    if isinstance(model, Marian):
        read, written = (float(side.sum()) for side in (_real(batch), batch.targets >= 0))
        rows, (wide, long) = len(batch.source), (batch.source.shape[1], batch.inputs.shape[1])
        encoder, decoder = (_matrices(stack) for stack in (model.model.encoder, model.model.decoder))
        width, layers = model.heads * model.head_width, model.layers
        pairs = rows * width * (len(model.model.encoder.layers) * wide * wide + layers * (long * long + long * wide))
        return 6 * (encoder * read + (decoder + vocabulary) * written) + 12 * pairs
    tokens, context = batch.ids.numel(), batch.ids.shape[1]
    weights = _matrices(model) - sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)) + vocabulary
    return 6 * weights * tokens + 12 * model.layers * model.heads * model.head_width * context * tokens


def _real(batch: PairBatch) -> torch.Tensor:
    return torch.ones_like(batch.source, dtype=torch.bool) if batch.real is None else batch.real


def _matrices(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)
