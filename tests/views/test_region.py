from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import build, surveyed

from klieg.attention import hide, output, scores, weights
from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views.picture import PAPER, TERMINAL, Cell, Medium, Picture, Ramp, Text
from klieg.views.region import FLOOR, LINKS, MOST, numbers, pooled_region, region
from klieg.views.text import lower

MEDIA = pytest.mark.parametrize("medium", [PAPER, TERMINAL], ids=lambda m: m.name)


def cells(picture: Picture) -> list[Cell]:
    return [mark for mark in picture.marks if isinstance(mark, Cell)]


def words(picture: Picture) -> str:
    return "\n".join(mark.string for mark in picture.marks if isinstance(mark, Text))


@MEDIA
@pytest.mark.parametrize("statistic", ["max", "mean"])
@pytest.mark.parametrize(("rows", "keys"), [(None, None), ((100, 250), (0, 200)), ((13, 290), (7, 8))])
def test_cells_are_the_buckets_with_something_in_them(seen: Trace, rows, keys, statistic: str, medium: Medium) -> None:
    found = pooled_region(seen, 4, 2, rows, keys, medium=medium, room=100)
    picture = region(seen, found, statistic, medium=medium)
    table = getattr(found.pooled, statistic)
    assert [c.value for c in cells(picture)] == table[table > 0].tolist()
    for cell in cells(picture):
        assert f"{cell.value:.6g}" in cell.title and 0 <= cell.paint.at <= 1
    boxes = {(c.x, c.y) for c in cells(picture)}
    assert len(boxes) == len(cells(picture)) and max(c.x + c.width for c in cells(picture)) <= picture.width
    assert table.shape[0] <= MOST and f"{statistic}imum" not in words(picture)
    assert ("blank" in words(picture)) == bool((table == 0).any())


def test_colours_follow_the_numbers_and_the_bar_has_both_limits(seen: Trace) -> None:
    found = pooled_region(seen, 1, 0)
    for scale in ("log", "linear"):
        picture = region(seen, found, scale=scale)
        shown = sorted(cells(picture), key=lambda c: c.value)
        assert [c.paint.at for c in shown] == sorted(c.paint.at for c in shown) and shown[-1].paint.at == 1
        (ramp,) = [m for m in picture.marks if isinstance(m, Ramp)]
        assert float(ramp.high) == pytest.approx(shown[-1].value, rel=1e-3) and ramp.low.startswith("≤") == (scale == "log")
        assert scale == "linear" or float(ramp.low[2:].replace("−", "-")) >= 0.9 * FLOOR * shown[-1].value


@MEDIA
def test_a_needle_can_be_seen(medium: Medium) -> None:
    plain = build([f"w{n}" for n in range(300)], layers=1)
    q, k = plain[0].q.clone(), plain[0].k.clone()
    # One axis of q and k is for these two tokens alone.
    q[..., 7], k[..., 7] = 0, 0
    q[0, 2, 250, 7], k[0, 1, 17, 7] = 10.0, 10.0
    s = hide(scores(q, k), plain[0].mask)
    lse = s.logsumexp(-1)
    call = replace(plain[0], q=q, k=k, lse=lse, output=output(weights(s, lse), plain[0].v))
    found = surveyed(Trace("m", "t", plain.ids, plain.tokens, [call], plain.logits, plain.vocabulary), top=4, map=20)
    for rows, keys in [(None, None), ((200, 300), (0, 100)), ((240, 260), (10, 20))]:
        picture = region(found, pooled_region(found, 0, 2, rows, keys, 20, medium=medium), medium=medium)
        dark = [c for c in cells(picture) if c.value > 0.99 and "queries" in c.title and c.paint.at > 0.99]
        assert any(_holds(c.title, 250, 17) for c in dark)
        assert "250 w250 → 17 w17" in words(picture)


def _holds(title: str, query: int, key: int) -> bool:
    """Whether a cell's title names a bucket with this pair in it."""
    rows, keys = (part.split(" ")[1].split("–") for part in title.split(", ")[:2])
    return int(rows[0]) <= query <= int(rows[-1]) and int(keys[0]) <= key <= int(keys[-1])


@MEDIA
def test_a_small_region_has_every_weight_with_its_tokens(seen: Trace, medium: Medium) -> None:
    found = pooled_region(seen, 7, 3, (200, 210), (190, 202), medium=medium, room=120)
    picture = region(seen, found, medium=medium, room=120)
    exact = seen[7].tile(3, slice(200, 210), slice(190, 202))
    assert [c.value for c in cells(picture)] == pytest.approx(exact[exact > 0].tolist(), rel=1e-5)
    for cell in cells(picture):
        assert float(cell.digits.replace("−", "-")) == pytest.approx(cell.value, rel=0.51, abs=0.005)
    assert all(f"w{n}" in words(picture) for n in (200, 209, 190, 201)) and "each cell one weight" in words(picture)
    narrow = region(seen, found, medium=TERMINAL, room=40)
    assert not any(c.digits for c in cells(narrow)) and len(cells(narrow)) == len(cells(picture))


def test_the_strongest_links_are_those_of_the_map_and_never_guessed(seen: Trace) -> None:
    for rows, keys in [((0, 300), (0, 300)), ((150, 300), (1, 120))]:
        found = pooled_region(seen, 4, 1, rows, keys)
        w = seen[4].weights(1).clone()
        w[:, 0] = 0
        w.fill_diagonal_(0)
        part = w[rows[0]:rows[1], keys[0]:keys[1]]
        best = part.flatten().topk(LINKS).values.tolist()
        assert [weight for _, _, weight in found.strongest(LINKS)] == pytest.approx(best, rel=1e-4)
        assert all(w[i, j].item() == pytest.approx(weight, rel=1e-4) for i, j, weight in found.strongest(LINKS))
        bare = replace(found, call=replace(found.call, q=None, k=None, groups=2))
        listed = bare.strongest(LINKS)
        assert [weight for _, _, weight in listed] == pytest.approx(best[:len(listed)], rel=1e-4)
    listless = replace(bare.call.survey, top_weights=None, top_keys=None)
    assert replace(bare, call=replace(bare.call, survey=listless)).strongest(3) == []


def test_without_q_and_k_the_stored_map_is_shown(seen: Trace) -> None:
    calls = [replace(call, q=None, k=None, v=None, output=None, groups=2, certificate=call.certify()) for call in seen.calls]
    bare = Trace(seen.model, seen.text, seen.ids, seen.tokens, calls, seen.logits, seen.vocabulary)
    assert cells(region(bare, pooled_region(bare, 4, 2)))
    with pytest.raises(KliegError, match="keep_qk"):
        pooled_region(bare, 4, 2, (3, 70), (0, 20))


def test_other_programs_get_the_numbers(seen: Trace) -> None:
    found = pooled_region(seen, 4, 2, (10, 20), (0, 30), 5)
    said = json.loads(json.dumps(numbers(seen, found)))
    assert (said["layer"], said["head"], said["row_edges"]) == (4, 2, [10, 12, 14, 16, 18, 20])
    assert torch.tensor(said["max"]).shape == torch.tensor(said["mean"]).shape == (5, 5)


def test_pictures_in_chinese_and_of_hostile_tokens(seen: Trace, hostile: Trace) -> None:
    assert "最强的链接" in words(region(seen, pooled_region(seen, 1, 0), language="zh"))
    shown = region(hostile, pooled_region(hostile, 0, 0, medium=TERMINAL), medium=TERMINAL)
    assert "\x1b" not in "".join(line.plain for line in lower(shown)) and "\u202e" not in words(shown)


def test_both_texts_of_a_translation_have_their_labels(translation: Trace) -> None:
    text = words(region(translation, pooled_region(translation, 1, 2, kind="cross")))
    assert all(f"{n} {label}" in text for n, label in [*enumerate(translation.tokens), *enumerate(translation.source.tokens)])
    bare = Trace("m", "t", translation.ids, translation.tokens, translation.calls, translation.logits, translation.vocabulary)
    unknown = words(region(bare, pooled_region(bare, 1, 2, kind="cross")))
    assert "chased" not in unknown and all(f"{n} {label}" in unknown for n, label in enumerate(translation.tokens))


def test_what_there_is_not_is_refused(seen: Trace) -> None:
    found = pooled_region(seen, 1, 0)
    asks = [(lambda: region(seen, found, "median"), "no statistic"), (lambda: region(seen, found, scale="logg"), "'log'"),
            (lambda: pooled_region(seen, 0, 0), "no layer 0; the model has layers 1, 4, 7"),
            (lambda: pooled_region(seen, 1, 9), "no head 9"), (lambda: pooled_region(seen, 1, 0, kind="cross"), "'cross'")]
    for ask, said in asks:
        with pytest.raises(KliegError, match=said):
            ask()
