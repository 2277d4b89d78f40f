"""TOML file and environment → frozen settings. Strict: an unknown key is an error naming file and key.

Every key has a default, a unit in its value, and a reason beside it. An environment variable `UNLIKE_SECTION__KEY` overrides the
file; `--set section.key=value` overrides both.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from detector.errors import SettingsError

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class Duration(float):
    """Seconds, written as a number with a unit: `30m`, `2h`, `24h`, `1.5d`."""


def duration(text: str) -> Duration:
    """Seconds from text such as `90s`, `30m`, `2h` or `7d`; raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*", text)
    if not match:
        raise ValueError(f"expected a duration such as 30m, 2h or 7d, got {text!r}")
    return Duration(float(match[1]) * UNITS[match[2]])


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: unknown keys are refused."""


class StateSettings(Section, frozen=True):
    """Where the daemon remembers."""

    folder: str = "unlike-state"  # everything the daemon remembers lives here


class SourceSettings(Section, frozen=True):
    """Where events come from."""

    kind: Literal["file", "folder", "stdin"] = "file"
    path: str = ""
    name: str = ""  # how positions and quarantine call it; the path where it is empty
    fields: dict[str, str] = {}  # ours = theirs: {user = "client.user.id"}; a dot enters a nested object
    constants: dict[str, str] = {}  # ours = value, for fields that the log lacks
    format: Literal["auto", "jsonl", "csv", "parquet"] = "auto"


class EventSettings(Section, frozen=True):
    """Which events are taken."""

    lateness: Duration = Duration(600)  # shippers deliver out of order; what is later than this goes to quarantine
    future: Duration = Duration(300)  # clocks differ; what is further ahead than this goes to quarantine
    max_line_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 1 << 20  # longer lines are refused, not loaded
    max_attributes: Annotated[int, msgspec.Meta(ge=1)] = 128  # more on one event is a broken producer


class SessionSettings(Section, frozen=True):
    """What ends a session."""

    gap: Duration = Duration(1800)  # silence that ends a session without a name; 30 min is the web's convention
    named_gap: Duration = Duration(7200)  # silence after which a named session is taken to be over


class CycleSettings(Section, frozen=True):
    """How often, and how much at once."""

    every: Duration = Duration(1)  # a verdict waits at most this long
    batch_events: Annotated[int, msgspec.Meta(ge=1)] = 20_000  # memory is bounded by this
    hangs_after: Duration = Duration(300)  # a batch that takes longer hangs: it is counted, and /healthz says so


class TrainingSettings(Section, frozen=True):
    """When a pack is trained, and on how much."""

    every: Duration = Duration(86400)  # how often the schedule looks whether training is due; 0s: never
    growth: Annotated[float, msgspec.Meta(ge=0)] = 0.5  # due when sessions have grown by this share since the last pack
    min_sessions: Annotated[int, msgspec.Meta(ge=1)] = 300  # less teaches an encoder nothing
    min_accounts: Annotated[int, msgspec.Meta(ge=2)] = 5  # "somebody else" needs others
    max_sessions: Annotated[int, msgspec.Meta(ge=100)] = 60_000  # the newest, or of a sample of accounts; bounds time
    max_events: Annotated[int, msgspec.Meta(ge=1000)] = 10_000_000  # more are thinned to a sample of accounts; bounds memory


class HistorySettings(Section, frozen=True):
    """What is kept, and for how long."""

    keep: Duration = Duration(180 * 86400)  # long enough for monthly habits, short enough for a data protection officer
    keep_verdicts: Duration = Duration(90 * 86400)
    keep_quarantine: Duration = Duration(30 * 86400)
    keep_incidents: Duration = Duration(730 * 86400)  # after they closed; their alerts, the audit and dead letters too


class AlertSettings(Section, frozen=True):
    """How many alerts, and where they go."""

    per_day: Annotated[float, msgspec.Meta(gt=0)] = 5.0  # what a small team can look at
    per_1000_accounts_a_day: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # where above 0, instead of per_day
    file: str = "alerts.jsonl"  # in the state folder unless absolute
    log: bool = True  # one log line per alert
    max_attempts: Annotated[int, msgspec.Meta(ge=1)] = 12  # then it is a dead letter
    retry_after: Duration = Duration(2)  # doubles at each attempt
    retry_at_most: Duration = Duration(900)


class IncidentSettings(Section, frozen=True):
    """The life of an incident. Times are of the event clock."""

    cooldown: Duration = Duration(86400)  # after one has closed, alarms of its account are only counted
    expire: Duration = Duration(7 * 86400)  # an open one without a further alarm; a spell of trouble for the alert budget
    freeze: Duration = Duration(86400)  # after a confirmation the account learns nothing: the thief may still be there
    undo: Duration = Duration(30 * 86400)  # so long after closing an account can be learnt again exactly as it was


class ImpactSettings(Section, frozen=True):
    """What is at stake: the priority of an incident is multiplied by these weights."""

    weights: dict[str, float] = {}  # "attribute=value" -> weight, of an event of the session
    lists: dict[str, float] = {}  # file with an account a line -> weight
    sensitive: dict[str, float] = {}  # action -> weight
    chain: tuple[tuple[str, ...], ...] = ()  # actions by step of a takeover: credential, recovery, payee, export
    chain_weight: Annotated[float, msgspec.Meta(ge=1)] = 2.0  # for each further step in order

    @staticmethod
    def read(path: str) -> list[str]:
        """The accounts of a list; raises SettingsError."""
        try:
            return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"impact.lists: {path}: cannot be read: {error}; expected a text file with an account a line"
            ) from error


class ReviewSettings(Section, frozen=True):
    """The review page and its API."""

    listen: str = "127.0.0.1:8737"  # loopback unless told otherwise; empty: no page
    url: str = ""  # how people reach it: for links in messages, and for the check of where a request comes from
    sign_in: Literal["token", "proxy"] = "token"  # proxy: a reverse proxy signs people in and names them in a header
    session: Duration = Duration(12 * 3600)  # a working day; then one signs in again
    proxy_header: str = ""  # such as X-Forwarded-User; taken only from the addresses below
    proxy_from: tuple[str, ...] = ()  # addresses of the proxy
    proxy_roles: dict[str, str] = {}  # name, or * for everybody else -> viewer, analyst or admin
    allow_remote: bool = False  # listening off loopback needs this and an https url


class NotifySettings(Section, frozen=True):
    """A way out for messages, besides alerts.file and alerts.log."""

    kind: Literal["webhook", "alertmanager", "apprise", "syslog", "ocsf", "ecs"] = "webhook"
    name: str = ""  # of the sink, in metrics and the outbox; the kind where it is empty
    url: str = ""  # where to: https://…, udp://host:port, an apprise address, or the path of a file
    secret_file: str = ""  # webhook: signs with what is in it; apprise: the whole address is in it
    min_severity: Literal["low", "medium", "high", "critical"] = "low"
    messages: tuple[Literal["opened", "raised", "closed"], ...] = ("opened", "raised", "closed")
    timeout: Duration = Duration(10)  # a receiver that takes longer holds up the others


class MetricsSettings(Section, frozen=True):
    """Where metrics are served."""

    listen: str = "127.0.0.1:9464"  # loopback unless told otherwise; empty: no server
    ready_after: Duration = Duration(60)  # /readyz says no when the last good cycle is older


class LogSettings(Section, frozen=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"  # auto: console on a terminal, JSON otherwise


class Settings(Section, frozen=True):
    """All of it."""

    state: StateSettings = StateSettings()
    source: tuple[SourceSettings, ...] = ()
    events: EventSettings = EventSettings()
    attributes: dict[str, Literal["text", "number", "ignored"]] = {}  # kinds; what is not named is found out
    session: SessionSettings = SessionSettings()
    cycle: CycleSettings = CycleSettings()
    training: TrainingSettings = TrainingSettings()
    history: HistorySettings = HistorySettings()
    alerts: AlertSettings = AlertSettings()
    notify: tuple[NotifySettings, ...] = ()
    incidents: IncidentSettings = IncidentSettings()
    impact: ImpactSettings = ImpactSettings()
    review: ReviewSettings = ReviewSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    seed: int = 0  # same events, same seed: same verdicts


def load(path: str | Path | None = None, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from a TOML file (none: defaults), then environment, then `section.key=value` overrides; raises SettingsError."""
    tree: dict[str, Any] = {}
    where = str(path) if path else "settings"
    if path is not None:
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{where}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{where}: not a TOML file: {error}") from error
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith("UNLIKE_"):
            put(tree, name.removeprefix("UNLIKE_").lower().split("__"), value, f"environment variable {name}")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override}: expected section.key=value")
        put(tree, key.strip().split("."), value.strip(), f"--set {override}")
    try:
        return msgspec.convert(tree, Settings, dec_hook=_decode, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {error}") from error


def put(tree: dict[str, Any], keys: Sequence[str], value: str, where: str) -> None:
    """Set one leaf of the settings tree; the value is text, converted by the section's types."""
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{where}: {key} is a value, not a section")
    tree[keys[-1]] = value


def _decode(kind: type, value: object) -> object:
    if kind is Duration:
        if not isinstance(value, str):
            raise ValueError(f"expected a duration with its unit, such as '30m' or '2h', got {value!r}")
        return duration(value)
    raise TypeError(f"no rule to decode {kind}")


def written(value: object) -> str:
    """A default as TOML writes it."""
    if isinstance(value, Duration):
        unit = max((u for u in UNITS if u != "w" and value % UNITS[u] == 0), key=UNITS.__getitem__) if value else "s"
        return f'"{value / UNITS[unit]:g}{unit}"'
    return msgspec.json.encode(value).decode()


def settings_table() -> str:
    """Markdown: every key with its default, for README."""
    rows = ["| key | default |", "|---|---|", *(f"| `{key}` | `{written(value)}` |" for key, value in all_settings())]
    return "\n".join(rows)


def all_settings() -> list[tuple[str, object]]:
    """Every key with its default, blocks that repeat (`[[source]]`, `[[notify]]`) once."""
    out: list[tuple[str, object]] = []
    for section in msgspec.structs.fields(Settings):
        blocks = {"source": SourceSettings(), "notify": NotifySettings()}
        default = blocks.get(section.name, getattr(Settings(), section.name))
        if isinstance(default, Section):
            out += [(f"{section.name}.{f.name}", getattr(default, f.name)) for f in msgspec.structs.fields(type(default))]
        else:
            out.append((section.name, default))
    return out
