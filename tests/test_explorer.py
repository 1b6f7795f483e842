"""The server: who is answered, what is refused, and what an error looks like."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
import subprocess
import sys
import threading

import pytest
from starlette.testclient import TestClient

from klieg.errors import KliegError
from klieg.explorer import server
from klieg.explorer.server import BODY, application

PORT = 8137
SCRIPT = "let shown = '<b>'"
HTML = f'<!doctype html><title>page</title><script type="module">{SCRIPT}</script>'


def trace(model: str, text: str, to: str | None) -> dict:
    if not text:
        raise KliegError("the text is empty; give at least one word.")
    return {"model": model, "tokens": [text]} | ({"to": to} if to else {})


def client(traced: server.Traced = trace, host: str = f"127.0.0.1:{PORT}") -> TestClient:
    return TestClient(application(["chat", "other"], traced, PORT, HTML), base_url=f"http://{host}")


def test_the_page_and_its_policy() -> None:
    answer = client().get("/")
    assert answer.status_code == 200 and answer.text == HTML
    policy = answer.headers["content-security-policy"]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy  # no other script runs
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_models_and_traces() -> None:
    assert client().get("/api/models").json() == {"models": ["chat", "other"]}
    text = "<script>alert(1)</script> \u5c0f \U0001f600"
    answer = client().post("/api/trace", json={"text": text, "model": "other"})
    assert answer.status_code == 200 and answer.json() == {"model": "other", "tokens": [text]}
    assert answer.headers["content-type"] == "application/json"
    asked = client().post("/api/trace", json={"text": text, "model": "other", "to": "zh"})
    assert asked.json() == {"model": "other", "tokens": [text], "to": "zh"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:80", "evil.example", f"evil.example:{PORT}", "127.0.0.1:1",
                                  f"127.0.0.1.evil.example:{PORT}", f"localhost.:{PORT}", ""])
def test_another_host_is_refused(host: str) -> None:
    for answer in (client().get("/", headers={"host": host}),
                   client().post("/api/trace", headers={"host": host}, json={"text": "a", "model": "chat"})):
        assert answer.status_code == 403 and list(answer.json()) == ["error"]


@pytest.mark.parametrize("host", [f"localhost:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"])
def test_our_own_names_are_answered(host: str) -> None:
    assert client().get("/api/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(("origin", "status"), [
    (f"http://127.0.0.1:{PORT}", 200), (f"http://localhost:{PORT}", 200), ("https://evil.example", 403), ("null", 403),
    (f"https://127.0.0.1:{PORT}", 403), ("http://127.0.0.1:1", 403)])
def test_only_our_own_page_may_ask(origin: str, status: int) -> None:
    answer = client().post("/api/trace", headers={"origin": origin}, json={"text": "a", "model": "chat"})
    assert answer.status_code == status


def test_a_form_of_another_site_cannot_ask() -> None:
    body = json.dumps({"text": "a", "model": "chat"})
    assert client().post("/api/trace", content=body, headers={"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize(("body", "says"), [
    ({"text": "", "model": "chat"}, "the text is empty"), ({"text": "a", "model": "../chat"}, "It has: chat, other."),
    ({"text": "a", "model": "chat", "to": ["zh"]}, "needs a text"),
    ({"text": 1, "model": "chat"}, "needs a text"), ({"model": "chat"}, "needs a text"), (["a"], "needs a text")])
def test_a_mistake_is_one_line(body: object, says: str) -> None:
    answer = client().post("/api/trace", json=body)
    assert answer.status_code == 422
    assert says in answer.json()["error"] and "\n" not in answer.json()["error"]


@pytest.mark.parametrize(("body", "says"), [(b"{", "no JSON"), (b"[" * 100_000, "no JSON"), (b"\xff", "no JSON"),
                                            (b" " * (BODY + 1), "longer than 1,000,000 bytes")])
def test_a_body_that_cannot_be_read(body: bytes, says: str) -> None:
    answer = client().post("/api/trace", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and says in answer.json()["error"]


def test_models_run_one_at_a_time() -> None:
    inside, most = 0, 0
    wait = threading.Event()

    def slow(model: str, text: str, to: str | None) -> dict:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        wait.wait(0.05)
        inside -= 1
        return {}

    with client(slow) as asking:
        threads = [threading.Thread(target=asking.post, args=("/api/trace",), kwargs={"json": {"text": "a", "model": "chat"}})
                   for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1


def test_a_port_in_use_says_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KliegError, match=f"port {port} is in use; name another one, for example --port"):
            server.serve(["chat"], trace, port, open_browser=False)
    with pytest.raises(KliegError, match="between 0 and 65535"):
        server.serve(["chat"], trace, 70000, open_browser=False)


SERVE = """
from klieg.explorer import server
server.page = lambda: __import__("pathlib").Path({html!r})
server.serve(["chat"], lambda model, text, to: {{}}, 0, False, "zh", lambda line: print(line, flush=True))
"""


def test_it_listens_on_loopback_only_and_ctrl_c_ends_it_quietly(tmp_path) -> None:
    (tmp_path / "index.html").write_text(HTML)
    running = subprocess.Popen([sys.executable, "-c", SERVE.format(html=str(tmp_path / "index.html"))], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        line = running.stdout.readline()
        assert line.startswith("Klieg is at http://127.0.0.1:") and "#lang=zh" in line
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as asking:
            asking.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            assert asking.makefile("rb").readline().split()[1] == b"200"
        outside = socket.gethostbyname(socket.gethostname())
        if not outside.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((outside, port), timeout=2).close()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    finally:
        running.kill()
        running.communicate()
    assert (running.returncode, out, err) == (0, "", "")
