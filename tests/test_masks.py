"""A table of what is hidden becomes the rules that made it, cell by cell, or stays a table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from klieg.attention import Mask, Rule, slots
from klieg.errors import KliegError
from klieg.watching import masks
from klieg.watching.masks import Known, Piece

N = 12
REAL = torch.ones(2, N, dtype=torch.bool)
REAL[0, :4] = REAL[1, 10:] = False
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 3 + [2] * 4, [0] * 2 + [1] * 10])
CHUNKS = torch.arange(N)[None] // 5
LEFT = Mask.padding(REAL[:1])


def table(mask: Mask, queries: int = N, keys: int = N) -> Tensor:
    return mask.visible(slots(queries, keys), torch.arange(keys))


def kinds(mask: Mask) -> list[str]:
    return sorted(rule.kind for rule in mask.rules)


@pytest.mark.parametrize("mask", [
    Mask(), Mask.causal(), Mask.causal() & Mask.window(4), Mask.window(3), Mask.padding(REAL), Mask.causal() & LEFT,
    Mask.causal() & Mask.window(4) & Mask.padding(REAL), Mask.causal() & Mask.documents(DOCUMENTS),
    Mask.causal() & Mask.documents(CHUNKS), Mask.documents(DOCUMENTS), Mask.prefix(3),
    Mask.causal() & Mask.documents(CHUNKS) & LEFT], ids=lambda mask: " & ".join(kinds(mask)) or "all")
@pytest.mark.parametrize("block", [masks.BLOCK, 30])
def test_rules_are_read_off_a_table(mask: Mask, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "BLOCK", block)
    hidden = table(mask)
    found, blind = masks.compact(lambda rows: hidden[:, :, rows], N, N)
    assert kinds(found) == kinds(mask) and (table(found) == hidden).all()
    assert torch.equal(blind if blind is not None else ~hidden.any(-1), ~hidden.any(-1))
    assert all(rule.table is None or rule.table.numel() <= 2 * N for rule in found.rules)


@pytest.mark.parametrize("mask", [Mask.causal(), Mask.causal() & Mask.window(4), Mask.causal() & Mask.documents(DOCUMENTS),
                                  Mask.causal() & Mask.padding(REAL)], ids=lambda mask: " & ".join(kinds(mask)))
@pytest.mark.parametrize("queries", [1, 5])
def test_the_last_rows_of_a_table_are_read_by_themselves(mask: Mask, queries: int) -> None:
    hidden = table(mask, queries)
    found, _ = masks.compact(lambda rows: hidden[:, :, rows], queries, N)
    assert (table(found, queries) == hidden).all() and "explicit" not in kinds(found)


def test_what_no_rule_made_stays_a_table_and_one_cell_is_enough() -> None:
    hidden = table(Mask.causal()).clone()
    hidden[0, 0, 7, 2] = False
    found, _ = masks.compact(lambda rows: hidden[:, :, rows], N, N)
    assert kinds(found) == ["explicit"] and (table(found) == hidden).all()
    hidden.zero_()
    assert table(found).any(), "the table is a copy"
    of_heads = torch.stack([table(Mask.causal())[0, 0], table(Mask.window(3))[0, 0]])[None]
    found, _ = masks.compact(lambda rows: of_heads[:, :, rows], N, N)
    assert (table(found) == of_heads).all() and found.rules[0].table.shape == (1, 2, N, N)


def test_more_queries_than_keys_have_no_slots_of_their_own() -> None:
    hidden = REAL[:, None, None, :5].expand(-1, -1, 9, -1)
    found, _ = masks.compact(lambda rows: hidden[:, :, rows], 9, 5)
    assert (table(found, 9, 5) == hidden).all()


@pytest.mark.parametrize("way", ["sdpa", "eager", "other"])
def test_without_a_table_the_implementation_decides(way: str) -> None:
    def rules(queries: int, keys: int, causal: bool) -> list[str]:
        return kinds(masks.read(way, None, queries, keys, causal=causal, seen=None).mask)

    assert rules(5, 5, True) == ([] if way == "eager" else ["causal"])
    assert rules(5, 5, False) == rules(1, 9, True) == []


def test_numbers_that_are_added_are_a_mask_and_a_bias() -> None:
    lowest = torch.finfo(torch.float32).min
    hidden = table(Mask.causal() & LEFT)
    plain = masks.read("eager", torch.zeros(hidden.shape).masked_fill(~hidden, lowest), N, N, causal=True, seen=None)
    assert kinds(plain.mask) == ["causal", "padding"] and plain.bias is None
    assert torch.equal(plain.blind[0, 0], torch.arange(N) < 4)
    bias = torch.randn(1, 3, N, N, generator=torch.Generator().manual_seed(0))
    for lowest in (-torch.inf, torch.finfo(torch.float32).min):
        mixed = masks.read("eager", bias.masked_fill(~hidden, lowest), N, N, causal=True, seen=None)
        assert kinds(mixed.mask) == ["causal", "padding"] and mixed.bias.abs().max() < 9
        assert torch.equal(mixed.bias.masked_fill(~hidden, 0), bias.masked_fill(~hidden, 0))
    both = masks.read("eager", bias.masked_fill(~hidden, -torch.inf), N, N, causal=True, seen=None, bias=bias)
    assert torch.equal(both.bias.masked_fill(~hidden, 0), 2 * bias.masked_fill(~hidden, 0))
    assert masks.read("sdpa", None, N, N, causal=True, seen=None, bias=torch.zeros(1, 3, N, N)).bias is None


def test_a_static_cache_is_cut_where_its_tokens_end() -> None:
    longer = torch.zeros(1, 1, 3, 20, dtype=torch.bool)
    longer[..., :N] = table(Mask.causal(), 3)
    found = masks.read("sdpa", longer, 3, 20, causal=True, seen=N - 3)
    assert found.keys == N and kinds(found.mask) == ["causal"]
    longer[0, 0, 1, 15] = True
    with pytest.raises(KliegError, match="attention_mask"):
        masks.read("sdpa", longer, 3, 20, causal=True, seen=N - 3)
    with pytest.raises(KliegError, match="attention_mask"):
        masks.read("sdpa", None, 1, 20, causal=True, seen=N)
    first = masks.read("sdpa", None, N, 20, causal=True, seen=0)
    assert first.keys == N and kinds(first.mask) == ["causal"]


def test_a_padding_table_and_what_flash_attention_does_without_one() -> None:
    found = masks.read("flash", REAL, 3, N, causal=True, seen=None, window=4)
    assert (table(found.mask, 3) == table(Mask.causal() & Mask.window(4) & Mask.padding(REAL), 3)).all()
    assert kinds(masks.read("sdpa", REAL, 3, N, causal=False, seen=None).mask) == ["padding"]


def test_a_function_is_a_table_that_is_never_whole() -> None:
    at = torch.arange(N)
    look = masks.of_function(lambda b, h, i, j: (j <= i) & (i - j < 4), 2, 1, at, at)
    assert look(slice(3, 5)).shape == (1, 1, 2, N)
    assert kinds(masks.compact(look, N, N)[0]) == ["causal", "window"]
    known = masks.read("klieg", Known(7, Mask.causal()), 3, N, causal=False, seen=None)
    assert (known.keys, kinds(known.mask)) == (7, ["causal"])


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(KliegError, match=r"\(1, 1, 5, 9\)"):
        masks.read("sdpa", torch.ones(1, 1, 5, 9, dtype=torch.bool), 5, 8, causal=False, seen=None)


@pytest.mark.parametrize("mask", [
    Mask.causal(), Mask.causal() & Mask.window(4), Mask.causal() & Mask.padding(REAL), Mask.causal() & Mask.documents(CHUNKS),
    Mask.causal() & Mask.window(3) & Mask.padding(REAL)], ids=lambda mask: " & ".join(kinds(mask)))
@pytest.mark.parametrize("sizes", [(9, 1, 1, 1), (5, 4, 3), (1,) * N, (2, 10)], ids=str)
def test_the_masks_of_the_parts_make_the_mask_of_the_whole(mask: Mask, sizes: tuple[int, ...]) -> None:
    """Parts as a cache gives them: keys that no row of a part sees are dropped, as sliding caches do."""
    whole, pieces, end = table(mask), [], 0
    for size in sizes:
        end += size
        seen = whole[:, :, end - size:end, :end]
        start = min(int(seen.any(2)[:, 0].any(0).nonzero()[0]), end - size)
        part = seen[..., start:]
        found, _ = masks.compact(lambda rows, part=part: part[:, :, rows], size, end - start)
        pieces.append(Piece(found, size, end - start, start))
    assert (table(masks.join(pieces, N)) == whole).all()
    assert "explicit" not in kinds(masks.join(pieces, N))


def test_the_long_part_is_not_walked_over_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt's N x N cells are not looked at when tokens are added to it."""
    walked: list[int] = []
    equal = masks.equal
    monkeypatch.setattr(masks, "equal", lambda mask, look, queries, keys, rows=None: (
        walked.append(rows.stop - rows.start if rows else queries), equal(mask, look, queries, keys, rows))[1])
    prompt = Piece(Mask((Rule("causal"), Rule("padding", table=REAL[:, :9]))), 9, 9, 0)
    later = [Piece(Mask.padding(REAL[:, :end]), 1, end, 0) for end in (10, 11, 12)]
    found = masks.join([prompt, *later], N)
    assert walked == [1, 1, 1] and (table(found) == table(Mask.causal() & Mask.padding(REAL))).all()


def test_texts_of_a_part_are_put_in_the_order_of_the_run() -> None:
    order = torch.tensor([1, 1, 0])
    pieces = [Piece(Mask.causal() & Mask.padding(REAL[:, :9]), 9, 9, 0, order), Piece(Mask.padding(REAL[order]), 3, N, 0)]
    pieces[1] = Piece(Mask.causal() & Mask.padding(REAL[order]), 3, N, 0)
    assert (table(masks.join(pieces, N)) == table(Mask.causal() & Mask.padding(REAL[order]))).all()
