"""The command that opens the Explorer: which traces lie on the desk, and what is refused before the page is opened."""

from __future__ import annotations

import json

import pytest
from made import gathered, made, parsed

from klieg.commands import serve
from klieg.errors import KliegError
from klieg.explorer import server
from klieg.trace import Trace


def test_traces_are_opened_by_names_that_differ(tmp_path) -> None:
    paths = []
    for n, text in enumerate(("one two", "three", "four")):
        (tmp_path / f"{n}").mkdir()
        paths.append(tmp_path / f"{n}" / "a.klieg")
        made("random", text).save(paths[-1])
    found = serve.opened(paths, Trace.load)
    assert {name: trace.text for name, trace in found.items()} == {
        "a.klieg": "one two", "a.klieg (2)": "three", "a.klieg (3)": "four"}


def test_the_server_is_given_traces_and_models(tmp_path, monkeypatch) -> None:
    made("random", "one two").save(tmp_path / "a.klieg")
    asked = []
    monkeypatch.setattr(server, "serve", lambda desk, *rest: asked.append((desk, rest)))
    with pytest.raises(KeyboardInterrupt):
        serve.serve([tmp_path / "a.klieg"], None, 0, "127.0.0.1", False, lang="zh")
    (desk, (port, browser, language, _, host)), = asked
    assert list(desk.files) == ["a.klieg"] and "chat" in desk.models
    assert (port, browser, language, host) == (0, False, "zh", "127.0.0.1")


def test_a_folder_is_an_atlas(tmp_path, monkeypatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    gathered().save(tmp_path / "one/atlas.safetensors")
    gathered().save(tmp_path / "two/atlas.safetensors")
    asked = []
    monkeypatch.setattr(server, "serve", lambda desk, *rest: asked.append(desk))
    with pytest.raises(KeyboardInterrupt):
        serve.serve([tmp_path / "one", tmp_path / "two/atlas.safetensors"], None, 0, "127.0.0.1", False, lang=None)
    [desk] = asked
    assert list(desk.atlases) == ["one", "atlas.safetensors"] and desk.files == {}
    assert desk.atlas("one").table("first") == gathered().table("first")
    with pytest.raises(KliegError, match="there is no atlas in"):
        serve.serve([tmp_path], None, 0, "127.0.0.1", False, lang=None)


def test_a_folder_is_what_heads_make_of_a_treebank(tmp_path, monkeypatch) -> None:
    (tmp_path / "syntax.json").write_text(json.dumps(parsed().as_json()), "utf-8")
    asked = []
    monkeypatch.setattr(server, "serve", lambda desk, *rest: asked.append(desk))
    with pytest.raises(KeyboardInterrupt):
        serve.serve([tmp_path, tmp_path / "syntax.json"], None, 0, "127.0.0.1", False, lang=None)
    gathered().save(tmp_path / "atlas.safetensors")
    with pytest.raises(KeyboardInterrupt):
        serve.serve([tmp_path], None, 0, "127.0.0.1", False, lang=None)
    assert all(asked[0].atlas(name).as_json() == parsed().as_json() for name in (tmp_path.name, "syntax.json"))
    assert asked[1].atlas(tmp_path.name).table("first") == gathered().table("first")
    (tmp_path / "syntax.json").write_text("{}", "utf-8")
    with pytest.raises(KliegError, match="is not what this Klieg writes of a treebank"):
        serve.serve([tmp_path / "syntax.json"], None, 0, "127.0.0.1", False, lang=None)


def test_what_is_no_trace_is_said_before_the_page_is_opened(tmp_path) -> None:
    (tmp_path / "a.klieg").write_text("no trace")
    with pytest.raises(KliegError, match="not a whole trace"):
        serve.serve([tmp_path / "a.klieg"], None, 0, "127.0.0.1", False, lang=None)
    with pytest.raises(KliegError, match="there is no trace"):
        serve.serve([tmp_path / "b.klieg"], None, 0, "127.0.0.1", False, lang=None)
