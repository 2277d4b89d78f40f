"""A small HTTP server: /metrics, /healthz and /readyz, on loopback unless told otherwise. GET and HEAD only."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from detector.errors import SettingsError

Check = Callable[[], tuple[bool, str]]
Answer = tuple[int, str, bytes]  # status, content type, body
Route = Callable[[Mapping[str, str]], Answer]  # from the request's headers, names in lower case
SLOW_CLIENT_S = 10.0


class Server:
    """A running server; `close` stops it."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """host:port that it listens on."""
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(listen: str, registry: CollectorRegistry, healthy: Check, ready: Check) -> Server:
    """Serve on `host:port` or `[host]:port` (port 0: any free one). Raises SettingsError where that cannot be listened on."""

    def metrics(headers: Mapping[str, str]) -> Answer:
        encode, content_type = choose_encoder(headers.get("accept", ""))
        return 200, content_type, encode(registry)

    def check(test: Check) -> Route:
        def answer(_: Mapping[str, str]) -> Answer:
            good, text = test()
            return 200 if good else 503, "text/plain; charset=utf-8", f"{text}\n".encode()

        return answer

    routes: Mapping[str, Route] = {"/metrics": metrics, "/healthz": check(healthy), "/readyz": check(ready)}
    host, _, port = listen.rpartition(":")
    try:
        if not host:  # the socket would take it for every interface
            raise ValueError("it names no host")
        return Server(_Listening(host.strip("[]"), int(port), handler(routes)))
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"metrics.listen = {listen!r}: cannot listen there: {error}; expected host:port, free") from error


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a slow client does not hold up the end

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event; anything else is a fault of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            logging.getLogger(__name__).error("a page failed", exc_info=True)


def handler(routes: Mapping[str, Route]) -> type[BaseHTTPRequestHandler]:
    """A request handler for the routes."""

    class Handler(BaseHTTPRequestHandler):
        timeout = SLOW_CLIENT_S
        server_version, sys_version = "unlike", ""

        def do_GET(self) -> None:
            route = routes.get(self.path.partition("?")[0])
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, kind, body = route(headers) if route else (404, "text/plain; charset=utf-8", b"not found\n")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Scrapes are not worth a log line."""

    return Handler
