from __future__ import annotations

import pytest

from klieg.views.palette import DARK, LIGHT, Paint, Theme, channels, contrast, interpolate, luminance

BOTH = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)


@BOTH
@pytest.mark.parametrize("ramp", ["weight", "statistic"])
def test_ramps_are_monotone_in_lightness(theme: Theme, ramp: str) -> None:
    light = [luminance(interpolate(getattr(theme, ramp), n / 200)) for n in range(201)]
    steps = [b - a for a, b in zip(light, light[1:], strict=False)]
    assert all(s <= 0 for s in steps) or all(s >= 0 for s in steps)
    assert (light[-1] > light[0]) == (theme is DARK)


@BOTH
def test_a_ramp_passes_its_stops_and_is_straight_between(theme: Theme) -> None:
    stops = theme.weight
    for n, stop in enumerate(stops):
        assert interpolate(stops, n / (len(stops) - 1)) == stop
    middle = channels(interpolate(stops, 0.5 / (len(stops) - 1)))
    assert all(abs(m - (a + b) / 2) <= 0.5 for m, a, b in zip(middle, channels(stops[0]), channels(stops[1]), strict=True))
    assert interpolate(stops, -3) == stops[0] and interpolate(stops, 3) == stops[-1]


@BOTH
def test_what_is_written_can_be_read(theme: Theme) -> None:
    for name in ("ink", "ink2", "ink3", "query", "key", "value", "output", "amber"):
        assert contrast(getattr(theme, name), theme.panel) >= 4.5, name
    for ramp in ("weight", "signed"):
        for n in range(101):
            ground = theme.colour(Paint(ramp, n / 100))
            assert contrast(theme.on(ground), ground) >= 4.5, (ramp, n)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_a_faint_paint_is_mixed_with_the_panel() -> None:
    assert LIGHT.colour(Paint("output", strength=0.0)) == LIGHT.panel
    assert LIGHT.colour(Paint("output")) == LIGHT.output
