"""The one step: the same verdicts however the log is cut or split, learning that holds back, alarms that do not wait."""

from dataclasses import fields, replace

import numpy as np
import pytest

from detector import scoring
from detector.calibration import Watch
from detector.casework import alerts_of
from detector.describing import told
from detector.fusion import Reference, surprise
from detector.pack import Pack
from detector.profiles import Profiles, blank
from detector.records import Batch, Verdict
from detector.scoring import Alarming, Budget, Rules, admit, step
from detector.sessions import Sessions, empty
from tests.logs import DAY, START, batch_of, part, rows_of_people, stolen

RULES = Rules(1800.0, 7200.0, 600.0)
ALARM = Budget(5.0, lambda _: 0.05)
QUIET = Budget(5.0, lambda _: 0.0)


@pytest.fixture(scope="module")
def log() -> Batch:
    """Twenty-five days of the same people's later life, two takeovers in it."""
    rows = [r | {"time": float(str(r["time"])) + 40 * DAY} for r in rows_of_people(14, 25, seed=0)]
    rows += stolen(rows, "u03", "u08", START + 60 * DAY + 3 * 3600)
    rows += stolen(rows, "u05", "u11", START + 62 * DAY + 2 * 3600)
    return batch_of(sorted(rows, key=lambda r: float(str(r["time"]))))


def run(
    batch: Batch, pack: Pack, size: int, users: list[str] | None = None, budget: Budget = ALARM
) -> tuple[list[Verdict], list[Alarming], Profiles, Watch]:
    """All of a log in batches of `size`, every session closed at the end."""
    watch = Watch()
    users = sorted(set(batch.user)) if users is None else users
    profiles, opened, newest = blank(len(users), pack.shape), empty(len(pack.facets.number)), -1e18
    verdicts: list[Verdict] = []
    alarming: list[Alarming] = []
    for low in range(0, len(batch), size):
        piece = part(batch, slice(low, low + size))
        kept, clock = admit(piece.time, newest, RULES.lateness)
        assert kept.all()
        newest = float(clock[-1])
        watermark = newest - RULES.lateness if low + size < len(batch) else np.inf
        out = step(piece, clock, users, profiles, opened, pack, RULES, watermark, watch, budget)
        profiles, opened, watch = out.profiles, out.open_sessions, out.watch
        verdicts += out.verdicts
        alarming += out.alarming
    return verdicts, alarming, profiles, watch


def shown(alarming: list[Alarming], pack: Pack) -> dict[tuple[str, float], object]:
    return {(a.verdict.user, a.verdict.start): (a.verdict, a.open, a.limit, told(a.session, a.profile, pack)) for a in alarming}


def by_session(verdicts: list[Verdict]) -> dict[tuple[str, float], Verdict]:
    return {(v.user, v.start): v for v in verdicts}


@pytest.mark.parametrize("size", [1, 97, 500])
def test_replay_in_any_batches_gives_the_same_verdicts_alarms_and_profiles(log: Batch, trained: Pack, size: int) -> None:
    some = part(log, slice(0, 60 if size == 1 else len(log)))
    expected, got = run(some, trained, 100_000), run(some, trained, size)
    assert by_session(got[0]) == by_session(expected[0])
    assert shown(got[1], trained) == shown(expected[1], trained)
    assert all(np.array_equal(getattr(got[2], f.name), getattr(expected[2], f.name)) for f in fields(Profiles))


def test_what_is_left_of_a_day_does_not_depend_on_how_the_log_is_cut(log: Batch, trained: Pack) -> None:
    scarce = Budget(0.1, lambda _: 0.05)
    expected, got = run(log, trained, 100_000, budget=scarce), run(log, trained, 37, budget=scarce)
    assert shown(got[1], trained) == shown(expected[1], trained)
    assert got[3].days == expected[3].days
    assert 0 < len(expected[1]) < len(run(log, trained, 100_000)[1])


def test_any_split_of_the_accounts_gives_the_same_verdicts_and_counts_that_add_up(log: Batch, trained: Pack) -> None:
    """Only p looks at all accounts: by the counts of earlier days, which partitions add up."""
    whole = run(log, trained, 200)
    halves = [run(part(log, np.array([int(str(u)[1:]) % 2 == half for u in log.user])), trained, 200) for half in (0, 1)]
    got = {key: replace(v, p=1.0) for half in halves for key, v in by_session(half[0]).items()}
    assert got == {key: replace(v, p=1.0) for key, v in by_session(whole[0]).items()}
    days = [half[3].days for half in halves]
    added_up = {day: [sum(d[day][i] for d in days if day in d) for i in range(6)] for day in whole[3].days}
    assert added_up == {day: counts[:6] for day, counts in whole[3].days.items()}


def test_the_same_run_twice_is_the_same_bit_for_bit(log: Batch, trained: Pack) -> None:
    assert run(log, trained, 200)[0] == run(log, trained, 200)[0]


def test_every_event_is_in_exactly_one_verdict(log: Batch, trained: Pack) -> None:
    verdicts = run(log, trained, 300)[0]
    assert sum(v.events for v in verdicts) == len(log)
    assert len(by_session(verdicts)) == len(verdicts)


def test_the_evidence_sums_to_the_score_and_everything_is_finite(log: Batch, trained: Pack) -> None:
    for v in run(log, trained, 300)[0]:
        assert v.score == pytest.approx(sum(v.evidence.values()), abs=1e-5)
        assert np.isfinite(v.score)
        assert 0 < v.p <= 1
        assert 0 <= v.belief <= 1


def test_a_takeover_is_among_the_strangest_sessions(log: Batch, trained: Pack) -> None:
    verdicts = run(log, trained, 300)[0]
    line = np.quantile([v.score for v in verdicts if v.history >= 5], 0.97)
    found = [
        v for v in verdicts if (v.user, v.start) in {("u03", START + 60 * DAY + 3 * 3600), ("u05", START + 62 * DAY + 2 * 3600)}
    ]
    assert len(found) == 2
    assert min(v.score for v in found) >= line


def test_an_alarm_does_not_wait_for_the_end_of_its_session(log: Batch, trained: Pack) -> None:
    alarming = run(log, trained, 50)[1]
    takeover = next(a for a in alarming if a.verdict.user == "u03" and a.verdict.start == START + 60 * DAY + 3 * 3600)
    assert takeover.open
    assert takeover.verdict.events in scoring.LOOKS
    assert told(takeover.session, takeover.profile, trained)["device"]["last_seen"] is None


def test_alarms_scored_again_together_are_what_each_is_alone(log: Batch, trained: Pack) -> None:
    alarming = run(log, trained, 300)[1]
    assert len({a.watch.day for a in alarming}) > 1
    together = alerts_of(alarming, trained, 1e12)
    assert together == [alert for one in alarming for alert in alerts_of([one], trained, 1e12)]
    assert len({len(alert.counterfactuals) for alert in together}) > 1
    assert {bool(other["alarms"]) for alert in together for other in alert.counterfactuals} == {False, True}


def test_a_p_that_is_just_above_the_limit_for_details_before_it_is_rounded_may_alarm(log: Batch, trained: Pack) -> None:
    values = np.r_[np.full(95, -1e9), np.full(4, 1e9)]  # five in a hundred, of whatever score
    p = float(np.exp(-surprise(np.zeros(1), Reference(values, 99, 1.0)))[0])
    assert p > scoring.DETAILED == float(f"{p:.6g}")
    assert trained.scores is not None
    pack = replace(trained, scores=tuple(Reference(values, 99, 1.0) for _ in trained.scores))
    assert run(part(log, slice(0, 200)), pack, 100, budget=Budget(5.0, lambda _: 0.06))[1]


def test_a_session_alarms_once(log: Batch, trained: Pack) -> None:
    alarming = run(log, trained, 50)[1]
    assert len({(a.verdict.user, a.verdict.session, a.verdict.start) for a in alarming}) == len(alarming)


def test_history_before_the_trusted_time_is_learnt_whole_and_without_doubt(log: Batch, trained: Pack) -> None:
    trusting = replace(trained, trusted_until=np.inf)
    verdicts, _, profiles, _ = run(log, trusting, 300)
    assert all(v.belief == 0 for v in verdicts)
    assert (profiles.doubt == 0).all()


def test_a_session_in_doubt_teaches_less(log: Batch, trained: Pack) -> None:
    owner = [r for r in rows_of_people(14, 40) if r["user"] == "u03"]
    theft = stolen(rows_of_people(14, 40), "u03", "u08", START + 41 * DAY)
    learnt = {}
    for name, until in (("doubting", START + 41 * DAY - 1), ("trusting", np.inf)):
        pack = replace(trained, trusted_until=float(until))
        learnt[name] = run(batch_of(owner + theft), pack, 10_000)[2].total.sum()
    assert learnt["doubting"] < learnt["trusting"]


def test_late_events_are_told_from_those_in_time_by_the_newest_time_seen() -> None:
    kept, clock = admit(np.array([100.0, 50.0, 900.0, 250.0, 301.0]), -np.inf, 600.0)
    assert kept.tolist() == [True, True, True, False, True]
    assert clock.tolist() == [100.0, 100.0, 900.0, 900.0, 900.0]


def test_a_step_without_events_closes_what_is_due(log: Batch, trained: Pack) -> None:
    piece = part(log, slice(0, 30))
    users = sorted(set(piece.user))
    _, clock = admit(piece.time, -np.inf, RULES.lateness)
    out = step(
        piece,
        clock,
        users,
        blank(len(users), trained.shape),
        empty(len(trained.facets.number)),
        trained,
        RULES,
        -np.inf,
        Watch(),
        QUIET,
    )
    nothing = part(log, slice(0, 0))
    later = step(nothing, np.empty(0), users, out.profiles, out.open_sessions, trained, RULES, np.inf, out.watch, QUIET)
    assert len(out.verdicts) == 0
    assert isinstance(out.open_sessions, Sessions)
    assert len(later.verdicts) == len(out.open_sessions)
    assert len(later.open_sessions) == 0
