"""Klieg: exact attention of any Transformer, to look at, at the speed of the fast kernel.

    import klieg
    trace = klieg.trace("chat", "I love you")
    trace.next_tokens(3)
    trace[3].weights(head=2)

A name is fetched from its file when it is first asked for: the command line starts, helps and
stops at once, and torch is loaded when there is something to compute.
"""

import sys as _sys
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from klieg.attention import Mask
    from klieg.errors import KliegError
    from klieg.kernels import attend
    from klieg.models import load
    from klieg.survey import SurveySpec
    from klieg.trace import Trace
    from klieg.watch import trace, watch
    from klieg.watching.implementation import register
    from klieg.whatif import whatif

__all__ = ["KliegError", "Mask", "SurveySpec", "Trace", "attend", "load", "register", "trace", "watch",
           "whatif"]

_HOMES = {"KliegError": "errors", "Mask": "attention", "SurveySpec": "survey", "Trace": "trace", "attend": "kernels",
          "load": "models", "register": "watching.implementation", "trace": "watch", "watch": "watch",
          "whatif": "whatif"}


class _Package(_ModuleType):
    """Keeps `klieg.trace` and `klieg.watch` the functions, where Python would put the modules once those are loaded."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES or not isinstance(value, _ModuleType):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(_import_module(f"klieg.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOMES})


_sys.modules[__name__].__class__ = _Package
