"""The server behind the page: loopback only, two questions, no state but the models it has loaded.

A browser lets any site send requests to 127.0.0.1, so every request must name this server as its
host (else another name was bent to this address) and come from this page or from no page at all.

    serve(port=8137)                                      # until Ctrl-C
    application(models=["chat"], trace=trace_of)          # the ASGI application alone
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import socket
import sys
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from klieg.errors import KliegError
from klieg.views.html import page

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import HTMLResponse, JSONResponse
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError:
    raise KliegError("the Explorer needs FastAPI and uvicorn; install them with `pip install 'klieg[serve]'`.") from None

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost", "[::1]")  # under which a browser on this machine reaches us
BODY = 1_000_000  # bytes of a request
_SCRIPT = re.compile(r"<script\b[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)

# (model, text, a translator's target language or None) -> views.wire of the trace, and of a translator of several languages
# these and the one that was taken, as `languages` and `to`; may raise KliegError
Traced = Callable[[str, str, str | None], dict]


class Guard:
    """Refuses foreign hosts and origins, and bodies that are too long, before anything else runs."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        ports = ("", ":80") if port == 80 else (f":{port}",)
        self.hosts = {name + suffix for name in NAMES for suffix in ports}
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope, receive)
        refusal = self.refusal(request)
        if refusal:
            return await refusal(scope, receive, send)
        return await self.app(scope, receive, send)

    def refusal(self, request: Request) -> Response | None:
        """Why a request is not answered, or None."""
        if request.headers.get("host", "").lower() not in self.hosts:
            return _refused(403, "this server answers only to its own address on this machine.")
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() not in self.origins:
            return _refused(403, "this server answers only its own page.")
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if request.method == "POST" and kind != "application/json":  # what a foreign form cannot send
            return _refused(415, "send JSON.")
        return None


def application(models: list[str], trace: Traced, port: int = 8137, html: str | None = None) -> FastAPI:
    """The page at /, the names at /api/models, and at /api/trace what `trace(model, text, to)` gives.

    `html` replaces the built page. Models run one at a time: they share the machine's cores.
    """
    app = FastAPI(title="Klieg", docs_url=None, redoc_url=None, openapi_url=None)
    html = page().read_text("utf-8") if html is None else html
    headers = _headers(html)
    running = threading.Lock()

    @app.middleware("http")
    async def secure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await call_next(request)
        answer.headers.update(headers)
        return answer

    @app.exception_handler(KliegError)
    async def said(request: Request, error: KliegError) -> Response:
        return _refused(422, str(error))

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(html)

    @app.get("/api/models")
    async def names() -> dict:
        return {"models": models}

    @app.post("/api/trace")
    async def traced(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(run, *_question(await _body(request), models)))

    def run(model: str, text: str, to: str | None) -> dict:
        with running:
            return trace(model, text, to)

    app.add_middleware(Guard, port=port)
    return app


def serve(models: list[str], trace: Traced, port: int = 8137, open_browser: bool = True, language: str | None = None,
          say: Callable[[str], None] = print) -> None:
    """Serve on 127.0.0.1:port until Ctrl-C; the first of `models` is shown first. Port 0 takes a free one."""
    import uvicorn

    with _listen(port) as listener:
        port = listener.getsockname()[1]
        address = f"http://{HOST}:{port}/" + (f"#{urlencode({'lang': language})}" if language else "")
        server = uvicorn.Server(uvicorn.Config(application(models, trace, port), log_level="warning", lifespan="off",
                                               timeout_graceful_shutdown=1, server_header=False))
        say(f"Klieg is at {address} (Ctrl-C ends it)")
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _listen(port: int) -> socket.socket:
    """A socket on loopback, bound before anything is said, so that the page is there when it is opened."""
    if not 0 <= port <= 65535:
        raise KliegError(f"port {port} is not between 0 and 65535.")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as e:
        listener.close()
        why = "needs an administrator" if isinstance(e, PermissionError) else "is in use"
        other = port + 1 if 1024 <= port < 65535 else 8137
        raise KliegError(f"port {port} {why}; name another one, for example --port {other}.") from None
    return listener


async def _body(request: Request) -> bytes:
    """The request's body, given up as soon as it is too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY:
            raise KliegError(f"the text is longer than {BODY:,} bytes; shorten it.")
    return bytes(body)


def _question(body: bytes, models: list[str]) -> tuple[str, str, str | None]:
    """The model and the text that a body asks for, and the language that it is to be translated into."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise KliegError('the request is no JSON; send {"text": ..., "model": ...}.') from None
    text, model, to = map(asked.get, ("text", "model", "to")) if isinstance(asked, dict) else (None, None, None)
    if not isinstance(text, str) or not isinstance(model, str) or not isinstance(to, str | None):
        raise KliegError('the request needs a text and a model: {"text": ..., "model": ...}.')
    if model not in models:
        raise KliegError(f"this server was not started with the model {model!r}. It has: {', '.join(models)}.")
    return model, text, to


def _refused(status: int, line: str) -> Response:
    return JSONResponse({"error": line}, status)


def _headers(html: str) -> dict[str, str]:
    """Only the page's own script runs, nothing is fetched from elsewhere, and nobody frames the page."""
    policy = ("default-src 'none'; connect-src 'self'; img-src data:; font-src data:; style-src 'unsafe-inline'; "
              f"script-src {' '.join(_script_hashes(html))}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store"}


def _script_hashes(html: str) -> list[str]:
    """The scripts of a page as a Content-Security-Policy names them."""
    digests = (hashlib.sha256(code.encode()).digest() for code in _SCRIPT.findall(html))
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
