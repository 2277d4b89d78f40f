"""Evidence → reasons that add up: what people read of a verdict, and the one gate that makes foreign text harmless.

A channel is named like the facet it watches (`device`, `amount`, `hour`), with a prefix or a suffix for a special look at it
(`novelty:device`, `amount:extreme`), or is one of `WORDS`; what values lie in is a facet of its own (`path:parent`). Nothing here
knows which facets there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import cast

from detector.records import Verdict

Detail = Mapping[str, object]
Details = Mapping[str, Detail]  # channel -> what was seen in the session and what is usual for the account

HUNDREDTHS = 100  # nats are shown with two decimals
THOUSANDTHS = 1000  # shares are shown with three
MOST_REASONS = 12  # nobody reads more, and a log may have a hundred attributes
NAME_LIMIT, VALUE_LIMIT, VALUES_SHOWN = 40, 60, 3  # characters, characters, values

# channel -> (id, title) when it speaks against the owner, (id, title) when it speaks for the owner
WORDS = {
    "belief": (
        ("earlier_sessions", "earlier sessions already suspicious"),
        ("strange_for_long", "strange for so long that it is rather the owner"),
    ),
    "embedding": (
        ("sessions_unlike_remembered", "unlike the remembered sessions"),
        ("sessions_like_remembered", "like the remembered sessions"),
    ),
    "long_term": (
        ("session_unlike_long_term", "unlike the account in the long term"),
        ("session_like_long_term", "like the account in the long term"),
    ),
    "numbers": (
        ("numbers_unlike_account", "numbers together unlike the account"),
        ("numbers_like_account", "numbers together like the account"),
    ),
    "outlier": (("unusual_combination", "unusual combination of deviations"), ("usual_combination", "no unusual combination")),
    "prior": (("prior", "takeovers are frequent"), ("prior", "takeovers are rare")),
    "peers": (("more_like_others", "more like other accounts"), ("more_like_itself", "more like itself than others")),
    "other": (("other_evidence", "other evidence together"), ("other_evidence", "other evidence together")),
    "remainder": (("remainder", "what no single channel accounts for"), ("remainder", "what no single channel accounts for")),
}
# kind of look -> (id, title) against, (id, title) for; {} is the facet's name
LOOKS = {
    "": (("unusual_{}", "{} unusual"), ("usual_{}", "{} as usual")),
    "novelty": (("new_{}", "{} never seen before"), ("known_{}", "{} seen before")),
    "extreme": (("extreme_{}", "{} extreme"), ("moderate_{}", "{} not extreme")),
    "above": (("{}_above_usual", "{} above the usual"), ("usual_{}", "{} as usual")),
    "below": (("{}_below_usual", "{} below the usual"), ("usual_{}", "{} as usual")),
    "extreme above": (("{}_far_above_usual", "{} far above the usual"), ("moderate_{}", "{} not extreme")),
    "extreme below": (("{}_far_below_usual", "{} far below the usual"), ("moderate_{}", "{} not extreme")),
}
NAMES = {"hour": "hour of the day", "hour_of_week": "hour of the week", "pair": "order of actions", "volume": "number of events"}


def harmless(text: str, limit: int) -> str:
    """`text` in at most `limit` (≥ 1) characters that cannot steer a terminal, reorder a line or forge one.

    What is not printable (control characters, bidi marks, line separators, surrogates, invisible spaces) is written as an escape;
    a cut is marked by an ellipsis. Applying it twice changes nothing. Reads no more of the text than it shows.
    """
    shown = [c if c.isprintable() else _escape(c) for c in text[: limit + 1]]
    if sum(map(len, shown)) <= limit:
        return "".join(shown)
    ends = accumulate(map(len, shown))
    return "".join(piece for piece, end in zip(shown, ends, strict=True) if end < limit) + "…"


def explain(verdict: Verdict, details: Details | None = None, most: int = MOST_REASONS) -> tuple[Mapping[str, object], ...]:
    """Reasons, the strongest against the owner first: mappings of id, channel, title, text, nats and share.

    The nats (multiples of 0.01) add up to `shown_score` of the verdict's score; where the evidence itself does not, a reason
    "remainder" says so. The shares (multiples of 0.001) are of all that speaks against the owner and add up to 1 where anything
    does; what speaks for the owner has share 0. Beyond `most` reasons, the weakest are put together as "other". Channels that show
    0.00 are left out.

    `details`, per facet where known, as `detector.describing.told` gives them: text has `seen` (value, count), `values`, `usual`
    (value, count, second last seen) and, of the first value, `last_seen`, `peers` and `everyone`; a number `seen`, `usual_mean`,
    `usual_sd`.

    Raises ValueError if score or evidence is not finite.
    """
    parts = dict(sorted(verdict.evidence.items()))
    if not all(map(math.isfinite, (verdict.score, *parts.values()))):
        raise ValueError(f"verdict on {verdict.user!r}: expected finite score and evidence, got {verdict.score} and {parts}")
    residual = verdict.score - math.fsum(parts.values())
    if abs(residual) * HUNDREDTHS >= 0.5:
        parts["remainder"] = parts.get("remainder", 0.0) + residual
    nats = {channel: n for channel, n in zip(parts, apportion([*parts.values()], verdict.score, HUNDREDTHS), strict=True) if n}
    strongest = sorted(nats, key=lambda channel: (channel != "remainder", -abs(nats[channel]), channel))  # a gap is never hidden
    if len(strongest) > most:
        rest = sum(nats.pop(channel) for channel in strongest[most - 1 :])
        nats |= {"other": rest + nats.get("other", 0)} if rest else {}
    against = sum(n for n in nats.values() if n > 0)
    shares = apportion([max(n, 0) / against for n in nats.values()], 1.0, THOUSANDTHS) if against else [0] * len(nats)
    reasons = [_reason(channel, nats[channel], share, details or {}) for channel, share in zip(nats, shares, strict=True)]
    return tuple(sorted(reasons, key=lambda reason: (-nats_of(reason), str(reason["channel"]))))


def shown_score(score: float) -> float:
    """The score as people see it, which is what the reasons add up to: a multiple of 0.01 nats."""
    return round(score * HUNDREDTHS) / HUNDREDTHS


def summary(reasons: Iterable[Mapping[str, object]], most: int = 3) -> str:
    """One line for lists, the strongest against the owner first: "device never seen before (+4.2), hour unusual (+1.3)".

    The weakest together come last, however much they are: they say nothing by name.
    """
    accusing = sorted((reason for reason in reasons if nats_of(reason) > 0), key=lambda reason: reason["channel"] == "other")[:most]
    return ", ".join(f"{reason['title']} ({nats_of(reason):+.1f})" for reason in accusing) or "nothing stands out"


def nats_of(reason: Mapping[str, object]) -> float:
    """The contribution of a reason to the score."""
    return cast(float, reason["nats"])


def apportion(parts: Sequence[float], total: float, steps: int) -> list[int]:
    """Whole numbers near `parts · steps` that add up to round(total · steps) exactly: the largest remainders are rounded up."""
    if not parts:
        return []
    floors = [math.floor(part * steps) for part in parts]
    order = sorted(range(len(parts)), key=lambda i: floors[i] - parts[i] * steps)
    each, further = divmod(round(total * steps) - sum(floors), len(parts))
    for rank, i in enumerate(order):
        floors[i] += each + (rank < further)
    return floors


def _reason(channel: str, nats: int, share: int, details: Details) -> Mapping[str, object]:
    look, name = _look_and_name(channel)
    detail = details.get(channel, details.get(name, {}))
    if look == "" and "last_seen" in detail and detail["last_seen"] is None and nats > 0:
        look = "novelty"
    elif look in ("", "extreme") and "usual_mean" in detail:
        look = f"{look} {'above' if cast(float, detail['seen']) >= cast(float, detail['usual_mean']) else 'below'}".strip()
    identifier, title = (WORDS.get(channel) or LOOKS[look])[0 if nats > 0 else 1]
    title = title.format(harmless(NAMES.get(name, _plain(name)), NAME_LIMIT))
    return {
        "id": identifier.format(_identifier(name)),
        "channel": harmless(channel, NAME_LIMIT),
        "title": title,
        "text": title + _seen(detail, look == "novelty") + _usual(detail),
        "nats": nats / HUNDREDTHS,
        "share": share / THOUSANDTHS,
    }


def channel_facet(channel: str) -> str:
    """The facet that a channel looks at."""
    return _look_and_name(channel)[1]


def _look_and_name(channel: str) -> tuple[str, str]:
    """`novelty:device` and `amount:extreme` → the look and the facet; anything else is a facet, looked at plainly."""
    before, _, after = channel.partition(":")
    if before == "novelty" and after:
        return before, after
    name, _, suffix = channel.rpartition(":")
    return (suffix, name) if suffix == "extreme" and name else ("", channel)


def _plain(name: str) -> str:
    inside, _, above = name.replace("_", " ").rpartition(":")
    return f"parent of {inside}" if inside and above == "parent" else name.replace("_", " ")


def _identifier(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name[:NAME_LIMIT].lower())


def _seen(detail: Detail, new: bool) -> str:
    if "seen" not in detail:
        return ""
    if not isinstance(detail["seen"], list | tuple):
        return f": {_value(detail['seen'])}"
    total = int(str(detail.get("new" if new else "values", detail.get("values", len(detail["seen"])))))
    values = [_value(value) for value, _ in detail["seen"][: min(VALUES_SHOWN, total)]]
    return f": {_listed(values, total)}"


def _usual(detail: Detail) -> str:
    said = ""
    usual = detail.get("usual")
    if isinstance(usual, list | tuple) and usual:
        said += (
            f"; usually {_listed([f'{_value(value)} ({_value(count)})' for value, count, *_ in usual[:VALUES_SHOWN]], len(usual))}"
        )
    if "usual_mean" in detail:
        said += f"; usually {_value(detail['usual_mean'])}" + (f" ± {_value(detail['usual_sd'])}" if "usual_sd" in detail else "")
    last_seen = detail.get("last_seen")
    if isinstance(last_seen, int | float):
        said += f"; last seen {datetime.fromtimestamp(last_seen, UTC):%Y-%m-%d}"
    does = {"peers": "peers do", "everyone": "everyone does"}
    shares = [f"{_share(detail[who])} of what {words}" for who, words in does.items() if who in detail]
    if shares:
        said += f"; {', '.join(shares)}"
    return said


def _share(share: object) -> str:
    percent = 100 * cast(float, share)
    return f"{percent:.2g} %" if percent >= 0.01 else "under 0.01 %"


def _listed(shown: list[str], total: int) -> str:
    return ", ".join(shown) + (f" and {total - len(shown)} more" if total > len(shown) else "")


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else f'"{harmless(str(value), VALUE_LIMIT)}"'


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
