"""The review page and its API on one address, served by a thread of the daemon."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from alerts import api
from alerts.access import Gate, Guard, Tokens, checked, refused
from alerts.control import forget, remember
from alerts.desk import Desk
from alerts.page import pages, refusal
from detector.errors import SettingsError
from detector.settings import ReviewSettings

STARTS_WITHIN_S = 10.0


def application(desk: Desk, gate: Gate) -> Starlette:
    """The whole site."""

    async def missing(request: Request, _: Exception) -> Response:
        return refused(request, 404, "nothing is here")

    async def wrong_method(request: Request, _: Exception) -> Response:
        return refused(request, 405, "that cannot be done here")

    app = Starlette(
        routes=[*api.routes(desk, gate), *pages(desk, gate)],
        middleware=[Middleware(Guard, gate=gate)],
        exception_handlers={404: missing, 405: wrong_method},
    )
    app.state.refusal = refusal
    return app


class Server:
    """A running server; `close` stops it."""

    def __init__(self, settings: ReviewSettings, app: Starlette, gate: Gate, folder: Path) -> None:
        self.folder = folder
        self._socket = _bound(settings.listen)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True, name="review")
        self._thread.start()
        until = time.monotonic() + STARTS_WITHIN_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        if not self._server.started:
            raise SettingsError(f"review.listen = {settings.listen}: the page did not start")
        remember(folder, self.url, gate.control)

    @property
    def address(self) -> str:
        """host:port that it listens on."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def url(self) -> str:
        """Where it is reached from this machine."""
        host = urlsplit(f"//{self.address}").hostname
        return f"http://{self.address}" if host not in ("0.0.0.0", "::") else f"http://127.0.0.1:{self.address.rpartition(':')[2]}"

    def close(self) -> None:
        """Stop listening; requests under way are finished."""
        forget(self.folder)
        self._server.should_exit = True
        self._thread.join(STARTS_WITHIN_S)
        self._socket.close()


def serve(
    settings: ReviewSettings,
    desk: Desk,
    folder: str | Path,
    clock: Callable[[], float] = time.monotonic,
) -> Server:
    """Serve a desk. Raises SettingsError where the address cannot be listened on, or must not be."""
    settings, folder = checked(settings), Path(folder)
    gate = Gate(settings, Tokens(folder), clock)
    return Server(settings, application(desk, gate), gate, folder)


def _bound(listen: str) -> socket.socket:
    parts = urlsplit(f"//{listen}")
    try:
        host, port = parts.hostname or "", parts.port
        if not host or port is None:
            raise ValueError("it names no host and port")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
        except BaseException:
            with contextlib.suppress(OSError):
                bound.close()
            raise
    except (OSError, ValueError) as error:
        raise SettingsError(f"review.listen = {listen}: cannot be listened on: {error}; expected host:port") from error
    return bound
