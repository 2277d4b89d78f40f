"""The page in a real browser: an analyst goes from a message to an answered incident by keyboard; and nothing foreign runs.

Screenshots go to the folder named by UNLIKE_SCREENSHOTS, else to the test's own.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

from alerts import control
from alerts.server import Server, serve
from detector.pack import Pack
from detector.settings import ReviewSettings
from tests.desks import HOSTILE, desk_of, later, lived
from tests.servers import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def server(trained: Pack, tmp_path: Path) -> Iterator[Server]:
    settings = msgspec.convert({"listen": "127.0.0.1:0"}, ReviewSettings)
    served = serve(settings, desk_of(lived(later(hostile=True), trained)), tmp_path)
    yield served
    served.close()


def signed_in(browser: Browser, server: Server, incident: str = "", **options: object) -> tuple[Page, list[str]]:
    """A page after its sign-in link was used, and what its console says."""
    context: BrowserContext = browser.new_context(**options)  # type: ignore[arg-type]
    page, said = context.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    page.goto(server.url + control.call(server.folder, "POST", "/links", {"incident": incident})["path"])
    page.get_by_role("button", name="Sign in").press("Enter")
    page.get_by_role("heading", level=1).wait_for()
    return page, said


def kept(page: Page, folder: Path, name: str) -> None:
    place = Path(os.environ.get("UNLIKE_SCREENSHOTS", folder))
    place.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(place / f"{name}.png"), full_page=True)


def test_from_a_message_to_an_answered_incident_by_keyboard_alone_in_less_than_a_minute(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    began = time.monotonic()
    id_ = control.call(server.folder, "GET", "/incidents?search=u03")["incidents"][0]["id"]
    page, said = signed_in(browser, server, id_)  # as a message's link does
    page.get_by_text("Why", exact=True).first.wait_for()
    assert page.get_by_role("img").count() == 2
    page.wait_for_load_state("networkidle")
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 50)")
    kept(page, tmp_path, "incident")
    page.keyboard.press("c")
    page.get_by_role("status").filter(has_text="confirmed as a takeover").wait_for()
    assert time.monotonic() - began < 60
    assert control.call(server.folder, "GET", f"/incidents/{id_}")["state"] == "confirmed"
    assert said == []


def test_the_queue_is_triaged_by_keys_and_keeps_its_place(browser: Browser, server: Server, tmp_path: Path) -> None:
    page, said = signed_in(browser, server)
    rows = page.locator("#queue tbody tr")
    before = rows.count()
    ids = [rows.nth(n).get_attribute("data-id") for n in range(3)]
    kept(page, tmp_path, "queue")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator("tr[aria-selected=true]").get_attribute("data-id") == ids[1]
    page.keyboard.press("d")
    page.get_by_role("status").filter(has_text="dismissed").wait_for()
    assert (rows.count(), page.locator("tr[aria-selected=true]").get_attribute("data-id")) == (before - 1, ids[2])
    page.keyboard.press("u")
    page.get_by_role("status").filter(has_text="taken back").wait_for()
    assert rows.count() == before
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("u05")
    page.keyboard.press("Enter")
    page.wait_for_url("**search=u05*")
    assert {row.inner_text() for row in rows.locator(".account").all()} == {"u05"}
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/incidents/*")
    assert said == []
    for row in control.call(server.folder, "GET", "/status")["incidents"].items():
        assert row[0] != "confirmed" or row[1] == 0


def test_a_wide_answer_is_taken_only_after_its_preview(browser: Browser, server: Server, tmp_path: Path) -> None:
    id_ = control.call(server.folder, "GET", "/incidents?search=u03")["incidents"][0]["id"]
    page, said = signed_in(browser, server, id_)
    page.select_option("select[name=scope]", "everyone")
    page.select_option("select[name=choice]", index=1)
    page.click("#dismiss")
    page.get_by_role("heading", name="Before you answer").wait_for()
    assert control.call(server.folder, "GET", f"/incidents/{id_}")["state"] == "open"
    kept(page, tmp_path, "preview")
    page.click("#take")
    page.get_by_role("status").filter(has_text="dismissed").wait_for()
    assert control.call(server.folder, "GET", f"/incidents/{id_}")["answers"][0]["scope"] == "everyone"
    assert said == []


def test_hostile_text_is_shown_and_does_nothing(browser: Browser, server: Server, tmp_path: Path) -> None:
    id_ = control.call(server.folder, "GET", "/incidents?search=u05")["incidents"][0]["id"]
    page, said = signed_in(browser, server, id_)
    text = page.locator("main").inner_text()
    assert "<script>alert(1)</script>\\u202eevil\\x1b[31m" in text
    assert HOSTILE not in page.content()
    assert page.locator("main script").count() == 0
    kept(page, tmp_path, "hostile")
    assert said == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_every_page_passes_the_accessibility_check_and_fits(
    browser: Browser, server: Server, tmp_path: Path, scheme: str, width: int
) -> None:
    id_ = control.call(server.folder, "GET", "/incidents?search=u03")["incidents"][0]["id"]
    control.call(server.folder, "POST", f"/incidents/{id_}/answer", {"kind": "mute", "days": 2})
    page, said = signed_in(browser, server, color_scheme=scheme, viewport={"width": width, "height": 800})
    places = ["/", f"/incidents/{id_}", f"/incidents/{id_}/similar", "/accounts?search=u0", "/account?user=u03"]
    for place in [*places, "/digest", "/muted", "/audit", "/status", "/absent"]:
        page.goto(server.url + place)
        found = Axe().run(page)
        assert found.violations_count == 0, place + found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place
        kept(page, tmp_path, f"{scheme}-{width}-{place.strip('/').split('?')[0].replace(id_, 'one').replace('/', '-') or 'queue'}")
    assert [line for line in said if "404" not in line] == []
