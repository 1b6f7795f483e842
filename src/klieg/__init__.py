"""Klieg: exact attention of any Transformer, to look at, at the speed of the fast kernel.

    import klieg
    trace = klieg.trace("chat", "I love you")
    trace.next_tokens(3)
    trace[3].weights(head=2)
"""

from klieg.attention import Mask
from klieg.errors import KliegError
from klieg.kernels import attend
from klieg.models import load
from klieg.survey import SurveySpec
from klieg.trace import Trace
from klieg.watch import trace

__all__ = ["KliegError", "Mask", "SurveySpec", "Trace", "attend", "load", "trace"]
