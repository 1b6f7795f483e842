"""The sheet of what if: both predictions, both maps, both certificates, and the ranking only where it was made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from test_difference import Effect, Shift

from klieg.trace import Trace
from klieg.views import png, svg
from klieg.views.palette import DARK
from klieg.views.supposition import Supposition, numbers, page


@dataclass(eq=False)
class Found:
    before: Trace
    after: Trace
    made: tuple[str, ...] = ("mute 1.2", "cut 0.1.3.1")
    token: int = 4
    divergence: float = 0.25

    @property
    def changes(self) -> list[Shift]:
        return [Shift("too", 0.5, 0.25, 1, 2), Shift("<b>", 0.1, 0.6, 3, 1)]

    def as_json(self) -> dict:
        return {"model": self.before.model, "divergence": self.divergence}


EFFECTS = [Effect(layer, head, 0.1 * layer + 0.01 * head, -0.5) for layer in range(3) for head in range(4)]


def test_everything_that_was_found_is_on_the_sheet(trace: Trace, make: Callable[..., Trace]) -> None:
    changed = make(seed=3)
    text = svg.lower(page(Supposition(trace, Found(trace, changed), EFFECTS, 1, 2, "self"), language="en"))
    for words in ("mute 1.2 · cut 0.1.3.1", "50.00 %", "60.00 %", "0.250", "What muting each head does",
                  "Layer 1 · head 2 · before", "Layer 1 · head 2 · after"):
        assert words in text
    assert text.count("✓ exact") == 2 and "&lt;b&gt;" in text
    row = f"weight {trace[1].row(2, 4)[1].item():.6g}", f"weight {changed[1].row(2, 4)[1].item():.6g}"
    assert all(title.split()[1][:6] in text for title in row)
    chinese = svg.lower(page(Supposition(trace, Found(trace, changed), None, 1, 2, "self"), DARK, language="zh"))
    assert "逐个静音" not in chinese and chinese.count("精确") == 2


def test_before_anything_is_changed(trace: Trace, translation: Trace) -> None:
    for each, kind in ((trace, "self"), (translation, "encoder"), (translation, "cross")):
        text = svg.lower(page(Supposition(each, None, None, 1, 2, kind)))
        assert text.count("✓ exact") == 1 and "What if" in text
    assert png.lower(page(Supposition(translation, None, None, 1, 2, "cross"), language="zh")).startswith(b"\x89PNG")
    said = numbers(Supposition(trace, None, None, 1, 2, "self", 2))
    p = trace.logits[2].double().softmax(-1)
    assert [c["id"] for c in said["next"]] == p.argsort(descending=True)[:8].tolist()
    assert said["open"] == {"layer": 1, "head": 2, "kind": "self", "before": trace[1].weights(2).tolist()}
    assert "ranking" not in said


def test_numbers_are_those_of_the_command_with_both_maps(trace: Trace, make: Callable[..., Trace]) -> None:
    changed = make(seed=3)
    said = numbers(Supposition(trace, Found(trace, changed), EFFECTS, 1, 2, "self"))
    assert said["divergence"] == 0.25 and [e["head"] for e in said["ranking"]] == [0, 1, 2, 3] * 3
    assert said["open"]["after"] == changed[1].weights(2).tolist() != said["open"]["before"]
