"""What a session showed beside what is usual, by facet, for people: against the account's own past, its peers and everyone.

Axes: T tokens, K remembered values, F text facets, N numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from detector import facets, scoring
from detector.calibration import Watch
from detector.evidence import base_share, peer_weights
from detector.guidance import Allowance, without
from detector.pack import Pack
from detector.profiles import Profiles, lookup
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
            seen, middle, above = facets.unscaled(np.array([farthest, mean, mean + deviation]), pack.facets.log_scale[n])
            out[name] = {"seen": float(seen), "usual_mean": float(middle), "usual_sd": float(above - middle)}
    return out


def usual(profile: Profiles, facet: int, pack: Pack) -> Iterator[tuple[str, float, float]]:
    """(value, damped count, second last seen) of a (1) profile's facet, the heaviest first; values without a name left out."""
    held = np.flatnonzero((profile.facet[0] == facet) & (profile.weight[0] > 0))
    for k in held[np.argsort(-profile.weight[0, held], kind="stable")]:
        text = text_of(pack, profile.key[0, k])
        if text is not None:
            yield text, round(float(profile.weight[0, k]), 2), float(profile.seen[0, k]) * DAY


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
            middle, above = facets.unscaled(np.array([mean, mean + deviation]), pack.facets.log_scale[n])
            numbers.append({"facet": name, "mean": float(middle), "sd": float(above - middle), "count": round(count, 1)})
    return text, numbers


def text_of(pack: Pack, key: np.uint32) -> str | None:
    """The text of a value that the vocabulary knows; None of another."""
    known = pack.population.vocabulary
    at = int(np.searchsorted(known, key))
    if at < len(known) and known[at] == key:
        return bytes(pack.population.vocabulary_text[at]).decode("utf-8", "replace")
    return None


def otherwise(
    names: list[str], table: Sessions, profile: Profiles, pack: Pack, watch: Watch, limit: float, unfinished: bool
) -> list[dict[str, object]]:
    """What the (1) session would have been judged without each of these facets, and without all of them: by scoring it again."""
    out: list[dict[str, object]] = []
    for some in [*([name] for name in names), *([names] if len(names) > 1 else [])]:
        pared = table
        for name in some:
            pared = without(pared, pack.facets, np.ones(1, bool), Allowance(name))
        score, p = scoring.again(pared, profile, pack, watch, unfinished)
        out.append({"without": some, "score": score, "p": p, "alarms": p <= limit})
    return out
