"""How the commands reach the running daemon: by its own API, with a token that only the state folder's owner can read."""

from __future__ import annotations

import http.client
import os
import pwd
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from alerts.access import private
from detector.errors import UnlikeError

FILE = "control.json"
TIMEOUT_S = 120.0  # an answer waits for the round under way


def remember(folder: Path, url: str, token: str) -> None:
    """Say where the daemon listens. Raises SettingsError."""
    private(folder / FILE, msgspec.json.encode({"url": url, "token": token}))


def forget(folder: Path) -> None:
    """It listens no more."""
    (folder / FILE).unlink(missing_ok=True)


def call(folder: str | Path, method: str, path: str, body: Any = None) -> Any:
    """What the daemon of a state folder answers to a request of its API. Raises UnlikeError, with the daemon's own words."""
    try:
        found = msgspec.json.decode((Path(folder) / FILE).read_bytes(), type=dict[str, str])
    except FileNotFoundError as error:
        raise UnlikeError(f"{folder}: no daemon with a review page runs on it; start unlike run, with review.listen set") from error
    except (OSError, msgspec.DecodeError) as error:
        raise UnlikeError(f"{Path(folder) / FILE}: cannot be read: {error}; only who runs the daemon can") from error
    address = urlsplit(found["url"])
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
    headers = {"Authorization": f"Bearer {found['token']}", "X-Unlike-User": user(), "Content-Type": "application/json"}
    try:
        connection.request(method, f"/api/v1{path}", None if body is None else msgspec.json.encode(body), headers)
        answer = connection.getresponse()
        told = msgspec.json.decode(answer.read())
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise UnlikeError(f"{found['url']}: the daemon does not answer: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise UnlikeError(f"{told.get('detail', told)}")
    return told


def address(folder: str | Path) -> str:
    """Where the running daemon's page is. Raises UnlikeError."""
    try:
        return msgspec.json.decode((Path(folder) / FILE).read_bytes(), type=dict[str, str])["url"]
    except OSError as error:
        raise UnlikeError(f"{folder}: no daemon with a review page runs on it") from error


def user() -> str:
    """The name of who runs this command."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
