"""Flags sessions that are unlike the account's owner."""

__version__ = "0.1.0"
