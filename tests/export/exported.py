"""Models to export, of every shape and with random weights, and what each of them says: greedily, and of given targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from test_models import GPT2, LLAMA, lively

from klieg import models
from klieg.config import MarianConfig
from klieg.tokenizers import Tokenizer, train

TEXTS = ["the cat sat on the mat and looked at the moon", "我爱你，小猫。", "a dog in the snow, it's 3 o'clock"]
EOS, PAD, GERMAN = 1, 2, 3
LONGEST = 16
MARIAN = MarianConfig(vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
                      decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=64,
                      pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD, scale_embedding=True)
DECODERS = {"llama": LLAMA, "llama, untied, biases, wide heads": replace(LLAMA, head_dim=10, tie_word_embeddings=False,
                                                                       attention_bias=True, mlp_bias=True),
            "llama, linear rope": replace(LLAMA, num_key_value_heads=6, rope_scaling={"rope_type": "linear", "factor": 2.0}),
            "gpt2": GPT2}
VARIANTS = [{}, {"pre_norm": True, "learned_positions": True}, {"kv_heads": 2, "head_dim": 12}, {"kv_heads": 1},
            {"scale_embedding": False, "encoder_attention_heads": 2}]
LLAMA3 = replace(LLAMA, rope_scaling={"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                      "original_max_position_embeddings": 32})


def words_for(config: models.Config) -> Tokenizer:
    special = {"marks": [">>de<<"], "opened": False, "closed": True} if isinstance(config, MarianConfig) else {}
    return train(iter(TEXTS), 290, **special)


def saved(folder: Path, config: models.Config) -> Path:
    """A model of this shape with random weights."""
    models.save(folder, lively(config), words_for(config))
    return folder


def sources(folder: Path) -> list[list[int]]:
    words = Tokenizer.load(folder)
    return [[*([GERMAN] if n else []), *words.encode(text, bos=False), EOS] for n, text in enumerate(TEXTS)]


@torch.no_grad()
def greedy(logits: Callable[[list[int]], torch.Tensor], start: list[int]) -> list[int]:
    """The likeliest next token again and again, by whole passes, up to the end mark, which is left out."""
    written: list[int] = []
    while len(written) < LONGEST:
        last = logits([*start, *written])
        last[PAD] = -torch.inf
        written.append(int(last.argmax()))
        if written[-1] == EOS:
            return written[:-1]
    return written


def continued(folder: Path) -> tuple[list[int], list[int]]:
    """A text's ids, and what transformers' decoder writes after them."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = Tokenizer.load(folder).encode(TEXTS[0])
    return ids, greedy(lambda all_ids: model(torch.tensor([all_ids])).logits[0, -1], ids)


def chances(folder: Path) -> tuple[list[list[int]], list[list[int]], list[torch.Tensor]]:
    """Sources, random targets, and by our own passes the ln p of each of their next tokens, (t + 1, vocabulary) each."""
    model, _ = models.load(str(folder))
    draw = torch.Generator().manual_seed(1)
    targets = [torch.randint(4, 290, (n,), generator=draw).tolist() for n in (9, 4, 12)]
    found = []
    for source, target in zip(sources(folder), targets, strict=True):
        logits = model(torch.tensor([source]), torch.tensor([[PAD, *target]]))[0].double()
        logits[:, PAD] = -torch.inf
        found.append(logits.log_softmax(-1))
    return sources(folder), targets, found
