"""The audit: who did what, when and why, in a chain that shows every later change.

The hash of an entry is SHA-256 over the hash of the one before (64 zeros before the first) and the entry's own
JSON without its hash, keys sorted. What retention forgets is the beginning of the chain; the hash it ended with is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from detector.records import Entry

Head = tuple[int, str]  # number and hash of the newest entry
NONE: Head = (0, "0" * 64)
ITSELF = "unlike"  # who, where nobody but the program did it


@dataclass(frozen=True)
class Draft:
    """What is to be written down."""

    who: str
    incident: str
    what: str
    why: str = ""
    detail: tuple[tuple[str, Any], ...] = ()


def chained(head: Head, drafts: Iterable[Draft], now: float) -> tuple[tuple[Entry, ...], Head]:
    """The entries that follow `head`, and the new head."""
    out: list[Entry] = []
    for draft in drafts:
        number = head[0] + 1
        entry = Entry(
            number=number,
            time=now,
            who=draft.who,
            incident=draft.incident,
            what=draft.what,
            why=draft.why,
            detail=dict(draft.detail),
            hash="",
        )
        head = number, digest(head[1], entry)
        out.append(msgspec.structs.replace(entry, hash=head[1]))
    return tuple(out), head


def digest(before: str, entry: Entry) -> str:
    """The hash of an entry after one with the hash `before`: 64 hexadecimal digits."""
    content = msgspec.to_builtins(entry)
    del content["hash"]
    return sha256(
        (before + json.dumps(content, sort_keys=True, separators=(",", ":"))).encode("utf-8", "surrogatepass")
    ).hexdigest()


def broken(entries: Sequence[Entry], head: Head, anchor: Head = NONE) -> str:
    """Where the chain of entries from `anchor`, the newest that is no longer kept, to `head` does not hold; empty where it does."""
    at = anchor
    for entry in entries:
        if entry.number != at[0] + 1:
            return f"entry {at[0] + 1} is missing"
        at = entry.number, digest(at[1], entry)
        if entry.hash != at[1]:
            return f"entry {entry.number} is not what was written"
    return "" if at == head else f"it ends at entry {at[0]}, expected {head[0]}"
