"""The ways out that settings name in [[notify]]: webhook, Alertmanager, mail and chat, syslog, files in others' formats.

The outbox tries again what fails; each way says where a retry cannot help (RefusedError). Sinks may be given a message twice,
and hand on its id so that receivers can drop the repeat.
"""

from __future__ import annotations

import hmac
import http.client
import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import msgspec

from alerts import formats
from alerts.policy import SEVERITIES
from alerts.sinks import FileSink, Sink
from detector import __version__
from detector.errors import DeliveryError, RefusedError, SettingsError
from detector.lines import rfc3339, seconds
from detector.settings import NotifySettings

FIRES = timedelta(days=7)  # that an alert stands in Alertmanager without a further word; an open incident has expired by then
AGAIN = (408, 425, 429)  # of the 4xx, those after which a retry may help
FACILITY = 13  # of syslog: log audit
SYSLOG_SEVERITY = {"low": 5, "medium": 4, "high": 3, "critical": 2}
Send = Callable[[dict[str, Any], bytes], None]


class Way:
    """A sink that passes on messages of some kinds from some severity on, and is done with all others."""

    def __init__(self, name: str, settings: NotifySettings, send: Send) -> None:
        self.name, self._settings, self._send = name, settings, send

    def send(self, body: bytes) -> None:
        """Hand over the message; see Sink."""
        message = formats.read(body)
        least = SEVERITIES.index(self._settings.min_severity)
        wanted = message["kind"] in self._settings.messages and SEVERITIES.index(message["severity"]) >= least
        if wanted or message["kind"] == "test":
            try:
                self._send(message, body)
            except DeliveryError as error:
                raise type(error)(f"{self.name}: {error}") from error


def ways(every: tuple[NotifySettings, ...], folder: str | Path, clock: Callable[[], float] = time.time) -> dict[str, Sink]:
    """The sinks of the blocks, by name. Raises SettingsError, naming the block and what it lacks."""
    out: dict[str, Sink] = {}
    for number, block in enumerate(every, 1):
        name = block.name or block.kind
        if name in out or name in ("file", "log"):
            raise SettingsError(f"notify {number}: a second one is called {name!r}; give it a name of its own")
        out[name] = Way(name, block, MAKERS[block.kind](block, f"notify {number} ({name})", Path(folder), clock))
    return out


def _webhook(block: NotifySettings, where: str, folder: Path, clock: Callable[[], float]) -> Send:
    url, secret = _http(block, where), _secret(block, where)

    def send(message: dict[str, Any], body: bytes) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(message["message"])}
        if secret:
            stamp = str(int(clock()))
            headers |= {"X-Unlike-Timestamp": stamp, "X-Unlike-Signature": f"v1={signature(secret, stamp, body)}"}
        _post(url, body, headers, block.timeout)

    return send


def signature(secret: str, stamp: str, body: bytes) -> str:
    """HMAC-SHA256 over the timestamp (seconds), a full stop and the body, in hexadecimal digits."""
    return hmac.new(secret.encode(), stamp.encode() + b"." + body, sha256).hexdigest()


def _alertmanager(block: NotifySettings, where: str, folder: Path, clock: Callable[[], float]) -> Send:
    url = _http(block, where).rstrip("/") + "/api/v2/alerts"

    def send(message: dict[str, Any], body: bytes) -> None:
        now = datetime.fromtimestamp(clock(), UTC)
        _post(url, msgspec.json.encode(_labelled(message, now)), {"Content-Type": "application/json"}, block.timeout)

    return send


def _labelled(message: Mapping[str, Any], now: datetime) -> list[dict[str, Any]]:
    """An alert per severity, since its labels are its identity: the present one fires, the others are resolved."""
    closed = message["kind"] == "closed"
    began = min(seconds(message.get("opened") or message["time"]), now.timestamp() - 1)
    note = {"summary": formats.tame(message["summary"], formats.LIMIT), "account": formats.tame(message["user"], 200)}
    note |= {
        "state": str(message["state"]),
        "sessions": str(message.get("sessions", 1)),
        "priority": str(message.get("priority", 0)),
    }
    return [
        {
            "labels": {"alertname": "UnlikeIncident", "incident": message["id"], "severity": severity},
            "annotations": note,
            "startsAt": rfc3339(began),
            "endsAt": rfc3339((now + FIRES).timestamp() if severity == message["severity"] and not closed else now.timestamp()),
            "generatorURL": message.get("url", ""),
        }
        for severity in SEVERITIES[: SEVERITIES.index(message["severity"]) + 1]
    ]


def _apprise(block: NotifySettings, where: str, folder: Path, clock: Callable[[], float]) -> Send:
    try:
        import apprise
    except ImportError as error:
        raise SettingsError(f"{where}: needs the package apprise; install unlike[notify]") from error
    address = _secret(block, where) or block.url
    if not address or not apprise.Apprise().add(address):
        raise SettingsError(
            f"{where}: expected in url, or in the file secret_file, an address that apprise knows, such as mailto://…"
        )

    def send(message: dict[str, Any], body: bytes) -> None:
        sender = apprise.Apprise()
        sender.add(address)
        if not sender.notify(title=formats.title(message), body=formats.text(message), body_format=apprise.NotifyFormat.TEXT):
            raise DeliveryError("the receiver did not take it; will be tried again")

    return send


def _syslog(block: NotifySettings, where: str, folder: Path, clock: Callable[[], float]) -> Send:
    parts = urlsplit(block.url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError(f"{where}: url {block.url!r}: {error}") from error
    if parts.scheme not in ("udp", "tcp") or not host or port is None:
        raise SettingsError(f"{where}: expected url = udp://host:port or tcp://host:port, got {block.url!r}")
    here = socket.gethostname() or "-"

    def send(message: dict[str, Any], body: bytes) -> None:
        priority = 8 * FACILITY + SYSLOG_SEVERITY[message["severity"]]
        head = f"<{priority}>1 {rfc3339(clock())} {here} unlike - incident - "
        data = (head + formats.cef(message)).encode("utf-8", "replace")
        try:
            if parts.scheme == "udp":
                family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
                with socket.socket(family, socket.SOCK_DGRAM) as out:
                    out.sendto(data, (host, port))
            else:
                with socket.create_connection((host, port), block.timeout) as out:
                    out.sendall(f"{len(data)} ".encode() + data)  # octet counting, RFC 6587
        except OSError as error:
            raise DeliveryError(f"{block.url}: {error.strerror or error}; will be tried again") from error

    return send


def _file(shape: Callable[[formats.Message], dict[str, Any]]) -> Callable[[NotifySettings, str, Path, Callable[[], float]], Send]:
    def make(block: NotifySettings, where: str, folder: Path, clock: Callable[[], float]) -> Send:
        if not block.url:
            raise SettingsError(f"{where}: expected in url the path of a file")
        sink = FileSink(folder / block.url.removeprefix("file://"))
        return lambda message, body: sink.send(msgspec.json.encode(shape(message)))

    return make


MAKERS: Mapping[str, Callable[[NotifySettings, str, Path, Callable[[], float]], Send]] = {
    "webhook": _webhook,
    "alertmanager": _alertmanager,
    "apprise": _apprise,
    "syslog": _syslog,
    "ocsf": _file(formats.ocsf),
    "ecs": _file(formats.ecs),
}


def _http(block: NotifySettings, where: str) -> str:
    parts = urlsplit(block.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{where}: expected url = https://…, got {block.url!r}")
    return block.url


def _secret(block: NotifySettings, where: str) -> str:
    if not block.secret_file:
        return ""
    try:
        secret = Path(block.secret_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where}: secret_file {block.secret_file}: cannot be read: {error}") from error
    if not secret:
        raise SettingsError(f"{where}: secret_file {block.secret_file}: empty")
    return secret


class _Stay(HTTPRedirectHandler):
    """A redirect is an answer like others: what was signed for one place is not sent to another."""

    def redirect_request(self, *_: Any) -> None:
        """Do not follow."""


def _post(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> None:
    request = Request(url, body, {"User-Agent": f"unlike/{__version__}", **headers}, method="POST")
    try:
        with build_opener(_Stay).open(request, timeout=timeout) as answer:
            answer.read(65_536)
    except HTTPError as error:
        with error:
            told = formats.harmless(error.read(200).decode("utf-8", "replace"), 200)
        if error.code < 500 and error.code not in AGAIN:
            raise RefusedError(f"{_place(url)} answered {error.code}: {told}; a retry does not help") from error
        raise DeliveryError(f"{_place(url)} answered {error.code}: {told}; will be tried again") from error
    except (URLError, OSError, http.client.HTTPException) as error:
        raise DeliveryError(f"{_place(url)}: {getattr(error, 'reason', error)}; will be tried again") from error


def _place(url: str) -> str:
    """An address without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
