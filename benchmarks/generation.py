"""How fast do 256 tokens come, beside transformers' generate() on the same weights?

Greedy, one text, both from a KV cache in float32; runs alternate, and both must give the
same tokens, or as good ones: where they part, the two logits must be a rounding apart.

    python benchmarks/generation.py [--model chat] [--runs 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch

from klieg import models
from klieg.generate import Sampling, generate

TOKENS = 256


def ours(model: models.Decoder, ids: torch.Tensor) -> list[int]:
    return [int(step[0]) for step in generate(model, ids, TOKENS, Sampling(temperature=0))]


def theirs(model: torch.nn.Module, ids: torch.Tensor) -> list[int]:
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, min_new_tokens=TOKENS,
                         do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, ids.shape[1]:].tolist()


@torch.no_grad()
def check_same(model: models.Decoder, ids: torch.Tensor, a: list[int], b: list[int]) -> None:
    """Equal, or parted at a tie."""
    assert len(a) == len(b) == TOKENS
    parted = next((n for n, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
    if parted is not None:
        logits = model(torch.cat([ids, torch.tensor([a[:parted]], dtype=torch.long)], 1))[0, -1]
        assert abs(logits[a[parted]] - logits[b[parted]]) < 1e-4, f"different tokens from step {parted} on"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="chat")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    from transformers import AutoModelForCausalLM

    model, tokenizer = models.load(given.model)
    other = AutoModelForCausalLM.from_pretrained(models.find(given.model), dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer.encode("Once upon a time")])
    times: tuple[list[float], list[float]] = [], []
    for _ in range(given.runs + 1):
        found = []
        for side, run in enumerate((lambda: ours(model, ids), lambda: theirs(other, ids))):
            started = time.perf_counter()
            found.append(run())
            times[side].append(time.perf_counter() - started)
        check_same(model, ids, *found)
    mine, their = (side[1:] for side in times)
    ratio = statistics.median(b / a for a, b in zip(mine, their, strict=True))
    print(f"{TOKENS} tokens of {given.model}, float32, {torch.get_num_threads()} threads, {given.runs} runs")
    print(f"klieg         {TOKENS / statistics.median(mine):8,.0f} tokens/s")
    print(f"transformers  {TOKENS / statistics.median(their):8,.0f} tokens/s")
    print(f"ratio         {ratio:8.2f}   (bar: 2.0)")


if __name__ == "__main__":
    main()
