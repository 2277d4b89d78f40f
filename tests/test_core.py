"""Profiles, channels, encoder, simulated takeovers and packs: the algebra that detection stands on."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector import (
    attacks,
    contrastive,
    encoder,
    evidence,
    fusion,
    guidance,
    models,
    outliers,
    profiles,
    scoring,
    training,
    trees,
)
from detector.errors import PackError, StoreDamagedError
from detector.facets import Facets
from detector.pack import Pack, content_id, load, save
from detector.sessions import Sessions, pair_keys, take, tokens
from detector.settings import SessionSettings, TrainingSettings
from tests.logs import batch_of, manners, rows_of_people


def ground_of(looks: Facets, within: float = 1.0) -> attacks.Ground:
    return attacks.Ground(looks, np.full(len(looks.number), within))


def simulated(own: Sessions, stranger: Sessions, kind: str, ground: attacks.Ground, number: int = 0) -> Sessions:
    codes = np.full(len(own), attacks.NAMES.index(kind))
    return attacks.simulate(own, stranger, codes, np.full(len(own), number), ground, np.random.default_rng(0))


@pytest.fixture(scope="module")
def history(trained: Pack) -> Sessions:
    return training.sessions_of(batch_of(rows_of_people()), trained.facets, SessionSettings())


@pytest.fixture(scope="module")
def paged(trained: Pack) -> tuple[Pack, Sessions]:
    """A pack whose pairs are of pages, of which there are many, and its history."""
    facets = replace(trained.facets, pair_of="page")
    return replace(trained, facets=facets), training.sessions_of(batch_of(rows_of_people()), facets, SessionSettings())


def lift_of(table: Sessions, known: profiles.Profiles, population: evidence.Population) -> np.ndarray:
    """How well values suit their accounts' embeddings."""
    return evidence.lift(table, evidence.vocabulary_row(table, population), known, population)


def learnt(table: Sessions, trained: Pack, times: int = 1) -> profiles.Profiles:
    """One profile per session of the table, each having learnt it `times` times."""
    known = profiles.blank(len(table), trained.shape)
    measured = encoder.measures(table, trained.population.centre, trained.population.spread)
    embedding = encoder.encode(trained.encoder, table, measured)
    peers = evidence.peer_log_likelihood(table, trained.population, trained.shape.facets)
    for _ in range(times):
        known = profiles.learn(known, table, np.ones(len(table)), embedding, peers.sum(axis=1))
    return known


def channels_of(table: Sessions, known: profiles.Profiles, trained: Pack) -> np.ndarray:
    measured = encoder.measures(table, trained.population.centre, trained.population.spread)
    peers = evidence.peer_log_likelihood(table, trained.population, trained.shape.facets)
    return evidence.channels(
        table, known, encoder.encode(trained.encoder, table, measured), peers, trained.population, trained.facets
    )


def test_a_profile_goes_to_bytes_and_back_bit_for_bit(trained: Pack, history: Sessions) -> None:
    known = learnt(take(history, np.arange(9)), trained, 3)
    back = profiles.from_bytes(list(profiles.to_bytes(known)), trained.shape)
    assert all(np.array_equal(getattr(known, f.name), getattr(back, f.name)) for f in fields(known))


def test_a_profile_of_another_shape_is_refused(trained: Pack, history: Sessions) -> None:
    record = profiles.to_bytes(learnt(take(history, np.arange(1)), trained))[0]
    with pytest.raises(StoreDamagedError, match="train a new pack"):
        profiles.from_bytes([record[:-8]], trained.shape)


def test_a_session_of_weight_zero_teaches_nothing_but_that_it_was(trained: Pack, history: Sessions) -> None:
    table = take(history, np.arange(4))
    before = learnt(table, trained)
    after = profiles.learn(before, table, np.zeros(4), np.ones((4, encoder.WIDTH), np.float32), np.ones((4, trained.shape.peers)))
    changed = {f.name for f in fields(before) if not np.array_equal(getattr(before, f.name), getattr(after, f.name))}
    assert changed <= {"history", "last", "long"}
    assert np.array_equal(after.history, before.history + 1)


def test_a_full_memory_forgets_the_lightest_values(trained: Pack) -> None:
    rows: list[dict[str, object]] = [{"time": i, "user": "u", "page": f"new{i}"} for i in range(profiles.VALUES + 50)]
    table = training.sessions_of(batch_of(rows), trained.facets, SessionSettings())
    usual = training.sessions_of(batch_of([{"time": 0, "user": "u", "page": "p1"}] * 9), trained.facets, SessionSettings())
    known = learnt(usual, trained, 4)
    crowded = profiles.learn(known, table, np.ones(1), np.zeros((1, encoder.WIDTH), np.float32), np.zeros((1, trained.shape.peers)))
    assert (crowded.key != profiles.PAD).sum() == profiles.VALUES
    assert profiles.lookup(crowded, np.zeros(len(usual.key), np.int64), usual.key)[0].min() > 0


def test_an_unknown_account_has_no_evidence(trained: Pack, history: Sessions) -> None:
    table = take(history, np.arange(5))
    assert not channels_of(table, profiles.blank(5, trained.shape), trained).any()


def test_an_owner_is_more_like_the_profile_than_a_stranger_on_every_kind_of_channel(trained: Pack, history: Sessions) -> None:
    own = take(history, np.arange(len(history) - 60, len(history)))
    stranger = take(own, np.roll(np.arange(60), 1))
    valid = own.user != stranger.user
    known = learnt(own, trained, 5)
    names = trained.channels
    mine, theirs = channels_of(own, known, trained), channels_of(stranger, known, trained)
    for name in ("device", "page", "embedding", "long_term", "peers"):
        c = names.index(name)
        assert np.median(theirs[valid, c]) > np.median(mine[valid, c]), name


def test_the_embedding_is_a_unit_vector_and_free_of_the_company_it_is_computed_in(trained: Pack, history: Sessions) -> None:
    measured = encoder.measures(history, trained.population.centre, trained.population.spread)
    together = encoder.encode(trained.encoder, history, measured)
    alone = [encoder.encode(trained.encoder, take(history, np.array([s])), measured[s : s + 1])[0] for s in range(20)]
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert np.array_equal(together[:20], np.stack(alone))


def encoder_of(
    table: Sessions, account: np.ndarray, measured: np.ndarray, seed: int, steps: int, before: contrastive.Members | None = None
) -> encoder.Encoder:
    members = contrastive.fit(table, account, measured, seed, steps, before)
    return contrastive.merged(members, table, account, measured, seed, whitened=False)


def test_training_an_encoder_is_deterministic_under_its_seed(history: Sessions, trained: Pack) -> None:
    account = np.unique(history.user.astype(str), return_inverse=True)[1]
    measured = encoder.measures(history, trained.population.centre, trained.population.spread)
    fits = [encoder_of(history, account, measured, seed, 5) for seed in (1, 1, 2)]
    for part in fields(encoder.Encoder):
        first, again, other = (getattr(fit, part.name) for fit in fits)
        assert np.array_equal(first, again), part.name
        assert not np.array_equal(first, other) or part.name == "deaf", part.name  # the facets say that


def test_a_step_of_training_lies_wholly_on_the_device_of_its_members(history: Sessions, trained: Pack) -> None:
    account = np.unique(history.user.astype(str), return_inverse=True)[1]
    measured = encoder.measures(history, trained.population.centre, trained.population.spread)
    known, key = np.unique(history.key % encoder.TABLE, return_inverse=True)
    table = replace(history, key=key.astype(np.uint32))
    members = contrastive.Members(known, measured.shape[1] // 3).to("meta")  # refuses company of another device, as a GPU does
    contrastive.loss_of(members, table, np.arange(len(key)), account, measured).backward()
    for name, weights in members.named_parameters():
        assert weights.grad is not None, name
        assert (weights.grad.device.type, weights.grad.shape) == ("meta", weights.shape)


def test_members_of_an_encoder_are_merged_into_one_that_says_what_they_say_together(history: Sessions, trained: Pack) -> None:
    account = np.unique(history.user.astype(str), return_inverse=True)[1]
    measured = encoder.measures(history, trained.population.centre, trained.population.spread)
    key = np.unique(history.key % encoder.TABLE, return_inverse=True)[1]
    table = replace(history, key=key.astype(np.uint32))
    members = contrastive.fit(history, account, measured, 0, 30)
    merged = encoder.encode(contrastive.merged(members, history, account, measured, 0, whitened=False), history, measured)
    with torch.no_grad():
        said = members.double()(
            *(x.double() if x.is_floating_point() else x for x in contrastive._tensors(table, np.arange(len(key)), measured))
        )
        each = [(z @ z.T).numpy().ravel() for z in torch.nn.functional.normalize(said, dim=2)]
    likeness = (merged @ merged.T).ravel()
    assert np.allclose(np.linalg.norm(merged, axis=1), 1, atol=1e-6)
    assert np.corrcoef(likeness, np.mean(each, axis=0))[0, 1] > 0.97
    assert np.corrcoef(likeness, np.mean(each, axis=0))[0, 1] > np.corrcoef(each[0], each[1])[0, 1]


def test_what_differs_within_accounts_counts_for_less_in_a_whitened_encoder() -> None:
    rng = np.random.default_rng(0)
    account = np.repeat(np.arange(40), 25)
    vectors = rng.normal(0, 1, (40, 6))[account] + rng.normal(0, [5, 1, 1, 1, 1, 0.2], (1000, 6))
    white = vectors @ contrastive._whitening(torch.from_numpy(vectors), account).numpy()

    def within(x: np.ndarray) -> np.ndarray:
        return np.asarray((x.reshape(40, 25, 6) - x.reshape(40, 25, 6).mean(axis=1, keepdims=True)).std(axis=(0, 1)))

    def told(x: np.ndarray) -> float:
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        same, likeness = account[:, None] == account, unit @ unit.T
        return fusion.auc(-likeness[same & ~np.eye(1000, dtype=bool)], -likeness[~same])

    assert within(vectors).max() > 20 * within(vectors).min()
    assert within(white).max() < 5 * within(white).min()
    assert told(white) > told(vectors) + 0.1


def test_of_two_encoders_the_one_that_knows_the_owners_tells_them_apart_better(history: Sessions, trained: Pack) -> None:
    account = np.unique(history.user.astype(str), return_inverse=True)[1]
    found = trained.facets
    half = np.arange(len(history)) < len(history) // 2
    early, late = (take(history, np.flatnonzero(x)) for x in (half, ~half))
    one, other = models.fit_models(found, early, account[half], int(account.max()) + 1, 0)
    assert (one.whitened, other.whitened) == (False, True)
    warm = [models.known_of(model, early, account[half], int(account.max()) + 1) for model in (one, other)]
    apart = [models.told_apart(m, late, account[~half], w, 0) for m, w in zip((one, other), warm, strict=True)]
    nobody = replace(one, model=encoder.drawn(len(found.number) + 1, 0))
    blind = replace(one, model=replace(one.model, value=0 * one.model.value, measure=0 * one.model.measure))
    assert min(apart) > 0.7
    assert models.told_apart(blind, late, account[~half], warm[0], 0) < min(apart) - 0.1
    assert models.told_apart(nobody, late, account[~half], warm[0], 0) < min(apart)
    (on,) = models.fit_models(found, early, account[half], int(account.max()) + 1, 0, other)
    assert on.whitened


def test_a_history_whose_later_accounts_are_all_new_is_learnt_from(history: Sessions, trained: Pack) -> None:
    account, cut = np.unique(history.user.astype(str), return_inverse=True)[1], len(history) // 2
    accounts = int(account.max()) + 1
    account = np.where(np.arange(len(history)) < cut, account, account + accounts)
    first, warm = models.first(trained.facets, history, account, cut, 2 * accounts, 0)
    assert not first.whitened
    assert (first.population.discount == 0.5).all()
    assert (warm.history[:accounts].sum(), warm.history[accounts:].sum()) == (cut, 0)


def test_members_go_on_from_others_but_for_values_that_those_do_not_know(history: Sessions, trained: Pack) -> None:
    account = np.unique(history.user.astype(str), return_inverse=True)[1]
    measured = encoder.measures(history, trained.population.centre, trained.population.spread)
    some = np.arange(20)
    first = contrastive.fit(take(history, some), account[some], measured[some], 0, 5)
    encoding = contrastive.merged(first, take(history, some), account[some], measured[some], 0, whitened=False)
    new = contrastive.Members(np.unique(history.key % encoder.TABLE), measured.shape[1] // 3)
    drawn = new.value.detach().clone()
    new.go_on_from(first)
    known = np.isin(new.known, first.known)
    assert 0 < known.sum() < len(known)
    assert torch.equal(new.value[known], first.value.float())
    assert torch.equal(new.value[~known], drawn[~known])
    assert torch.equal(new.out, first.out.float())
    on, anew = (encoder.encode(encoder_of(history, account, measured, 0, 1, before), history, measured) for before in (first, None))
    old = encoder.encode(encoding, history, measured)
    likeness = [np.corrcoef((old @ old.T).ravel(), (z @ z.T).ravel())[0, 1] for z in (on, anew)]
    assert likeness[0] > likeness[1], likeness


def test_the_contrast_is_the_mean_of_what_each_session_misses_of_its_own() -> None:
    rng = np.random.default_rng(0)
    account = np.array([0, 0, 1, 1, 1, 2])  # the last has none like it
    z = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(2, 6, 4))).float(), dim=2)
    expected = 0.0
    for member in z.double().numpy():
        for i in range(6):
            others = [j for j in range(6) if j != i]
            likeness = member[others] @ member[i] / contrastive.TEMPERATURE
            own = likeness[account[others] == account[i]]
            expected += (np.log(np.exp(likeness).sum()) - own.mean()) / 6 if len(own) else 0.0
    assert contrastive.contrast(z, torch.from_numpy(account)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", attacks.NAMES)
def test_a_simulated_takeover_is_a_session_like_any_other(kind: str, trained: Pack, history: Sessions) -> None:
    own, stranger = take(history, np.arange(100)), take(history, np.arange(100, 200))
    stolen, again = (simulated(own, stranger, kind, ground_of(trained.facets)) for _ in range(2))
    assert np.array_equal(stolen.key, again.key)
    assert (stolen.count > 0).all()
    assert (stolen.events >= 1).all()
    seen = stolen.numbers[:, :, 0] > 0
    assert (stolen.numbers[:, :, 3] <= stolen.numbers[:, :, 4])[seen].all()
    assert stolen.user.tolist() == own.user.tolist()


def test_what_says_who_an_account_is_comes_with_it_and_what_gives_all_away_may_be_copied(trained: Pack, history: Sessions) -> None:
    rows = np.flatnonzero(history.user[:-1] != history.user[1:])[:300]
    own, stranger, device = take(history, rows), take(history, rows + 1), trained.facets.text.index("device")
    fixed = replace(trained.facets, fixed=("device",))
    assert fixed.given.tolist() == [name == "device" for name in fixed.text]

    def shown(kind: str, ground: attacks.Ground) -> list[set[int]]:
        return devices(simulated(own, stranger, kind, ground))

    def devices(table: Sessions) -> list[set[int]]:
        inside = [slice(*table.indptr[s : s + 2]) for s in range(len(table))]
        return [{*table.key[i][table.facet[i] == device].tolist()} for i in inside]

    assert shown("swap", ground_of(trained.facets)) == devices(stranger) != devices(own)
    assert all(shown(kind, ground_of(fixed)) == devices(own) for kind in attacks.KINDS if kind != "alone")
    assert shown("stranger", ground_of(fixed)) == devices(stranger)
    strange = [a != b for a, b in zip(shown("alone", ground_of(fixed)), devices(own), strict=True)]
    assert 0 < sum(strange) < len(strange)


def test_who_is_inside_has_of_the_owner_what_owners_keep_to_most(trained: Pack, history: Sessions) -> None:
    rows = np.flatnonzero(history.user[:-1] != history.user[1:])[:300]
    own, stranger, looks = take(history, rows), take(history, rows + 1), trained.facets
    assert list(looks.steady) == ["device", "action", "page"]
    assert 0.85 < looks.steady["device"] < 0.95
    assert 0.5 < looks.steady["action"] < 0.7

    def shown(table: Sessions, name: str) -> list[tuple[int, int, float]]:
        some = table.facet == looks.text.index(name)
        return [*zip(table.row[some].tolist(), table.key[some].tolist(), table.count[some].tolist(), strict=True)]

    for level in (1, 2, 3):
        made = simulated(own, stranger, "inside", ground_of(looks), level)
        for place, name in enumerate(looks.steady):
            assert shown(made, name) == shown(own if place < level else stranger, name)
        assert np.array_equal(made.numbers, stranger.numbers)
        assert np.array_equal(made.events, stranger.events)


def test_the_more_owners_keep_to_a_value_the_likelier_a_thief_has_it_and_something_is_left(trained: Pack) -> None:
    looks = replace(trained.facets, steady={"device": 0.9, "action": 0.6, "page": 0.0})

    def shares(some: Facets) -> list[float]:
        kind, number = attacks.drawn(40_000, ground_of(some), np.random.default_rng(0))
        inside, swap = (kind == attacks.NAMES.index(name) for name in ("inside", "swap"))
        assert (number[inside] > 0).all()
        return [float(swap.sum() / (swap | inside).sum()), *(np.bincount(number[inside])[1:] / (swap | inside).sum())]

    assert shares(looks) == pytest.approx([0.1, 0.3, 0.6], abs=0.02)
    assert shares(replace(looks, number=("pace",), unit=(1.0,))) == pytest.approx([0.1, 0.3, 0.6], abs=0.02)
    two = replace(looks, number=("pace",), unit=(1.0,), steady={"device": 0.9, "action": 0.6})
    assert shares(two) == pytest.approx([0.1, 0.9], abs=0.02)  # what the thief does is left
    assert shares(replace(two, steady={"action": 0.6})) == [1.0]
    assert shares(replace(two, steady={})) == [1.0]


def test_a_log_has_only_takeovers_that_its_attributes_allow(trained: Pack) -> None:
    def missing(looks: Facets) -> list[str]:
        kind, _ = attacks.drawn(4000, ground_of(looks), np.random.default_rng(0))
        assert np.array_equal(np.unique(kind), np.flatnonzero(attacks.possible(looks)))
        return [name for n, name in enumerate(attacks.NAMES) if n not in kind]

    looks = trained.facets
    assert missing(replace(looks, fixed=("device",))) == []
    assert missing(looks) == ["stranger"]
    assert missing(replace(looks, number=("pace",), unit=(1.0,))) == ["inflate", "stranger"]


def test_what_spreads_wide_is_inflated_more(trained: Pack, history: Sessions) -> None:
    own, stranger = take(history, np.arange(200)), take(history, np.arange(200, 400))
    looks = replace(trained.facets, unit=(1.0,) * len(trained.facets.number))
    n = looks.number.index("amount")

    def most(within: float) -> float:
        made = simulated(own, stranger, "inflate", ground_of(looks, within))
        held = own.numbers[:, n, 0] > 0
        return float((made.numbers - own.numbers)[held, n, 4].max())

    assert np.log(8) < most(0.1) <= np.log(10)
    assert 7 < most(2.0) <= 8


def test_what_says_who_an_account_is_clears_nobody(trained: Pack, history: Sessions) -> None:
    table, device = take(history, np.arange(40)), trained.facets.text.index("device")
    other = replace(table, key=np.where(table.facet == device, table.key ^ np.uint32(0x5A5A), table.key))
    fixed = replace(trained, facets=replace(trained.facets, fixed=("device",)))
    known = learnt(table, trained, 5)
    columns = [n for n, name in enumerate(trained.channels) if name.partition(":")[0] == "device"]
    others = [n for n in range(len(trained.channels)) if n not in columns]
    as_ever, strange = (channels_of(t, known, fixed) for t in (table, other))
    assert not as_ever[:, columns].any()
    assert (channels_of(table, known, trained)[:, columns] < 0).all()
    assert (strange[:, columns] > 0).all()
    assert np.array_equal(strange[:, columns], channels_of(other, known, trained)[:, columns])
    assert np.array_equal(as_ever[:, others], channels_of(table, known, trained)[:, others])


def test_the_encoder_is_deaf_to_what_says_who_an_account_is(trained: Pack, history: Sessions) -> None:
    table, device = take(history, np.arange(40)), trained.facets.text.index("device")
    other = replace(table, key=np.where(table.facet == device, table.key ^ np.uint32(0x5A5A), table.key))
    deaf = replace(trained.encoder, deaf=np.array([device], np.int16))
    measured = encoder.measures(table, trained.population.centre, trained.population.spread)
    said = encoder.encode(deaf, table, measured)
    assert np.array_equal(said, encoder.encode(deaf, other, measured))
    assert not np.allclose(said, encoder.encode(trained.encoder, table, measured))
    assert not np.allclose(encoder.encode(trained.encoder, other, measured), encoder.encode(trained.encoder, table, measured))


def test_a_swap_is_wholly_the_strangers_and_inflation_leaves_the_values_alone(trained: Pack, history: Sessions) -> None:
    own, stranger, facets = take(history, np.arange(50)), take(history, np.arange(50, 100)), trained.facets
    swap, inflate = (simulated(own, stranger, kind, ground_of(facets)) for kind in ("swap", "inflate"))
    assert np.array_equal(swap.key, stranger.key)
    assert np.array_equal(inflate.key, own.key)
    assert (inflate.numbers[:, :, 4] >= own.numbers[:, :, 4]).all()


def test_a_session_is_judged_alone_or_in_company_alike(trained: Pack, history: Sessions) -> None:
    table = take(history, np.arange(60))
    nats = channels_of(table, learnt(table, trained, 3), trained)
    assert trained.fusion is not None
    history_known, events = np.full(60, 12), table.events
    together = fusion.judge(trained.fusion, nats, history_known, events)
    alone = [fusion.judge(trained.fusion, nats[s : s + 1], history_known[:1], events[s : s + 1]) for s in range(60)]
    apart = np.concatenate([fusion.strangeness(trained.fusion, a) for a in alone])
    assert np.array_equal(fusion.strangeness(trained.fusion, together), apart)


def test_more_of_any_channel_never_lowers_the_log_odds(trained: Pack, history: Sessions) -> None:
    table = take(history, np.arange(40))
    nats = channels_of(table, learnt(table, trained, 3), trained)
    assert trained.fusion is not None
    base = fusion.judge(trained.fusion, nats, np.full(40, 12), table.events).llr
    for c in range(nats.shape[1]):
        more = nats.copy()
        more[:, c] += 5
        assert (fusion.judge(trained.fusion, more, np.full(40, 12), table.events).llr >= base - 1e-9).all()


def test_a_long_session_of_habits_does_not_outweigh_what_is_foreign_in_it(trained: Pack, history: Sessions) -> None:
    table = take(history, np.arange(30))
    page = trained.facets.text.index("page")
    foreign = replace(table, key=np.where(table.facet == page, table.key ^ np.uint32(0x5A5A), table.key))
    known, n = learnt(table, trained, 5), trained.channels.index(f"page{evidence.RATE}")
    usual, strange = channels_of(table, known, trained)[:, n], channels_of(foreign, known, trained)[:, n]
    longer = replace(table, count=table.count * 9)
    assert (strange > usual).all()
    assert np.allclose(channels_of(longer, known, trained)[:, n], usual)


def test_one_foreign_value_among_habits_is_seen_however_many_habits_there_are(trained: Pack) -> None:
    def nats(*devices: str) -> dict[str, float]:
        rows: list[dict[str, object]] = [{"time": i, "user": "u00", "page": "p1", "device": d} for i, d in enumerate(devices)]
        table = training.sessions_of(batch_of(rows), trained.facets, SessionSettings())
        return dict(zip(trained.channels, channels_of(table, known, trained)[0].tolist(), strict=True))

    habit: list[dict[str, object]] = [{"time": i, "user": "u00", "page": "p1", "device": "pc-0"} for i in range(6)]
    known = learnt(training.sessions_of(batch_of(habit), trained.facets, SessionSettings()), trained, 5)
    extreme, rate = f"device{evidence.EXTREME}", f"device{evidence.RATE}"
    usual, strange, longer = nats(*["pc-0"] * 6), nats(*["pc-0"] * 5, "pc-1"), nats(*["pc-0"] * 500, "pc-1")
    assert strange[extreme] > 0 > usual[extreme]
    assert longer[extreme] == strange[extreme]
    assert strange[rate] > longer[rate]
    assert not {f"{name}{evidence.EXTREME}" for name in ("hour", "pair")} & {*trained.channels}


def test_what_an_order_says_is_what_its_values_do_not_say_already(trained: Pack, history: Sessions) -> None:
    table = take(history, np.flatnonzero(history.events >= 4)[:30])
    value, pair = (trained.facets.text.index(name) for name in (trained.facets.paired, "pair"))
    known, order = learnt(table, trained, 5), trained.channels.index(f"pair{evidence.RATE}")

    def changed(*which: int) -> Sessions:
        return replace(table, key=np.where(np.isin(table.facet, which), table.key ^ np.uint32(0x5A5A), table.key))

    usual, torn, foreign = (channels_of(t, known, trained)[:, order] for t in (table, changed(pair), changed(value, pair)))
    assert (torn > usual).mean() > 0.8
    assert (torn > foreign).mean() > 0.8  # of somebody else's values it is no surprise that they come in another order
    peers = evidence.peer_log_likelihood(changed(value, pair), trained.population, trained.shape.facets)
    plain = evidence.text_channels(changed(value, pair), known, peers, trained.population, trained.facets)[1]
    assert np.allclose(foreign, plain[:, pair] - plain[:, value])


def test_two_habits_in_a_new_order_are_less_strange_than_what_is_no_habit_but_the_order_is_as_strange(
    paged: tuple[Pack, Sessions],
) -> None:
    trained, history = paged
    table, looks = take(history, np.flatnonzero(history.events >= 4)[:30]), trained.facets
    value, pair = looks.text.index(looks.paired), looks.text.index("pair")
    known = learnt(table, trained, 5)

    def paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(3, 30) the looks at sessions of the same values in which these follow each other."""
        rows = np.arange(len(table))
        mine = table.facet != pair
        keys = np.concatenate([table.key[mine], pair_keys(first, second)])
        some = replace(
            table,
            **tokens(
                np.concatenate([table.row[mine], rows]),
                keys,
                np.concatenate([table.facet[mine], np.full(len(rows), pair)]),
                np.concatenate([table.count[mine], np.ones(len(rows))]),
                np.concatenate([table.text[mine], np.full(len(rows), "…", object)]),
                len(rows),
            ),
        )
        peers = evidence.peer_log_likelihood(some, trained.population, trained.shape.facets)
        return np.array([look[:, pair] for look in evidence.text_channels(some, known, peers, trained.population, looks)])

    inside = [table.key[slice(*table.indptr[s : s + 2])][table.facet[slice(*table.indptr[s : s + 2])] == value] for s in range(30)]
    first, second = np.array([k[0] for k in inside]), np.array([k[-1] for k in inside])
    habits, strange = paired(first, second), paired(first, second ^ np.uint32(0x5A5A))
    new = ~np.isin(pair_keys(first, second), table.key)  # but for those that the owner does anyway
    assert new.sum() > 5
    assert (habits[0, new] < strange[0, new] - 0.5).all()
    assert np.allclose(habits[1:, new], strange[1:, new])


def test_what_habits_say_of_pairs_does_not_depend_on_how_many_are_looked_up_at_once(paged: tuple[Pack, Sessions]) -> None:
    trained, _ = paged
    rows: list[dict[str, object]] = [
        {"time": 60 * i, "user": f"u{u:02d}", "action": "view", "page": f"p{(7 * i + u) % 160}"}
        for u in range(30)
        for i in range(160)
    ]
    table = training.sessions_of(batch_of(rows), trained.facets, SessionSettings())
    known = learnt(table, trained)
    pages = table.facet == trained.facets.text.index("page")
    habits = np.bincount(table.row[pages], profiles.lookup(known, table.row, table.key)[0][pages] > 0)
    assert (habits**2).sum() > evidence.HASHED > (habits**2).max()
    alone = [channels_of(take(table, at), profiles.take(known, at), trained) for at in np.arange(len(table))[:, None]]
    assert np.array_equal(channels_of(table, known, trained), np.concatenate(alone))


def test_a_value_suits_an_account_whose_embedding_is_like_it_and_nothing_is_said_of_what_is_not_known(
    trained: Pack, history: Sessions
) -> None:
    table = take(history, np.arange(0, len(history), 7)[:40])
    known, facets = learnt(table, trained), len(trained.facets.text)
    suited = replace(trained.population, alike=np.full(facets, 0.5))
    others = np.roll(np.arange(len(table)), 1)
    strange = table.user[table.row] != table.user[others][table.row]
    own, foreign = (np.log(lift_of(table, whose, suited)) for whose in (known, profiles.take(known, others)))
    assert own[strange].mean() > foreign[strange].mean() + 0.2
    assert np.abs(own).max() > 0
    assert (own <= evidence.LIFT_CEILING).all()
    alone = [np.log(lift_of(take(table, np.array([s])), profiles.take(known, np.array([s])), suited)) for s in range(9)]
    assert np.array_equal(np.concatenate(alone), own[: sum(map(len, alone))])
    unseen = replace(table, key=table.key ^ np.uint32(0x5A5A))
    for some, whose, population in (
        (table, profiles.blank(len(table), trained.shape), suited),
        (table, known, replace(suited, alike=np.zeros(facets))),
        (unseen, known, suited),
    ):
        assert (lift_of(some, whose, population) == 1).all()


def test_people_are_told_all_looks_at_a_text_facet_as_one(trained: Pack) -> None:
    parts = np.random.default_rng(0).exponential(size=(5, len(trained.channels)))
    told = scoring.by_facet(parts, trained)
    page = [c for c, name in enumerate(trained.channels) if name in ("page", f"page{evidence.RATE}", f"page{evidence.EXTREME}")]
    amount = trained.channels.index(f"amount{evidence.EXTREME}")
    assert np.allclose(told.sum(axis=1), parts.sum(axis=1))
    assert np.allclose(told[:, trained.facets.text.index("page")], parts[:, page].sum(axis=1))
    assert len(page) == 3
    assert np.isclose(told, parts[:, [amount]]).any(axis=1).all()  # two looks at a number stay two


def test_in_a_mixture_what_follows_what_is_nobodys_habit(paged: tuple[Pack, Sessions]) -> None:
    looks, history = paged[0].facets, paged[1]
    rows = np.flatnonzero(history.events >= 6)[:40]
    owner, stranger = take(history, rows), take(history, rows[::-1])
    made = simulated(owner, stranger, "mix", ground_of(looks))
    pair = looks.text.index("pair")
    known = np.concatenate([owner.key[owner.facet == pair], stranger.key[stranger.facet == pair]])
    fresh = np.isin(made.key[made.facet == pair], known, invert=True)
    others = np.isin(made.key[made.facet != pair], np.concatenate([owner.key, stranger.key]))
    assert 0.1 < fresh.mean() < 0.8
    assert others.all()


def test_a_thief_who_copies_shows_the_owners_values_in_an_order_of_his_own(paged: tuple[Pack, Sessions]) -> None:
    looks, history = paged[0].facets, paged[1]
    rows = np.flatnonzero(history.events >= 6)
    rows = rows[:-1][history.user[rows[:-1]] != history.user[rows[1:]]][:60]
    owner, stranger = take(history, rows), take(history, rows + 1)
    made = simulated(owner, stranger, "copy", ground_of(looks))
    pair, value = looks.text.index("pair"), looks.text.index(looks.paired)

    def held(table: Sessions, s: int, f: int) -> set[int]:
        inside = slice(*table.indptr[s : s + 2])
        return {*table.key[inside][table.facet[inside] == f].tolist()}

    kept = fresh = copied = 0
    for s in range(len(rows)):
        ours, theirs, his = (held(t, s, value) for t in (owner, stranger, made))
        assert his <= ours | theirs
        may = {int(pair_keys(np.array([a]), np.array([b]))[0]) for a in ours | theirs for b in ours | theirs}
        assert held(made, s, pair) <= may | held(stranger, s, pair)
        copied += bool(his & (ours - theirs))
        fresh += len(held(made, s, pair) - held(owner, s, pair) - held(stranger, s, pair))
        kept += len(held(made, s, pair) & held(owner, s, pair) - held(stranger, s, pair))
    assert copied > 0.5 * len(rows)
    assert fresh > kept


def test_what_never_changes_within_an_account_does_not_hide_what_is_done_with_it() -> None:
    age = {f"u{a:02d}": 20.0 + 3 * a for a in range(14)}
    rows: list[dict[str, object]] = [
        {**row, "home": f"town-{row['user']}", "age": age[str(row["user"])], "zip": float(str(row["user"])[1:])}
        for row in rows_of_people()
    ]
    made = training.train(batch_of(rows), {"zip": "number"}, SessionSettings(), TrainingSettings(), 0)
    assert sorted(made.facets.fixed) == ["age", "home"]
    assert {"age", "home"} <= {*made.facets.text}
    assert "zip" in made.facets.number  # the settings say so
    assert made.encoder.deaf.tolist() == [made.facets.text.index(name) for name in made.facets.text if name in made.facets.fixed]
    relevance = made.report["relevance"]
    assert max(relevance[name] for name in made.channels if name.split(":")[0] in made.facets.fixed) < 0.2
    assert relevance["page"] > 0.5
    assert made.report["caught_at_1_percent"]["stranger"] == 1.0
    assert not {*made.facets.steady} & {*made.facets.fixed}
    assert made.report["left_out"] == []
    assert any("say who an account is: " in line and "home" in line for line in training.report_lines(made.report))


def test_the_program_finds_what_owners_keep_to_and_learns_from_thieves_who_have_it() -> None:
    rows: list[dict[str, object]] = [
        {**row, "device": f"pc-{row['user']}" if i % 9 else f"phone-{row['user']}"} for i, row in enumerate(rows_of_people())
    ]
    made = training.train(batch_of(rows), {}, SessionSettings(), TrainingSettings(), 0)
    assert made.facets.fixed == ()
    assert list(made.facets.steady) == ["device", "action", "page"]
    assert made.report["steady"] == [f"{name} {made.facets.steady[name]:.0%}" for name in ("device", "action")]
    assert any(line.startswith("owners keep to one value of: device 89%") for line in training.report_lines(made.report))
    assert "inside" in made.report["caught_at_1_percent"]
    alone = [{k: v for k, v in row.items() if k in ("time", "user", "device")} for row in rows]
    nothing_else = training.train(batch_of(alone), {}, SessionSettings(), TrainingSettings(), 0)
    assert list(nothing_else.facets.steady) == ["device"]
    assert "inside" not in nothing_else.report["caught_at_1_percent"]


def test_what_is_derived_comes_from_where_its_values_come(trained: Pack, history: Sessions) -> None:
    rows = np.flatnonzero(history.events >= 3)[:200]
    owner, stranger, looks = take(history, rows), take(history, np.roll(rows, 1)), trained.facets
    made = simulated(owner, stranger, "borrow", ground_of(looks))
    source, pair = looks.text.index(str(looks.pair_of)), looks.text.index("pair")

    def held(table: Sessions, s: int, f: int) -> list[int]:
        inside = slice(*table.indptr[s : s + 2])
        return sorted(table.key[inside][table.facet[inside] == f].tolist())

    sides = [[held(made, s, f) == held(stranger, s, f) for f in (source, pair)] for s in range(len(rows))]
    told = [side for s, side in enumerate(sides) if all(held(owner, s, f) != held(stranger, s, f) for f in (source, pair))]
    assert all(a == b for a, b in told)
    assert 0 < sum(a for a, _ in told) < len(told)


def test_a_pack_is_read_as_it_was_written_and_says_the_same(trained: Pack, tmp_path: Path) -> None:
    read = load(save(trained, tmp_path))
    assert trained.fusion is not None
    assert read.fusion is not None
    assert content_id(read) == read.id == trained.id
    e = np.random.default_rng(0).exponential(size=(300, len(trained.channels) + 2))
    assert np.array_equal(trees.total(read.fusion.boosting, e), trees.total(trained.fusion.boosting, e))
    shown = e[:, : trained.fusion.shown.sum()]
    assert np.array_equal(outliers.score(read.fusion.forest, shown), outliers.score(trained.fusion.forest, shown))


def test_a_pack_whose_trees_lead_back_is_refused_though_its_checksum_is_right(trained: Pack, tmp_path: Path) -> None:
    folder = save(trained, tmp_path)
    with np.load(folder / "arrays.npz") as file:
        arrays = dict(file)
    arrays["trees.forest.child"][1] = 0
    np.savez_compressed(folder / "arrays.npz", **arrays)
    told = json.loads((folder / "pack.json").read_text())
    told["sha256"]["arrays.npz"] = hashlib.sha256((folder / "arrays.npz").read_bytes()).hexdigest()
    (folder / "pack.json").write_text(json.dumps(told))
    with pytest.raises(PackError, match="leads back"):
        load(folder)


def test_of_too_many_sessions_training_takes_the_newest_or_a_sample_of_accounts_with_theirs() -> None:
    batch, rules = batch_of(rows_of_people(60, 30)), SessionSettings()
    accounts, a_day, every = training._sample(batch, rules, 10_000, set())
    assert (accounts, every.all()) == (60, True)
    assert a_day == pytest.approx(60 * 1.5, rel=0.15)
    accounts, same, newest = training._sample(batch, rules, 1500, set())  # more than HABIT of each account
    assert (accounts, same) == (60, a_day)
    assert set(batch.user[newest]) == set(batch.user)
    assert batch.time[newest].min() > np.quantile(batch.time, 0.3)
    _, _, some = training._sample(batch, rules, 300, {"u00"})
    chosen = set(batch.user[some])
    assert 5 < len(chosen) < 30
    assert "u00" in chosen
    first = {user: batch.time[batch.user == user].min() for user in chosen}
    assert np.median([batch.time[some & (batch.user == user)].min() - first[user] for user in chosen]) < 20 * 86400


def test_a_pack_from_a_sample_tells_how_many_accounts_there_are() -> None:
    batch = batch_of(rows_of_people(14, 40))
    limits = TrainingSettings(max_sessions=500)
    pack = training.train(batch, {}, SessionSettings(), limits, 0, share=0.5)
    assert (pack.report["accounts"], pack.report["learnt_accounts"]) == (28, 14)
    assert pack.sessions <= 500
    assert pack.sessions_per_day == pytest.approx(2 * 14 * 1.5, rel=0.15)


def test_accounts_whose_files_are_always_new_are_known_by_their_folders(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), rows_of_people(20, 30)
    for i, row in enumerate(rows):
        row |= {
            "file": f"/{rng.integers(3)}/{row['user']}/{i if rng.random() < 0.7 else 0}.txt",
            "page": "p",
            "device": "d",
            "amount": 1.0,
        }
    made = training.train(batch_of(rows), {}, SessionSettings(), TrainingSettings(), 0)
    assert dict(made.facets.parents) == {"file": 1}
    save(made, tmp_path)
    assert load(tmp_path / made.id).facets == made.facets
    assert made.report["relevance"]["file:rate"] > 0.5
    assert made.report["relevance"]["file:parent:rate"] == 0  # it speaks through its values alone
    assert made.report["simulated_auc"] > 0.8

    mine, other = (next(r for r in rows if r["user"] == user) for user in ("u00", "u01"))
    table = training.sessions_of(batch_of([mine, mine | other | {"user": "u00"}]), made.facets, SessionSettings())
    over, inside = (table.facet == made.facets.text.index(name) for name in ("file:parent", "file"))
    one = str(table.text[inside][0])

    def left(facet: str, value: str) -> list[str]:
        kept = guidance.exempt(table, made.facets, {"u00": guidance.Guidance(allowed=(guidance.Allowance(facet, value),))})
        return [str(t) for t in kept.text if str(t).startswith("/")]

    assert sum(over) == sum(inside) == len(left("file", one)) == 2
    assert not any(t.startswith(one.rpartition("/")[0]) for t in left("file", one))
    assert left("file:parent", one.rpartition("/")[0]) == left("file", one)


LOOKS = Facets(("action", "how", "action+how", "hour"), (), (), None, {}, (), ("action", "how"))


def in_ways(user: str, ways: dict[str, str], hour: int = 9) -> list[dict[str, object]]:
    """Twenty sessions of one who does everything, each in a way of his own."""
    events = [{"user": user, "session": f"s{s}", "action": a, "how": h} for s in range(20) for a, h in ways.items()]
    return [{"time": hour * 3600.0 + 86400 * (n // len(ways)) + n, **event} for n, event in enumerate(events)]


def met(table: Sessions, looks: Facets = LOOKS) -> list[dict[str, set[int]]]:
    """The keys of each session, by facet."""
    parts = [slice(*table.indptr[s : s + 2]) for s in range(len(table))]
    return [{name: {*table.key[i][table.facet[i] == f].tolist()} for f, name in enumerate(looks.text)} for i in parts]


def all_pairs(one: set[int], other: set[int]) -> set[int]:
    return {int(k) for a in one for k in pair_keys(np.full(len(other), a, np.uint32), np.array([*other], np.uint32))}


def test_what_a_simulated_thief_shows_together_is_made_of_what_he_shows() -> None:
    table = training.sessions_of(
        batch_of(in_ways("u", {"a": "x", "b": "y"}) + in_ways("v", {"c": "z", "d": "w"}, 20)), LOOKS, SessionSettings()
    )
    own, stranger = (take(table, np.flatnonzero(table.user == user)) for user in "uv")
    mine, theirs = met(own), met(stranger)
    shown = {kind: met(simulated(own, stranger, kind, ground_of(LOOKS))) for kind in attacks.NAMES}  # inside: nothing is steady
    assert shown["swap"] == theirs
    assert shown["hours"] == [m | {"hour": t["hour"]} for m, t in zip(mine, theirs, strict=True)]
    for kind in ("borrow", "alone"):
        torn = 0
        for one, m, t in zip(shown[kind], mine, theirs, strict=True):
            sides = one["action"], one["how"]
            assert one["action+how"]
            assert one["action+how"] <= all_pairs(*sides)
            torn += not one["action+how"] & (m["action+how"] | t["action+how"])
        assert 0 < torn < len(own)
    assert all(one != m for one, m in zip(shown["alone"], mine, strict=True))  # something is the stranger's
    assert any(one["action+how"] - m["action+how"] - t["action+how"] for one, m, t in zip(shown["copy"], mine, theirs, strict=True))
    looks = replace(LOOKS, steady={"how": 0.9, "action": 0.2})
    inside = met(simulated(own, stranger, "inside", ground_of(looks), 1))
    assert all(
        one["how"] == m["how"] and one["action"] == t["action"] and one["action+how"] <= all_pairs(t["action"], m["how"])
        for one, m, t in zip(inside, mine, theirs, strict=True)
    )


def test_what_comes_at_the_owners_hours_by_chance_counts_like_what_comes_at_an_hour() -> None:
    looks = replace(LOOKS, text=("action", "how", "action+hour", "hour"), together=("action", "hour"))
    table = training.sessions_of(
        batch_of(in_ways("u", {"a": "x", "b": "x"}) + in_ways("v", {"c": "x", "d": "x"}, 20)), looks, SessionSettings()
    )
    own, stranger = (take(table, np.flatnonzero(table.user == user)) for user in "uv")
    stolen = simulated(own, stranger, "hours", ground_of(looks))
    for one, m, t in zip(met(stolen, looks), met(own, looks), met(stranger, looks), strict=True):
        assert one["action"] == m["action"]
        assert one["action+hour"] <= all_pairs(m["action"], t["hour"])
    joint = stolen.facet == 2
    assert np.allclose(np.bincount(stolen.row[joint], stolen.count[joint]), own.events)


def test_a_value_that_is_in_order_takes_along_what_comes_together_with_it() -> None:
    table = training.sessions_of(batch_of(in_ways("u", {"a": "x", "b": "x", "c": "y"})), LOOKS, SessionSettings())

    def left(facet: str, value: str | None) -> set[str]:
        some = np.arange(len(table)) < 1
        kept = guidance.without(table, LOOKS, some, guidance.Allowance(facet, value))
        assert len(kept.key) + len(set(table.text[:8])) >= len(table.key)  # of the first session alone
        return {str(t) for t in kept.text[: kept.indptr[1]] if not str(t).endswith("h")}

    assert left("action", "a") == {"b", "c", "x", "y", "b + x", "c + y"}
    assert left("how", "x") == {"a", "b", "c", "y", "c + y"}
    assert left("how", None) == {"a", "b", "c"}
    assert left("action+how", "b + x") == {"a", "b", "c", "x", "y", "a + x", "c + y"}


def test_a_pack_remembers_what_it_looks_at_together(tmp_path: Path) -> None:
    batch = batch_of(manners()[0])
    made = training.untrained(batch, {}, 0)
    assert made.facets.together == ("action", "how")
    assert set(made.facets.steady) == {"action", "how", "free"}
    save(made, tmp_path)
    assert load(tmp_path / made.id).facets == made.facets
    taken = replace(batch, attributes={**batch.attributes, "action+how": batch.attributes["free"]})
    assert training.find_facets(taken, {}).together == ()  # the name is an attribute's
    assert training.find_facets(batch, {"how": "ignored"}).together == ()
    assert training.find_facets(batch_of([]), {}).together == ()
