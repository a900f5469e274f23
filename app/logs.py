"""How log lines look: JSON that Cloud Logging understands on Cloud Run, readable text on a terminal. The only importer
of structlog.

The rest of the service logs with the standard library; fields go in `extra={...}`.
"""

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

current_trace: ContextVar[str | None] = ContextVar("current_trace", default=None)
"""The trace id of the request that is being served, in this task."""

Event = MutableMapping[str, Any]

_TRACE = "logging.googleapis.com/trace"


_OF_CLIENTS = (
    "asyncio",
    "app.bootstrap",
    "app.connection",
    "app.handlers",
    "app.outgoing",
    "app.resender",
    "app.server",
    "app.tasks",
    "app.web",
    "hypercorn",
    "quart",
)
"""Loggers, with all below them, whose lines a client can cause."""


class OncePerSecond(logging.Filter):
    """Lets through one line a second of each kind that a client can cause, and says how many like it there were.

    A kind is a logger and a text before its arguments are put in; of other projects, which put them in themselves, the
    logger alone. What a client's message caused counts too, where the line says which `connection` it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held_back = 0
        """Lines that were not written."""
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}  # the time of the last line, and those since

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether this line is written."""
        if not hasattr(record, "connection") and not _is_of_clients(record.name):
            return True
        kind = (record.name, str(record.msg) if record.name.startswith("app.") else "")
        last, more = self._kinds.get(kind, (0.0, 0))
        if record.created - last < 1.0:
            self._kinds[kind] = last, more + 1
            self.held_back += 1
            return False
        self._kinds[kind] = record.created, 0
        if more:
            record.msg = f"{record.msg} (and {more} more like the one before)"
        return True


def _is_of_clients(name: str) -> bool:
    return any(name == logger or name.startswith(f"{logger}.") for logger in _OF_CLIENTS)


def configure(level: str, *, for_cloud_run: bool, project: str | None) -> OncePerSecond:
    """Send all logging of the process to standard error in one form. Return what holds back lines of clients."""

    def add_severity(_logger: object, _method: str, event: Event) -> Event:
        event["severity"] = str(event.pop("level", "info")).upper()
        event["message"] = event.pop("event", "")
        return event

    def add_trace(_logger: object, _method: str, event: Event) -> Event:
        if (trace := current_trace.get()) is not None:
            event[_TRACE] = f"projects/{project}/traces/{trace}" if project else trace
        return event

    common: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", key="time"),
    ]
    if for_cloud_run:
        last: list[Any] = [
            add_trace,
            structlog.processors.format_exc_info,
            add_severity,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                timestamp_key="time",
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=common,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    once_per_second = OncePerSecond()
    handler.addFilter(once_per_second)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    return once_per_second


def trace_of(headers: MutableMapping[str, str] | Any) -> str | None:
    """The trace id in a request's headers: `traceparent` or Google's own form."""
    parts = str(headers.get("traceparent", "")).split("-")
    if len(parts) >= 4 and len(parts[1]) == 32:
        return parts[1]
    trace = str(headers.get("x-cloud-trace-context", "")).partition("/")[0]
    return trace if len(trace) == 32 and trace.isalnum() else None
