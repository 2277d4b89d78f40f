"""The review page: server-rendered, usable without scripts; a little script adds keys. Foreign strings go through `harmless`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import jinja2
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from alerts.access import COOKIE, Gate, cookie_of, may, person_of, refused, requires
from alerts.api import attempt, wide
from alerts.desk import Desk
from alerts.explanations import harmless
from alerts.incidents import ACTIVE, STATES
from alerts.listing import one_in, plural, sure
from alerts.policy import SEVERITIES
from detector.errors import AnswerError

HERE = Path(__file__).parent
PAGE = 50  # incidents on a page
TEXT = 300  # characters of a foreign string
DONE = {
    "acknowledge": "acknowledged",
    "confirm": "confirmed as a takeover",
    "dismiss": "dismissed",
    "mute": "muted",
    "undo": "taken back to how it was",
}
Make = Callable[[Request, Mapping[str, str]], Response]


def shown(text: object, limit: int = TEXT) -> str:
    """A foreign string as people may see it."""
    return harmless(str(text), limit)


def when(time: str | None) -> str:
    """An RFC 3339 time for people: to the minute, UTC."""
    return "" if time is None else time[:16].replace("T", " ")


def number(value: object) -> str:
    """A number, with no more digits than anybody reads."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else shown(value)


def main_reason(row: Mapping[str, Any]) -> str:
    """What to show of an incident in a line: the strongest reason that names a value, else the summary."""
    named = [r["text"] for r in row["reasons"] if r["nats"] > 0 and r["text"] != r["title"]]
    return str(named[0] if named else row["summary"])


def percent(value: float | None) -> str:
    """A share."""
    return "" if value is None else "under 0.01 %" if value < 1e-4 else f"{100 * value:.2g} %"


def environment() -> jinja2.Environment:
    """The templates; all that is put into them is escaped."""
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined)
    made.filters |= {"shown": shown, "when": when, "number": number, "percent": percent, "sure": sure, "one_in": one_in}
    made.filters |= {"main": main_reason, "plural": plural, "query": lambda value: urlencode({"user": value})}
    made.globals |= {"states": STATES, "severities": SEVERITIES, "may": may}
    return made


TEMPLATES = environment()


def page(request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template as an answer."""
    person = getattr(request.state, "person", None)
    text = TEMPLATES.get_template(f"{name}.html").render(
        person=person, csrf=person.csrf if person else "", here=request.url.path, **values
    )
    return HTMLResponse(text, status)


async def fields(request: Request) -> dict[str, str]:
    """The fields of a form; of several with one name, the last."""
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=200))


def viewing(make: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that shows something to anybody who may look."""

    @requires("viewer")
    async def endpoint(request: Request) -> Response:
        return await attempt(request, lambda: make(request))

    return endpoint


def doing(role: str, make: Make) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that does what a form says."""

    @requires(role)
    async def endpoint(request: Request) -> Response:
        sent = await fields(request)
        return await attempt(request, lambda: make(request, sent))

    return endpoint


def pages(desk: Desk, gate: Gate) -> Sequence[BaseRoute]:
    """The pages over a desk."""
    site = Pages(desk)
    return [
        *signing(gate),
        Route("/", viewing(site.queue)),
        Route("/incidents/{id}", viewing(site.incident)),
        Route("/incidents/{id}/answer", doing("analyst", site.answer), methods=["POST"]),
        Route("/incidents/{id}/undo", doing("analyst", site.undo), methods=["POST"]),
        Route("/incidents/{id}/similar", viewing(site.similar)),
        Route("/incidents/{id}/open", doing("analyst", site.open_similar), methods=["POST"]),
        Route("/incidents/{id}/{plot}.svg", viewing(site.incident_plot)),
        Route("/accounts", viewing(site.accounts)),
        Route("/account", viewing(site.account)),
        Route("/account/{plot}.svg", viewing(site.account_plot)),
        Route("/digest", viewing(lambda r: page(r, "digest", digest=desk.digest(r.query_params.get("day", "")[:10])))),
        Route("/status", viewing(lambda r: page(r, "status", status_=desk.status()))),
        Route("/audit", viewing(site.audit)),
        Route("/muted", viewing(lambda r: page(r, "muted", muted=desk.muted()))),
        Route("/unmute", doing("admin", site.unmute), methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]


def refusal(request: Request, status: int, title: str, detail: str) -> Response:
    """What went wrong, in the dress of the other pages."""
    return page(request, "problem", status, title=title, detail=detail)


def signing(gate: Gate) -> list[BaseRoute]:
    """Signing in and out."""

    async def ask(request: Request) -> Response:
        place, code = request.query_params.get("next", "/"), request.query_params.get("code", "")
        return page(request, "sign_in", next=place, code=code, wrong="")

    async def take(request: Request) -> Response:
        sent, address = await fields(request), str(request.state.address)
        wait = gate.wait(address)
        if wait > 0:
            headers = {"retry-after": str(max(1, round(wait)))}
            answer = page(request, "sign_in", 429, next="/", code="", wrong=f"Too many tries: wait {max(1, round(wait))} seconds.")
            answer.headers.update(headers)
            return answer
        session = await to_thread.run_sync(lambda: gate.sign_in(sent.get("token", "").strip(), address))
        if session is None:
            return page(request, "sign_in", 401, next=sent.get("next", "/"), code="", wrong="No such token, or a link used before.")
        led = RedirectResponse(own(sent.get("next", "/")), 303)
        secure = gate.settings.url.startswith("https://")
        led.set_cookie(COOKIE, session, max_age=int(gate.settings.session), httponly=True, samesite="strict", secure=secure)
        return led

    @requires("viewer")
    async def leave(request: Request) -> Response:
        gate.sessions.pop(cookie_of(request.headers), None)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(COOKIE)
        return answer

    return [
        Route("/sign-in", ask, name="sign_in"),
        Route("/sign-in", take, methods=["POST"]),
        Route("/sign-out", leave, methods=["POST"]),
    ]


def own(place: str) -> str:
    """A place on this site; the queue for any other."""
    return place if place.startswith("/") and not place.startswith(("//", "/\\")) and place.isprintable() else "/"


class Pages:
    """Everything behind the sign-in."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def queue(self, request: Request) -> Response:
        """The queue, filtered."""
        asked = request.query_params
        state, severity = asked.get("state", ""), asked.get("severity", "")
        states = (state,) if state in STATES else STATES if state == "all" else ACTIVE
        offset = int(asked.get("offset", "0")) if asked.get("offset", "0").isdecimal() else 0
        found = self.desk.queue(states, "", severity, asked.get("search", ""), PAGE, offset)
        kept = {name: asked[name] for name in ("state", "severity", "search") if asked.get(name)}
        more = urlencode(kept | {"offset": str(offset + PAGE)}) if offset + PAGE < found["total"] else ""
        fewer = urlencode(kept | {"offset": str(max(offset - PAGE, 0))}) if offset else ""
        values: dict[str, Any] = {"asked": kept, "more": more, "fewer": fewer, "done": told(asked), "last": asked.get("done", "")}
        return page(request, "queue", rows=found["incidents"], total=found["total"], at=asked.get("at", ""), **values)

    def incident(self, request: Request) -> Response:
        """One incident."""
        found = self.desk.incident(known_id(request))
        choices = [
            (f"{f}.{v}", f"{facet['facet']}: {shown(value, 60)}")
            for f, facet in enumerate(found["facets"])
            for v, value in enumerate(values_of(facet))
        ]
        nats = [abs(reason["nats"]) for reason in found["reasons"]]
        return page(request, "incident", i=found, choices=choices, longest=max([1e-9, *nats]), done=told(request.query_params))

    def answer(self, request: Request, sent: Mapping[str, str]) -> Response:
        """Take an answer; a wide one only after its preview was shown."""
        id_ = known_id(request)
        said = self._said(id_, sent)
        if wide(said) and not may(person_of(request), "admin"):
            return refused(request, 403, f"that needs the role admin, yours is {person_of(request).role}")
        if (said["kind"] == "mute" or said["scope"] != "session") and sent.get("step") != "take":
            found, preview = self.desk.incident(id_), self.desk.preview(id_, said)
            return page(request, "preview", i=found, said=said, sent=sent, preview=preview)
        self.desk.answer(id_, said, person_of(request).name)
        return after(sent, id_, said["kind"])

    def _said(self, id_: str, sent: Mapping[str, str]) -> dict[str, Any]:
        said: dict[str, Any] = {"kind": sent.get("kind", ""), "why": sent.get("why", "")[:1000], "scope": "session"}
        if sent.get("days"):
            try:
                said["days"] = float(sent["days"])
            except ValueError as error:
                raise AnswerError(f"days {shown(sent['days'], 20)}: expected a number") from error
        if said["kind"] == "dismiss":
            said |= {"as": sent.get("as", "false_alarm"), "scope": sent.get("scope", "session")}
        if said["scope"] != "session":
            facets = self.desk.incident(id_)["facets"]
            f, _, v = sent.get("choice", "").partition(".")
            if not (f.isdecimal() and v.isdecimal() and int(f) < len(facets) and int(v) < len(values_of(facets[int(f)]))):
                raise AnswerError("choose the value that is in order")
            said |= {"facet": facets[int(f)]["facet"], "value": str(values_of(facets[int(f)])[int(v)])}
        return said

    def undo(self, request: Request, sent: Mapping[str, str]) -> Response:
        """Take back the last answer."""
        self.desk.undo(known_id(request), person_of(request).name, sent.get("why", "")[:1000])
        return after(sent, known_id(request), "undo")

    def similar(self, request: Request) -> Response:
        """Sessions of other accounts that are like the incident's."""
        id_ = known_id(request)
        return page(request, "similar", i=self.desk.incident(id_), found=self.desk.similar(id_, 30))

    def open_similar(self, request: Request, sent: Mapping[str, str]) -> Response:
        """Open incidents for the ticked ones."""
        numbers = [int(name[1:]) for name in sent if name[:1] == "n" and name[1:].isdecimal()]
        if not numbers:
            raise AnswerError("tick at least one session")
        self.desk.open_similar(known_id(request), numbers, person_of(request).name, sent.get("why", "")[:1000])
        return RedirectResponse(f"/incidents/{known_id(request)}", 303)

    def accounts(self, request: Request) -> Response:
        """Search."""
        search = request.query_params.get("search", "")
        return page(request, "accounts", search=search, found=self.desk.accounts(search, 50))

    def account(self, request: Request) -> Response:
        """One account."""
        return page(request, "account", a=self.desk.account(request.query_params.get("user", "")))

    def audit(self, request: Request) -> Response:
        """Who did what."""
        after_ = request.query_params.get("after", "0")
        found = self.desk.audit(int(after_) if after_.isdecimal() else 0, 200)
        return page(request, "audit", found=found)

    def unmute(self, request: Request, sent: Mapping[str, str]) -> Response:
        """Let an account's alarms through."""
        self.desk.unmute(sent.get("user", ""), person_of(request).name, sent.get("why", "")[:1000])
        return RedirectResponse("/muted", 303)

    def incident_plot(self, request: Request) -> Response:
        """A picture of an incident."""
        return drawn(request, self.desk.incident(known_id(request)))

    def account_plot(self, request: Request) -> Response:
        """A picture of an account."""
        return drawn(request, self.desk.account(request.query_params.get("user", "")))


def known_id(request: Request) -> str:
    """The id in the address; what cannot be one finds nothing."""
    return str(request.path_params["id"])[:16]


def values_of(facet: Mapping[str, Any]) -> list[Any]:
    """What a session showed of a facet."""
    return [value for value, _ in facet["seen"]] if facet["kind"] == "text" else list(facet["seen"])


def drawn(request: Request, found: Mapping[str, Any]) -> Response:
    """The plot that the address names."""
    from alerts import plots  # matplotlib is slow to load, and few look

    dark = request.query_params.get("dark") == "1"
    kinds = {"timeline": lambda: plots.timeline(found["timeline"], dark), "map": lambda: plots.scatter(found["map"], dark)}
    draw = kinds.get(str(request.path_params["plot"]))
    if draw is None:
        return refused(request, 404, "no such plot")
    return Response(draw(), media_type="image/svg+xml")


def after(sent: Mapping[str, str], id_: str, what: str) -> Response:
    """Back to where the form was, with word of what was done."""
    if sent.get("back") == "queue":
        query = dict(parse_qsl(sent.get("query", "")[:1000])) | {"done": id_, "what": what, "at": sent.get("at", "")[:16]}
        return RedirectResponse(f"/?{urlencode(query)}", 303)
    return RedirectResponse(f"/incidents/{id_}?{urlencode({'done': id_, 'what': what})}", 303)


def told(asked: Mapping[str, str]) -> str:
    """A word on what was done before this page."""
    id_, what = asked.get("done", ""), DONE.get(asked.get("what", ""), "")
    return f"Incident {harmless(id_, 16)[:8]} {what}." if id_ and what else ""
