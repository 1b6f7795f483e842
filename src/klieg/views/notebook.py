"""A trace in a notebook: the page's SVG, whole in itself, without script."""

from __future__ import annotations

from klieg.trace import Trace
from klieg.views import figures, svg


def notebook(trace: Trace) -> str:
    """The HTML that a notebook shows for a trace: the maps, where the last token looks, and the next tokens."""
    return f'<div style="overflow-x:auto">{svg.lower(figures.page(trace))}</div>'
