"""Four ways to read a sequence, about equal in parameters: RNN, LSTM, a stack of causal convolutions, and a Transformer.

They differ in how many steps lie between a token and one n places before it. The recurrent ones go through all n, one after
another. A convolution over k tokens reaches k - 1 back, so n / (k - 1) layers are needed, and what the stack does not reach
it never sees. Attention needs one step (Vaswani et al. 2017, table 1). The rest is the same for all: tokens are embedded, and
what the body gives is multiplied by the matrix of the vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from klieg.attention import Mask
from klieg.layers import Context, Linear, LlamaBlock, RMSNorm, rotary

WIDTH = 64
KERNEL, CONVOLUTIONS = 4, 4
REACH = (KERNEL - 1) * CONVOLUTIONS          # tokens that the convolutions see before their own
READERS = ("RNN", "LSTM", "CNN", "Transformer")


class Reader(nn.Module):
    """Ids in, hidden states out, around one of the bodies; a body takes (b, i, WIDTH) and sees nothing of what comes later."""

    def __init__(self, body: nn.Module, width: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.body = body
        self.head = nn.Linear(width, vocabulary, bias=False)

    @property
    def vocabulary(self) -> nn.Parameter:
        """The matrix that turns hidden states into logits: (vocabulary, width)."""
        return self.head.weight

    def hidden(self, embedded: Tensor) -> Tensor:
        """embedded (b, i, WIDTH) -> (b, i, width)."""
        found = self.body(embedded)
        return found[0] if isinstance(found, tuple) else found           # torch's RNNs give their last state too

    def forward(self, ids: Tensor) -> Tensor:
        """ids (b, i), int64 -> logits (b, i, vocabulary)."""
        return self.head(self.hidden(self.embedding(ids)))


class Convolutions(nn.Module):
    """Layers of x + gelu(convolution(norm(x))), each over a token and the KERNEL - 1 before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(CONVOLUTIONS))
        self.convolutions = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, KERNEL) for _ in range(CONVOLUTIONS))

    def forward(self, x: Tensor) -> Tensor:
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = x + F.gelu(convolution(F.pad(norm(x).mT, (KERNEL - 1, 0))).mT)
        return x


class Blocks(nn.Module):
    """Two blocks of Llama's shape, four heads each with keys of its own."""

    def __init__(self, heads: int = 4, inner: int = 96) -> None:
        super().__init__()
        width = WIDTH // heads
        self.blocks = nn.ModuleList(LlamaBlock(WIDTH, inner, heads, heads, width, layer, 1e-6, False, False)
                                    for layer in (0, 1))
        self.norm = RMSNorm(WIDTH, 1e-6)
        self.register_buffer("frequencies", 10000.0 ** (torch.arange(0, width, 2) / -width), persistent=False)
        for matrix in self.modules():
            if isinstance(matrix, Linear):
                nn.init.normal_(matrix.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        context = Context(Mask.causal(), rotation=rotary(torch.arange(x.shape[1])[None], self.frequencies, x.dtype))
        for block in self.blocks:
            x = block(x, context)
        return self.norm(x)


def reader(name: str, vocabulary: int) -> Reader:
    """One of READERS, with first weights from torch's generator; the widths are what makes their parameters about equal."""
    if name == "RNN":
        return Reader(nn.RNN(WIDTH, 220, batch_first=True), 220, vocabulary)
    if name == "LSTM":
        return Reader(nn.LSTM(WIDTH, 100, batch_first=True), 100, vocabulary)
    return Reader(Convolutions() if name == "CNN" else Blocks(), WIDTH, vocabulary)
