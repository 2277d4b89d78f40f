"""Late learning: what waits, when it is learnt, and what is let go."""

from dataclasses import fields, replace

import numpy as np
import pytest

from detector import belief, encoder, evidence, profiles, training, waiting
from detector.errors import StoreDamagedError
from detector.guidance import Guidance, Lesson
from detector.pack import Pack
from detector.scoring import relearnt
from detector.sessions import Sessions, take
from detector.settings import SessionSettings
from tests.logs import batch_of, rows_of_people


@pytest.fixture(scope="module")
def history(trained: Pack) -> Sessions:
    """The sessions of one account, in their order."""
    whole = training.sessions_of(batch_of(rows_of_people()), trained.facets, SessionSettings())
    return take(whole, np.flatnonzero(whole.user == "u03"))


def seen(table: Sessions, pack: Pack) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    measured = encoder.measures(table, pack.population.centre, pack.population.spread)
    peers = evidence.peer_log_likelihood(table, pack.population, pack.shape.facets)
    return encoder.encode(pack.encoder, table, measured), peers.sum(axis=1), np.ones(len(table))


def after(known: profiles.Profiles, one: Sessions, pack: Pack, weight: float, waits: bool) -> profiles.Profiles:
    """The (1) profile after one more session."""
    embedding, affinity, _ = seen(one, pack)
    new = profiles.learn(known, one, np.array([weight]), embedding, affinity)
    new = waiting.held(new, one, np.array([waits]))
    return waiting.taught(new, one.user, len(pack.facets.number), lambda table: seen(table, pack))


def counted(known: profiles.Profiles, one: Sessions) -> np.ndarray:
    return profiles.lookup(known, np.zeros(len(one.key), np.int64), one.key)[0]


def test_a_session_in_doubt_is_learnt_when_so_many_more_have_closed(trained: Pack, history: Sessions) -> None:
    first, rest = take(history, np.array([0])), [take(history, np.array([s])) for s in range(1, waiting.WAIT + 1)]
    known = after(profiles.blank(1, trained.shape), first, trained, 0.0, True)
    without = after(profiles.blank(1, trained.shape), first, trained, 0.0, False)
    for one in rest[:-1]:
        known, without = after(known, one, trained, 1.0, False), after(without, one, trained, 1.0, False)
        assert np.array_equal(known.weight, without.weight)
    known, without = after(known, rest[-1], trained, 1.0, False), after(without, rest[-1], trained, 1.0, False)
    gain = counted(known, first) - counted(without, first)
    assert np.allclose(gain, first.damped, atol=1e-5)
    assert known.history[0] == without.history[0] == waiting.WAIT + 1
    assert known.waiting[0] == b""
    assert known.due[0] == profiles.NOT_DUE


def test_several_wait_each_for_its_own_time(trained: Pack, history: Sessions) -> None:
    known = profiles.blank(1, trained.shape)
    for s in range(3):
        known = after(known, take(history, np.array([s])), trained, 0.0, True)
    held = []
    for s in range(3, waiting.WAIT + 4):
        known = after(known, take(history, np.array([s])), trained, 1.0, False)
        held.append(len(known.waiting[0]) > 0)
    assert held == [True] * (waiting.WAIT - 1) + [False] * 2
    assert (counted(known, take(history, np.array([0, 1, 2]))) > 0).all()


def test_what_waits_is_kept_in_the_record(trained: Pack, history: Sessions) -> None:
    known = after(profiles.blank(1, trained.shape), take(history, np.array([0])), trained, 0.0, True)
    (record,) = profiles.to_bytes(known)
    back = profiles.from_bytes([record], trained.shape)
    assert all(np.array_equal(getattr(known, f.name), getattr(back, f.name)) for f in fields(known))
    with pytest.raises(StoreDamagedError, match="train a new pack"):
        profiles.from_bytes([record[: -len(known.waiting[0])]], trained.shape)


def test_only_doubt_that_is_not_certain_or_rather_the_owners_waits() -> None:
    doubt = np.array([0.0, 0.05, 0.2, 0.9, 0.96, 0.2])[:, None] * [0.6, 0.1, 0.3]
    weight = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    assert belief.waits(doubt, weight).tolist() == [False, False, True, True, False, False]
    rather_the_owners = np.array([0.98, 0.98, 0.2])[:, None] * [0.4, 0.1, 0.5]
    assert belief.waits(rather_the_owners, np.array([0.0, 1.0, 0.0])).tolist() == [True, False, True]


def test_a_session_of_more_values_than_a_memory_holds_is_let_go(trained: Pack) -> None:
    rows: list[dict[str, object]] = [{"time": i, "user": "u", "page": f"new{i}"} for i in range(profiles.VALUES + 1)]
    table = training.sessions_of(batch_of(rows), trained.facets, SessionSettings())
    known = after(profiles.blank(1, trained.shape), table, trained, 0.0, True)
    assert known.waiting[0] == b""


def test_a_waiting_session_that_people_call_a_strangers_never_teaches(trained: Pack, history: Sessions) -> None:
    pack = replace(trained, trusted_until=-np.inf)
    foreign, rest = take(history, np.array([0])), take(history, np.arange(1, waiting.WAIT + 2))
    foreign = replace(foreign, key=foreign.key ^ np.uint32(0x5A5A5A5A))
    foreign = replace(foreign, **{c: getattr(foreign, c)[np.argsort(foreign.key)] for c in ("key", "facet", "count", "text")})
    before = after(profiles.blank(1, trained.shape), foreign, trained, 0.0, True)
    said = {"u03": Guidance(lessons=(Lesson(foreign.name[0], float(foreign.start[0]), False),))}
    learnt, let_go = relearnt(before, rest, pack, {}), relearnt(before, rest, pack, said)
    assert (counted(learnt, foreign) > 0).all()
    assert not counted(let_go, foreign).any()


def test_a_late_lesson_is_the_same_before_and_after_the_record_is_stored(trained: Pack, history: Sessions) -> None:
    known = after(profiles.blank(1, trained.shape), take(history, np.array([0])), trained, 0.0, True)
    for s in range(1, waiting.WAIT + 1):
        known = after(known, take(history, np.array([s])), trained, 1.0, False)
    assert known.history[0] == waiting.WAIT + 1
    back = profiles.from_bytes(profiles.to_bytes(known), trained.shape)
    assert all(np.array_equal(getattr(known, f.name), getattr(back, f.name)) for f in fields(known))
