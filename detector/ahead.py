"""Reading ahead: a process of its own parses the next chunks while the present one is scored. For replays, on more than one core.

Chunks come over a pipe as frames, a head in JSON and the events as `history` writes them, so nothing is loaded that could be code;
the pipe holds the reader back when it is too far ahead.
"""

from __future__ import annotations

import json
import os
import signal
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec
import numpy as np

from detector import errors, history
from detector.errors import UnlikeError
from detector.recent import fingerprints
from detector.records import Chunk, Reject

LENGTH = struct.Struct("<QQQ")  # bytes of the head, of the events, of their fingerprints


class Head(msgspec.Struct, frozen=True):
    """All of a chunk but its events; or what went wrong."""

    rejects: tuple[Reject, ...] = ()
    position: dict[str, Any] = {}
    exhausted: bool = False
    error: str = ""
    kind: str = ""  # of the error: a class of detector.errors
    done: bool = False  # nothing more will come


def ahead(make: Callable[[], Iterator[Chunk]]) -> Iterator[Chunk]:
    """The chunks of `make()`, in their order, made in another process. Raises the errors of ours that making them raised."""
    if (os.cpu_count() or 1) < 2:
        yield from make()
        return
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        os._exit(_tell(make, into))
    os.close(into)
    try:
        with os.fdopen(out, "rb") as pipe:
            while True:
                head, events, marks = _read(pipe)
                if head.done:
                    return
                if head.error:
                    raise getattr(errors, head.kind, UnlikeError)(head.error)
                batch = history.decode(events, "events read ahead")
                yield Chunk(batch, head.rejects, head.position, head.exhausted, np.frombuffer(marks, np.int64))
    finally:
        _end(child)


def _tell(make: Callable[[], Iterator[Chunk]], into: int) -> int:
    """What the other process does; its exit code. Nothing of it may outlive it, so every error becomes a frame."""
    with os.fdopen(into, "wb") as pipe:
        try:
            for chunk in make():
                head = Head(chunk.rejects, dict(chunk.position), chunk.exhausted)
                _write(pipe, head, history.pack(chunk.batch), fingerprints(chunk.batch).tobytes())
            _write(pipe, Head(done=True))
        except BrokenPipeError:
            return 1
        except UnlikeError as error:
            _write(pipe, Head(error=str(error), kind=type(error).__name__))
            return 1
        except BaseException as error:
            _write(pipe, Head(error=f"reading ahead: {type(error).__name__}: {error}", kind="UnlikeError"))
            return 1
    return 0


def _write(pipe: BinaryIO, head: Head, events: bytes = b"", marks: bytes = b"") -> None:
    encoded = json.dumps(msgspec.to_builtins(head)).encode()  # ASCII: a bad line may hold what UTF-8 cannot
    pipe.write(LENGTH.pack(len(encoded), len(events), len(marks)) + encoded)
    pipe.write(events)
    pipe.write(marks)
    pipe.flush()


def _read(pipe: BinaryIO) -> tuple[Head, bytes, bytes]:
    sizes = pipe.read(LENGTH.size)
    lengths = LENGTH.unpack(sizes) if len(sizes) == LENGTH.size else (0, 0, 0)
    head, events, marks = (pipe.read(length) for length in lengths)
    if len(sizes) < LENGTH.size or (len(head), len(events), len(marks)) != lengths:
        raise UnlikeError("reading ahead: the reader ended before its time; was it killed?")
    return msgspec.convert(json.loads(head), Head), events, marks


def _end(child: int) -> None:
    """The other process is gone when this returns, whether it was done or not."""
    done, _ = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
