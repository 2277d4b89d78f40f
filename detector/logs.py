"""Structured logging to stderr: for people on a terminal, one JSON object a line otherwise."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

from alerts.explanations import harmless

FIELD_LIMIT = 2000  # characters of one value, or of one line of a traceback
TRACEBACK_LINES = 40  # the last ones: they name the error


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
    last: Any = structlog.processors.JSONRenderer(sort_keys=False)
    if readable:
        plain = structlog.dev.plain_traceback
        last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
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
    safe = {key: harmless(value, FIELD_LIMIT) if isinstance(value, str) else value for key, value in event.items()}
    if isinstance(event.get("exception"), str):
        safe["exception"] = _indented(event["exception"])
    return safe


def _indented(traceback: str) -> str:
    """Each line harmless; its indentation keeps an error's text from passing for a line of the log."""
    return "\n".join("    " + harmless(line, FIELD_LIMIT) for line in traceback.splitlines()[-TRACEBACK_LINES:])


class _Forward(logging.Handler):
    """Hands records of the standard library to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        import structlog

        raised = record.exc_info if record.exc_info and record.exc_info[1] is not None else None
        try:
            structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name, exc_info=raised)
        except Exception:  # as every handler does: a record that cannot be written is no error of its writer
            self.handleError(record)
