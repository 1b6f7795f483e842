"""The server behind the page, on loopback unless another address is named: it opens what it was started with, and no more.

    serve(Desk({"chat": Reader("chat")}))                 # until Ctrl-C
    application(desk)                                     # the ASGI application alone
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import ipaddress
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from klieg.errors import KliegError
from klieg.views.html import page

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
except ImportError:
    raise KliegError("the Explorer needs FastAPI and uvicorn; install them with `pip install 'klieg[serve]'`.") from None

from klieg.explorer import (
    atlases,
    comparisons,
    coreferences,
    experiments,
    exports,
    films,
    first,
    flows,
    grammars,
    looks,
    maps,
    riddles,
    sparsities,
    spoken,
    streams,
    suppositions,
)
from klieg.explorer.desk import Closed, Desk
from klieg.explorer.guard import Guard, Key, refused
from klieg.explorer.policy import headers
from klieg.explorer.turns import Busy, Gone

HOST = "127.0.0.1"


def application(desk: Desk, port: int = 8137, html: str | None = None, key: Key | None = None,
                names: Sequence[str] = ()) -> FastAPI:
    """The page at /, and at /api what it asks. `html` replaces the built page; without a key everybody who names this
    host is answered. `names` are those of a machine that others reach."""
    app = FastAPI(title="Klieg", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    html = first.within(page().read_text("utf-8")) if html is None else html
    small = gzip.compress(html.encode(), mtime=0)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        taken = "gzip" in request.headers.get("accept-encoding", "")
        return Response(small if taken else html, media_type="text/html; charset=utf-8",
                        headers={"Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if taken else {}))

    app.include_router(looks.routes(desk))
    app.include_router(streams.routes(desk))
    app.include_router(suppositions.routes(desk))
    app.include_router(exports.routes(desk))
    app.include_router(films.routes(desk))
    app.include_router(maps.routes(desk))
    app.include_router(comparisons.routes(desk))
    app.include_router(flows.routes(desk))
    app.include_router(coreferences.routes(desk))
    app.include_router(riddles.routes(desk))
    app.include_router(grammars.routes(desk))
    app.include_router(sparsities.routes(desk))
    app.include_router(atlases.routes(desk))
    app.include_router(experiments.routes(desk))
    _errors(app)
    app.add_middleware(Guard, port=port, headers=headers(html), key=key, names=names)
    return app


def _errors(app: FastAPI) -> None:
    """Every refusal is one line of JSON."""

    @app.exception_handler(KliegError)
    async def said(request: Request, error: KliegError) -> Response:
        status = 404 if isinstance(error, Closed) else 503 if isinstance(error, Busy) else 422
        return refused(status, spoken.line(error, request))

    @app.exception_handler(Gone)
    async def gone(request: Request, error: Gone) -> Response:
        return refused(499, spoken.line(KliegError("the page was closed."), request))

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        if fault["type"] == "json_invalid":
            said = KliegError("the request is no JSON; load the page again.")
            return refused(422, spoken.line(said, request))
        return refused(422, spoken.unfit(".".join(str(part) for part in fault["loc"][1:]), fault, request.headers))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        answer = refused(error.status_code, spoken.line(KliegError(f"{error.detail}."), request))
        answer.headers.update(error.headers or {})
        return answer


def serve(desk: Desk, port: int = 8137, open_browser: bool = True, language: str | None = None,
          say: Callable[[str], None] = print, host: str = HOST) -> None:
    """Serve on host:port until Ctrl-C; the first model of the desk is shown first. Port 0 takes a free one."""
    import uvicorn

    with _listen(port, host) as listener:
        port = listener.getsockname()[1]
        here = ipaddress.ip_address(listener.getsockname()[0])
        name = socket.gethostname() if here.is_unspecified else f"[{host}]" if ":" in host else host

        def address(token: str) -> str:
            return f"http://{name}:{port}/?token={token}" + (f"#{urlencode({'lang': language})}" if language else "")

        key = Key(lambda token: say(f"For another browser: {address(token)}"))
        app = application(desk, port, key=key, names=() if here.is_loopback else _names(host))
        # One way to read requests, whatever else is installed; no sockets, and no proxy is believed. What goes wrong is said by
        # the guard, in one line.
        server = uvicorn.Server(uvicorn.Config(app, http="h11", loop="asyncio", ws="none", lifespan="off", log_level="critical",
                                               timeout_graceful_shutdown=1, server_header=False, proxy_headers=False))
        if not here.is_loopback:
            say("Other machines reach this one: who has the address below gets in, and the network can read along.")

        async def served() -> None:
            say(f"Klieg is at {address(key.token)} (Ctrl-C ends it)")
            if open_browser:
                threading.Thread(target=webbrowser.open, args=(address(key.token),), daemon=True).start()
            await server.serve(sockets=[listener])

        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(served())


def _names(host: str) -> list[str]:
    """Under which other machines know this one; its numbers are told from each request itself."""
    own = socket.gethostname()
    return [host, own, own if own.endswith(".local") else f"{own}.local"]


def _listen(port: int, host: str = HOST) -> socket.socket:
    """A socket, bound before anything is said, so that the page is there when it is opened."""
    if not 0 <= port <= 65535:
        raise KliegError(f"port {port} is not between 0 and 65535; name another one.")
    try:
        kind, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise _elsewhere(host) from None
    listener = socket.socket(kind, socket.SOCK_STREAM)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
        listener.listen()
    except OSError as e:
        listener.close()
        if e.errno == errno.EADDRNOTAVAIL:
            raise _elsewhere(host) from None
        denied = isinstance(e, PermissionError)
        other = port + 1 if 1024 <= port < 65535 else 8137
        raise KliegError(f"port {port} {'needs an administrator' if denied else 'is in use'}; name another one, for example "
                         f"--port {other}.") from None
    return listener


def _elsewhere(host: str) -> KliegError:
    return KliegError(f"{host!r} is no address of this machine; name one of its own, 0.0.0.0 for all, or leave --host away.")
