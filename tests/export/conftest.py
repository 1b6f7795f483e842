"""A translator that has begun to learn, and decoders, made once for all exports."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exported import DECODERS, EOS, GERMAN, LONGEST, MARIAN, PAD, TEXTS, greedy, saved, sources, words_for

from klieg import models
from klieg.beam import Search, padded, search


@pytest.fixture(scope="session")
def translator(tmp_path_factory) -> Path:
    """One that has begun to learn, so that its targets end. Its bias is for padding, which must not be written all the same."""
    torch.manual_seed(0)
    model, words = models.build(MARIAN).train(), words_for(MARIAN)
    ids, real = padded([[*([GERMAN] if n else []), *words.encode(text, bos=False), EOS] for n, text in enumerate(TEXTS)], PAD)
    targets, _ = padded([[*words.encode(text, bos=False)[:9], EOS] for text in (*TEXTS[1:], TEXTS[0])], PAD)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        logits = model(ids, torch.cat([torch.full_like(targets[:, :1], PAD), targets[:, :-1]], 1), real)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)
        adam.zero_grad()
        loss.backward()
        adam.step()
    model.final_logits_bias[:] = -30.0
    model.final_logits_bias[0, PAD] = 0.0
    folder = tmp_path_factory.mktemp("translator") / "model"
    models.save(folder, model, words)
    return folder


@pytest.fixture(scope="session")
def decoders(tmp_path_factory) -> dict[str, Path]:
    return {name: saved(tmp_path_factory.mktemp("decoder") / "model", config) for name, config in DECODERS.items()}


@pytest.fixture(scope="session")
def translations(translator) -> list[list[int]]:
    """What transformers' Marian writes for each source, from the model's own folder; and so does our greedy search."""
    from transformers import MarianMTModel

    model = MarianMTModel.from_pretrained(translator, dtype=torch.float32).eval()
    found = [greedy(lambda ids, source=source: model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([ids])
                                                     ).logits[0, -1], [PAD]) for source in sources(translator)]
    ours, _ = models.load(str(translator))
    best = search(ours, sources(translator), Search(beam=1, ratio=0, extra=LONGEST + 1))
    assert [one.ids[:LONGEST] for one, in best] == found
    assert min(map(len, found)) < LONGEST and len({tuple(ids) for ids in found}) == len(found), "it must have begun to learn"
    return found
