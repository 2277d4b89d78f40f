"""Where alerts go. A sink takes the JSON of one alert at a time; it may be given the same alert twice, and drops nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from random import Random
from typing import Any, Protocol

import msgspec

from alerts.explanations import harmless
from detector.errors import DeliveryError

LOG_TEXT_LIMIT = 500  # characters of one field in the log


class Sink(Protocol):
    """One way out."""

    @property
    def name(self) -> str:
        """What the outbox calls it."""

    def send(self, body: bytes) -> None:
        """Hand over the JSON object of one alert; when it returns the alert has arrived. Raises DeliveryError and nothing else."""


class FileSink:
    """Appends one line of JSON per alert. The file may be moved away at any time: it is opened for each alert.

    A line that a crash or a full disk left half-written is ended before the next one, so that at most that line is not JSON; its
    alert comes again, since it was never reported as sent.
    """

    def __init__(self, path: str | Path, name: str = "file") -> None:
        self.name, self.path = name, Path(path)

    def send(self, body: bytes) -> None:
        """Append and wait for the disk."""
        line = body.replace(b"\n", b" ") + b"\n"  # in JSON a bare line feed is only ever white space
        try:
            written, expected = _append(self.path, line)
        except OSError as error:
            raise DeliveryError(
                f"{self.name}: {self.path}: cannot be appended to: {error.strerror}; will be tried again"
            ) from error
        if written < expected:
            raise DeliveryError(
                f"{self.name}: {self.path}: took {written} of {expected} bytes, is the disk full? will be tried again"
            )


class LogSink:
    """One warning per alert in the log: `logger` is a structlog logger, or the default one."""

    def __init__(self, logger: Any = None, name: str = "log") -> None:
        self.name = name
        self._logger = logger

    def send(self, body: bytes) -> None:
        """Log id, severity, account, p, belief, score and the summary."""
        try:
            alert = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DeliveryError(f"{self.name}: expected the JSON object of an alert: {error}; a retry does not help") from error
        verdict = alert.get("verdict") or {}
        fields = {key: alert.get(key) for key in ("id", "kind", "state", "severity", "summary", "open")}
        fields |= {key: verdict.get(key) for key in ("user", "session", "p", "belief", "score")}
        safe = {k: harmless(v, LOG_TEXT_LIMIT) if isinstance(v, str) else v for k, v in fields.items()}
        try:
            (self._logger or _default_logger()).warning("alert", **safe)
        except OSError as error:
            raise DeliveryError(f"{self.name}: the log cannot be written: {error.strerror}; will be tried again") from error


class MemorySink:
    """Keeps what it was sent in `bodies`: the fake.

    With `failures` > 0 that share of the sends, drawn from `rng`, raises DeliveryError: half of these before the alert was taken,
    half after, as when an answer is lost.
    """

    def __init__(self, name: str = "memory", rng: Random | None = None, failures: float = 0.0) -> None:
        self.name, self.failures = name, failures
        self.bodies: list[bytes] = []
        self._rng = rng or Random(0)

    def send(self, body: bytes) -> None:
        """Keep it, or fail."""
        fails, taken = self._rng.random() < self.failures, self._rng.random() < 0.5
        if taken or not fails:
            self.bodies.append(body)
        if fails:
            raise DeliveryError(f"{self.name}: told to fail; will be tried again")


def _append(path: Path, line: bytes) -> tuple[int, int]:
    """(bytes written, bytes expected) of one write to the end of the file, on disk when it returns; raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(None, "expected a regular file")
        whole = found.st_size == 0 or os.pread(descriptor, 1, found.st_size - 1) == b"\n"
        data = line if whole else b"\n" + line
        written = os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if found.st_size == 0:  # the file may be new: its name has to reach the disk as well
        _sync_folder(path.parent)
    return written, len(data)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _default_logger() -> Any:
    import structlog  # only where something is logged: the command line stays quick

    return structlog.get_logger("alerts")
