"""Structured logging to stderr: for people on a terminal, one JSON object a line otherwise."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

from alerts.explanations import harmless

FIELD_LIMIT = 2000  # characters of one value


def configure(level: str, form: str) -> None:
    """Set up structlog, and route the standard library's log (APScheduler's) into it. form: auto, console or json."""
    import structlog

    readable = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        made_harmless,
    ]
    last: Any = structlog.dev.ConsoleRenderer(colors=True) if readable else structlog.processors.JSONRenderer(sort_keys=False)
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(max(number, logging.WARNING))  # libraries speak up from warnings on
    logging.captureWarnings(True)


def made_harmless(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No value can forge a line, turn text around or write to the terminal."""
    return {key: harmless(value, FIELD_LIMIT) if isinstance(value, str) else value for key, value in event.items()}


class _Forward(logging.Handler):
    """Hands records of the standard library to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        import structlog

        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += f": {record.exc_info[1]!r}"
        structlog.get_logger().log(record.levelno, message, logger=record.name)
