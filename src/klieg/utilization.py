"""How much of a card's arithmetic a model's own products take: model FLOPs utilization.

Counted are two operations for each weight that a token meets on the way there and four on the way back, and the
same for each pair of a query and a key, of which those that a mask hides count too: what the model needs, whatever
was computed for it. A token of padding meets no weights, but pairs of it count; logits are those of the tokens to predict.

Source: Chowdhery et al. 2022, "PaLM", appendix B.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from klieg.encoders import Bert
from klieg.models import Model
from klieg.pairs import PairBatch
from klieg.recipe import Training
from klieg.rows import Batch
from klieg.seq2seq import Marian

PEAKS = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12,
         **dict.fromkeys(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB", "NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe"),
                         312e12),
         "NVIDIA L40S": 362e12}
"""Operations a second in bfloat16, by a card's whole name: one of a like name may be another (H200 NVL, L40, a MIG slice).

As pages that cite NVIDIA's data sheets give them; those of the H200 and the H100 name the double, "with sparsity".
"""


def peak(device: torch.device) -> float | None:
    """Operations a second in bfloat16 of which a card is capable; None where it is not known."""
    return PEAKS.get(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def operations(model: Model, batch: Batch | PairBatch, train: Training) -> float:
    """Floating-point operations of a batch's way there and back."""
    predicted, width = batch.count, model.heads * model.head_width
    if isinstance(model, Marian):
        stacks, rows = model.model, len(batch.source)
        read = batch.source.numel() if batch.real is None else int(batch.real.sum())
        wide, long = batch.source.shape[1], batch.inputs.shape[1]
        memory = sum(_matrices(part) for block in stacks.decoder.layers
                     for part in (block.encoder_attn.k_proj, block.encoder_attn.v_proj))
        met = ((_matrices(stacks.encoder) + memory) * read
               + (_matrices(stacks.decoder) - memory + model.vocabulary.numel()) * predicted)
        pairs = rows * (len(stacks.encoder.layers) * wide * wide + model.layers * (long * long + long * wide))
        return (2 if train.r_drop else 1) * (6 * met + 12 * width * pairs)
    (rows, context), vocabulary = batch.ids.shape, model.vocabulary
    head = _matrices(model.cls) if isinstance(model, Bert) else 0
    met = (_matrices(model, vocabulary) - head) * rows * context + (head + vocabulary.numel()) * predicted
    return 6 * met + 12 * width * model.layers * rows * context * context


def _matrices(module: nn.Module, but: Tensor | None = None) -> int:
    """Weights that a token is multiplied with; a table that it is looked up in has none."""
    return sum(p.numel() for part in module.modules() if not isinstance(part, nn.Embedding)
               for p in part.parameters(recurse=False) if p.ndim > 1 and p is not but)
