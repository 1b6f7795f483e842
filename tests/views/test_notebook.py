from __future__ import annotations

import re

from klieg.trace import Trace
from klieg.views.notebook import notebook


def test_a_trace_shows_itself_whole_and_without_script(trace: Trace, hostile: Trace) -> None:
    text = trace._repr_html_()
    assert text == notebook(trace) and text.count("<svg ") == 1
    for c in trace.next_tokens(10):
        assert f"{100 * c.p:.2f} %" in text
    for found in (text, notebook(hostile)):
        assert "<script" not in found
        assert set(re.findall(r"https?://[^\"]*", found)) == {"http://www.w3.org/2000/svg"}
        assert not re.search(r"\s(?:id|href|src|on[a-z]+)=", found)
