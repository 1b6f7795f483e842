"""The guard: who is answered, what is refused before it is read, and that nothing behind it can end in a traceback."""

from __future__ import annotations

import json
import logging

import pytest
from loops import finished
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from klieg.errors import KliegError
from klieg.explorer.guard import BODY, Guard, Key, refused
from klieg.explorer.turns import Gone

PORT = 8137
JSON = {"content-type": "application/json"}


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"length": len(await request.body())})


async def broken(request: Request) -> JSONResponse:
    raise ValueError("no way\nat all \x1b[31m")


async def broken_later(request: Request) -> StreamingResponse:
    async def lines():
        yield "one\n"
        raise {"gone": Gone, "mistake": ZeroDivisionError}[request.query_params["how"]]

    return StreamingResponse(lines())


ROUTES = [Route("/", echo, methods=["GET", "POST", "HEAD", "DELETE"]), Route("/api", echo, methods=["GET", "POST"]),
          Route("/broken", broken), Route("/later", broken_later)]


def client(key: Key | None = None, host: str = f"127.0.0.1:{PORT}", names: tuple[str, ...] = ()) -> TestClient:
    guard = Middleware(Guard, port=PORT, headers={"X-Sealed": "yes"}, key=key, names=names)
    return TestClient(Starlette(routes=ROUTES, middleware=[guard]), base_url=f"http://{host}", follow_redirects=False)


def said(answer) -> str:
    """The one line of a refusal."""
    assert answer.headers["x-sealed"] == "yes" and list(answer.json()) == ["error"]
    line = answer.json()["error"]
    assert line.isprintable()
    return line


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:80", "evil.example", f"evil.example:{PORT}", "127.0.0.1:1",
                                  f"127.0.0.1.evil.example:{PORT}", f"localhost.:{PORT}", "", f"10.0.0.7:{PORT}",
                                  f"127.0.0.1:{PORT}, evil.example", f"user@127.0.0.1:{PORT}"])
def test_another_host_is_refused(host: str) -> None:
    for answer in (client().get("/", headers={"host": host}), client().post("/api", headers={"host": host, **JSON})):
        assert answer.status_code == 403 and "its own address; open the one that klieg serve printed" in said(answer)


def test_two_hosts_are_none() -> None:
    two = [("host", f"127.0.0.1:{PORT}"), ("host", f"127.0.0.1:{PORT}")]
    assert client().get("/", headers=two).status_code == 403


@pytest.mark.parametrize("host", [f"localhost:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}"])
def test_our_own_names_are_answered(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 200


def test_other_names_and_numbers_only_where_the_server_is_for_other_machines() -> None:
    there = client(host=f"10.0.0.7:{PORT}", names=("Reader.local", "0.0.0.0"))  # the socket's own number is 10.0.0.7
    for host in (f"10.0.0.7:{PORT}", f"reader.LOCAL:{PORT}"):
        assert there.get("/", headers={"host": host, "origin": f"http://{host.lower()}"}).status_code == 200
    assert there.get("/", headers={"host": f"10.0.0.8:{PORT}"}).status_code == 403
    assert there.get("/", headers={"origin": f"http://10.0.0.8:{PORT}"}).status_code == 403
    named = client(host=f"evil.example:{PORT}")  # a server that says it was reached by a name is believed nothing
    assert named.get("/").status_code == 403
    six = client(host=f"[fd00::7]:{PORT}")
    assert six.get("/").status_code == 200


@pytest.mark.parametrize(("origin", "status"), [
    (f"http://127.0.0.1:{PORT}", 200), (f"http://localhost:{PORT}", 200), (f"HTTP://LOCALHOST:{PORT}", 200),
    ("https://evil.example", 403), ("null", 403), ("", 403), (f"https://127.0.0.1:{PORT}", 403), ("http://127.0.0.1:1", 403)])
def test_only_our_own_page_may_ask(origin: str, status: int) -> None:
    for answer in (client().post("/api", headers={"origin": origin, **JSON}), client().get("/api", headers={"origin": origin})):
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(("site", "mode", "path", "status"), [
    ("same-origin", "cors", "/api", 200), ("none", "navigate", "/", 200), ("cross-site", "navigate", "/", 200),
    ("same-site", "navigate", "/", 200), ("cross-site", "no-cors", "/", 403), ("same-site", "no-cors", "/api", 403),
    ("cross-site", "navigate", "/api", 403), ("same-site", "navigate", "/api", 403)])
def test_another_page_may_link_here_and_do_nothing_else(site: str, mode: str, path: str, status: int) -> None:
    assert client().get(path, headers={"sec-fetch-site": site, "sec-fetch-mode": mode}).status_code == status


def test_a_preflight_is_promised_nothing() -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = client().options("/api", headers=asked)
    assert answer.status_code == 403 and not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                                  "application/jsonp", ""])
def test_a_form_of_another_site_cannot_ask(kind: str) -> None:
    assert client().post("/api", content="{}", headers={"content-type": kind}).status_code == 415


def test_bodies_up_to_the_limit_are_read_and_longer_ones_are_not() -> None:
    assert client().post("/api", content=b" " * BODY, headers=JSON).json() == {"length": BODY}
    answer = client().post("/api", content=b" " * (BODY + 1), headers=JSON)
    assert answer.status_code == 413 and "longer than 1,000,000 bytes" in said(answer)
    pieces = client().post("/api", content=iter([b" " * BODY, b" "]), headers=JSON)  # no length is told before
    assert pieces.status_code == 413
    for length in ("9" * 5000, str(BODY + 1)):  # refused by what it says of itself, before anything is read
        assert client().post("/api", content=b"", headers={**JSON, "content-length": length}).status_code == 413


def test_a_request_that_breaks_off_is_not_acted_upon() -> None:
    passed, sent = [], []

    async def app(scope, receive, send) -> None:
        passed.append(await receive())

    async def receive(messages=iter([{"type": "http.request", "body": b'{"text": "a"}', "more_body": True},  # noqa: B008
                                     {"type": "http.disconnect"}])):
        return next(messages)

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api", "query_string": b"", "server": ("127.0.0.1", PORT),
             "headers": [(b"host", f"127.0.0.1:{PORT}".encode()), (b"content-type", b"application/json")]}
    finished(Guard(app, PORT, {})(scope, receive, send))
    assert passed == sent == []


def test_a_socket_is_closed() -> None:
    sent = []

    async def send(message) -> None:
        sent.append(message)

    finished(Guard(Starlette(), PORT, {})({"type": "websocket", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_token_opens_once_and_the_next_one_is_told() -> None:
    told: list[str] = []
    key = Key(told.append)
    asking, first = client(key), key.token
    assert asking.get("/").status_code == 401 == asking.post("/api", headers=JSON).status_code
    assert "klieg serve printed" in said(asking.get("/api"))
    assert asking.head(f"/?token={first}").status_code == 401 and key.token == first  # a preview spends nothing
    answer = asking.get(f"/?token={first}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and first.lower() not in cookie
    assert asking.get("/").status_code == 200
    assert told == [key.token] and key.token != first
    other = client(key)
    for token in (first, "", "é", "\ud800", "x" * 10_000, asking.cookies[f"klieg-{PORT}"]):
        assert other.get("/", params={"token": token.encode("utf-8", "surrogatepass")}).status_code == 401
    assert other.get(f"/api?token={key.token}").status_code == 401, "only the page itself takes a token"
    assert other.get(f"/?token={key.token}").status_code == 303 and other.get("/").status_code == 200
    assert client(Key()).get("/", headers={"cookie": f"klieg-{PORT}={asking.cookies[f'klieg-{PORT}']}"}).status_code == 401


@pytest.mark.parametrize(("language", "words"), [("en", "klieg serve printed"), ("zh-CN", "klieg serve")])
def test_a_browser_shows_a_refusal_as_text(language: str, words: str) -> None:
    answer = client(Key()).get("/", headers={"accept": "text/html,*/*;q=0.8", "accept-language": language})
    assert (answer.status_code, answer.headers["content-type"]) == (401, "text/plain; charset=utf-8")
    assert words in answer.text and answer.text.isprintable() and "{" not in answer.text
    assert ("，" in answer.text or "。" in answer.text) == (language != "en") and answer.headers["x-sealed"] == "yes"


def test_no_token_stays_in_the_address_of_who_has_the_cookie() -> None:
    key = Key()
    asking = client(key)
    asking.get(f"/?token={key.token}")
    unspent = key.token
    answer = asking.get(f"/?token={unspent}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/") and key.token == unspent


@pytest.mark.parametrize(("around", "status"), [
    ("MINE", 200), ('other={"a": 1, "b"}; MINE; x', 200), ("klieg-8137=; MINE", 200), ("a=b;;;; MINE;=;", 200),
    ("klieg-8137=no; MINE", 200), ("ключ=значение; MINE", 200), ('a="; MINE', 200), ("x" * 60_000 + "; MINE", 200),
    (", , MINE; $Version=1; Path=/", 401)])
def test_the_cookie_is_found_among_odd_ones(around: str, status: int) -> None:
    key = Key()
    found = client(key).get(f"/?token={key.token}").cookies[f"klieg-{PORT}"]
    asked = around.replace("MINE", f"klieg-{PORT}={found}")
    assert client(key).get("/", headers={"cookie": asked.encode()}).status_code == status
    assert client(key).get("/", headers={"cookie": asked.replace(found, found[:-1]).encode()}).status_code == 401


def test_a_mistake_of_our_own_is_one_line_for_the_asker_and_here(caplog) -> None:
    answer = client().get("/broken")
    assert answer.status_code == 500
    line = said(answer)
    assert line.startswith("Klieg failed at this, which is a mistake in it: ValueError: no way (test_guard.py:")
    assert [(r.message, r.exc_info, r.levelno) for r in caplog.records if r.name == "klieg"] == [(line, None, logging.ERROR)]


@pytest.mark.parametrize(("how", "lines"), [("gone", 0), ("mistake", 1)])
def test_what_fails_in_the_middle_of_an_answer_leaves_no_traceback(how: str, lines: int, caplog) -> None:
    assert client().get(f"/later?how={how}").text == "one\n"
    assert len([r for r in caplog.records if r.name == "klieg"]) == lines


def test_a_refusal_can_hold_any_character() -> None:
    line = "half a pair \ud800, \u202e and <script>"
    assert json.loads(refused(422, line).body) == {"error": line}
    assert refused(422, str(KliegError(line))).body.isascii()
