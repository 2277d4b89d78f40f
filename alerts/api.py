"""The JSON API under /api/v1: one table of operations makes the routes, the checks of what is sent, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from alerts.access import Gate, Person, may, person_of, refused, requires
from alerts.desk import Desk
from detector import __version__
from detector.errors import AnswerError, StoreError, UnknownError, UnlikeError

State = Literal["open", "acknowledged", "confirmed", "dismissed", "expired"]
Severity = Literal["low", "medium", "high", "critical"]
Text = Annotated[str, msgspec.Meta(max_length=1000)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
ID = "^[0-9a-f]{1,16}$"


class Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What comes in: unknown keys are refused."""


class Queue(Sent, frozen=True):
    """Which incidents; without a state, the open and acknowledged ones."""

    state: Literal["", "open", "acknowledged", "confirmed", "dismissed", "expired"] = ""
    user: Text = ""
    severity: Literal["", "low", "medium", "high", "critical"] = ""
    search: Text = ""
    limit: Limit = 100
    offset: Number = 0


class Search(Sent, frozen=True):
    """Which accounts."""

    search: Text = ""
    limit: Limit = 20


class Which(Sent, frozen=True):
    """Which account."""

    user: Text


class Some(Sent, frozen=True):
    """How many."""

    limit: Limit = 20


class Day(Sent, frozen=True):
    """A day of the event clock; the newest where none is named."""

    day: Annotated[str, msgspec.Meta(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = ""


class After(Sent, frozen=True):
    """Lines of the audit after a number."""

    after: Number = 0
    limit: Limit = 100


class Answer(Sent, frozen=True):
    """What a person says of an incident."""

    kind: Literal["acknowledge", "confirm", "dismiss", "mute"]
    as_: Literal["false_alarm", "expected"] = msgspec.field(default="false_alarm", name="as")
    scope: Literal["session", "value", "everyone"] = "session"
    facet: Text = ""
    value: Text = ""
    days: Annotated[float, msgspec.Meta(gt=0, lt=36500)] | None = None
    why: Text = ""


class Why(Sent, frozen=True):
    """The reason, for the audit."""

    why: Text = ""


class Opened(Sent, frozen=True):
    """Numbers of sessions that `similar` listed."""

    numbers: Annotated[list[Number], msgspec.Meta(min_length=1, max_length=100)]
    why: Text = ""


class Unmuted(Sent, frozen=True):
    """An account, and why."""

    user: Text
    why: Text = ""


class Linked(Sent, frozen=True):
    """Where a sign-in link leads."""

    incident: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{0,16}$")] = ""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An incident in a list."""

    id: str
    user: str
    state: State
    severity: Severity
    priority: float
    sessions: int
    opened: str
    updated: str
    closed: str | None
    summary: str
    verdict: dict[str, Any]
    reasons: list[dict[str, Any]]
    open: bool
    rules: list[str]
    linked: list[Any]
    shown_for: Literal["alarm", "similar"]


class Detail(Row, frozen=True, kw_only=True):
    """An incident with all that speaks for and against it."""

    alarms: list[dict[str, Any]]
    facets: list[dict[str, Any]]
    events: list[dict[str, Any]]
    events_total: int
    timeline: list[dict[str, Any]]
    map: list[dict[str, Any]]
    audit: list[dict[str, Any]]
    answers: list[dict[str, Any]]


class Rows(msgspec.Struct, frozen=True):
    """A page of incidents, and how many there are in all."""

    incidents: list[Row]
    total: int


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One account."""

    user: str
    history: int
    maturity: Literal["new", "young", "mature"]
    belief: float
    last: str | None
    muted: dict[str, Any] | None
    frozen_until: str | None
    habits: list[dict[str, Any]]
    numbers: list[dict[str, Any]]
    incidents: list[Row]
    timeline: list[dict[str, Any]]
    map: list[dict[str, Any]]


class Found(msgspec.Struct, frozen=True):
    """An account in a list."""

    user: str
    history: int
    belief: float


class Preview(msgspec.Struct, frozen=True):
    """What an answer would have silenced in the last 30 days."""

    incidents: int
    sessions: int
    confirmed: int
    examples: list[Row]
    since: str


class Alike(msgspec.Struct, frozen=True):
    """Sessions like an incident's; `elsewhere`: those that cannot be compared, since other packs judged them."""

    sessions: list[dict[str, Any]]
    elsewhere: int


class Muted(msgspec.Struct, frozen=True):
    """A muted account."""

    user: str
    until: str | None
    who: str
    why: str
    since: str


class Digest(msgspec.Struct, frozen=True):
    """A day."""

    day: str
    opened: int
    closed: int
    held_back: dict[str, int]
    answers: dict[str, int]
    incidents: list[Row]


class Audit(msgspec.Struct, frozen=True):
    """Lines of the audit; `whole`: the chain of all of them holds, else `broken` says where not."""

    entries: list[dict[str, Any]]
    whole: bool
    broken: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon is doing."""

    now: str
    accounts: int
    open_sessions: int
    store_bytes: int
    outbox: int
    dead_letters: int
    quarantine: dict[str, int]
    events: int
    verdicts: int
    budget_a_day: float
    alerts_a_day: float
    limit: float
    pack: dict[str, Any] | None
    drift: dict[str, Any] | None
    incidents: dict[str, int]
    precision: dict[str, dict[str, int]]
    event_clock: str | None


class Link(msgspec.Struct, frozen=True):
    """A sign-in link, good once and for five minutes."""

    path: str


class Done(msgspec.Struct, frozen=True):
    """It was done."""

    done: bool


class Problem(msgspec.Struct, frozen=True):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


@dataclass(frozen=True)
class Operation:
    """One thing that the API does."""

    method: str
    path: str
    role: str
    summary: str
    answers: Any  # type
    call: Callable[[Desk, Person, str, Any], Any]  # desk, who, id of the path, what was sent
    query: type[Sent] | None = None
    body: type[Sent] | None = None


def plain(sent: Sent) -> dict[str, Any]:
    """As the desk takes it."""
    told: dict[str, Any] = msgspec.to_builtins(sent)
    return told


def _queue(desk: Desk, _: Person, __: str, q: Queue) -> Any:
    states = (q.state,) if q.state else ("open", "acknowledged")
    return desk.queue(states, q.user, q.severity, q.search, q.limit, q.offset)


def _answer(desk: Desk, who: Person, id_: str, sent: Answer) -> Any:
    if wide(plain(sent)) and not may(who, "admin"):
        raise NotAllowedError("an answer for everyone, and a mute, need the role admin")
    return desk.answer(id_, plain(sent), who.name)


def wide(answer: Mapping[str, Any]) -> bool:
    """Whether an answer goes beyond one account's sessions, so that only an admin may give it."""
    return answer.get("kind") == "mute" or answer.get("scope") == "everyone"


def _unmute(desk: Desk, who: Person, _: str, sent: Unmuted) -> Any:
    desk.unmute(sent.user, who.name, sent.why)
    return {"done": True}


class NotAllowedError(UnlikeError):
    """The role is too small for what was sent."""


ONE = "/incidents/{id}"
OPERATIONS = (
    Operation("GET", "/incidents", "viewer", "The queue, highest priority first", Rows, _queue, Queue),
    Operation("GET", ONE, "viewer", "One incident", Detail, lambda d, w, i, s: d.incident(i)),
    Operation("POST", f"{ONE}/answer", "analyst", "Answer an incident", Detail, _answer, None, Answer),
    Operation(
        "POST",
        f"{ONE}/preview",
        "analyst",
        "What an answer would have silenced",
        Preview,
        lambda d, w, i, s: d.preview(i, plain(s)),
        None,
        Answer,
    ),
    Operation(
        "POST", f"{ONE}/undo", "analyst", "Take an answer back", Detail, lambda d, w, i, s: d.undo(i, w.name, s.why), None, Why
    ),
    Operation("GET", f"{ONE}/similar", "viewer", "Sessions like it", Alike, lambda d, w, i, s: d.similar(i, s.limit), Some),
    Operation(
        "POST",
        f"{ONE}/similar",
        "analyst",
        "Open incidents for such sessions",
        list[Row],
        lambda d, w, i, s: d.open_similar(i, s.numbers, w.name, s.why),
        None,
        Opened,
    ),
    Operation(
        "GET", "/accounts", "viewer", "Search accounts", list[Found], lambda d, w, i, s: d.accounts(s.search, s.limit), Search
    ),
    Operation("GET", "/account", "viewer", "One account", Account, lambda d, w, i, s: d.account(s.user), Which),
    Operation("GET", "/muted", "viewer", "Muted accounts", list[Muted], lambda d, w, i, s: d.muted()),
    Operation("POST", "/unmute", "admin", "Let an account's alarms through again", Done, _unmute, None, Unmuted),
    Operation("GET", "/status", "viewer", "How the daemon is doing", Status, lambda d, w, i, s: d.status()),
    Operation("GET", "/digest", "viewer", "A day, with what was held back", Digest, lambda d, w, i, s: d.digest(s.day), Day),
    Operation("GET", "/audit", "viewer", "Who did what", Audit, lambda d, w, i, s: d.audit(s.after, s.limit), After),
)


def routes(desk: Desk, gate: Gate) -> list[BaseRoute]:
    """The API over a desk."""

    def link(_: Desk, who: Person, __: str, sent: Linked) -> Any:
        place = f"/incidents/{sent.incident}" if sent.incident else "/"
        return {"path": f"/sign-in?code={gate.link(who.name)}&next={place}"}

    signing = Operation("POST", "/links", "admin", "A sign-in link", Link, link, None, Linked)
    operations = (*OPERATIONS, signing)
    document = openapi(operations)

    @requires("viewer")
    async def described(_: Request) -> Response:
        return JSONResponse(document)

    return [
        Route("/api/v1/openapi.json", described),
        *(Route(f"/api/v1{o.path}", endpoint(o, desk), methods=[o.method]) for o in operations),
    ]


def endpoint(operation: Operation, desk: Desk) -> Callable[[Request], Awaitable[Response]]:
    """The operation as a route's endpoint."""

    @requires(operation.role)
    async def run(request: Request) -> Response:
        id_ = request.path_params.get("id", "")
        if "id" in request.path_params and not (0 < len(id_) <= 16 and set(id_) <= set("0123456789abcdef")):
            return refused(request, 404, f"no incident {id_[:100]}")
        try:
            sent = await received(request, operation)
        except msgspec.DecodeError as error:
            return refused(request, 400, str(error))
        return await attempt(request, lambda: JSONResponse(operation.call(desk, person_of(request), id_, sent)))

    return run


async def received(request: Request, operation: Operation) -> Any:
    """What was sent, checked; raises msgspec.DecodeError."""
    if operation.body is not None:
        return msgspec.json.decode(await request.body(), type=operation.body)
    query = request.query_params
    repeated = [name for name in query if len(query.getlist(name)) > 1]
    unknown = set(query) if operation.query is None else set()
    if repeated or unknown:
        raise msgspec.ValidationError(f"query: {', '.join(sorted({*repeated, *unknown}))}: expected each known parameter once")
    return msgspec.convert(dict(query), operation.query, strict=False) if operation.query is not None else None


async def attempt(request: Request, work: Callable[[], Response]) -> Response:
    """Work in a thread of its own; what it cannot do becomes an answer."""
    try:
        return await to_thread.run_sync(work)
    except UnknownError as error:
        return refused(request, 404, str(error))
    except NotAllowedError as error:
        return refused(request, 403, str(error))
    except AnswerError as error:
        return refused(request, 409, str(error))
    except StoreError as error:
        return refused(request, 503, str(error))
    except UnlikeError as error:
        return refused(request, 409, str(error))


def openapi(operations: tuple[Operation, ...]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the operations."""
    types = [t for o in operations for t in (o.query, o.body, o.answers) if t is not None]
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(map(repr, [*types, Problem]), schemas, strict=True))
    paths: dict[str, Any] = {}
    problem = {"content": {"application/problem+json": {"schema": schema_of[repr(Problem)]}}, "description": "Refused"}
    for o in operations:
        parameters: list[dict[str, Any]] = []
        if "{id}" in o.path:
            parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": ID}})
        if o.query is not None:
            fields = components[o.query.__name__]
            needed = fields.get("required", [])
            parameters += [
                {"name": name, "in": "query", "required": name in needed, "schema": shape}
                for name, shape in fields["properties"].items()
            ]
        told: dict[str, Any] = {
            "summary": o.summary,
            "operationId": f"{o.method.lower()}{o.path.replace('/', '_').replace('{id}', 'one')}",
        }
        told |= {"parameters": parameters, "description": f"Needs the role {o.role}."}
        told["responses"] = {
            "200": {"description": "Done", "content": {"application/json": {"schema": schema_of[repr(o.answers)]}}}
        }
        told["responses"] |= {str(code): problem for code in (400, 401, 403, 404, 409, 413, 503)}
        if o.body is not None:
            told["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema_of[repr(o.body)]}}}
        paths.setdefault(f"/api/v1{o.path}", {})[o.method.lower()] = told
    return {
        "openapi": "3.1.0",
        "info": {"title": "unlike", "version": __version__},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }
