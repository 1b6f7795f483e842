"""What stands before the page: who is answered, how much is read, and what a browser may do with the answer.

A browser lets any site send requests to 127.0.0.1, so every request must name this server as its
host (else another name was bent to this address) and come from this page or from no page at all.
Other users of the machine reach the same port, so the first visit must bring a token that was
printed where only its own user reads, and gets a cookie for it; a token opens once. What fails
behind this is one line, here and for the asker.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import secrets
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from klieg.errors import KliegError, first_line
from klieg.explorer.spoken import line
from klieg.explorer.turns import Gone

NAMES = ("127.0.0.1", "localhost", "[::1]")  # under which a browser on this machine reaches us
BODY = 1_000_000  # bytes of a request


class Key:
    """The one-time tokens of a server and the cookie that they are changed for."""

    def __init__(self, said: Callable[[str], None] = lambda token: None) -> None:
        """`said` is told each next token, as soon as the one before it was used."""
        self._cookie, self._said = secrets.token_urlsafe(24), said
        self.token = secrets.token_urlsafe(24)

    def opens(self, cookies: Sequence[str]) -> bool:
        """Whether one of them is the cookie: a page of another port may have set more of the same name."""
        return any(secrets.compare_digest(cookie.encode(), self._cookie.encode()) for cookie in cookies)

    def change(self, token: str) -> str | None:
        """The cookie for an unused token; None for any other."""
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            return None
        self.token = secrets.token_urlsafe(24)
        self._said(self.token)
        return self._cookie


class Guard:
    """Refuses before anything else runs: foreign hosts and origins, askers without the key, and bodies that are too long."""

    def __init__(self, app: ASGIApp, port: int, headers: dict[str, str], key: Key | None = None,
                 names: Sequence[str] = ()) -> None:
        """`names`: under which this server is known besides those of loopback."""
        self.app, self.headers, self.key = app, headers, key
        self._ports = ("", ":80") if port == 80 else (f":{port}",)
        self._hosts = self._with_port(*NAMES, *names)
        self.cookie = f"klieg-{port}"  # cookies are shared by all ports of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # no socket is spoken here
            return await send({"type": "websocket.close", "code": 1008})
        begun = False

        async def sealed(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        answer = self.refusal(scope) or self.unlocked(scope)
        if answer is not None:
            return await answer(scope, receive, sealed)
        try:
            answer = await self.passed(scope, receive, sealed)
        except Gone:
            return None  # in the middle of an answer that nobody reads
        except Exception as e:
            failure = _failure(e)
            logging.getLogger("klieg").error("%s", failure)
            answer = None if begun else _no(500, scope, failure)
        return None if answer is None else await answer(scope, receive, sealed)

    async def passed(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Hand a request on with its body; a refusal if that is too long."""
        length = Headers(scope=scope).get("content-length", "")
        body = await _body(receive) if not length.isdecimal() or int(length[:20]) <= BODY else None
        if body is None:
            said = KliegError(f"the text is longer than {BODY:,} bytes; shorten it.")
            return _no(413, scope, said)
        await self.app(scope, _again(body, receive), send)
        return None

    def refusal(self, scope: Scope) -> Response | None:
        """Why a request is not answered, or None."""
        headers, hosts = Headers(scope=scope), self._hosts | self._with_port(*_reached(scope))
        if [host.lower() in hosts for host in headers.getlist("host")] != [True]:
            return _no(403, scope, KliegError("this server answers only to its own address; open the one that klieg "
                                               "serve printed."))
        origins = {f"http://{host}" for host in hosts}
        foreign = KliegError("this server answers only its own page; open the address that klieg serve printed.")
        if not all(origin.lower() in origins for origin in headers.getlist("origin")):
            return _no(403, scope, foreign)
        # A link may lead here from anywhere; nothing else that a browser does for another page is answered.
        linked = scope["method"] == "GET" and scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not linked:
            return _no(403, scope, foreign)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":  # what a foreign form cannot send
            return _no(415, scope, KliegError("send JSON."))
        return None

    def unlocked(self, scope: Scope) -> Response | None:
        """None for who has the cookie; the cookie for a token; a refusal for anybody else."""
        if self.key is None:
            return None
        asked = scope["query_string"].decode("latin-1") if scope["method"] == "GET" and scope["path"] == "/" else ""
        tokens = parse_qs(asked).get("token", [])
        known = self.key.opens(_cookies(scope, self.cookie))
        if known and not tokens:
            return None
        answer = RedirectResponse("/", 303)  # the address that stays in the browser has no token
        if known:
            return answer
        found = self.key.change(tokens[0]) if tokens else None
        if found is None:
            return _no(401, scope, KliegError("open the address that klieg serve printed last; it lets one browser in."))
        # Lax: a link to a view opens it, wherever the link stands; what else another page sends has no cookie.
        answer.set_cookie(self.cookie, found, httponly=True, samesite="lax")
        return answer

    def _with_port(self, *names: str) -> set[str]:
        return {name.lower() + port for name in names for port in self._ports}


def _reached(scope: Scope) -> list[str]:
    """The number under which a request came to this machine: no name can be bent to look like it."""
    try:
        number = ipaddress.ip_address((scope.get("server") or ("",))[0])
    except ValueError:
        return []
    mapped = getattr(number, "ipv4_mapped", None)
    return [f"[{number}]" if number.version == 6 and not mapped else str(mapped or number)]


def _cookies(scope: Scope, name: str) -> list[str]:
    """The values of a cookie; other cookies, of other programs, may look as they like."""
    pairs = [pair.strip().partition("=") for line in Headers(scope=scope).getlist("cookie") for pair in line.split(";")]
    return [value for key, _, value in pairs if key == name]


async def _body(receive: Receive) -> bytes | None:
    """The request's whole body; None as soon as it is too long. Gone if it breaks off."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """What was read is there to be read once; after it comes what still comes, such as the end of the connection."""
    left = [body]

    async def given() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return given


def _failure(error: Exception) -> KliegError:
    """A mistake of Klieg's own in one line, with its place: nothing that a terminal would obey, and no folder."""
    places = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    said = "".join(c if c.isprintable() else "\ufffd" for c in first_line(error))
    return KliegError(f"Klieg failed at this, which is a mistake in it: {type(error).__name__}: {said[:300]}{where}")


def _no(status: int, scope: Scope, error: KliegError) -> Response:
    """A refusal in the language of who asks; where a browser shows it in the place of the page, as text."""
    said = line(error, Request(scope))
    if "text/html" in Headers(scope=scope).get("accept", ""):
        return Response(said, status, media_type="text/plain")
    return refused(status, said)


def refused(status: int, line: str) -> Response:
    """An answer of one line."""
    # ASCII: half a surrogate pair has no other form.
    return Response(json.dumps({"error": line}), status_code=status, media_type="application/json")
