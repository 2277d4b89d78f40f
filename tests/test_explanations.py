from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.explanations import MOST_REASONS, explain, harmless, shown_score, summary
from detector.records import Verdict

VERDICT = Verdict("ada", None, 0.0, 60.0, 5, 0.0, 0.001, 0.9, 40, "mature", {}, "pack")
NATS = st.floats(-500, 500)
CHANNELS = st.one_of(
    st.sampled_from(
        ["device", "amount", "amount:extreme", "novelty:device", "embedding", "long_term", "belief", "other", "remainder"]
    ),
    st.text(max_size=20),
)
HOSTILE = st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x07\r\n\0\u202e\u2066\u200b\u2028\ud800[]\\m;")))


def judged(evidence: dict[str, float], score: float | None = None) -> Verdict:
    return replace(VERDICT, evidence=evidence, score=sum(evidence.values()) if score is None else score)


def hundredths(number: object) -> int:
    assert isinstance(number, float)
    assert number == round(number, 2)
    return round(number * 100)


@given(st.dictionaries(CHANNELS, NATS, max_size=40))
def test_the_nats_of_the_reasons_add_up_to_the_score_shown(evidence: dict[str, float]) -> None:
    verdict = judged(evidence)
    assert sum(hundredths(r["nats"]) for r in explain(verdict)) == hundredths(shown_score(verdict.score))


@given(st.dictionaries(CHANNELS.filter(lambda channel: channel != "remainder"), NATS, max_size=20), NATS)
def test_reasons_add_up_even_to_a_score_that_the_evidence_does_not(evidence: dict[str, float], score: float) -> None:
    reasons = explain(judged(evidence, score))
    assert sum(hundredths(r["nats"]) for r in reasons) == hundredths(shown_score(score))
    assert abs(score - sum(evidence.values())) < 0.02 or "remainder" in {r["channel"] for r in reasons}


@given(st.dictionaries(CHANNELS, NATS, max_size=20))
def test_each_reason_is_within_a_hundredth_of_its_channel(evidence: dict[str, float]) -> None:
    for reason in explain(judged(evidence), most=100):
        near = [nats for channel, nats in evidence.items() if harmless(channel, 40) == reason["channel"]]
        assert any(abs(nats - float(str(reason["nats"]))) <= 0.011 for nats in near)


@given(st.dictionaries(CHANNELS, NATS, max_size=40))
def test_the_shares_of_what_speaks_against_the_owner_add_up_to_one(evidence: dict[str, float]) -> None:
    reasons = explain(judged(evidence))
    thousandths = sum(round(float(str(r["share"])) * 1000) for r in reasons)
    assert thousandths == (1000 if any(float(str(r["nats"])) > 0 for r in reasons) else 0)
    assert all(r["share"] == 0 for r in reasons if float(str(r["nats"])) < 0)


@given(st.dictionaries(CHANNELS, NATS, max_size=40), st.randoms())
def test_reasons_are_few_and_sorted_whatever_the_order_of_the_evidence(evidence: dict[str, float], rng: object) -> None:
    reasons = explain(judged(evidence))
    nats = [float(str(r["nats"])) for r in reasons]
    assert nats == sorted(nats, reverse=True)
    assert len(reasons) <= MOST_REASONS
    verdict = judged(evidence)
    assert explain(replace(verdict, evidence=dict(reversed(evidence.items())))) == reasons


def test_what_is_seen_and_what_is_usual_is_said() -> None:
    details = {
        "device": {
            "seen": [("Nokia", 1)],
            "usual": [("Pixel", 40, 0), ("iPad", 3, 0)],
            "last_seen": None,
            "peers": 0.02,
            "everyone": 0.00004,
        },
        "country": {"seen": [("FR", 2)], "usual": [("DE", 9, 0)], "last_seen": 1_700_000_000.0},
        "amount": {"seen": 950.0, "usual_mean": 40.25, "usual_sd": 12.5},
        "recipient": {"seen": [(value, 1) for value in "abc"], "values": 5},
    }
    evidence = {"device": 4.2, "amount": 3.0, "country": 2.0, "recipient": 1.0, "hour": 0.5, "belief": 0.25, "embedding": -0.75}
    reasons = explain(judged(evidence), details)
    assert [r["text"] for r in reasons] == [
        'device never seen before: "Nokia"; usually "Pixel" (40), "iPad" (3); '
        "2 % of what peers do, under 0.01 % of what everyone does",
        "amount above the usual: 950; usually 40.25 ± 12.5",
        'country unusual: "FR"; usually "DE" (9); last seen 2023-11-14',
        'recipient unusual: "a", "b", "c" and 2 more',
        "hour of the day unusual",
        "earlier sessions already suspicious",
        "like the remembered sessions",
    ]
    assert summary(reasons) == "device never seen before (+4.2), amount above the usual (+3.0), country unusual (+2.0)"


def test_only_values_that_were_never_seen_are_called_so() -> None:
    seen = {"seen": [("pay", 1), ("login", 2), ("open", 1)], "values": 3, "new": 1, "last_seen": None}
    (reason,) = explain(judged({"action": 2.0}), {"action": seen})
    assert reason["text"] == 'action never seen before: "pay"'


def test_identifiers_depend_on_the_channel_its_side_and_what_is_known() -> None:
    names = ("device", "Card No.", "amount:extreme", "novelty:device", "numbers", "embedding", "belief")
    evidence = dict.fromkeys(names, 1.0)
    against = [
        "unusual_card_no_",
        "extreme_amount",
        "earlier_sessions",
        "unusual_device",
        "sessions_unlike_remembered",
        "new_device",
        "numbers_unlike_account",
    ]
    for_owner = [
        "usual_card_no_",
        "moderate_amount",
        "strange_for_long",
        "usual_device",
        "sessions_like_remembered",
        "known_device",
        "numbers_like_account",
    ]
    assert [r["id"] for r in explain(judged(evidence))] == against
    assert [r["id"] for r in explain(judged({c: -n for c, n in evidence.items()}))] == for_owner
    (reason,) = explain(judged({"src_path:parent": 1.0}), {"src_path:parent": {"seen": [("a", 1)], "last_seen": None}})
    assert (reason["id"], reason["title"]) == ("new_src_path_parent", "parent of src path never seen before")
    details = {
        "device": {"seen": [("x", 1)], "last_seen": None},
        "amount": {"seen": 9.0, "usual_mean": 2.0},
        "pace": {"seen": 1.0, "usual_mean": 2.0},
    }
    told = explain(judged({"device": 3.0, "amount": 2.5, "amount:extreme": 2.0, "pace": 1.0}), details)
    assert [r["id"] for r in told] == ["new_device", "amount_above_usual", "amount_far_above_usual", "pace_below_usual"]
    assert [r["id"] for r in explain(judged({"device": -1.0, "amount": -2.0}), details)] == ["usual_device", "usual_amount"]


def test_the_weakest_of_many_channels_are_put_together() -> None:
    reasons = explain(judged({f"c{i:02}": 2.0 - i / 100 for i in range(30)}))
    assert len(reasons) == MOST_REASONS
    assert reasons[0]["channel"] == "other"
    assert "other evidence" not in summary(reasons)
    assert [r["channel"] for r in reasons[1:]] == [f"c{i:02}" for i in range(MOST_REASONS - 1)]


def test_no_evidence_gives_no_reason() -> None:
    assert explain(judged({})) == ()
    assert summary(explain(judged({"device": 0.001, "hour": -2.0}))) == "nothing stands out"
    some = explain(judged({"device": 1.0, "hour": 2.0, "amount": 0.75, "country": 0.75}), most=3)
    assert summary(some) == "hour of the day unusual (+2.0), device unusual (+1.0), other evidence together (+1.5)"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_evidence_that_is_not_finite_is_refused_by_name(wrong: float) -> None:
    with pytest.raises(ValueError, match="'ada': expected finite"):
        explain(judged({"device": wrong}, 1.0))


@given(HOSTILE, HOSTILE)
def test_reasons_with_hostile_text_are_harmless_and_can_be_written_as_json(channel: str, value: str) -> None:
    details = {channel: {"seen": [(value, 1)], "usual": [(value, 3, 0)]}}
    reasons = explain(judged({channel: 2.0}), details)
    assert all(str(text).isprintable() and len(str(text)) < 400 for r in reasons for text in (r["id"], r["channel"], r["text"]))
    assert msgspec.json.decode(msgspec.json.encode(reasons)) == list(reasons)


@given(HOSTILE, st.integers(1, 80))
def test_harmless_text_is_printable_and_within_its_limit(text: str, limit: int) -> None:
    out = harmless(text, limit)
    assert out.isprintable()
    assert len(out) <= limit
    assert harmless(out, limit) == out


@given(st.text(st.characters(categories=("L", "N", "P", "S"))))
def test_ordinary_text_passes_unchanged(text: str) -> None:
    assert harmless(text, max(1, len(text))) == text


def test_harmless_shows_what_was_hidden() -> None:
    assert harmless("a\x1b[31m\u202eb\n\U000e0001", 60) == "a\\x1b[31m\\u202eb\\x0a\\U000e0001"
    assert harmless("a\x1bbc", 6) == "a\\x1b…"


def test_megabytes_cost_no_more_than_what_is_shown() -> None:
    text = "\x1b" * 50_000_000
    start = perf_counter()
    assert len(harmless(text, 100)) <= 100
    assert perf_counter() - start < 1  # one pass over all of it takes several
