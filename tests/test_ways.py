"""Every way out against a real receiver on loopback; hostile text stays in its field; what cannot arrive is said."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as Mailbox
from hypothesis import given
from hypothesis import strategies as st
from py_ocsf_models.events.findings.detection_finding import DetectionFinding

from alerts import formats
from alerts.delivery import deliver
from alerts.sinks import Sink
from alerts.ways import signature, ways
from detector.checking import notify
from detector.cli import main
from detector.errors import DeliveryError, RefusedError, SettingsError
from detector.records import Changes
from detector.settings import NotifySettings, load
from detector.stores import MemoryStore
from tests.servers import free_port, program

NOW = 1_800_000_000.0
MESSAGE: dict[str, Any] = {
    "message": "1f3a9c0d22e4b711-1",
    "kind": "opened",
    "id": "1f3a9c0d22e4b711",
    "time": "2026-01-09T08:15:00Z",
    "user": "ann",
    "state": "open",
    "severity": "high",
    "priority": 12.3,
    "sessions": 3,
    "opened": "2026-01-09T08:15:00Z",
    "summary": "device never seen before (+4.2)",
    "verdict": {"user": "ann", "belief": 0.81, "p": 0.0002},
    "reasons": [{"id": "new_device", "nats": 4.2}],
    "url": "http://127.0.0.1:8737/incidents/1f3a9c0d22e4b711",
}
HOSTILE = "<!channel> @here\r\nBcc: x@evil.example\r\n\r\n|cs1=owned \\ \u202e\x1b[31m </script>" + "x" * 5000


def body(**changes: object) -> bytes:
    return msgspec.json.encode(MESSAGE | changes)


def way(**settings: object) -> Sink:
    (made,) = ways((msgspec.convert(settings, NotifySettings),), ".", lambda: NOW).values()
    return made


class Receiver:
    """An HTTP server that keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, sent))
                status = receiver.answers.pop(0) if receiver.answers else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_a_webhook_is_signed_and_carries_the_id_by_which_a_repeat_is_known(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    sink = way(url=f"{receiver.url}/hook", secret_file=str(tmp_path / "secret"))
    sink.send(body())
    (path, headers, sent), stamp = receiver.got[0], str(int(NOW))
    assert (path, sent, headers["idempotency-key"], headers["x-unlike-timestamp"]) == ("/hook", body(), MESSAGE["message"], stamp)
    assert headers["x-unlike-signature"] == f"v1={signature('s3cret', stamp, sent)}"
    assert headers["x-unlike-signature"] != f"v1={signature('other', stamp, sent)}"


@pytest.mark.parametrize(
    ("status", "final"), [(500, False), (503, False), (429, False), (408, False), (400, True), (404, True), (302, True)]
)
def test_a_webhook_that_is_refused_is_tried_again_only_where_that_can_help(receiver: Receiver, status: int, final: bool) -> None:
    receiver.answers = [status]
    with pytest.raises(DeliveryError, match=str(status)) as error:
        way(url=receiver.url).send(body())
    assert isinstance(error.value, RefusedError) == final
    assert len(receiver.got) == 1  # a redirect is not followed


def test_a_receiver_that_fails_gets_it_later_and_one_that_refuses_makes_a_dead_letter(receiver: Receiver) -> None:
    store, settings = MemoryStore(), load(environment={}).alerts
    sinks = ways((NotifySettings(url=receiver.url, name="a"), NotifySettings(url=f"{receiver.url}/b", name="b")), ".", lambda: NOW)
    store.commit(Changes(messages=(("m-1", body()),), sinks=("a", "b"), now=NOW))
    receiver.answers = [503, 404]
    first = deliver(store, sinks, NOW, settings)
    assert (first.retried, first.dead) == (1, 1)
    assert deliver(store, sinks, NOW + 3600, settings).sent == 1
    assert [letter[0].sink for letter in store.outbox_dead_letters()] == ["b"]


def test_nobody_who_is_not_there_takes_it_and_no_secret_is_told() -> None:
    with pytest.raises(DeliveryError, match="will be tried again") as error:
        way(url=f"http://name:pass@127.0.0.1:{free_port()}/path?token=s3cret").send(body())
    assert "s3cret" not in str(error.value)
    assert "pass" not in str(error.value)


@contextlib.contextmanager
def alertmanager(folder: Path, hook: str) -> Iterator[str]:
    """A real Alertmanager that calls `hook`."""
    address = f"127.0.0.1:{free_port()}"
    route = {"receiver": "hook", "group_by": ["incident"], "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    hooks = [{"url": hook, "send_resolved": True}]
    (folder / "am.json").write_text(json.dumps({"route": route, "receivers": [{"name": "hook", "webhook_configs": hooks}]}))
    files = [f"--config.file={folder / 'am.json'}", f"--storage.path={folder / 'am'}"]
    command = [program("prometheus-alertmanager"), *files, f"--web.listen-address={address}", "--cluster.listen-address="]
    with open(folder / "am.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 30
        while True:
            try:
                with urlopen(f"http://{address}/-/ready"):
                    break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(10)


def firing(url: str) -> list[tuple[str, str]]:
    with urlopen(f"{url}/api/v2/alerts?active=true") as answer:
        return sorted((a["labels"]["incident"], a["labels"]["severity"]) for a in json.load(answer))


def test_an_incident_fires_in_alertmanager_rises_once_and_is_resolved_when_it_closes(receiver: Receiver, tmp_path: Path) -> None:
    with alertmanager(tmp_path, f"{receiver.url}/am") as url:
        (sink,) = ways((NotifySettings(kind="alertmanager", url=url),), ".").values()
        sink.send(body(severity="medium"))
        assert firing(url) == [(MESSAGE["id"], "medium")]
        sink.send(body(severity="critical", kind="raised", user=HOSTILE))
        time.sleep(1.5)  # Alertmanager lists what was resolved a moment ago as firing
        assert firing(url) == [(MESSAGE["id"], "critical")]
        sink.send(body(severity="critical", kind="closed", state="confirmed"))
        time.sleep(1.5)
        assert firing(url) == []
        until = time.monotonic() + 20
        while not any(json.loads(sent)["status"] == "resolved" for _, _, sent in receiver.got):
            assert time.monotonic() < until
            time.sleep(0.2)
        labels = {name for _, _, sent in receiver.got for alert in json.loads(sent)["alerts"] for name in alert["labels"]}
        assert labels == {"alertname", "incident", "severity"}


def test_mail_arrives_with_one_subject_and_no_header_of_a_strangers_making(tmp_path: Path) -> None:
    mails: list[Message] = []

    class Box(Mailbox):
        def handle_message(self, message: Message) -> None:
            mails.append(message)

    server = Controller(Box(EmailMessage), hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        (tmp_path / "address").write_text(
            f"mailto://127.0.0.1:{server.port}?from=unlike@example.org&to=soc@example.org&mode=insecure"
        )
        way(kind="apprise", secret_file=str(tmp_path / "address")).send(body(user=HOSTILE, summary=HOSTILE))
    finally:
        server.stop()
    (mail,) = mails
    subject = str(make_header(decode_header(mail["subject"])))
    assert subject.startswith("unlike: high: probable takeover: ")
    assert "evil" not in mail["to"]
    assert mail["bcc"] is None


def test_a_slack_compatible_chat_sees_text_and_calls_nobody(receiver: Receiver) -> None:
    host = receiver.url.removeprefix("http://")
    way(kind="apprise", url=f"mmost://{host}/3ccdd113474722377935511fc85d3dd4").send(body(user=HOSTILE, summary=HOSTILE))
    sent = json.loads(receiver.got[0][2])
    assert "probable takeover" in json.dumps(sent)
    assert not {"<", "@"} & set(sent["text"].split("http://")[0])


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_syslog_takes_a_line_of_cef(scheme: str) -> None:
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as server:
        server.settimeout(10)
        server.bind(("127.0.0.1", 0))
        if scheme == "tcp":
            server.listen()
        sink = way(kind="syslog", url=f"{scheme}://127.0.0.1:{server.getsockname()[1]}")
        sink.send(body(user=HOSTILE))
        if scheme == "udp":
            line = server.recv(65_536).decode()
        else:
            connection, _ = server.accept()
            with connection:
                length, _, line = connection.makefile("rb").read().decode().partition(" ")
            assert int(length) == len(line.encode())
    assert line.startswith("<107>1 2027-01-15T08:00:00Z ")
    assert "\n" not in line
    assert cef_fields(line.partition("CEF:0")[2])["suser"] == formats.harmless(HOSTILE, formats.LIMIT)


def cef_fields(line: str) -> dict[str, str]:
    """The extension of a CEF line, read by its rules."""
    parts, at, current = [""], 0, 0
    while len(parts) < 8 and at < len(line):
        step = 2 if line[at] == "\\" else 1
        if line[at] == "|":
            parts.append("")
        else:
            parts[-1] += line[at : at + step]
        at, current = at + step, len(parts) - 1
    extension, out, key = parts[current] + line[at:], {}, ""
    words = extension.split(" ")
    for word in words:
        name, equals, value = word.partition("=")
        if equals and not name.endswith("\\") and name.isalnum():
            key, out[name] = name, value
        else:
            out[key] += f" {word}"
    return {k: v.replace("\\=", "=").replace("\\\\", "\\") for k, v in out.items()}


@pytest.mark.parametrize("kind", ["opened", "raised", "closed"])
@pytest.mark.parametrize("user", ["ann", HOSTILE])
def test_files_hold_ocsf_that_the_schema_takes_and_ecs(tmp_path: Path, kind: str, user: str) -> None:
    blocks: Sequence[NotifySettings] = (NotifySettings(kind="ocsf", url="ocsf.jsonl"), NotifySettings(kind="ecs", url="ecs.jsonl"))
    for sink in ways(tuple(blocks), tmp_path).values():
        sink.send(body(kind=kind, state="confirmed" if kind == "closed" else "open", user=user))
    (line,) = (tmp_path / "ocsf.jsonl").read_text().splitlines()
    found = DetectionFinding.model_validate_json(line)
    assert (int(found.class_uid), found.finding_info.uid) == (2004, MESSAGE["id"])
    (line,) = (tmp_path / "ecs.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert (told["event"]["kind"], told["rule"]["uuid"]) == ("alert", MESSAGE["id"])
    assert told["user"]["name"].isprintable()


@given(st.text(), st.text())
def test_no_text_leaves_its_field(user: str, summary: str) -> None:
    message = MESSAGE | {"user": user, "summary": summary}
    line = formats.cef(message)
    assert line.isprintable()
    fields = cef_fields(line.removeprefix("CEF:0"))
    assert fields["externalId"] == MESSAGE["id"]
    assert (fields["cs1"], fields["cs2"]) == ("open", "high")
    assert "\n" not in formats.title(message)
    assert not {"<", ">", "@"} & set(formats.title(message))


def test_only_what_is_wanted_is_sent_but_a_test_always(receiver: Receiver) -> None:
    sink = way(url=receiver.url, min_severity="high", messages=["opened"])
    for changes in ({"severity": "medium"}, {"kind": "raised"}, {"severity": "critical"}, {"kind": "test", "severity": "low"}):
        sink.send(body(**changes))
    assert [json.loads(sent)["kind"] for _, _, sent in receiver.got] == ["opened", "test"]
    with pytest.raises(RefusedError, match="expected the JSON object"):
        sink.send(b"{}")


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ({"kind": "webhook", "url": "ftp://x"}, "notify 1 .webhook.: expected url = https"),
        ({"kind": "syslog", "url": "udp://x"}, "udp://host:port"),
        ({"kind": "apprise", "url": "nonsense"}, "apprise knows"),
        ({"kind": "ocsf"}, "path of a file"),
        ({"kind": "webhook", "url": "https://x", "secret_file": "absent"}, "cannot be read"),
        ({"kind": "webhook", "url": "https://x", "name": "log"}, "a name of its own"),
    ],
)
def test_a_block_that_cannot_work_is_refused_by_its_number_and_name(block: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        way(**block)


def test_the_check_sends_a_test_through_every_way_and_says_what_arrived(
    receiver: Receiver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "unlike.toml"
    lines = [f'[state]\nfolder = "{tmp_path}"', f'[[notify]]\nurl = "{receiver.url}"']
    config.write_text("\n".join(lines))
    assert main(["check", "--notify", "--config", str(config)]) == 0
    assert json.loads(receiver.got[0][2])["kind"] == "test"
    config.write_text("\n".join([*lines, f'[[notify]]\nname = "gone"\nurl = "http://127.0.0.1:{free_port()}"']))
    capsys.readouterr()
    assert main(["check", "--notify", "--config", str(config)]) == 1
    told = capsys.readouterr().out
    assert "webhook: arrived" in told
    assert "gone: did not arrive" in told
    assert notify({}, "", NOW, print) == 0
