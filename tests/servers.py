"""Real servers for tests, on loopback and on free ports. Absent programs are a reason to skip, but not in CI."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright


def program(name: str) -> str:
    """The path of an installed program; skips the test where it is absent, fails it in CI."""
    found = shutil.which(name)
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed; .ci/run installs it")
    pytest.skip(f"{name} is not installed")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


def get(url: str, seconds: float = 5.0) -> tuple[int, str]:
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser that asks nobody on the internet."""
    quiet = ("background-networking", "component-update", "sync", "gpu", "quic")
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in quiet)]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program("chromium"), args=options)
        yield launched
        launched.close()


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus server that scrapes `target` every second with our rules; gives its address."""
    address = f"127.0.0.1:{free_port()}"
    rules = Path(__file__).parent.parent / "config/rules.yml"
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "unlike", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.json").write_text(json.dumps(settings))
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.json'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with open(folder / "prometheus.log", "wb") as log:
        server = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        until(lambda: reachable(f"http://{address}/-/ready"), 30)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def reachable(url: str) -> bool:
    """Whether a page answers 200."""
    with contextlib.suppress(OSError):
        return get(url)[0] == 200
    return False


def query(address: str, expression: str) -> list[dict[str, object]]:
    """The result of an instant query."""
    status, text = get(f"http://{address}/api/v1/query?query={urllib.parse.quote(expression)}")
    assert status == 200, text
    return list(json.loads(text)["data"]["result"])


def until(test: object, seconds: float) -> None:
    """Wait until `test()` is true; fails after so many seconds."""
    assert callable(test)
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
