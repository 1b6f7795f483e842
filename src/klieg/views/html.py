"""One HTML file that shows a trace anywhere, offline: the Explorer's built page with the trace inside it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from klieg.errors import KliegError
from klieg.trace import Trace
from klieg.views.wire import wire

PAGE = Path("static") / "index.html"
SLOT = "<!-- klieg-trace -->"     # where the page carries its trace


def html(trace: Trace) -> str:
    """The page with the trace's JSON in <script type="application/json" id="klieg-trace">."""
    text = page().read_text("utf-8")
    if SLOT not in text:
        raise KliegError(f"{page()} has no place for a trace; install Klieg again with `pip install .`.")
    data = f'<script type="application/json" id="klieg-trace">{inline(wire(trace))}</script>'
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


def inline(value: object) -> str:
    """JSON that can stand inside a script element: no <, so neither an end tag nor a comment can begin."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
