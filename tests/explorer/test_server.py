"""The server as a process: where it listens, whom it lets in, what it survives, and how it ends."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from made import Maker
from starlette.testclient import TestClient

from klieg.errors import KliegError
from klieg.explorer import server
from klieg.explorer.desk import Desk
from klieg.explorer.server import application

PORT = 8137
SCRIPT = "let shown = '<b>'"
HTML = f'<!doctype html><title>page</title><script type="module">{SCRIPT}</script>'
ODD = [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"GET /\x00 HTTP/1.1\r\n", b"POST / HTTP/9.9\r\n",
       b"GET http://evil.example/ HTTP/1.1\r\n", b"CONNECT evil.example:443 HTTP/1.1\r\n", b"BREW / HTTP/1.1\r\n",
       b"HEAD / HTTP/1.1\r\n", b"HEAD /api/models HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n", b"OPTIONS /api/traces HTTP/1.1\r\n",
       b"TRACE / HTTP/1.1\r\n", b"PUT /api/traces HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n",
       b"GET /../../etc/passwd HTTP/1.1\r\n", b"GET /%2e%2e%2f%00%ff/etc HTTP/1.1\r\n", b"GET /api/traces/%ff%fe HTTP/1.1\r\n",
       b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n",
       b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(5000)),
       b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
       b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"PRI * HTTP/2.0\r\n",
       b"POST /api/traces HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99999999999999999999\r\n",
       b"POST /api/traces HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: -1\r\n",
       b"POST /api/traces HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
       b"POST /api/traces HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{\"text\": \"a\", "]


def client() -> TestClient:
    return TestClient(application(Desk({"chat": Maker("chat")}), PORT, HTML), base_url=f"http://127.0.0.1:{PORT}")


def test_the_page_and_its_policy() -> None:
    answer = client().get("/")
    assert answer.status_code == 200 and answer.text == HTML and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-encoding"] == "gzip" and answer.headers["vary"] == "Accept-Encoding"
    plain = client().get("/", headers={"accept-encoding": "identity"})
    assert plain.text == HTML and "content-encoding" not in plain.headers
    for path in ("/", "/api/models", "/nothing"):
        found = client().get(path).headers
        assert "script-src 'sha256-" in found["content-security-policy"] and found["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("method", "path", "status"), [
    ("HEAD", "/", 200), ("HEAD", "/api/models", 405), ("OPTIONS", "/api/models", 405), ("DELETE", "/", 405), ("BREW", "/", 405),
    ("GET", "/docs", 404), ("GET", "/openapi.json", 404), ("GET", "/api/models/", 404), ("GET", "/static/index.html", 404),
    ("GET", "/..%2f..%2fetc/passwd", 404), ("GET", "/api/traces/..%2f..%2fetc%2fpasswd", 404)])
def test_what_is_not_there_is_one_line(method: str, path: str, status: int) -> None:
    answer = client().request(method, path)
    assert answer.status_code == status
    assert method == "HEAD" or list(answer.json()) == ["error"]
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff", b"1" * 10_000, b'{"text": "\\ud800", "model": "chat"}', b"",
                                  b'["a"]', b'{"model": "chat"}', b'{"text": 1, "model": "chat"}', b"null",
                                  b'{"text": "a", "model": "\\ud800"}', b'{"text": "a", "model": "chat", "to": ["zh"]}'])
def test_a_body_that_cannot_be_read_is_one_line(body: bytes) -> None:
    answer = client().post("/api/traces", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["error"].isprintable()


def test_a_port_in_use_says_what_to_do() -> None:
    desk = Desk({})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KliegError, match=f"port {port} is in use; name another one, for example --port"):
            server.serve(desk, port, open_browser=False)
    with pytest.raises(KliegError, match="between 0 and 65535"):
        server.serve(desk, 70000, open_browser=False)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "", "2001:db8::1", "x" * 300, "\ud800"])
def test_an_address_of_another_machine_says_what_to_do(host: str) -> None:
    if host == "":
        host = "."
    with pytest.raises(KliegError, match=r"is no address of this machine; name one of its own, 0\.0\.0\.0 for all"):
        server.serve(Desk({}), 0, open_browser=False, host=host)


class Running:
    """serve() in a thread of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
        started, said, servers = threading.Event(), [], []

        class Server(uvicorn.Server):
            def __init__(self, config: uvicorn.Config) -> None:
                super().__init__(config)
                servers.append(self)

        def say(line: str) -> None:
            said.append(line)
            if "Klieg is at" in line:
                started.set()

        monkeypatch.setattr(uvicorn, "Server", Server)
        monkeypatch.setattr(server, "page", lambda: Path(__file__))
        desk = Desk({"chat": Maker("chat")})
        self.thread = threading.Thread(target=server.serve, args=(desk, 0, False, None, say, host), daemon=True)
        self.thread.start()
        assert started.wait(20)
        self.said, self.server = said, servers[0]
        found = re.search(r"http://(.+):(\d+)/\?token=(\S+)", said[-1])
        assert found
        self.name, self.port, self.token = found[1], int(found[2]), found[3]

    def get(self, address: str, path: str, host: str, **headers: str) -> http.client.HTTPResponse:
        asking = http.client.HTTPConnection(address, self.port, timeout=20)
        asking.request("GET", path, headers={"Host": host, **headers})
        answer = asking.getresponse()
        answer.read()
        asking.close()
        return answer

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


def outside() -> str | None:
    """This machine's own number on its network, if it has one."""
    try:
        found = socket.gethostbyname(socket.gethostname())
    except OSError:
        return None
    return None if found.startswith("127.") else found


def test_another_address_is_served_only_when_it_is_named_and_always_with_a_token(monkeypatch) -> None:
    running = Running(monkeypatch, "0.0.0.0")
    try:
        assert running.name == socket.gethostname() and "Other machines reach this one" in running.said[0]
        number = outside() or "127.0.0.1"
        for host in (number, running.name, "localhost"):
            assert running.get(number, "/", f"{host}:{running.port}").status == 401
        assert running.get(number, "/", f"evil.example:{running.port}").status == 403
        opened = running.get(number, f"/?token={running.token}", f"{number}:{running.port}")
        assert opened.status == 303
        cookie = opened.headers["set-cookie"].partition(";")[0]
        assert running.get(number, "/api/models", f"{number}:{running.port}", Cookie=cookie).status == 200
        assert running.get(number, "/api/models", f"192.0.2.1:{running.port}", Cookie=cookie).status == 403
    finally:
        running.stop()


def test_loopback_is_not_the_network(monkeypatch) -> None:
    running = Running(monkeypatch, "127.0.0.1")
    try:
        assert running.name == "127.0.0.1" and len(running.said) == 1
        assert running.get("127.0.0.1", "/", f"127.0.0.1:{running.port}").status == 401
        assert running.get("127.0.0.1", "/", f"{socket.gethostname()}:{running.port}").status == 403
        if outside():
            with pytest.raises(OSError):
                socket.create_connection((outside(), running.port), timeout=2).close()
    finally:
        running.stop()


SERVE = """
import pathlib, time
from klieg.explorer import server
from klieg.explorer.desk import Desk

class Endless:
    languages = []
    def read(self, text, to, turn, written=None):
        if text == "mistake":
            raise ZeroDivisionError("a mistake")
        while True:
            time.sleep(0.01)
            turn.offer()

server.page = lambda: pathlib.Path({html!r})
server.first.within = lambda html: html
server.serve(Desk({{"endless": Endless()}}), 0, False, "zh", lambda line: print(line, flush=True))
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen]:
    page = tmp_path_factory.mktemp("page") / "index.html"
    page.write_text(HTML)
    running = subprocess.Popen([sys.executable, "-c", SERVE.format(html=str(page))], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    yield running
    running.kill()
    running.communicate()


def exchanged(port: int, sent: bytes, cookie: str | None = None, end: bool = True) -> bytes:
    """The first line of what comes back, nothing where the connection is just closed. The headers that every request needs
    are added if there is a cookie; `end` says that no more will be sent."""
    if cookie is not None:
        sent += f"Host: 127.0.0.1:{port}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as asking:
        try:
            asking.sendall(sent)
            if end:
                with contextlib.suppress(OSError):  # closed already, perhaps with an answer
                    asking.shutdown(socket.SHUT_WR)
            return asking.makefile("rb").readline()
        except ConnectionError:
            return b""


def test_nothing_that_is_sent_brings_it_down_and_ctrl_c_ends_it_quietly(process: subprocess.Popen) -> None:
    line = process.stdout.readline()
    found = re.fullmatch(r"Klieg is at http://127\.0\.0\.1:(\d+)/\?token=(\S+)#lang=zh \(Ctrl-C ends it\)\n", line)
    assert found, line
    port, token = int(found[1]), found[2]
    assert exchanged(port, b"GET / HTTP/1.1\r\n", "").split()[1] == b"401"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as asking:
        asking.sendall(f"GET /?token={token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = asking.makefile("rb").read().decode()
    cookie = re.search(r"set-cookie: ([^;]+);", answer)[1]
    assert process.stdout.readline().startswith(f"For another browser: http://127.0.0.1:{port}/?token=")
    assert exchanged(port, b"GET / HTTP/1.1\r\n", cookie).split()[1] == b"200"
    for odd in ODD:
        whole = b"Length" not in odd and b"chunked" not in odd
        for sent in (exchanged(port, odd, cookie, end=not whole), exchanged(port, odd)):
            assert sent == b"" or 200 <= int(sent.split()[1]) < 500, (odd[:80], sent)
    asked = b'{"text": "a", "model": "endless"}'
    post = (f"POST /api/traces HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(asked)}\r\n"
            f"Host: 127.0.0.1:{port}\r\nCookie: {cookie}\r\n\r\n").encode() + asked
    for _ in range(3):  # somebody asks, and goes
        with socket.create_connection(("127.0.0.1", port), timeout=20) as asking:
            asking.sendall(post)
    wrong = asked.replace(b'"a"', b'"mistake"')
    sent = exchanged(port, post.replace(asked, wrong).replace(b"Length: 33", b"Length: %d" % len(wrong)), end=False)
    assert sent.split()[1] == b"500"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as asking:
        asking.sendall(post)  # and this one waits still when the server ends
        assert exchanged(port, b"GET /api/models HTTP/1.1\r\n", cookie, end=False).split()[1] == b"200"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    said = [line for line in err.splitlines() if not line.startswith("Klieg failed at this")]
    assert said == [] and "ZeroDivisionError: a mistake" in err and err.count("\n") == 1


def test_the_page_is_the_same_when_it_comes_compressed() -> None:
    with client().stream("GET", "/", headers={"accept-encoding": "gzip"}) as answer:
        assert gzip.decompress(b"".join(answer.iter_raw())).decode() == HTML
