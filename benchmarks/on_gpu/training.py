"""A training step of a decoder of GPT-2's size on a GPU, with column sums and entropy of every head in each step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from on_gpu.harness import CAUSAL, EXACT, HALF, SUMS, Sizes, Table, milliseconds, ratio, turns
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as sdpa

from klieg.errors import KliegError
from klieg.kernels import attend, survey


class Decoder(nn.Module):
    """GPT-2's shape in plain torch; `attention` is what a step is measured with."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.heads, self.tokens, self.places = heads, nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "before": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width),
            "between": nn.LayerNorm(width), "up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width)})
            for _ in range(layers))
        self.last = nn.LayerNorm(width)

    def forward(self, ids: Tensor, attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in block["qkv"](block["before"](x)).chunk(3, 2))
            x = x + block["out"](attention(q, k, v).transpose(1, 2).flatten(2))
            x = x + block["down"](nn.functional.gelu(block["up"](block["between"](x))))
        logits = self.last(x) @ self.tokens.weight.T
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def training(sizes: Sizes, table: Table) -> None:
    layers, width, heads, vocabulary, texts, tokens = sizes.model
    torch.manual_seed(0)
    model = Decoder(layers, width, heads, vocabulary, tokens).to(sizes.device, HALF)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=sizes.device == "cuda")
    ids = torch.randint(vocabulary, (texts, tokens), device=sizes.device)
    kept: list[tuple[Tensor, Tensor]] = []

    def watched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found = attend(q, k, v, CAUSAL, survey=SUMS, kernel="gpu")
        kept.append((found.survey.received, found.survey.entropy))
        return found.output

    def beside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False)[:2]
        found = survey(q.detach(), k.detach(), lse.detach(), CAUSAL, SUMS, kernel="gpu")
        kept.append((found.received, found.entropy))
        return out

    def step(attention: Callable) -> Tensor:
        kept.clear()
        optimizer.zero_grad(set_to_none=True)
        loss = model(ids, attention)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def check(name: str, loss: object) -> float:
        wrong = [x for x, _ in kept if not (x.double().sum(2) / tokens - 1).abs().max() < EXACT]
        if not loss.isfinite() or wrong or len(kept) != (0 if name == "plain" else layers):
            raise KliegError(f"training, {name}: loss {loss.item():.3g}, {len(kept)} calls, {len(wrong)} wrong; void")
        return loss.item()

    runs = {"plain": partial(step, partial(sdpa, is_causal=True)), "watched": partial(step, watched)}
    if sizes.device == "cuda":
        runs["beside"] = partial(step, beside)
    times, _ = turns(runs, sizes.repetitions, check)
    count = sum(x.numel() for x in model.parameters()) / 1e6
    for name, whose in (("watched", "our forward and backward"), ("beside", "torch's, and our survey beside them")):
        if name in times:
            more = ratio(times[name], times["plain"])
            what = f"training step, {count:.0f} M decoder, {texts} x {tokens:,} tokens, column sums and entropy of every head"
            table.add(f"{what}: {whose}", "<= 1.2x plain", f"{more:.2f}x ({milliseconds(times['plain'])} plain)", more <= 1.2)
