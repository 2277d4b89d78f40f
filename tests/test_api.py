"""The API: what its document says is what it does, fuzzed against a real server; the commands use it."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from alerts import control
from alerts.access import TOKENS
from alerts.control import FILE
from alerts.server import Server, serve
from detector.errors import SettingsError, UnlikeError
from detector.pack import Pack
from detector.settings import ReviewSettings
from tests.desks import desk_of, later, lived

ANYWHERE = msgspec.convert({"listen": "127.0.0.1:0"}, ReviewSettings)


@pytest.fixture
def server(trained: Pack, tmp_path: Path) -> Iterator[Server]:
    served = serve(ANYWHERE, desk_of(lived(later(), trained)), tmp_path)
    yield served
    served.close()


def test_the_api_does_what_its_document_says_whatever_it_is_sent(server: Server) -> None:
    token = msgspec.json.decode((server.folder / FILE).read_bytes())["token"]
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{server.url}/api/v1/openapi.json",
        "-H",
        f"Authorization: Bearer {token}",
    ]
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection"
    )
    options = [
        "--max-examples=8",
        "--seed=1",
        f"--checks={checks}",
        "--phases=examples,coverage,fuzzing",
        "--suppress-health-check=all",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=280, cwd=server.folder)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_whole_life_of_an_incident_goes_over_the_api(server: Server) -> None:
    folder = server.folder
    (first, *_) = control.call(folder, "GET", "/incidents?search=u03")["incidents"]
    one = f"/incidents/{first['id']}"
    assert control.call(folder, "POST", f"{one}/preview", {"kind": "mute"})["incidents"] >= 1
    assert control.call(folder, "POST", f"{one}/answer", {"kind": "confirm", "why": "she called"})["state"] == "confirmed"
    assert control.call(folder, "GET", "/incidents?state=confirmed")["total"] == 1
    assert control.call(folder, "POST", f"{one}/undo", {})["state"] == "open"
    assert control.call(folder, "GET", "/audit?limit=500")["entries"][-1]["who"] == control.user()
    free = next(s for s in control.call(folder, "GET", f"{one}/similar?limit=50")["sessions"] if s["incident"] is None)
    opened = control.call(folder, "POST", f"{one}/similar", {"numbers": [free["number"]]})
    assert opened[0]["shown_for"] == "similar"
    with pytest.raises(UnlikeError, match="no incident"):
        control.call(folder, "GET", "/incidents/0000000000000000")


def test_the_commands_answer_by_the_running_daemon(server: Server) -> None:
    unlike = [sys.executable, "-m", "detector.cli"]
    options = ["--set", f"state.folder={server.folder}"]
    id_ = control.call(server.folder, "GET", "/incidents?search=u03")["incidents"][0]["id"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*unlike, *arguments, *options], capture_output=True, text=True, timeout=60)

    assert "confirmed" in run("alerts", "confirm", id_[:6], "--why", "she called").stdout
    assert json.loads(run("alerts", "undo", id_, "--json").stdout)["state"] == "open"
    assert "would have silenced" in run("alerts", "preview", id_, "--kind", "mute").stdout
    assert run("alerts", "mute", id_, "--days", "3").returncode == 0
    assert "u03 until 20" in run("alerts", "muted").stdout
    assert run("alerts", "unmute", "u03").stdout == "done\n"
    assert "held back" in run("alerts", "digest").stdout
    assert run("alerts", "audit").stdout.endswith("the chain holds\n")
    wrong = run("alerts", "dismiss", id_, "--scope", "value", "--facet", "shoe", "--value", "9")
    assert (wrong.returncode, "no facet 'shoe'" in wrong.stderr) == (1, True)
    link = run("review", "open", id_).stdout.strip()
    assert link.startswith(f"{server.url}/sign-in?code=")
    with urllib.request.urlopen(link) as page:
        assert b"signs you in once" in page.read()
    token = run("review", "token", "bob", "--role", "viewer").stdout.strip()
    asked = urllib.request.Request(f"{server.url}/api/v1/status", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked) as answer:
        assert json.load(answer)["accounts"] == 14
    assert run("review", "token", "bob", "--revoke").returncode == 0
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(asked)
    assert (server.folder / TOKENS).exists()


def test_without_a_daemon_the_commands_say_so(trained: Pack, tmp_path: Path) -> None:
    served = serve(ANYWHERE, desk_of(lived(later(), trained, 500)), tmp_path)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    served.close()
    assert not (tmp_path / FILE).exists()
    with pytest.raises(UnlikeError, match="start unlike run"):
        control.call(tmp_path, "GET", "/status")


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(trained: Pack, tmp_path: Path, listen: str) -> None:
    with pytest.raises(SettingsError, match=r"review\.listen"):
        serve(msgspec.convert({"listen": listen}, ReviewSettings), desk_of(lived(later(), trained, 500)), tmp_path)
