"""What models write token by token: the ids that transformers generates, and the probabilities that it gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_watch import translator

from klieg.beam import Search, search
from klieg.errors import KliegError
from klieg.explorer import writing
from klieg.explorer.reader import Reader
from klieg.explorer.turns import Turns
from klieg.generate import Sampling
from klieg.tokenizers import train

TEXT = "I love you and"
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models: one of Klieg's shapes, one of another, an encoder, all saved by transformers."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokenizer = train(iter(["I love you and the cat loves the moon"] * 2), 290)
    size = {"vocab_size": tokenizer.size, "max_position_embeddings": 24, "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.4}
    kinds = {"own": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**size, num_key_value_heads=2)),
             "foreign": (transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig(**size)),
             "bert": (transformers.BertModel, transformers.BertConfig(**size))}
    found = {}
    for name, (made, config) in kinds.items():
        torch.manual_seed(3)
        folder = found[name] = tmp_path_factory.mktemp(name)
        made(config).save_pretrained(folder)
        tokenizer.save(folder)
    return found


def oracle(folder: Path) -> tuple:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_greedy_is_that_of_transformers_with_its_probabilities(folders: dict[str, Path], kind: str) -> None:
    model, tokenizer = oracle(folders[kind])
    given = tokenizer(TEXT, return_tensors="pt")
    wanted = model.generate(**given, max_new_tokens=8, do_sample=False)[0]
    start = given.input_ids.shape[1]
    reader = Reader(str(folders[kind]))
    found = list(reader.write(TEXT, None, [], 8, GREEDY))
    assert [each.id for each in found] == wanted[start:].tolist()
    p = model(wanted[None]).logits[0].detach().double().softmax(-1)
    own = [float(p[start + n - 1, each.id]) for n, each in enumerate(found)]
    assert [each.p for each in found] == pytest.approx(own, rel=1e-4)
    # A branch goes on from what was written.
    other = int(p[start].argsort()[0])
    branch = torch.cat([wanted[:start + 1], torch.tensor([other])])[None]
    wanted = model.generate(branch, attention_mask=torch.ones_like(branch), max_new_tokens=3, do_sample=False)[0]
    assert [each.id for each in reader.write(TEXT, None, [found[0].id, other], 3, GREEDY)] == wanted[start + 2:].tolist()


@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_the_whole_is_read_once_more_with_the_logits_of_every_written_token(folders: dict[str, Path], kind: str) -> None:
    model, tokenizer = oracle(folders[kind])
    reader = Reader(str(folders[kind]))
    ids = [each.id for each in reader.write(TEXT, None, [], 6, GREEDY)]
    with Turns().turn() as turn:
        trace = reader.read(TEXT, None, turn, ids)
    whole = [*tokenizer(TEXT).input_ids, *ids]
    assert trace.ids == whole
    wanted = model(torch.tensor([whole])).logits[0].detach()
    for at in range(len(whole) - len(ids) - 1, len(whole)):
        assert torch.allclose(trace.probabilities(at).float(), wanted[at].softmax(-1), atol=1e-5)


def test_chance_draws_by_the_rescaled_logits_and_a_seed_repeats_it(folders: dict[str, Path]) -> None:
    model, tokenizer = oracle(folders["foreign"])
    reader, sampling = Reader(str(folders["foreign"])), Sampling(0.7, top_k=5, seed=11)
    found = [each.id for each in reader.write(TEXT, None, [], 6, sampling)]
    assert found == [each.id for each in reader.write(TEXT, None, [], 6, sampling)]
    generator, ids = torch.Generator().manual_seed(11), tokenizer(TEXT).input_ids
    for id in found:
        logits = model(torch.tensor([ids])).logits[0, -1].detach() / 0.7
        logits[logits < logits.topk(5).values[-1]] = -torch.inf
        assert int(torch.multinomial(logits.softmax(-1), 1, generator=generator)) == id
        ids.append(id)


def test_writing_ends_at_the_end_mark_and_where_positions_end(folders: dict[str, Path]) -> None:
    for kind in ("own", "foreign"):
        reader = Reader(str(folders[kind]))
        start = len(oracle(folders[kind])[1](TEXT).input_ids)
        assert len(list(reader.write(TEXT, None, [], 100, GREEDY))) == 24 - start
        assert list(reader.write(TEXT, None, [5, 1], 4, GREEDY)) == []                 # 1 is </s>
        with pytest.raises(KliegError, match="vocabulary has tokens 0 to"):
            list(reader.write(TEXT, None, [100_000], 1, GREEDY))
        with pytest.raises(KliegError, match="positions for"):
            list(reader.write(TEXT, None, [5] * 30, 1, GREEDY))
    forced = writing.Pen([7], lambda ids: torch.eye(9)[None, 1] * 50, 5, {1}, lambda ids: [str(id) for id in ids])
    assert [(each.id, each.token) for each in forced.write(GREEDY)] == [(1, "1")]


def test_a_translator_writes_what_greedy_search_finds() -> None:
    model, tokenizer = translator()
    found = [each.id for each in writing.own(model, tokenizer, "I love you", "zh", [], 100).write(GREEDY)]
    source = [tokenizer.marks[">>zh<<"], *tokenizer.encode("I love you", bos=False), model.config.eos_token_id]
    [best] = search(model, [source], Search(beam=1, alpha=0, extra=100))[0]
    assert len(best.ids) > 0 and found[:len(best.ids)] == best.ids
    assert found[len(best.ids):] in ([], [model.config.eos_token_id])


def test_an_encoder_has_no_film(folders: dict[str, Path]) -> None:
    with pytest.raises(KliegError, match="no film; choose"):
        list(Reader(str(folders["bert"])).write(TEXT, None, [], 1, GREEDY))
