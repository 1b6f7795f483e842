"""The Explorer in a notebook: the page with a trace in it, as a widget of its own.

    klieg.views.widget.widget(trace)

The page is the one of html.py, in a frame that may run its script and save files, and nothing else:
it shares neither storage nor names with the notebook, and asks no server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views.html import html

if TYPE_CHECKING:
    from anywidget import AnyWidget

HEIGHT = 860     # pixels
# What the notebook's own browser page runs: it puts the frame where the cell's output is.
SCRIPT = """
export default {
  render({ model, el }) {
    const frame = document.createElement('iframe')
    frame.title = 'Klieg'
    frame.setAttribute('sandbox', 'allow-scripts allow-downloads')
    frame.style.cssText = `display: block; width: 100%; height: ${model.get('height')}px; border: 0`
    frame.srcdoc = model.get('page')
    el.append(frame)
  },
}
"""


def widget(trace: Trace, height: int = HEIGHT) -> AnyWidget:
    """A widget that shows a trace with everything that the page of html() shows; height in pixels."""
    try:
        from anywidget import AnyWidget
        from traitlets import Int, Unicode
    except ImportError:
        raise KliegError("a widget needs anywidget; install it with `pip install 'klieg[notebook]'`.") from None

    class Explorer(AnyWidget):
        """The page, and how high its frame is."""

        _esm = SCRIPT
        page = Unicode().tag(sync=True)
        height = Int().tag(sync=True)

    return Explorer(page=html(trace), height=height)
