"""What `import klieg` gives: the names it exports, and nothing loaded before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import klieg

SOURCE = Path(__file__).parents[1] / "src"
EXPORTED = ["KliegError", "Mask", "SurveySpec", "Trace", "attend", "load", "register", "trace", "watch",
            "whatif"]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={"PYTHONPATH": str(SOURCE), "PATH": "", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_exported_names_are_these_and_come_from_where_they_live() -> None:
    from klieg.attention import Mask
    from klieg.errors import KliegError
    from klieg.kernels import attend
    from klieg.models import load
    from klieg.survey import SurveySpec
    from klieg.trace import Trace
    from klieg.watch import trace, watch
    from klieg.watching.implementation import register
    from klieg.whatif import whatif

    assert klieg.__all__ == EXPORTED
    assert [getattr(klieg, name) for name in EXPORTED] == [KliegError, Mask, SurveySpec, Trace, attend, load, register, trace,
                                                           watch, whatif]
    assert set(EXPORTED) <= set(dir(klieg))
    everything: dict[str, object] = {}
    exec("from klieg import *", everything)  # the only way to see what a star gives
    assert {name for name in everything if not name.startswith("__")} == set(EXPORTED)
    for name in EXPORTED:
        assert (getattr(klieg, name).__doc__ or "").strip(), f"{name} has no docstring"


def test_the_function_trace_is_not_replaced_by_the_module_of_its_name() -> None:
    said = python("import klieg\nfrom klieg.trace import Trace\nimport klieg.views.wire\n"
                  "assert callable(klieg.trace) and klieg.Trace is Trace\nprint(klieg.trace.__module__)")
    assert said == "klieg.watch"


def test_torch_is_loaded_only_when_it_is_needed() -> None:
    said = python("import sys, klieg, klieg.cli\nprint('torch' in sys.modules)\nklieg.Mask\nprint('torch' in sys.modules)")
    assert said.split() == ["False", "True"]


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tarce'"):
        klieg.tarce  # noqa: B018
    with pytest.raises(ImportError):
        from klieg import tarce  # noqa: F401
    assert not hasattr(klieg, "os")
