"""A simulated town of accounts and the takeovers in it: what `unlike demo` watches. Pure: the same seed gives the same town.

A thief is a person, drawn as the residents are, whose visits land in somebody else's account. So nothing in an event tells a
takeover but that it is unlike the owner.

Axes: S visits, E events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from detector.errors import SettingsError
from detector.residents import (
    ACTIONS,
    ARCHETYPES,
    COUNTRIES,
    DAY,
    LIKE,
    RESOURCES,
    Account,
    Person,
    World,
    cumulated,
    draw,
    live,
    settle,
    starts,
    visits,
)

START = 1767571200.0  # Monday 2026-01-05T00:00Z, so that day modulo 7 is the weekday
RAID_WEEKS = 3  # takeovers happen in the last so many; before, there is only the town to learn from
FIRST = "ada ben cleo dan eva finn gia hugo ines jan kira leo mia nils olga pia quin rosa sam tess udo vera wim zoe"
LAST = "abel bos cruz dahl eder fox gray holm iris jong kemp lund mora noor ost pena rask silva toth wolf"


@dataclass(frozen=True)
class Takeover:
    """One intruder in one account. `start` and `end` are the times of the first and last foreign event, seconds since 1970."""

    id: str
    user: str
    kind: str
    start: float
    end: float
    event_ids: tuple[str, ...]


@dataclass(frozen=True)
class Town:
    """`events` are JSON-able and sorted by time; each has time, user, action, id, device, browser, network and country, some have
    resource, amount or bytes."""

    accounts: Mapping[str, str]  # user -> archetype
    events: list[dict[str, object]]
    takeovers: tuple[Takeover, ...]  # sorted by start
    learn_until: float  # seconds since 1970; no takeover starts before


def simulate(seed: int, accounts: int = 240, weeks: int = 8, per_kind: int = 5) -> Town:
    """A town over some weeks, with `per_kind` takeovers of each kind (fewer in a small town); raises SettingsError if too small."""
    if accounts < 50 or weeks < RAID_WEEKS + 2:
        raise SettingsError(f"town: {accounts} accounts over {weeks} weeks, expected at least 50 over {RAID_WEEKS + 2}")
    rng = np.random.default_rng(seed)
    world, end = World(rng), weeks * 7 * DAY
    rank = (np.arange(accounts) + 0.5) / accounts
    kinds = np.searchsorted(np.cumsum([a.share for a in ARCHETYPES.values()])[:-1], rank)
    residents = [settle(world, list(ARCHETYPES)[k], end) for k in rng.permutation(kinds)]
    logs = [live(world, account, end) for account in residents]
    done = [(kind, user) for kind in KINDS for user in strike(world, kind, residents, logs, end, per_kind)]
    for user, log in enumerate(logs):
        log["user"] = user
        log["takeover"][log["takeover"] >= 0] = next((t for t, (_, u) in enumerate(done) if u == user), -1)
    table = np.concatenate(logs)
    table = table[(table["time"] >= 0) & (table["time"] < end)]
    table["time"] = np.round(table["time"] + START, 3)
    table = table[np.argsort(table["time"], kind="stable")]
    first, last = FIRST.split(), LAST.split()
    names = [f"{a}.{b}{n}" for n in ("", *range(2, 3 + accounts // 480)) for b in last for a in first]
    users = [names[i] for i in rng.permutation(max(accounts, 480))[:accounts]]
    events = written(world, table, users)
    found = []
    for number, (kind, user) in enumerate(done):
        (rows,) = np.nonzero(table["takeover"] == number)
        times = table["time"][rows]
        found.append((times[0], times[-1], kind, users[user], tuple(str(events[row]["id"]) for row in rows)))
    takeovers = tuple(Takeover(f"t{n:02d}", u, k, float(a), float(b), ids) for n, (a, b, k, u, ids) in enumerate(sorted(found)))
    kept = {users[u]: account.archetype for u, account in enumerate(residents)}
    return Town(kept, events, takeovers, START + end - RAID_WEEKS * 7 * DAY)


def written(world: World, table: np.ndarray, users: list[str]) -> list[dict[str, object]]:
    """The table as events; numbers become names that say nothing of their order."""
    rng, countries = world.rng, list(COUNTRIES)
    devices = [f"dev-{n:06x}" for n in rng.choice(16**6, len(world.browser), replace=False)]
    networks = [f"10.{n >> 8}.{n & 255}.0/24" for n in rng.choice(2**16, len(world.country), replace=False)]
    resources = [f"/{name}/{n:03x}" for name, (size, _) in RESOURCES.items() for n in range(size)]
    when = np.datetime_as_string((table["time"] * 1000).round().astype("datetime64[ms]"), unit="ms")
    events = []
    columns = [table[name].tolist() for name in ("user", "action", "device", "network", "resource", "amount", "bytes")]
    for row, (time, user, action, device, network, resource, amount, size) in enumerate(zip(when.tolist(), *columns, strict=True)):
        event: dict[str, object] = {"time": f"{time}Z", "id": f"e{row:07x}", "user": users[user], "action": ACTIONS[action]}
        event |= {"device": devices[device], "browser": world.browser[device]}
        event |= {"network": networks[network], "country": countries[world.country[network]]}
        event |= {"resource": resources[resource]} if resource >= 0 else {}
        event |= {"amount": amount} if amount == amount else {}
        event |= {"bytes": int(size)} if size == size else {}
        events.append(event)
    return events


def stranger(world: World, country: int | None = None, company: int = -1) -> Person:
    """Somebody from anywhere, behind one device on one network that honest people may use too."""
    rng = world.rng
    where = int(rng.integers(len(COUNTRIES))) if country is None else country
    person = draw(world, str(rng.choice(LIKE["new"])), where, company)
    network = (person.spots[-1][1], int(rng.choice(world.hosting)), world.odd_place(where))[int(rng.integers(3))]
    return replace(person, spots=((person.spots[-1][0], network, 1.0),))


def bent(person: Person, **factors: float) -> Person:
    """The person with an aim: some actions so many times likelier than by taste."""
    aim = np.array([factors.get(a, 1.0) for a in ACTIONS])
    return replace(person, chain=cumulated(np.diff(person.chain, axis=1, prepend=0) * aim))


def some(world: World, person: Person, onset: float, days: float, least: int, most: int) -> np.ndarray:
    """(S,) a few of the times, within days after the onset, at which the person may come: least ≤ S ≤ most."""
    rng, eager = world.rng, replace(person, rate=np.ones(7))
    usual = np.concatenate([starts(world, eager, onset, onset + days * DAY), onset + rng.uniform(0, days * DAY, least)])
    return np.sort(rng.choice(usual, min(int(rng.integers(least, most + 1)), len(usual)), replace=False))


Raid = tuple[np.ndarray, np.ndarray]  # what remains of the owner's events, and the foreign ones


def credential_theft(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """A bought password: the thief's device, network, hours and ways, and sooner or later the money."""
    thief = bent(stranger(world), settings=4, password=6, payee=6, pay=4)
    return log, visits(world, thief, some(world, thief, onset, 2, 2, 4))


def session_hijack(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """A stolen cookie: the owner's visit goes on elsewhere, at another pace, and the owner is thrown out."""
    thief = bent(stranger(world), download=3, settings=3, payee=3, pay=3)
    kept, foreign = np.ones(len(log), bool), []
    for visit in following(log, onset)[: int(world.rng.integers(2, 4))]:
        (rows,) = np.nonzero(log["visit"] == visit)
        cut = rows[max(1, int(len(rows) * world.rng.uniform(0.3, 0.7))) :]
        kept[cut] = False
        foreign.append(visits(world, thief, np.array([log["time"][cut[0]]]))[1:])  # no login
    return log[kept], np.concatenate(foreign)


def insider(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """A colleague at the owner's desk: the owner's device and network, a colleague's documents, hours and ways."""
    colleague = bent(stranger(world, owner.country, owner.company), download=3, export=3)
    desk = (owner.spots[0][0], world.office[owner.company], 1.0)
    colleague = replace(colleague, spots=(desk,), restless=0.0)
    return log, visits(world, colleague, some(world, colleague, onset, 4, 3, 5))


def cash_out(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """A copied device in the owner's country: the owner's ways, but for larger sums to new payees."""
    place, payees = stranger(world, owner.country), owner.favourites.copy()
    payees[2] = place.favourites[2]
    spots = ((owner.spots[0][0], place.spots[0][1], 1.0),)
    large, long = owner.amount + np.log(world.rng.uniform(4, 15)), max(owner.length, 12.0)
    thief = replace(owner, spots=spots, favourites=payees, amount=large, length=long, restless=0.0)
    return log, visits(world, bent(thief, payee=30, pay=30, order=3), some(world, thief, onset, 2, 2, 3))


def slow_mix(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """Malware or a shared cookie: in many of the owner's visits a few foreign events, on the owner's device or another."""
    thief, foreign = bent(stranger(world), download=4, search=3, payee=3), []
    if world.rng.random() < 0.5:
        thief = replace(thief, spots=owner.spots[:1])
    for visit in following(log, onset):
        within = log["time"][log["visit"] == visit]
        few = visits(world, replace(thief, length=9.0), np.array([visit]))[1 : 1 + int(world.rng.integers(2, 5))]
        few["time"] = np.sort(world.rng.uniform(within[0], within[-1] + 60, len(few)))
        foreign.append(few)
    return log, np.concatenate(foreign)


def burst(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """Everything is carried off: hundreds of downloads in quick succession, on the owner's device or another."""
    thief = stranger(world)
    spots = thief.spots if world.rng.random() < 0.5 else owner.spots[-1:]
    thief = replace(bent(owner, download=12, search=4, open=3, export=8), spots=spots, pace=2.0, length=240.0)
    return log, visits(world, thief, some(world, owner, onset, 2, 1, 2))


def api_token_theft(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """A leaked token: another client from another place reads what the owner never asked for, at any hour."""
    place, other = stranger(world), draw(world, "api", owner.country, -1)
    thief = replace(other, spots=((other.spots[0][0], place.spots[0][1], 1.0),), hours=place.hours, spread=3.0, pace=8.0)
    return log, visits(world, bent(thief, query=4, export=15), some(world, thief, onset, 3, 3, 6))


def dormant_revival(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """A forgotten account, silent for weeks, wakes in other hands; the owner does not come back."""
    thief = bent(stranger(world), settings=5, password=6, message=4)
    return log[log["visit"] < onset - 14 * DAY], visits(world, thief, some(world, thief, onset, 3, 2, 4))


KINDS: dict[str, tuple[Callable[[World, Person, np.ndarray, float], Raid], tuple[str, ...]]] = {  # and whose accounts
    "credential_theft": (credential_theft, ("office", "new", "shopper", "new", "night", "traveller")),
    "session_hijack": (session_hijack, ("office", "shopper", "night")),
    "insider": (insider, ("office", "night")),
    "cash_out": (cash_out, ("shopper", "new", "traveller")),
    "slow_mix": (slow_mix, ("shopper", "office")),
    "burst": (burst, ("office", "night", "traveller")),
    "api_token_theft": (api_token_theft, ("api",)),
    "dormant_revival": (dormant_revival, ("dormant",)),
}


def following(log: np.ndarray, onset: float) -> np.ndarray:
    """(S,) the owner's visits of at least three events in the five days after the onset."""
    visit, count = np.unique(log["visit"], return_counts=True)
    return visit[(visit >= onset) & (visit < onset + 5 * DAY) & (count >= 3)]


def strike(world: World, kind: str, residents: list[Account], logs: list[np.ndarray], end: float, many: int) -> list[int]:
    """Puts up to `many` takeovers of a kind into logs, in place: their accounts. One account is taken over once at most."""
    raid, archetypes = KINDS[kind]
    victims: list[int] = []
    for turn in range(many):
        onset = end - float(world.rng.uniform(6, RAID_WEEKS * 7) * DAY)
        for user in world.rng.permutation(len(residents)):
            account, log = residents[user], logs[user]
            known = len(np.unique(log["visit"][log["visit"] < onset]))
            free = account.archetype == archetypes[turn % len(archetypes)] and not (log["takeover"] >= 0).any()
            if free and known >= 5 and (kind == "dormant_revival" or len(following(log, onset)) >= 3):
                kept, foreign = raid(world, account.at(onset), log, onset)
                foreign["takeover"] = 0
                logs[user] = np.concatenate([kept, foreign])
                victims.append(int(user))
                break
    return victims
