"""The people of the simulated town: their habits, how these change, and what they do.

A person is a table of habits; drift replaces one habit from a day on. Times here are seconds since the town's first Monday.

Axes: S visits, E events, A actions, H usual hours of a day, R classes of resources, K favourites of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

HOUR, DAY = 3600.0, 86400.0  # seconds
COUNTRIES = {"NL": 1, "DE": 1, "GB": 0, "US": -5, "BR": -3, "IN": 5.5, "SG": 8, "ZA": 2, "MX": -6, "RO": 2, "VN": 7}  # h to UTC
OFFSETS = np.array(list(COUNTRIES.values()), float)
HOME_SHARE = 0.4  # of those without a company; the rest lives in any country, and companies are in the first
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
DRIFTS = 1.6  # changes of habit of an account, on average
HOLIDAY = 0.3  # share of residents who are abroad once for a few days

NUMBERS = ("user", "action", "device", "network", "resource", "takeover")  # indices; -1: none
EVENT = np.dtype([(name, "i4") for name in NUMBERS] + [(name, "f8") for name in ("time", "visit", "amount", "bytes")])


@dataclass(frozen=True)
class Archetype:
    """A way of life: what people of a kind have in common."""

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
    """A resident, and the resident's habits over time."""

    archetype: str
    arrival: float  # seconds since START
    eras: tuple[tuple[float, Person], ...]  # from when, and the habits

    def at(self, time: float) -> Person:
        """The habits at a time; before the first era, the first."""
        return [person for start, person in self.eras if start <= max(time, self.arrival)][-1]


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
        """A network that nobody has been on."""
        self.country.append(country)
        return len(self.country) - 1

    def device(self, kind: str) -> int:
        """A device that nobody has used: a pc, a phone or a client."""
        self.browser.append(str(self.rng.choice(BROWSERS[kind])))
        return len(self.browser) - 1

    def odd_place(self, country: int) -> int:
        """A network that anybody in a country may be on for once."""
        return int(self.rng.choice(self.guest[country] + self.mobile[country] + self.hosting[::4]))


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
    company = int(rng.integers(COMPANIES)) if ARCHETYPES[style].works else -1
    country = 0 if company >= 0 or rng.random() < HOME_SHARE else int(rng.integers(len(COUNTRIES)))
    shared = len(world.homes[country]) > 0 and rng.random() < 0.4  # a household has one network
    home = int(rng.choice(world.homes[country])) if shared else world.network(country)
    world.homes[country].append(home)
    person = draw(world, style, country, company, home)
    arrival = float(rng.uniform(0.3, 0.95) * end) if archetype == "new" else 0.0
    eras = [(arrival, person)]
    for time in np.sort(rng.uniform(arrival, end, rng.poisson(DRIFTS * person.restless))):
        eras.append((float(time), changed(world, eras[-1][1])))
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
    first = np.array([account.arrival] if account.arrival else [])  # who arrives signs up
    return np.concatenate([visits(world, account.eras[0][1], first), *parts])


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
    row, nth = np.nonzero(np.arange(action.shape[1]) < length[:, None])
    log = np.zeros(len(row), EVENT)
    log["time"], log["visit"] = start[row] + np.cumsum(pause, axis=1)[row, nth], start[row]
    log["action"], log["takeover"] = action[row, nth], -1
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
