"""Who may see the review page and its API, and do what: tokens, sessions, roles, and the checks that every request passes.

A token has 256 random bits, so a plain SHA-256 of it is all that is kept. A person signs in with a token and gets a session cookie
(HttpOnly, SameSite=Strict); a program sends its token as `Authorization: Bearer`. Or a reverse proxy, told apart by its address,
names the person in a header. Sessions live in memory: a restart ends them.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.errors import SettingsError
from detector.settings import ReviewSettings

ROLES = ("viewer", "analyst", "admin")  # each may do what the ones before it may
TOKENS, COOKIE = "review-tokens.json", "unlike"
LINK_S = 300.0  # seconds that a sign-in link holds
TRIES, TRIES_IN_ALL, TRIES_WITHIN_S = 5, 50, 60.0  # failed sign-ins from one address, from all
MOST_BODY, MOST_QUERY, MOST_SESSIONS = 65_536, 4096, 1000
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with none at all, browsers send forms with the origin "null"
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True)
class Person:
    """Who asks."""

    name: str
    role: str
    csrf: str = ""  # of the session; empty for programs, which send no cookie


Endpoint = Callable[[Request], Awaitable[Response]]


def person_of(request: Request) -> Person:
    """The person whom the gate let in."""
    person: Person = request.state.person
    return person


def may(person: Person, role: str) -> bool:
    """Whether a person's role is at least `role`."""
    return ROLES.index(person.role) >= ROLES.index(role)


def requires(role: str) -> Callable[[Endpoint], Endpoint]:
    """An endpoint for people with at least this role; it carries the role as `role`."""

    def wrap(endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            if not may(person_of(request), role):
                return refused(request, 403, f"this needs the role {role}, yours is {person_of(request).role}")
            return await endpoint(request)

        guarded.role = role  # type: ignore[attr-defined]
        return guarded

    return wrap


def refused(request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Problem details (RFC 9457) for programs, a line of text for people."""
    titles = {400: "Bad request", 401: "Not signed in", 403: "Not allowed", 404: "Not found", 409: "Conflict", 413: "Too large"}
    title = titles.get(status, "Refused")
    if request.url.path.startswith("/api/"):
        body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        return JSONResponse(body, status, dict(headers or {}), media_type="application/problem+json")
    render = getattr(request.app.state, "refusal", None) if "app" in request.scope else None
    if render is not None and getattr(request.state, "person", None) is not None:
        answer: Response = render(request, status, title, detail)
        answer.headers.update(dict(headers or {}))
        return answer
    return PlainTextResponse(f"{title}: {detail}\n", status, dict(headers or {}))


class Tokens:
    """The tokens of a state folder: name -> role and hash, in a file that only its owner can read."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TOKENS
        self._read: tuple[tuple[int, int, int], dict[str, dict[str, str]]] | None = None

    def all(self) -> dict[str, dict[str, str]]:
        """name -> {role, hash}, as the file has it now. Raises SettingsError."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return {}
        mark = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._read is None or self._read[0] != mark:
            try:
                self._read = mark, msgspec.json.decode(self.path.read_bytes(), type=dict[str, dict[str, str]])
            except msgspec.DecodeError as error:
                raise SettingsError(
                    f"{self.path}: not a file of tokens: {error}; make new ones with unlike review token"
                ) from error
        return self._read[1]

    def new(self, name: str, role: str) -> str:
        """A new token for a name, in the place of its old one."""
        token = secrets.token_urlsafe(32)
        self._write(self.all() | {name: {"role": role, "hash": _hash(token)}})
        return token

    def revoke(self, name: str) -> None:
        """The name's token and sessions hold no more. Raises SettingsError for a name without one."""
        left = dict(self.all())
        if left.pop(name, None) is None:
            raise SettingsError(f"{self.path}: no token of {name!r}, expected one of {sorted(self.all())}")
        self._write(left)

    def owner(self, token: str) -> tuple[str, str] | None:
        """(name, role) of a token; all are compared, in constant time each."""
        asked, found = _hash(token), None
        for name, row in self.all().items():
            if hmac.compare_digest(asked, row["hash"]):
                found = name, row["role"]
        return found

    def _write(self, rows: dict[str, dict[str, str]]) -> None:
        private(self.path, msgspec.json.format(msgspec.json.encode(rows)))


def private(path: Path, data: bytes) -> None:
    """A file that only its owner can read appears whole under its name. Raises SettingsError."""
    draft = path.with_suffix(".new")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.replace(path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error.strerror}") from error


def _hash(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass
class Session:
    """Somebody who signed in."""

    name: str
    role: str
    csrf: str
    until: float
    hash: str  # of the token that was shown; a revoked one ends its sessions


@dataclass
class Gate:
    """All that lets people in. `clock`: seconds that only grow."""

    settings: ReviewSettings
    tokens: Tokens
    clock: Callable[[], float]
    control: str = field(default_factory=lambda: secrets.token_urlsafe(32))  # of the program's own commands
    sessions: dict[str, Session] = field(default_factory=dict)
    links: dict[str, tuple[str, float]] = field(default_factory=dict)  # code -> name, until
    failures: deque[tuple[float, str]] = field(default_factory=deque)

    def wait(self, address: str) -> float:
        """Seconds until the address may try to sign in again; 0: now."""
        now = self.clock()
        while self.failures and self.failures[0][0] <= now - TRIES_WITHIN_S:
            self.failures.popleft()
        mine = [time for time, of in self.failures if of == address]
        over = [mine[-TRIES]] if len(mine) >= TRIES else []
        over += [self.failures[-TRIES_IN_ALL][0]] if len(self.failures) >= TRIES_IN_ALL else []
        return max((time + TRIES_WITHIN_S - now for time in over), default=0.0)

    def sign_in(self, token: str, address: str) -> str | None:
        """The name of a new session for who has this token or the code of a link; None for anybody else."""
        name, until = self.links.pop(token, ("", 0.0))
        if name and until > self.clock():
            return self._session(name, "admin", "")
        found = self.tokens.owner(token)
        if found is None:
            self.failures.append((self.clock(), address))
            if len(self.failures) > 2 * TRIES_IN_ALL:
                self.failures.popleft()
            return None
        return self._session(*found, _hash(token))

    def link(self, name: str) -> str:
        """A code that signs its holder in, once and soon."""
        now = self.clock()
        self.links = {code: (of, until) for code, (of, until) in self.links.items() if until > now}
        code = secrets.token_urlsafe(32)
        self.links[code] = name, now + LINK_S
        return code

    def _session(self, name: str, role: str, hash_: str) -> str:
        now = self.clock()
        self.sessions = {id_: s for id_, s in self.sessions.items() if s.until > now}
        while len(self.sessions) >= MOST_SESSIONS:
            del self.sessions[next(iter(self.sessions))]
        id_ = secrets.token_urlsafe(32)
        self.sessions[id_] = Session(name, role, secrets.token_urlsafe(32), now + self.settings.session, hash_)
        return id_

    def person(self, headers: Headers, address: str) -> Person | None:
        """Who sends this; None where nobody is known by it."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._program(token.strip(), headers)
        if self.settings.sign_in == "proxy":
            name = headers.get(self.settings.proxy_header, "")
            if address not in self.settings.proxy_from or not name:
                return None
            role = self.settings.proxy_roles.get(name, self.settings.proxy_roles.get("*", ""))
            return Person(name, role, _hash(f"{self.control}{name}")) if role in ROLES else None
        session = self.sessions.get(cookie_of(headers))
        if session is None or session.until <= self.clock():
            return None
        if session.hash and self.tokens.all().get(session.name) != {"role": session.role, "hash": session.hash}:
            return None
        return Person(session.name, session.role, session.csrf)

    def _program(self, token: str, headers: Headers) -> Person | None:
        if hmac.compare_digest(_hash(token), _hash(self.control)):
            return Person(headers.get("x-unlike-user", "command line")[:100], "admin")
        found = self.tokens.owner(token)
        return Person(*found) if found else None


def cookie_of(headers: Headers) -> str:
    """The name of the session that the request's cookie carries; empty for none."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


PUBLIC = ("/sign-in", "/static/")


class Guard:
    """The middleware that every request passes: host, size, who, where from; and the headers of every answer."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if not scope["path"].startswith("/static/"):
                    headers["cache-control"] = "no-store"
            await send(message)

        request = Request(scope, receive)
        answer = await self._refusal(request)
        if answer is None:
            body = await self._body(request)
            answer = refused(request, 413, f"more than {MOST_BODY} bytes") if body is None else self._trusted(request, body)
            receive = _replayed(body or b"", receive)
        await (answer or self.app)(scope, receive, dressed)

    async def _refusal(self, request: Request) -> Response | None:
        settings, host = self.gate.settings, request.headers.get("host", "")
        if not allowed_host(host, settings):
            return refused(request, 400, f"host {host[:100]!r} is not this page's; set review.url to the address that people use")
        if len(request.scope.get("query_string", b"")) > MOST_QUERY:
            return refused(request, 400, f"a query of more than {MOST_QUERY} bytes")
        address = request.client.host if request.client else ""
        request.state.address = address
        person = self.gate.person(request.headers, address)
        request.state.person = person
        if person is None and not request.url.path.startswith(PUBLIC):
            if request.url.path.startswith("/api/") or settings.sign_in == "proxy":
                return refused(request, 401, "send a token: Authorization: Bearer …", {"www-authenticate": "Bearer"})
            place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/sign-in?{urlencode({'next': place})}", 303)
        return None

    async def _body(self, request: Request) -> bytes | None:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BODY:
                return None
        return body

    def _trusted(self, request: Request, body: bytes) -> Response | None:
        """A change that a browser sends must come from our own pages: by its origin, and by the session's secret."""
        person: Person | None = request.state.person
        if request.method in ("GET", "HEAD") or "authorization" in request.headers:
            return None
        origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") or (
            origin and urlsplit(origin).netloc != host and origin.rstrip("/") != self.gate.settings.url.rstrip("/")
        ):
            return refused(request, 403, "the request comes from another site")
        if person is not None and request.url.path != "/sign-in":
            sent = request.headers.get("x-csrf-token") or dict(parse_qsl(body.decode("utf-8", "replace"))).get("csrf", "")
            if not hmac.compare_digest(sent.encode(), person.csrf.encode()) or not person.csrf:
                return refused(request, 403, "the form is of another session; load the page again")
        return None


def _replayed(body: bytes, rest: Receive) -> Receive:
    """What receives a body that was read before, and then whatever else comes."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return await rest()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def allowed_host(host: str, settings: ReviewSettings) -> bool:
    """Whether a request names this page: any other name could be a stranger's that resolves to here (DNS rebinding)."""
    own = {urlsplit(settings.url).netloc} if settings.url else set()
    name = urlsplit(f"//{host}").hostname or ""
    listening = urlsplit(f"//{settings.listen}").hostname or ""
    return host in own or name in LOOPBACK or (listening not in (*LOOPBACK, "", "0.0.0.0", "::") and name == listening)


def checked(settings: ReviewSettings) -> ReviewSettings:
    """The settings, or SettingsError where they would let in whom nobody named."""
    host = urlsplit(f"//{settings.listen}").hostname or ""
    if settings.sign_in == "proxy" and not (settings.proxy_header and settings.proxy_from and settings.proxy_roles):
        raise SettingsError("review.sign_in = proxy: expected proxy_header, proxy_from (its addresses) and proxy_roles as well")
    for name, role in settings.proxy_roles.items():
        if role not in ROLES:
            raise SettingsError(f"review.proxy_roles: {name} = {role!r}, expected one of {', '.join(ROLES)}")
    if host not in LOOPBACK and not (settings.allow_remote and settings.url.startswith("https://")):
        raise SettingsError(
            f"review.listen = {settings.listen}: not loopback; expected review.allow_remote = true and review.url = https://…, "
            "the address of the proxy that encrypts"
        )
    return settings
