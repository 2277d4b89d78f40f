"""What a session showed beside what is usual, by facet, for people: against the account's own past, its peers and everyone.

Axes: T tokens, K remembered values, F text facets, N numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from detector import facets, scoring, sessions
from detector.evidence import base_share, peer_weights
from detector.guidance import Allowance, without
from detector.pack import Pack
from detector.profiles import Profiles, concat, lookup, take
from detector.scoring import Alarming
from detector.sessions import Sessions

HIDDEN = ("pair",)  # its values are mixtures that nobody can read
DAY = 86400.0
MOST = 5  # values


def told(table: Sessions, profile: Profiles, pack: Pack) -> dict[str, dict[str, object]]:
    """By facet: what the (1) session showed and what is usual for its (1) profile.

    text: `seen` [(value, count)], the strangest first, of `values` values, the first `new` of them never seen before; `usual`
    [(value, count, second last seen)], the heaviest first; for the strangest, `last_seen` (None: never) and its share of what
    `peers` and `everyone` do. number: `seen` the farthest, `usual_mean`, `usual_sd`, on the scale of the log.
    """
    out: dict[str, dict[str, object]] = {}
    counted, day = lookup(profile, table.row, table.key)
    weight, population = peer_weights(profile.affinity), pack.population
    peers, everyone = (base_share(table, weight, population, np.full(len(table.key), mix)) for mix in (0.0, 1.0))
    for f, name in enumerate(pack.facets.text):
        mine = np.flatnonzero(table.facet == f)
        if not len(mine) or name in HIDDEN:
            continue
        strange = mine[np.lexsort((-table.count[mine], counted[mine]))]
        first = strange[0]
        out[name] = {
            "seen": [(str(table.text[t]), float(table.count[t])) for t in strange[:MOST]],
            "values": len(mine),
            "new": int((counted[mine] == 0).sum()),
            "usual": list(islice(usual(profile, f, pack), MOST)),
            "last_seen": float(day[first]) * DAY if counted[first] > 0 else None,
            "peers": float(f"{peers[first]:.2g}"),
            "everyone": float(f"{everyone[first]:.2g}"),
        }
    for n, name in enumerate(pack.facets.number):
        known, mean, deviation = table.numbers[0, n], *spread(profile, n)
        if known[0] > 0 and profile.number[0, n, 0] > 0:
            farthest = known[4] if known[4] - mean >= mean - known[3] else known[3]
            seen, middle, above = facets.unscaled(np.array([farthest, mean, mean + deviation]), pack.facets.unit[n])
            out[name] = {"seen": float(seen), "usual_mean": float(middle), "usual_sd": float(above - middle)}
    return out


def usual(profile: Profiles, facet: int, pack: Pack) -> Iterator[tuple[str, float, float]]:
    """(value, damped count, second last seen) of a (1) profile's facet, the heaviest first; values without a name left out."""
    known = pack.population.vocabulary
    held = np.flatnonzero((profile.facet[0] == facet) & (profile.weight[0] > 0))
    if not len(held) or not len(known):
        return
    place = np.minimum(np.searchsorted(known, profile.key[0, held]), len(known) - 1)
    named = known[place] == profile.key[0, held]
    held, place = held[named], place[named]
    for k in np.argsort(-profile.weight[0, held], kind="stable"):
        text = bytes(pack.population.vocabulary_text[place[k]]).decode("utf-8", "replace")
        yield text, round(float(profile.weight[0, held[k]]), 2), float(profile.seen[0, held[k]]) * DAY


def spread(profile: Profiles, n: int) -> tuple[float, float]:
    """Mean and standard deviation of number n of a (1) profile, on its facet's scale."""
    count, total, squares = profile.number[0, n]
    mean = total / count if count > 0 else 0.0
    return float(mean), float(np.sqrt(max(squares / count - mean**2, 0.0))) if count > 0 else 0.0


def habits(profile: Profiles, pack: Pack) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Text habits and numbers of a (1) profile: facet and its values; facet, mean, deviation and count."""
    text: list[dict[str, object]] = []
    for f, name in enumerate(pack.facets.text):
        values = [] if name in HIDDEN else list(islice(usual(profile, f, pack), 3 * MOST))
        if values:
            text.append({"facet": name, "values": values})
    numbers: list[dict[str, object]] = []
    for n, name in enumerate(pack.facets.number):
        (mean, deviation), count = spread(profile, n), float(profile.number[0, n, 0])
        if count > 0:
            middle, above = facets.unscaled(np.array([mean, mean + deviation]), pack.facets.unit[n])
            numbers.append({"facet": name, "mean": float(middle), "sd": float(above - middle), "count": round(count, 1)})
    return text, numbers


def otherwise(names: Sequence[Sequence[str]], alarming: Sequence[Alarming], pack: Pack) -> list[tuple[dict[str, object], ...]]:
    """What each alarming session would have been judged without each of its `names` of facets, and without all of them.

    By scoring them again, all together: an account may raise hundreds of alarms in one cycle.
    """
    wanted = [[*([name] for name in some), *([list(some)] if len(some) > 1 else [])] for some in names]
    of = np.repeat(np.arange(len(wanted)), [len(some) for some in wanted])
    if not len(of):
        return [()] * len(wanted)
    spared = [some for each in wanted for some in each]
    table = sessions.take(sessions.concat([one.session for one in alarming]), of)
    for name in sorted({name for some in spared for name in some}):
        table = without(table, pack.facets, np.array([name in some for some in spared]), Allowance(name))
    profiles = take(concat([one.profile for one in alarming]), of)
    watches, unfinished = [alarming[i].watch for i in of.tolist()], np.array([alarming[i].open for i in of.tolist()])
    score, p = scoring.again(table, profiles, pack, watches, unfinished)
    out: list[list[dict[str, object]]] = [[] for _ in wanted]
    for i, some, s, x in zip(of.tolist(), spared, score.tolist(), p.tolist(), strict=True):
        out[i].append({"without": some, "score": s, "p": x, "alarms": x <= alarming[i].limit})
    return [tuple(each) for each in out]
