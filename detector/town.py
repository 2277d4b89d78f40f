"""A simulated town of accounts and the takeovers in it: what `unlike demo` watches. Pure: the same seed gives the same town.

A person is a table of habits; drift replaces one habit from a day on; a thief is a person as well, drawn as the residents are,
whose visits land in somebody else's account. So nothing in an event tells a takeover but that it is unlike the owner.

Axes: S visits, E events, A actions, H usual hours of a day, R classes of resources, K favourites of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from detector.errors import SettingsError

START = 1767571200.0  # Monday 2026-01-05T00:00Z, so that day modulo 7 is the weekday
HOUR, DAY = 3600.0, 86400.0
QUIET_WEEKS = 3  # takeovers happen in the last so many weeks; before, there is only the town to learn from
COUNTRIES = {"NL": 1, "DE": 1, "GB": 0, "US": -5, "BR": -3, "IN": 5.5, "SG": 8, "ZA": 2, "MX": -6, "RO": 2, "VN": 7}  # h to UTC
OFFSETS = np.array(list(COUNTRIES.values()), float)
HOME_SHARE = 0.6  # most people live where the town is, COUNTRIES[0]
BROWSERS = {
    "pc": ("Chrome", "Firefox", "Edge", "Safari"),
    "phone": ("Chrome Mobile", "Safari Mobile", "Firefox Mobile"),
    "client": ("python-requests", "okhttp", "curl", "Go-http-client"),
}
RESOURCES = {
    "docs": (2400, ("open", "edit", "download", "upload")),
    "items": (900, ("browse", "search", "order")),
    "payees": (700, ("pay", "payee")),
    "api": (80, ("query", "read", "write", "export")),
}
ACTIONS = ("login", *(a for _, own in RESOURCES.values() for a in own), "message", "settings", "password")
CLASS_OF = np.array([next((r for r, (_, own) in enumerate(RESOURCES.values()) if a in own), -1) for a in ACTIONS])  # (A,)
SIZES = np.array([size for size, _ in RESOURCES.values()])  # (R,)
OFFSET_OF = np.cumsum(SIZES) - SIZES  # (R,) where a class begins in the numbering of all resources
COMPANIES = 12  # each has an office network and an equal part of the documents
FAVOURITES = 12  # K
FAVOURED = np.cumsum(1 / np.arange(1.0, FAVOURITES + 1))  # (K,) Zipf, as visits to pages are
EXPLORES = 0.15  # share of resources that are no favourites
PAID = np.isin(ACTIONS, ("order", "pay"))  # (A,) actions with an amount
MEDIAN_BYTES = {"download": 4e5, "upload": 3e5, "export": 2e6, "read": 8e3, "query": 2e3}
BYTES = np.array([np.log(MEDIAN_BYTES.get(a, 0) or np.nan) for a in ACTIONS])  # (A,)
FLOW = {  # what an application leads to: five times likelier than the person's taste alone
    "login": ("browse", "search", "open", "query"),
    "browse": ("browse", "order"),
    "search": ("open", "browse"),
    "open": ("edit", "download", "message"),
    "edit": ("edit", "upload"),
    "order": ("pay",),
    "payee": ("pay",),
    "query": ("read",),
    "read": ("read", "write"),
}
LEADS = np.array([[5.0 if b in FLOW.get(a, ()) else 1.0 for b in ACTIONS] for a in ACTIONS])  # (A, A)
LONG_VISIT = 0.006  # honest visits that are six times as long: month's end, moving house, boredom
LONGEST_VISIT = 400  # events
LONGEST_PAUSE_S = 1200.0  # within a visit; below the usual gap of 30 min
ODD_HOUR, ODD_PLACE, ODD_DEVICE = 0.04, 0.03, 0.008  # honest visits at any hour, from a hotel or a tunnel, on a borrowed device
DRIFTS = 1.3  # changes of habit of an account, on average
HOLIDAY = 0.3  # share of residents who are abroad once for a few days

NUMBERS = ("user", "action", "device", "network", "resource", "takeover")  # indices; -1: none
EVENT = np.dtype([(name, "i4") for name in NUMBERS] + [(name, "f8") for name in ("time", "visit", "amount", "bytes")])


@dataclass(frozen=True)
class Archetype:
    share: float  # of the accounts
    hours: tuple[float, ...]  # local, around which visits begin
    spread: float  # hours
    rate: tuple[float, float]  # chance of a visit at each of these hours, on a weekday and on a weekend day
    pace: float  # median seconds between events
    length: float  # median events of a visit
    works: bool  # has a company
    other: float  # weight of each action not named
    actions: Mapping[str, float]


OFFICE = {"open": 5.0, "edit": 4.0, "message": 3.0, "download": 1.0, "search": 1.0}  # weights of actions
SHOPPER = {"browse": 6.0, "search": 3.0, "order": 1.0, "pay": 0.8}
NIGHT = {"open": 3.0, "upload": 3.0, "edit": 2.0, "message": 2.0}
TRAVELLER = {"message": 4.0, "open": 3.0, "pay": 1.0, "browse": 2.0, "order": 0.5}
API = {"query": 3.0, "read": 6.0, "write": 2.0, "export": 0.2}
ARCHETYPES = {
    "office": Archetype(0.31, (8.7, 11, 14, 16.5), 0.8, (0.34, 0.015), 40, 10, True, 0.06, OFFICE),
    "shopper": Archetype(0.24, (13, 20.5), 1.5, (0.32, 0.45), 20, 10, False, 0.06, SHOPPER),
    "night": Archetype(0.1, (22.5, 25.5, 28), 0.9, (0.36, 0.3), 60, 11, True, 0.06, NIGHT),
    "traveller": Archetype(0.1, (7.5, 13, 21), 1.8, (0.4, 0.3), 35, 8, True, 0.08, TRAVELLER),
    "api": Archetype(0.06, (1, 7, 13, 19), 0.05, (0.97, 0.97), 2, 9, False, 0.002, API),
    "new": Archetype(0.11, (), 0, (0, 0), 0, 0, False, 0, {}),
    "dormant": Archetype(0.08, (), 0, (0, 0), 0, 0, False, 0, {}),
}
LIKE = {"new": ("office", "shopper", "night"), "dormant": ("shopper", "office")}  # they live like one of these
FIRST = "ada ben cleo dan eva finn gia hugo ines jan kira leo mia nils olga pia quin rosa sam tess udo vera wim zoe"
LAST = "abel bos cruz dahl eder fox gray holm iris jong kemp lund mora noor ost pena rask silva toth wolf"


@dataclass(frozen=True)
class Person:
    """Habits. A spot is a device in use on a network, and how often."""

    country: int
    company: int  # -1: none
    chain: np.ndarray  # (A, A) cumulated chances of the next action
    hours: np.ndarray  # (H,) local
    spread: float
    rate: np.ndarray  # (7,) chance of a visit at each usual hour, Monday first
    pace: float
    length: float
    spots: tuple[tuple[int, int, float], ...]  # device, network, weight
    favourites: np.ndarray  # (R, K) numbers of resources
    amount: float  # log of the median
    weight: float  # log of the person's share in the size of files
    restless: float  # how often places, devices and hours are odd: 1 a human, 0.1 a program


@dataclass(frozen=True)
class Account:
    archetype: str
    arrival: float  # seconds since START
    eras: tuple[tuple[float, Person], ...]  # from when, and the habits

    def at(self, time: float) -> Person:
        """The habits at a time; before the first era, the first."""
        return [person for start, person in self.eras if start <= max(time, self.arrival)][-1]


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


class World:
    """Chance, and the devices and networks handed out so far, by number."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.browser: list[str] = []  # of each device
        self.country: list[int] = []  # of each network
        self.mobile = [[self.network(c) for _ in range(3)] for c in range(len(COUNTRIES))]
        self.guest = [[self.network(c) for _ in range(10)] for c in range(len(COUNTRIES))]  # hotels, cafés, trains
        self.hosting = [self.network(int(self.rng.integers(len(COUNTRIES)))) for _ in range(16)]  # servers and tunnels
        self.homes: list[list[int]] = [[] for _ in COUNTRIES]
        self.office = [self.network(0) for _ in range(COMPANIES)]

    def network(self, country: int) -> int:
        self.country.append(country)
        return len(self.country) - 1

    def device(self, kind: str) -> int:
        self.browser.append(str(self.rng.choice(BROWSERS[kind])))
        return len(self.browser) - 1

    def odd_place(self, country: int) -> int:
        return int(self.rng.choice(self.guest[country] + self.mobile[country] + self.hosting[::4]))


def simulate(seed: int, accounts: int = 240, weeks: int = 8, per_kind: int = 5) -> Town:
    """A town over some weeks, with `per_kind` takeovers of each kind (fewer in a small town); raises SettingsError if too small."""
    if accounts < 50 or weeks < QUIET_WEEKS + 2:
        raise SettingsError(f"town: {accounts} accounts over {weeks} weeks, expected at least 50 over {QUIET_WEEKS + 2}")
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
    return Town(kept, events, takeovers, START + end - QUIET_WEEKS * 7 * DAY)


def draw(world: World, style: str, country: int, company: int, network: int | None = None) -> Person:
    """A person who lives in the way of an archetype, with own tastes, at home on a network (none: a new one)."""
    rng, like = world.rng, ARCHETYPES[style]
    weights = np.array([like.actions.get(a, like.other) for a in ACTIONS]) * rng.lognormal(0, 0.5, len(ACTIONS))
    chain = weights * LEADS * rng.gamma(3, 1 / 3, LEADS.shape)  # (A, A) everybody's ways differ
    low, high = explored(company)
    home = world.network(country) if network is None else network
    if style == "api":
        spots = [(world.device("client"), int(rng.choice(world.hosting)), 1.0)]
    else:
        phone = world.device("phone")
        spots = [(phone, home, 0.25), (phone, int(rng.choice(world.mobile[country])), 0.15)]
        if company >= 0:
            spots = [(world.device("pc"), world.office[company], 0.5), *spots]
        if rng.random() < 0.7:
            spots.append((world.device("pc"), home, 0.3))
    return Person(
        country=country,
        company=company,
        chain=cumulated(chain),
        hours=np.array(like.hours) + rng.normal(0, 1.2),
        spread=like.spread,
        rate=np.repeat(like.rate, (5, 2)) * rng.uniform(0.7, 1.02),
        pace=like.pace * rng.lognormal(0, 0.3),
        length=like.length * rng.lognormal(0, 0.2),
        spots=tuple(spots),
        favourites=rng.integers(low[:, None], high[:, None], (len(SIZES), FAVOURITES)),
        amount=rng.normal(np.log(40), 0.7),
        weight=rng.normal(0, 0.7),
        restless=0.1 if style == "api" else 1.0,
    )


def explored(company: int) -> tuple[np.ndarray, np.ndarray]:
    """(R,), (R,) the range of resources that somebody may come upon: of documents, those of the company."""
    low, high, part = np.zeros(len(SIZES), int), SIZES.copy(), SIZES[0] // COMPANIES
    if company >= 0:
        low[0], high[0] = company * part, (company + 1) * part
    return low + OFFSET_OF, high + OFFSET_OF


def cumulated(chain: np.ndarray) -> np.ndarray:
    """(A, A) weights of the next action → cumulated chances; nobody logs in twice in a visit."""
    chain = np.where(np.array(ACTIONS) == "login", 0, chain)
    total = np.cumsum(chain, axis=1)
    return total / total[:, -1:]


def settle(world: World, archetype: str, end: float) -> Account:
    """A resident with everything that will change in the resident's life until the end."""
    rng = world.rng
    style = str(rng.choice(LIKE.get(archetype, (archetype,))))
    country = 0 if rng.random() < HOME_SHARE else int(rng.integers(len(COUNTRIES)))
    company = int(rng.integers(COMPANIES)) if ARCHETYPES[style].works else -1
    shared = len(world.homes[country]) > 0 and rng.random() < 0.4  # a household has one network
    home = int(rng.choice(world.homes[country])) if shared else world.network(country)
    world.homes[country].append(home)
    person = draw(world, style, country, company, home)
    arrival = float(rng.uniform(0.3, 0.95) * end) if archetype == "new" else 0.0
    changes: list[tuple[float, Callable[[Person], Person]]] = [
        (float(time), lambda p: changed(world, p)) for time in rng.uniform(arrival, end, rng.poisson(DRIFTS * person.restless**0.5))
    ]
    eras = [(arrival, person)]
    for time, change in sorted(changes, key=lambda c: c[0]):
        eras.append((time, change(eras[-1][1])))
    if archetype == "dormant":
        rest = float(rng.uniform(9, 16) * DAY)
        asleep = replace(person, rate=person.rate * 0.08)
        eras = [(0.0, person), (rest, asleep)]
        if rng.random() < 0.35:  # some come back, so that coming back proves nothing
            eras.append((float(rng.uniform(0.6, 0.95) * end), person))
    return Account(archetype, arrival, tuple(travelling(world, archetype, eras, end)))


def travelling(world: World, archetype: str, eras: list[tuple[float, Person]], end: float) -> list[tuple[float, Person]]:
    """The eras with the journeys in them: a traveller's all the time, of others a holiday at most."""
    rng, trips = world.rng, []
    if archetype == "traveller":
        away = np.cumsum(rng.uniform(3, 16, 40) * DAY)  # out and back, out and back
        trips = [(out, back) for out, back in zip(away[::2], away[1::2], strict=True) if out < end]
    elif archetype not in ("api", "dormant") and rng.random() < HOLIDAY:
        out = rng.uniform(eras[0][0], end)
        trips = [(out, out + rng.uniform(2, 9) * DAY)]
    for out, back in trips:
        before = [person for start, person in eras if start <= out][-1]
        after = [person for start, person in eras if start <= back][-1]
        kept = [era for era in eras if not out <= era[0] <= back]
        eras = sorted([*kept, (float(out), abroad(world, before)), (float(back), after)], key=lambda era: era[0])
    return eras


def abroad(world: World, person: Person) -> Person:
    """The person with what can be carried, in another country and by its clock."""
    country = int(world.rng.integers(len(COUNTRIES)))
    carried = person.spots[1:] if person.company >= 0 else person.spots
    return replace(person, country=country, spots=tuple((device, world.odd_place(country), w) for device, _, w in carried))


def changed(world: World, person: Person) -> Person:
    """Drift: one habit is replaced for good, as by a new phone, another flat, another shift, a new taste or a new task."""
    rng = world.rng
    device, network, _ = person.spots[int(rng.integers(len(person.spots)))]
    match rng.integers(5):
        case 0:
            kind = next(k for k, names in BROWSERS.items() if world.browser[device] in names)
            bought = world.device(kind)
            return replace(person, spots=tuple((bought if d == device else d, n, w) for d, n, w in person.spots))
        case 1:
            moved = world.network(person.country)
            return replace(person, spots=tuple((d, moved if n == network else n, w) for d, n, w in person.spots))
        case 2:
            return replace(person, hours=person.hours + rng.normal(0, 2.0))
        case 3:
            low, high = explored(person.company)
            new = rng.integers(low[:, None], high[:, None], person.favourites.shape)
            return replace(person, favourites=np.where(rng.random(FAVOURITES) < 0.35, new, person.favourites))
    task = cumulated(rng.gamma(0.5, 2.0, len(ACTIONS)) * np.diff(person.chain, axis=1, prepend=0))
    return replace(person, chain=(person.chain + task) / 2)


def live(world: World, account: Account, end: float) -> np.ndarray:
    """(E,) what an account's owner does until the end."""
    ends = [*(start for start, _ in account.eras[1:]), end]
    parts = [visits(world, p, starts(world, p, a, b)) for (a, p), b in zip(account.eras, ends, strict=True)]
    return np.concatenate(parts)


def starts(world: World, person: Person, begin: float, end: float) -> np.ndarray:
    """(S,) when a person's visits between two times begin: near the usual hours of some days, now and then at any hour."""
    rng = world.rng
    day = np.arange(np.floor(begin / DAY) - 1, np.ceil(end / DAY) + 2)
    chosen, hour = np.nonzero(rng.random((len(day), len(person.hours))) < person.rate[day.astype(int) % 7, None])
    local = person.hours[hour] + rng.normal(0, person.spread, len(hour))
    local = np.where(rng.random(len(hour)) < ODD_HOUR * person.restless, rng.uniform(0, 24, len(hour)), local)
    start = day[chosen] * DAY + (local - OFFSETS[person.country]) * HOUR
    return np.sort(start[(start >= begin) & (start < end)])


def visits(world: World, person: Person, start: np.ndarray) -> np.ndarray:
    """(E,) the events of visits that begin at start (S,)."""
    rng, count = world.rng, len(start)
    many = np.where(rng.random(count) < LONG_VISIT, 6, 1) * rng.lognormal(np.log(person.length), 0.5, count)
    length = np.clip(many, 2, LONGEST_VISIT).astype(int)  # (S,)
    action = np.zeros((count, length.max(initial=1)), int)  # (S, longest); 0 is login
    for step in range(1, action.shape[1]):
        action[:, step] = (person.chain[action[:, step - 1]] <= rng.random((count, 1))).sum(axis=1)
    pause = np.minimum(rng.lognormal(np.log(person.pace), 0.9, action.shape), LONGEST_PAUSE_S)
    pause[:, 0] = 0
    row, step = np.nonzero(np.arange(action.shape[1]) < length[:, None])
    log = np.zeros(len(row), EVENT)
    log["time"], log["visit"] = start[row] + np.cumsum(pause, axis=1)[row, step], start[row]
    log["action"], log["takeover"] = action[row, step], -1
    device, network = places(world, person, count)
    log["device"], log["network"] = device[row], network[row]
    return valued(world, person, log)


def places(world: World, person: Person, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(S,), (S,) the device and the network of each visit: mostly the person's own, now and then another."""
    rng = world.rng
    weight = np.array([spot[2] for spot in person.spots])
    spot = rng.choice(len(weight), count, p=weight / weight.sum())
    device, network = (np.array([s[i] for s in person.spots])[spot] for i in (0, 1))
    for visit in np.flatnonzero(rng.random(count) < ODD_PLACE * person.restless):
        network[visit] = world.odd_place(person.country)
    for visit in np.flatnonzero(rng.random(count) < ODD_DEVICE * person.restless):
        device[visit] = world.device("client" if world.browser[device[visit]] in BROWSERS["client"] else "pc")
    return device, network


def valued(world: World, person: Person, log: np.ndarray) -> np.ndarray:
    """The events with their resources, amounts and bytes filled in from the person's habits."""
    rng, events, action = world.rng, len(log), log["action"]
    kind = CLASS_OF[action]
    low, high = explored(person.company)
    favourite = person.favourites[kind, np.searchsorted(FAVOURED, rng.random(events) * FAVOURED[-1])]
    resource = np.where(rng.random(events) < EXPLORES, rng.integers(low[kind], high[kind]), favourite)
    log["resource"] = np.where(kind < 0, -1, resource)
    log["amount"] = np.where(PAID[action], np.round(np.exp(rng.normal(person.amount, 0.6, events)), 2), np.nan)
    log["bytes"] = np.round(np.exp(BYTES[action] + rng.normal(person.weight, 0.7, events)))
    return log


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
        raid = visits(world, thief, np.array([log["time"][cut[0]]]))[1:]  # no login
        foreign.append(raid)
    return log[kept], np.concatenate(foreign)


def insider(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """A colleague at the owner's desk: the owner's device and network, a colleague's documents, hours and ways."""
    colleague = bent(stranger(world, owner.country, owner.company), download=3, export=3)
    colleague = replace(colleague, spots=owner.spots[:1], restless=0.0)
    return log, visits(world, colleague, some(world, colleague, onset, 4, 3, 5))


def cash_out(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """A copied device in the owner's country: the owner's ways, but for larger sums to new payees."""
    place, payees = stranger(world, owner.country), owner.favourites.copy()
    payees[2] = place.favourites[2]
    spots = ((owner.spots[0][0], place.spots[0][1], 1.0),)
    thief = replace(owner, spots=spots, favourites=payees, amount=owner.amount + np.log(world.rng.uniform(4, 15)), restless=0.0)
    return log, visits(world, bent(thief, payee=15, pay=15, order=3), some(world, thief, onset, 2, 1, 3))


def slow_mix(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """Malware or a shared cookie: in many of the owner's visits a few foreign events, on the owner's device or another."""
    thief, foreign = bent(stranger(world), download=4, search=3, payee=3), []
    if world.rng.random() < 0.5:
        thief = replace(thief, spots=owner.spots[:1])
    for visit in following(log, onset):
        within = log["time"][log["visit"] == visit]
        few = visits(world, replace(thief, length=4.0), np.array([visit]))[1 : 1 + int(world.rng.integers(2, 5))]
        few["time"] = np.sort(world.rng.uniform(within[0], within[-1] + 60, len(few)))
        foreign.append(few)
    return log, np.concatenate(foreign)


def burst(world: World, owner: Person, log: np.ndarray, onset: float) -> Raid:
    """Everything is carried off: hundreds of downloads in quick succession, on the owner's device or another."""
    thief = stranger(world)
    spots = thief.spots if world.rng.random() < 0.5 else owner.spots[-1:]
    thief = replace(bent(owner, download=12, search=4, open=3, export=8), spots=spots, pace=2.0, length=160.0)
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
        onset = end - float(world.rng.uniform(6, QUIET_WEEKS * 7) * DAY)
        for user in world.rng.permutation(len(residents)):
            account, log = residents[user], logs[user]
            known = len(np.unique(log["visit"][log["visit"] < onset]))
            free = account.archetype == archetypes[turn % len(archetypes)] and not (log["takeover"] >= 0).any()
            if free and known >= 5 and (kind == "dormant_revival" or len(following(log, onset)) >= 2):
                kept, foreign = raid(world, account.at(onset), log, onset)
                foreign["takeover"] = 0
                logs[user] = np.concatenate([kept, foreign])
                victims.append(int(user))
                break
    return victims


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
        optional = {"resource": resources[resource] if resource >= 0 else None, "amount": amount, "bytes": size}
        events.append(event | {key: value for key, value in optional.items() if value is not None and value == value})
    return events
