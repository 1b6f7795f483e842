"""The labs as jobs: they run apart, tell how long, are kept, and end as soon as nobody waits for them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from klieg.explorer import experiments
from klieg.explorer.desk import Desk
from klieg.explorer.server import application
from klieg.explorer.turns import Gone
from klieg.labs import NAMES, find
from klieg.labs.written import plain, write
from klieg.views import experiment, svg
from klieg.views.gallery import gallery
from klieg.views.palette import DARK


@pytest.fixture
def client() -> TestClient:
    return TestClient(application(Desk({}), 8137, "<p>"), base_url="http://127.0.0.1:8137")


@pytest.fixture
def script(monkeypatch, tmp_path: Path):
    """script(text): what is run in the place of a lab."""
    def put(text: str) -> None:
        (tmp_path / "lab.py").write_text(text, "utf-8")
        monkeypatch.setattr(experiments, "command", lambda name: [sys.executable, str(tmp_path / "lab.py"), name])

    return put


def said(text: str) -> str:
    """A script that prints a line and what was asked of it."""
    return f"import sys\nsys.stdout.buffer.write({text.encode()!r})\n"


def events(answer) -> list[tuple[str, dict]]:
    parts = [part.split("\n") for part in answer.text.split("\n\n") if part]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def test_every_lab_is_told_of(client: TestClient) -> None:
    told = client.get("/api/labs").json()["labs"]
    assert [lab["name"] for lab in told] == list(NAMES)
    for lab in told:
        known = find(lab["name"])
        assert (lab["title"], lab["claim"], lab["source"]) == ([*known.title], [*known.claim], known.source)
        assert lab["command"] == f"klieg lab {lab['name']}" and lab["seconds"] is None
    [table] = [lab["table"] for lab in told if lab["table"]]
    assert table["keys"] == [[1, 2, 0], [1, 2, 0], [0, 0, 2], [1, 4, 0]] and table["values"] == [18, 20, 22, 19]
    assert table["query"] == [1, 0, 0] and len(table["names"]) == 4


def test_a_lab_runs_apart_once_and_is_kept_and_saved(client: TestClient, monkeypatch) -> None:
    assert "run it first" in client.get("/api/labs/ages/pictures/svg").json()["error"]
    told = events(client.post("/api/labs", json={"name": "ages"}))
    kinds = [kind for kind, _ in told]
    assert kinds[-1] == "found" and set(kinds[:-1]) == {"elapsed"}
    lab, wanted = find("ages"), find("ages").run()
    seconds = told[-1][1].pop("seconds")
    assert told[-1][1] == json.loads(write(wanted)) and seconds >= told[-2][1]["seconds"]
    assert client.get("/api/labs").json()["labs"][NAMES.index("ages")]["seconds"] == seconds
    monkeypatch.setattr(experiments, "command", None)      # nothing is run again
    assert [kind for kind, _ in events(client.post("/api/labs", json={"name": "ages"}))] == ["found"]
    picture = client.get("/api/labs/ages/pictures/svg?lang=zh&dark=true").text
    assert picture == svg.lower(experiment.page("ages", lab, wanted, DARK, language="zh"))
    assert client.get("/api/labs/ages/pictures/json").json() == {"name": "ages", **json.loads(json.dumps(plain(wanted)))}
    assert client.get("/api/labs/ages/pictures/html?lang=zh").text == gallery([("ages", lab, wanted)], "zh")
    assert client.get("/api/labs/ages/pictures/png").content.startswith(b"\x89PNG")


def test_who_goes_away_ends_the_process(script, tmp_path: Path) -> None:
    script("import pathlib, sys, time\nplace = pathlib.Path(__file__).with_name('beats')\n"
           "while True:\n    place.write_text(str(time.time()))\n    time.sleep(0.02)\n")

    def step(seconds: float) -> None:
        if (tmp_path / "beats").exists():
            raise Gone

    with pytest.raises(Gone):
        experiments.apart("ages", step)
    last = (tmp_path / "beats").read_text()
    time.sleep(0.2)
    assert (tmp_path / "beats").read_text() == last


def test_what_a_lab_refuses_is_said_in_both_languages(client: TestClient, script) -> None:
    script(said('{"error": "the text is empty; give at least one word."}\n') + "sys.exit(1)\n")
    assert client.post("/api/labs", json={"name": "ages"}).text.count("the text is empty;") == 1
    answer = client.post("/api/labs", json={"name": "ages"}, headers={"Accept-Language": "zh"})
    assert "文字是空的；请至少写一个词。" in answer.text


@pytest.mark.parametrize("text", ["import sys\nsys.exit('\\x1b[2J all is lost')\n", "import os\nos.abort()\n",
                                  said("[1") + "sys.exit(3)\n", said("[]") + "sys.exit(1)\n"])
def test_a_lab_that_breaks_is_one_line(client: TestClient, script, text: str) -> None:
    script(text)
    answer = client.post("/api/labs", json={"name": "ages"})
    line = answer.json() if answer.status_code == 422 else events(answer)[-1][1]     # by how soon it broke
    assert list(line) == ["error"] and "ended before it found anything" in line["error"] and line["error"].isprintable()
    assert client.get("/api/labs").json()["labs"][NAMES.index("ages")]["seconds"] is None


@pytest.mark.parametrize("path", ["none", "a" * 60])
def test_what_is_no_lab_is_one_line(client: TestClient, path: str) -> None:
    answers = [client.post("/api/labs", json={"name": path}), client.get(f"/api/labs/{path}/pictures/svg")]
    for answer in answers:
        assert answer.status_code == 422 and list(answer.json()) == ["error"]
    zh = client.post("/api/labs", json={"name": "none"}, headers={"Accept-Language": "zh"}).json()["error"]
    assert zh.startswith("没有实验 'none'")
