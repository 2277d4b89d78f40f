"""A small log for tests: people with habits, one session or two a day. Not the demo's town: small enough to train on in seconds."""

from __future__ import annotations

import numpy as np

from detector.records import Batch

START = 1_767_225_600.0  # 2026-01-01T00:00:00Z, a Thursday
DAY = 86400.0


def batch_of(rows: list[dict[str, object]]) -> Batch:
    """A batch from rows with time (seconds), user, and whatever else; in the given order."""
    names = sorted({"action", *(k for r in rows for k in r)} - {"time", "user", "session", "id"})

    def column(name: str, default: object = None) -> np.ndarray:
        out = np.empty(len(rows), object)
        out[:] = [r.get(name, default) for r in rows]
        return out

    attributes = {n: column(n, "event" if n == "action" else None) for n in names}
    position = np.array([f"log:{i}" for i in range(len(rows))], object)
    return Batch(
        np.array([float(str(r["time"])) for r in rows]), column("user"), column("session"), attributes, column("id"), position
    )


def part(batch: Batch, rows: slice | np.ndarray) -> Batch:
    """Some events of a batch."""
    columns = {n: c[rows] for n, c in batch.attributes.items()}
    return Batch(batch.time[rows], batch.user[rows], batch.session[rows], columns, batch.event_id[rows], batch.position[rows])


def rows_of_people(accounts: int = 14, days: int = 40, seed: int = 0) -> list[dict[str, object]]:
    """Events in order of time: each person has devices, pages, hours and amounts of their own, the same for any number of days."""
    rows: list[dict[str, object]] = []
    for a in range(accounts):
        rng = np.random.default_rng([seed, a])
        pages = rng.choice(60, 8, replace=False)
        hour, amount = rng.uniform(6, 20), rng.uniform(5, 80)
        for day in range(days):
            for _ in range(int(rng.integers(1, 3))):
                moment = START + day * DAY + (hour + rng.normal(0, 1)) * 3600
                device = f"pc-{a}" if rng.random() < 0.9 else f"phone-{a}"
                for _ in range(int(rng.integers(2, 8))):
                    page = int(rng.choice(pages)) if rng.random() < 0.9 else int(rng.integers(60))
                    action = str(rng.choice(["view", "edit", "pay"], p=[0.6, 0.3, 0.1]))
                    row: dict[str, object] = {"time": round(moment, 3), "user": f"u{a:02d}", "action": action}
                    row |= {"device": device, "page": f"p{page}", "amount": round(float(rng.lognormal(np.log(amount), 0.3)), 2)}
                    rows.append(row)
                    moment += float(rng.exponential(60)) + 1
    return sorted(rows, key=lambda r: (float(str(r["time"])), str(r["user"])))


def stolen(rows: list[dict[str, object]], victim: str, thief: str, start: float) -> list[dict[str, object]]:
    """Twelve events of the thief's day, put into the victim's account at `start`."""
    theirs = [r for r in rows if r["user"] == thief][:12]
    return [r | {"user": victim, "time": start + 30.0 * i} for i, r in enumerate(theirs)]


def payments(accounts: int = 80, days: int = 80, seed: int = 0) -> tuple[list[dict[str, object]], set[tuple[str, float]]]:
    """Payments of cards, and user and time of thieves' ones, all in the last third of the time.

    Thieves pay more, at night, by other people's ways; home, job, age and zip code go with the card.
    """
    rows: list[dict[str, object]] = []
    stolen: set[tuple[str, float]] = set()
    for a in range(accounts):
        rng = np.random.default_rng([seed, a])
        ways, hour, usual = rng.dirichlet(np.ones(8)), rng.uniform(9, 20), rng.normal(3.5, 0.4)
        user: dict[str, object] = {"user": f"c{a:02d}", "home": f"town-{a % 60}", "job": f"j{a % 40}"}
        user |= {"age": 20.0 + a % 50, "zip": 1000.0 + a}
        made = [(day + rng.normal(hour, 3) / 24, usual, ways) for day in range(days) for _ in range(rng.poisson(1.2))]
        if a % 4 == 0:
            night = int(rng.integers(days * 2 // 3, days - 1)) + 1.0
            thefts = [(night + rng.uniform(0, 4) / 24, 5.5, np.ones(8) / 8) for _ in range(3)]
            stolen |= {(f"c{a:02d}", round(START + when * DAY, 3)) for when, _, _ in thefts}
            made += thefts
        for when, amount, way in made:
            what, paid = int(rng.choice(8, p=way)), round(float(np.exp(rng.normal(amount, 0.8))), 2)
            shop = f"s{what}-{rng.integers(30)}"
            rows.append({**user, "time": round(START + when * DAY, 3), "action": f"k{what}", "shop": shop, "amount": paid})
    return sorted(rows, key=lambda r: (float(str(r["time"])), str(r["user"]))), stolen


def movers(accounts: int = 60, days: int = 90, seed: int = 0) -> tuple[list[dict[str, object]], set[tuple[str, float]]]:
    """Work of people of whom every third changes for good some day, and user and time of thieves' events, in the last third.

    Who changes has another device, place and half of other work from then on. Thieves are there once, for one or two sessions.
    """
    rows: list[dict[str, object]] = []
    stolen: set[tuple[str, float]] = set()
    for a in range(accounts):
        rng = np.random.default_rng([seed, a])
        hour, usual = rng.uniform(8, 16), (f"d{a}", f"p{a % 20}", rng.dirichlet(np.full(30, 0.2)))
        other = (f"e{a}", f"p{(a + 7) % 20}", (usual[2] + rng.dirichlet(np.full(30, 0.2))) / 2)
        turn = float(rng.integers(10, days)) if a % 3 == 0 else np.inf
        made = [
            (day + rng.normal(hour, 2) / 24, usual if day < turn else other) for day in range(days) for _ in range(rng.poisson(1))
        ]
        if a % 4 == 1:
            day = int(rng.integers(days * 2 // 3, days - 1))
            thief = (f"t{a}", f"p{rng.integers(20)}", rng.dirichlet(np.full(30, 0.2)))
            thefts = [(day + k + rng.uniform(0, 1), thief) for k in range(int(rng.integers(1, 3)))]
            stolen |= {(f"u{a:02d}", round(START + when * DAY, 3)) for when, _ in thefts}
            made += thefts
        for when, (device, place, work) in made:
            for k, what in enumerate(rng.choice(30, rng.integers(3, 9), p=work).tolist()):
                row = {"user": f"u{a:02d}", "time": round(START + when * DAY + 40.0 * k, 3), "device": device, "place": place}
                rows.append({**row, "action": f"a{what}"})
    return sorted(rows, key=lambda r: (float(str(r["time"])), str(r["user"]))), stolen


def manners(accounts: int = 50, days: int = 66, seed: int = 0) -> tuple[list[dict[str, object]], set[tuple[str, float]]]:
    """A session a day of people who all do the same in the same ways, but each does what in ways of his own.

    And user and time of thieves' events: from day 54 on, some sessions are another account's.
    """
    rows: list[dict[str, object]] = []
    stolen: set[tuple[str, float]] = set()
    rng = np.random.default_rng(seed)
    ways = np.stack([rng.permutation(8) for _ in range(accounts)])
    for a in range(accounts):
        for day in range(days):
            theft = day >= 54 and rng.random() < 0.05
            whose = int(rng.choice(np.flatnonzero(np.arange(accounts) != a))) if theft else a
            when = day + rng.uniform(0.3, 0.7)
            for k, what in enumerate(rng.integers(0, 8, 6).tolist()):
                how = int(ways[whose, what]) if rng.random() < 0.8 else int(rng.integers(8))
                moment = round(START + when * DAY + 40.0 * k, 3)
                rows.append(
                    {"user": f"u{a:02d}", "time": moment, "action": f"a{what}", "how": f"h{how}", "free": f"f{rng.integers(4)}"}
                )
                stolen |= {(f"u{a:02d}", moment)} if theft else set()
    return sorted(rows, key=lambda r: (float(str(r["time"])), str(r["user"]))), stolen


def wards(accounts: int = 48, days: int = 70, seed: int = 0) -> tuple[list[dict[str, object]], set[tuple[str, float]]]:
    """A session a day of people of six wards, who mostly keep to their ward, to a desk that others have, too, and to some work.

    And user and time of thieves' events: from day 54 on, some sessions are at the owner's ward and desk, but are another's work.
    """
    rows: list[dict[str, object]] = []
    stolen: set[tuple[str, float]] = set()
    rng = np.random.default_rng(seed)
    work = rng.dirichlet(np.full(20, 0.4), accounts)
    home = [{"ward": f"w{a % 6}", "desk": f"d{a % 6}-{a // 12}", "sign": f"s{rng.integers(4)}"} for a in range(accounts)]
    for a in range(accounts):
        for day in range(days):
            theft = day >= 54 and rng.random() < 0.05
            whose = int(rng.choice(np.flatnonzero(np.arange(accounts) != a))) if theft else a
            where = dict(home[a]) if theft or rng.random() < 0.9 else dict(home[int(rng.integers(accounts))])
            when = day + rng.uniform(0.3, 0.7)
            for k, what in enumerate(rng.choice(20, 5, p=work[whose]).tolist()):
                moment = round(START + when * DAY + 40.0 * k, 3)
                rows.append({"user": f"u{a:02d}", "time": moment, "action": f"a{what}", **where})
                stolen |= {(f"u{a:02d}", moment)} if theft else set()
    return sorted(rows, key=lambda r: (float(str(r["time"])), str(r["user"]))), stolen


def typists(accounts: int = 40, days: int = 66, seed: int = 0) -> tuple[list[dict[str, object]], set[tuple[str, float]]]:
    """A session a day of people who type the same, and user and time of thieves' events: from day 54 on, some are another's.

    How fast anybody types differs more from day to day than people differ; by how the times between keys (seconds, with long
    ones among them) go together they are known.
    """
    rows: list[dict[str, object]] = []
    stolen: set[tuple[str, float]] = set()
    rng = np.random.default_rng(seed)
    habits = rng.normal(-2.0, 0.25, (accounts, 8))
    for a in range(accounts):
        for day in range(days):
            theft = day >= 54 and rng.random() < 0.05
            whose = int(rng.choice(np.flatnonzero(np.arange(accounts) != a))) if theft else a
            when, tempo = day + rng.uniform(0.3, 0.7), rng.normal(0, 0.4)
            for k in range(3):
                times = np.exp(habits[whose] + tempo + rng.normal(0, 0.15, 8)) + (rng.random(8) < 0.004) * rng.exponential(0.5, 8)
                moment = round(START + when * DAY + 10.0 * k, 3)
                row: dict[str, object] = {"user": f"u{a:02d}", "time": moment, "action": "type"}
                rows.append({**row, **{f"key{i}": round(float(t), 4) for i, t in enumerate(times)}})
                stolen |= {(f"u{a:02d}", moment)} if theft else set()
    return sorted(rows, key=lambda r: (float(str(r["time"])), str(r["user"]))), stolen


def shoppers(accounts: int = 60, days: int = 80, seed: int = 0) -> tuple[list[dict[str, object]], set[tuple[str, float]]]:
    """Visits to a shop by people of whom every second has another device for good some day, every fifth visit a purchase.

    And user and time of thieves' events, in the last third: from a device of their own or the owner's they change the address and
    the way of paying, which anybody does now and then, and buy at an hour and of a kind of their own.
    """
    rows: list[dict[str, object]] = []
    stolen: set[tuple[str, float]] = set()
    rng = np.random.default_rng(seed)
    kinds = rng.dirichlet(np.full(20, 0.4), accounts)
    for a in range(accounts):
        hour, turn = rng.uniform(9, 21), float(rng.integers(5, days)) if a % 2 else np.inf
        visits = [(day + rng.normal(hour, 2) / 24, False) for day in range(days) for _ in range(rng.poisson(0.9))]
        if a % 3 == 0:
            first = rng.integers(days * 2 // 3, days - 2) + rng.uniform(0, 1)
            visits += [(first + 0.3 * k, True) for k in range(int(rng.integers(1, 3)))]
        for when, theft in visits:
            device = f"d{a}{'b' if when > turn else ''}" if not theft or rng.random() < 0.5 else f"t{a}"
            tastes = kinds[int(rng.integers(accounts))] if theft else kinds[a]
            row: dict[str, object] = {
                "user": f"u{a:02d}",
                "device": device,
                "town": f"o{a % 25}" if rng.random() < 0.97 else "away",
            }
            steps: list[dict[str, object]] = [
                {"action": "view", "kind": f"k{k}"} for k in rng.choice(20, rng.integers(2, 7), p=tastes)
            ]
            if theft or rng.random() < 0.2:
                moved, other = theft or rng.random() < 0.06, theft or rng.random() < 0.06
                steps += [{"action": "address", "ship": f"x{rng.integers(10**6)}"}] if moved else []
                steps += [{"action": "pay", "by": f"b{(a + (1 + rng.integers(5) if other else 0)) % 6}"}]
            for k, step in enumerate(steps):
                moment = round(START + when * DAY + 40.0 * k, 3)
                rows.append({**row, "time": moment, **step})
                stolen |= {(f"u{a:02d}", moment)} if theft else set()
    return sorted(rows, key=lambda r: (float(str(r["time"])), str(r["user"]))), stolen


def updaters(accounts: int = 50, days: int = 66, seed: int = 0) -> tuple[list[dict[str, object]], set[tuple[str, float]]]:
    """A session a day of people who do much the same, each with his browser, which gets another version every twenty days or so.

    And user and time of thieves' events: from day 54 on, some sessions are another account's, from his browser.
    """
    rows: list[dict[str, object]] = []
    stolen: set[tuple[str, float]] = set()
    rng = np.random.default_rng(seed)
    browser, system, late = (
        rng.choice(5, accounts, p=(0.4, 0.2, 0.2, 0.1, 0.1)),
        rng.integers(0, 4, accounts),
        rng.exponential(3, accounts),
    )
    habits = rng.dirichlet(np.full(12, 2.0), accounts)
    for a in range(accounts):
        for day in range(days):
            theft = day >= 54 and rng.random() < 0.05
            whose = int(rng.choice(np.flatnonzero(np.arange(accounts) != a))) if theft else a
            version = 100 + int(max(day - late[whose], 0) + 4 * browser[whose]) // 20
            kind = (browser[whose], system[whose]) if rng.random() < 0.98 else (rng.integers(5), rng.integers(4))
            agent = f"Browser{'ABCDE'[kind[0]]}/{version}.0 (System {'PQRS'[kind[1]]})"
            when = day + rng.uniform(0.3, 0.7)
            for k, what in enumerate(rng.choice(12, 6, p=habits[whose]).tolist()):
                moment = round(START + when * DAY + 40.0 * k, 3)
                rows.append({"user": f"u{a:02d}", "time": moment, "action": f"a{what}", "agent": agent})
                stolen |= {(f"u{a:02d}", moment)} if theft else set()
    return sorted(rows, key=lambda r: (float(str(r["time"])), str(r["user"]))), stolen
