"""One HTML file that shows a trace anywhere, offline: the Explorer's built page with the trace inside it."""

from __future__ import annotations

from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views.wire import whole

PAGE = Path("static") / "index.html"
SLOT = "<!-- klieg-trace -->"     # where the page carries its trace


def html(trace: Trace, view: str = "") -> str:
    """The page with a trace in it, which is all that it shows; `view` is what its address says behind # where it is opened
    without one."""
    text = page().read_text("utf-8")
    if view:
        # A script's text is not unescaped, so what could end it is written as an address writes it.
        asked = f'<script type="application/x-klieg" id="klieg-view">{quote(view, safe="~%&=*+")}</script>'
        text = text.replace(SLOT, asked + SLOT, 1)
    return carrying(text, whole(trace), "klieg-trace")


def carrying(text: str, message: bytes, name: str) -> str:
    """The page's text with a message of wire.whole() in base64, in <script type="application/x-klieg" id="NAME">."""
    if SLOT not in text:
        raise KliegError("the Explorer's page has no place for a trace; install Klieg again with `pip install .`.")
    data = f'<script type="application/x-klieg" id="{name}">{b64encode(message).decode("ascii")}</script>'
    return text.replace(SLOT, data, 1)


def page() -> Path:
    """The Explorer's one file, which the build puts into the package."""
    spec = find_spec("klieg.explorer")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = next((path for folder in folders if (path := Path(folder) / PAGE).is_file()), None)
    if found is None:
        raise KliegError("the Explorer's page is not built, so there is no HTML to write; install Klieg with "
                         "`pip install .`, which needs Node 20 or newer, or choose SVG.")
    return found
