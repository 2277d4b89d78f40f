"""Reading ahead in another process: the same chunks in their order, its errors, and no process left behind."""

import gc
import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from detector.ahead import ahead
from detector.errors import SourceError, UnlikeError
from detector.evidence import BLOCK, products
from detector.records import Batch, Chunk, Reject
from tests.logs import batch_of, rows_of_people

REJECT = Reject("log", "log:3", "not_json", "expected an object", "{\udcff\u202e")


def chunks(fail: BaseException | None = None) -> Iterator[Chunk]:
    rows = rows_of_people(5, 9)
    for low in range(0, len(rows), 50):
        yield Chunk(batch_of(rows[low : low + 50]), (REJECT,), {"row": low}, low + 50 >= len(rows))
    if fail is not None:
        raise fail


def alike(one: Batch, other: Batch) -> bool:
    columns = [
        (b.time, b.user, b.session, b.event_id, b.position, *(c for _, c in sorted(b.attributes.items()))) for b in (one, other)
    ]
    return sorted(one.attributes) == sorted(other.attributes) and all(map(np.array_equal, *columns))


def children() -> str:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read()


def test_the_chunks_are_the_same_in_the_same_order() -> None:
    before = children()
    here, there = list(chunks()), list(ahead(chunks))
    assert len(here) == len(there)
    assert all(alike(a.batch, b.batch) for a, b in zip(here, there, strict=True))
    assert [(c.rejects[0].reason, c.position, c.exhausted) for c in here] == [
        (c.rejects[0].reason, c.position, c.exhausted) for c in there
    ]
    assert children() == before


def test_who_stops_early_leaves_no_process_behind() -> None:
    before = children()
    for _ in ahead(chunks):
        assert children() != before
        break
    gc.collect()
    assert children() == before


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(SourceError("log: gone"), SourceError), (UnlikeError("odd"), UnlikeError), (ValueError("odd"), UnlikeError)],
)
def test_an_error_arrives_after_the_chunks_before_it(raised: BaseException, expected: type[UnlikeError]) -> None:
    seen: list[object] = []

    def read() -> None:
        for chunk in ahead(lambda: chunks(raised)):
            seen.append(chunk.position)

    with pytest.raises(expected, match=str(raised)):
        read()
    assert len(seen) == len(list(chunks()))


def test_a_reader_that_was_killed_is_told_of() -> None:
    def killed() -> Iterator[Chunk]:
        yield from chunks()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UnlikeError, match="ended before its time"):
        list(ahead(killed))


def test_a_product_of_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    rng = np.random.default_rng(0)
    rows, others = rng.normal(size=(3 * BLOCK + 5, 48)).astype(np.float32), rng.normal(size=(1000, 48)).astype(np.float32)
    whole = products(rows, others)
    assert np.allclose(whole, rows.astype(float) @ others.astype(float).T, rtol=0, atol=1e-12)
    for size in (1, 2, 63, 64, 65, 150):
        some = rng.choice(len(rows), size, replace=False)
        assert np.array_equal(products(rows[some], others), whole[some])
