"""Who is let in, and what every request passes: signing in, roles, forms, hosts, limits."""

from pathlib import Path

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from alerts.access import MOST_BODY, TRIES, TRIES_WITHIN_S, Gate, Tokens, checked
from alerts.server import application
from detector.errors import SettingsError
from detector.pack import Pack
from detector.settings import ReviewSettings
from tests.desks import desk_of, later, lived

URL = "http://127.0.0.1:8737"


class Clock:
    """Time that stands still until it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """An application with its gate, clock and tokens."""

    def __init__(self, app: Starlette, gate: Gate, clock: Clock) -> None:
        self.app, self.gate, self.clock = app, gate, clock

    def client(self, url: str = URL, address: str = "127.0.0.1") -> TestClient:
        return TestClient(self.app, base_url=url, client=(address, 5), follow_redirects=False)

    def signed_in(self, name: str = "ann", role: str = "analyst") -> TestClient:
        client = self.client()
        answer = client.post("/sign-in", data={"token": self.gate.tokens.new(name, role), "next": "/"})
        assert answer.status_code == 303
        return client

    def csrf(self) -> str:
        return next(reversed(self.gate.sessions.values())).csrf


def made(trained: Pack, folder: Path, **settings: object) -> Site:
    desk, clock = desk_of(lived(later(), trained)), Clock()
    gate = Gate(msgspec.convert(settings, ReviewSettings), Tokens(folder), clock)
    return Site(application(desk, gate), gate, clock)


@pytest.fixture(scope="module")
def site(trained: Pack, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return made(trained, tmp_path_factory.mktemp("state"))


def test_without_a_token_nothing_is_shown(site: Site) -> None:
    client = site.client()
    page, api = client.get("/incidents/0?x=1"), client.get("/api/v1/status")
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in?next=%2Fincidents%2F0%3Fx%3D1")
    assert (api.status_code, api.headers["content-type"], api.json()["status"]) == (401, "application/problem+json", 401)


def test_a_session_cookie_is_hidden_from_scripts_and_other_sites_and_secure_behind_https(trained: Pack, tmp_path: Path) -> None:
    plain, secure = made(trained, tmp_path), made(trained, tmp_path, url="https://review.example")
    for site, url, expected in ((plain, URL, False), (secure, "https://review.example", True)):
        token = site.gate.tokens.new("ann", "viewer")
        cookie = site.client(url).post("/sign-in", data={"token": token}).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert ("Secure" in cookie) == expected


def test_signing_in_leads_only_to_our_own_pages(site: Site) -> None:
    for place, led in (("/status", "/status"), ("//evil.example", "/"), ("https://evil.example", "/"), ("/\\evil.example", "/")):
        token = site.gate.tokens.new("ann", "viewer")
        assert site.client().post("/sign-in", data={"token": token, "next": place}).headers["location"] == led


def test_wrong_tokens_are_slowed_down_by_address_and_in_all_and_the_wait_ends(site: Site) -> None:
    first, second = site.client(address="127.0.0.2"), site.client(address="127.0.0.3")
    for _ in range(TRIES):
        assert first.post("/sign-in", data={"token": "wrong"}).status_code == 401
    late = first.post("/sign-in", data={"token": site.gate.tokens.new("ann", "viewer")})
    assert (late.status_code, late.headers["retry-after"]) == (429, str(int(TRIES_WITHIN_S)))
    assert second.post("/sign-in", data={"token": "wrong"}).status_code == 401
    site.clock.now += TRIES_WITHIN_S + 1
    assert first.post("/sign-in", data={"token": site.gate.tokens.new("ann", "viewer")}).status_code == 303
    for n in range(60):
        site.client(address=f"10.0.0.{n}").post("/sign-in", data={"token": "wrong"})
    assert site.client(address="10.9.9.9").post("/sign-in", data={"token": "wrong"}).status_code == 429
    site.clock.now += TRIES_WITHIN_S + 1


def test_a_session_ends_with_its_time_its_sign_out_and_the_revocation_of_its_token(site: Site) -> None:
    client = site.signed_in()
    assert client.get("/").status_code == 200
    site.clock.now += site.gate.settings.session
    assert client.get("/").status_code == 303
    client = site.signed_in()
    assert client.post("/sign-out", data={"csrf": site.csrf()}).status_code == 303
    assert client.get("/").status_code == 303
    client = site.signed_in("bob")
    site.gate.tokens.revoke("bob")
    assert client.get("/").status_code == 303
    with pytest.raises(SettingsError, match="no token of 'bob'"):
        site.gate.tokens.revoke("bob")


def test_only_the_hash_of_a_token_is_kept_and_only_its_owner_can_read_it(site: Site) -> None:
    token = site.gate.tokens.new("carl", "admin")
    assert token not in site.gate.tokens.path.read_text()
    assert site.gate.tokens.path.stat().st_mode & 0o777 == 0o600
    assert site.gate.tokens.owner(token) == ("carl", "admin")
    assert site.gate.tokens.owner("") is None


def test_a_link_signs_in_once_and_soon(site: Site) -> None:
    code = site.gate.link("root")
    assert site.client().post("/sign-in", data={"token": code}).status_code == 303
    assert site.client().post("/sign-in", data={"token": code}).status_code == 401
    code = site.gate.link("root")
    site.clock.now += 301
    assert site.client().post("/sign-in", data={"token": code}).status_code == 401
    site.clock.now += TRIES_WITHIN_S + 1


def test_every_route_says_who_may_use_it_and_others_may_not(site: Site) -> None:
    roles = {"viewer": 0, "analyst": 1, "admin": 2}
    open_to_all = {"/sign-in", "/static"}
    people = {role: site.signed_in(role, role) for role in roles}
    secrets = {role: s.csrf for role in roles for s in site.gate.sessions.values() if s.name == role}
    seen = 0
    for route in site.app.routes:
        path = getattr(route, "path", "")
        if path in open_to_all:
            continue
        assert isinstance(route, Route), path
        needed = roles[str(getattr(route.endpoint, "role", "none"))]
        for role, client in people.items():
            for method in (route.methods or set()) - {"HEAD"}:
                if path == "/sign-out":
                    continue
                body = {"headers": {"x-csrf-token": secrets[role]}, "json": {}}
                answer = client.request(method, path.replace("{id}", "0"), **body)  # type: ignore[arg-type]
                assert (answer.status_code == 403) == (roles[role] < needed), f"{role} {method} {path}: {answer.status_code}"
                seen += 1
    assert seen > 60


def test_a_form_must_carry_the_sessions_secret_and_come_from_our_own_pages(site: Site) -> None:
    client = site.signed_in()
    csrf = site.csrf()
    path = "/api/v1/incidents/0/undo"
    assert client.post(path, json={}).status_code == 403
    assert client.post(path, json={}, headers={"x-csrf-token": "x" * len(csrf)}).status_code == 403
    good = {"x-csrf-token": csrf}
    assert client.post(path, json={}, headers=good).status_code == 404
    assert client.post(path, json={}, headers=good | {"origin": "https://evil.example"}).status_code == 403
    assert client.post(path, json={}, headers=good | {"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post(path, json={}, headers=good | {"origin": URL}).status_code == 404


def test_a_request_for_another_host_is_refused(site: Site) -> None:
    assert site.client("http://evil.example").get("/sign-in").status_code == 400
    for host in ("http://localhost:1", "http://[::1]:8737", URL):
        assert site.client(host).get("/sign-in").status_code == 200


def test_large_bodies_and_queries_are_refused(site: Site) -> None:
    client = site.signed_in()
    assert client.get("/?search=" + "x" * 5000).status_code == 400
    assert client.post("/api/v1/unmute", content=b"x" * (MOST_BODY + 1)).status_code == 413


def test_every_answer_carries_the_headers_that_keep_strangers_out(site: Site) -> None:
    client = site.signed_in()
    for path in ("/", "/api/v1/status", "/absent", "/sign-in"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_a_name_from_a_proxy_counts_only_from_the_proxy(trained: Pack, tmp_path: Path) -> None:
    settings = {
        "sign_in": "proxy",
        "proxy_header": "X-User",
        "proxy_from": ["10.0.0.1"],
        "proxy_roles": {"ann": "admin", "*": "viewer"},
    }
    site = made(trained, tmp_path, **settings)
    as_ann = {"x-user": "ann"}
    assert site.client(address="10.0.0.1").get("/api/v1/status", headers=as_ann).status_code == 200
    assert site.client(address="10.0.0.2").get("/api/v1/status", headers=as_ann).status_code == 401
    assert site.client(address="10.0.0.1").get("/api/v1/status").status_code == 401
    refused = site.client(address="10.0.0.1").post("/api/v1/unmute", json={}, headers={"x-user": "bob"})
    assert refused.status_code == 403


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"listen": "0.0.0.0:80"}, "not loopback"),
        ({"listen": "0.0.0.0:80", "allow_remote": True}, "https"),
        ({"listen": "0.0.0.0:80", "url": "https://review.example"}, "allow_remote"),
        ({"sign_in": "proxy"}, "proxy_header"),
        ({"proxy_roles": {"ann": "king"}}, "one of viewer"),
    ],
)
def test_settings_that_would_let_strangers_in_are_refused(settings: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        checked(msgspec.convert(settings, ReviewSettings))
