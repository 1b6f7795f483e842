"""What does it cost to watch a whole model, beside the same model unwatched?

Two models of Llama's shape in transformers with its sdpa attention, over 4,096 tokens: one of 6
layers, 8 heads of width 64 over 2 of keys and values, hidden 512 and a vocabulary of 32,000 with
random weights, and the bundled model, whose 8 heads of width 32 leave less else to do. Both
turns alternate; the two outputs must be the same bits, every row of every head must pass the
certificate, and what was watched is dropped before the next turn.

    python benchmarks/watching.py [--tokens 4096] [--repetitions 9]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import klieg
from klieg.models import find

BAR = 1.25


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tokens", type=int, default=4096)
    options.add_argument("--repetitions", type=int, default=9)
    given = options.parse_args()
    print("| what is kept | bar | measured | met |\n| --- | --- | --- | --- |")
    for which, model in (("random", random_model(given.tokens)), ("bundled", bundled_model())):
        ids = torch.randint(4, model.config.vocab_size, (1, given.tokens), generator=torch.Generator().manual_seed(0))
        for name, kept in (("surveys without top-k", {"top": 0}), ("surveys with top-16", {"top": 16})):
            pairs = [turn(model, ids, kept) for _ in range(given.repetitions + 1)][1:]
            ratio = median(watched / plain for plain, watched in pairs)
            plain, watched = (median(times) for times in zip(*pairs, strict=True))
            print(f"| {which} model, forward over {given.tokens:,} tokens, watched: {name}, q and k | <= {BAR} x unwatched | "
                  f"{ratio:.2f} ({watched:.2f} s beside {plain:.2f} s) | {'yes' if ratio <= BAR else 'NO'} |", flush=True)


def random_model(positions: int) -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=512, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2,
                         intermediate_size=1376, vocab_size=32_000, max_position_embeddings=positions)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def bundled_model() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(find("chat"), dtype=torch.float32, attn_implementation="sdpa").eval()


@torch.no_grad()
def turn(model: torch.nn.Module, ids: torch.Tensor, kept: dict[str, int]) -> tuple[float, float]:
    """Seconds unwatched and watched."""
    start = time.perf_counter()
    plain = model(ids, use_cache=False).logits
    middle = time.perf_counter()
    with klieg.watch(model, map=64, **kept) as seen:
        watched = model(ids, use_cache=False).logits
    passed = seen.certificate.passed
    end = time.perf_counter()
    assert torch.equal(plain, watched), "the watched model gives other logits"
    assert passed and len(seen.calls) == model.config.num_hidden_layers
    return middle - start, end - middle


if __name__ == "__main__":
    main()
