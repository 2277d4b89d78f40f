from dataclasses import replace

import numpy as np

from detector.events import Parser, objects
from detector.history import select
from detector.recent import Recent, fingerprints
from detector.records import Batch
from detector.settings import EventSettings, SourceSettings

FORM = b'{"time":%d,"user":"u%d","page":"p%d","n":%d.5,"id":%s,"mixed":%s}'
TEXT_OR_NUMBER = (b'"1.0"', b"1", b"2", b"1.0")
LINES = [FORM % (n, n % 3, n % 7, n, b'"x%d"' % n if n % 2 else b"null", TEXT_OR_NUMBER[n % 4]) for n in range(900)]


def batch() -> Batch:
    """Events with and without ids, and an attribute that is text here and a number there."""
    found, refused = Parser(SourceSettings(), EventSettings()).parse([(str(n), line) for n, line in enumerate(LINES)], 1e9)
    assert not refused
    return found


def test_an_event_has_the_same_fingerprint_whatever_comes_with_it() -> None:
    whole = batch()
    together = fingerprints(whole).tolist()
    assert [int(fingerprints(select(whole, np.array([e])))[0]) for e in range(len(whole))] == together
    assert len(set(together)) == len(whole)


def test_an_id_makes_an_event_the_same_whatever_else_it_holds() -> None:
    whole = batch()
    other = replace(whole, time=whole.time + 1, attributes={"action": objects(["other"] * len(whole))})
    same = fingerprints(whole) == fingerprints(other)
    assert same.tolist() == [name is not None for name in whole.event_id]


def test_what_is_remembered_comes_once_and_is_forgotten_behind_the_line_of_lateness() -> None:
    whole, recent, kept = batch(), Recent(), 0
    for low in range(0, len(whole), 50):
        part = select(whole, np.arange(low, low + 50))
        marks = fingerprints(part)
        assert recent.fresh(marks).all()
        recent.add(marks, part.time, float(part.time.max()) - 100)
        assert not recent.fresh(marks).any()
        kept = max(kept, sum(len(known) for known, _ in recent.runs))
    assert kept <= 400
