"""Data that is installed with the program: example settings, Prometheus scrape configuration and rules, a systemd unit."""

from pathlib import Path


def path(name: str) -> Path:
    """Where a file of this folder is."""
    return Path(__file__).parent / name
