"""The vocabulary as other programs have it: spellings by id, the tokenizer's files, and marks that are never written.

Klieg itself puts the language mark before a text, and never chooses padding as the next token;
elsewhere the files must say so.
"""

from __future__ import annotations

import json

from torch import Tensor, nn

from klieg.tokenizers import Tokenizer

NEVER = -1e4  # as a logit: the probability is then 0 in every type, float16 too


def spellings(tokenizer: Tokenizer, size: int) -> list[str]:
    """How tokenizer.json spells each id below `size`; ids that it does not use get a name of their own."""
    body = json.loads(tokenizer.files()["tokenizer.json"])
    vocabulary = body["model"]["vocab"]
    if isinstance(vocabulary, list):  # unigram models give pairs of piece and score
        vocabulary = {piece: id for id, (piece, _) in enumerate(vocabulary)}
    names = {id: piece for piece, id in vocabulary.items()} | {t["id"]: t["content"] for t in body["added_tokens"]}
    return [names.get(id, f"<unused {id}>") for id in range(size)]


def merges(tokenizer: Tokenizer) -> list[str]:
    """The merges of byte-level BPE in their order, each as its two pieces with a space between them."""
    found = json.loads(tokenizer.files()["tokenizer.json"])["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in found]


def standing_alone(tokenizer: Tokenizer, kind: str) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json for use without Klieg by a model of this kind, name to text.

    Of a translator, white space after a language mark is the mark's: ">>de<< A dog." is the mark and "A dog.".
    """
    files = tokenizer.files()
    body, config = json.loads(files["tokenizer.json"]), json.loads(files["tokenizer_config.json"])
    languages = set(tokenizer.marks.values()) - {tokenizer.bos, tokenizer.eos, tokenizer.pad} if kind == "marian" else ()
    for token in body["added_tokens"]:
        token["rstrip"] |= token["id"] in languages
    if kind != "bert":  # transformers hands a model all that the tokenizer gives, and these take no token types
        config |= {"model_input_names": ["input_ids", "attention_mask"],
                   "padding_side": "right" if kind == "marian" else "left"}
    return {"tokenizer.json": json.dumps(body, ensure_ascii=False),
            "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n"}


def unwritten(model: nn.Module) -> list[int]:
    """Ids that a translator never writes: padding, and the mark that a target begins with."""
    return sorted({model.config.pad_token_id, model.config.decoder_start_token_id})


def output_bias(model: nn.Module) -> Tensor:
    """What a translator adds to its logits, with what is never written ruled out: (vocabulary,)."""
    bias = model.final_logits_bias[0].detach().clone()
    bias[unwritten(model)] = NEVER
    return bias
