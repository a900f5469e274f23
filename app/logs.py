"""How log lines look: JSON that Cloud Logging understands on Cloud Run, readable text on a terminal. The only importer
of structlog.

The rest of the service logs with the standard library; fields go in `extra={...}`.
"""

import logging
import math
import sys
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TextIO

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


PER_SECOND = 1.0
"""Lines a second that all clients together may cause."""
AT_ONCE = 3
"""Lines that they may cause at once, after some quiet."""
MAX_KINDS = 32
"""Kinds of lines that wait; a client can cause fewer."""


@dataclass(slots=True)
class _Kind:
    """Lines that are alike: when one was written last, the oldest that waits, and how many more came since."""

    written: float = -math.inf
    waiting: logging.LogRecord | None = None
    more: int = 0


class ClientLines:
    """Holds what clients can cause to one line a second in all, whatever its kind, and says how many more there were.

    A kind is a logger and a text before its arguments are put in; of other projects, which put them in themselves, the
    logger alone. What a client's message caused counts too, where the line says which `connection` it was. The kind
    that waits longest comes first, so that no kind hides another; a line that waits is written with a later one.
    """

    def __init__(self) -> None:
        self.held_back = 0
        """Lines that were not written, or not yet."""
        self._kinds: dict[tuple[str, str], _Kind] = {}  # those that wait longest are first
        self._written: deque[float] = deque(maxlen=AT_ONCE)

    def due(self, record: logging.LogRecord) -> list[logging.LogRecord]:
        """Return what is to be written, now that this line comes."""
        due = [] if self._hold(record) else [record]
        return [*self._now_due(record.created), *due]

    def _hold(self, record: logging.LogRecord) -> bool:
        """Have a line wait for its turn; answer False where it needs none."""
        if not hasattr(record, "connection") and not _is_of_clients(record.name):
            return False
        name = (record.name, str(record.msg) if record.name.startswith("app.") else "")
        kind = self._kinds.get(name)
        self.held_back += 1
        if kind is None:
            if len(self._kinds) >= MAX_KINDS and not self._forget_one():
                return True
            kind = self._kinds[name] = _Kind()
        if kind.waiting is None:
            kind.waiting = record
            self._kinds[name] = self._kinds.pop(name)  # it waits less than all others
        else:
            kind.more += 1
        return True

    def _forget_one(self) -> bool:
        """Forget a kind of which nothing waits."""
        quiet = next((name for name, kind in self._kinds.items() if kind.waiting is None), None)
        return quiet is not None and self._kinds.pop(quiet) is not None

    def _now_due(self, now: float) -> Iterator[logging.LogRecord]:
        for kind in tuple(self._kinds.values()):
            if len(self._written) == AT_ONCE and now - self._written[0] < AT_ONCE / PER_SECOND:
                return
            if kind.waiting is None or now - kind.written < 1 / PER_SECOND:
                continue
            line, more = kind.waiting, kind.more
            kind.written, kind.waiting, kind.more = now, None, 0
            self._written.append(now)
            self.held_back -= 1
            if more:
                line.msg = f"{line.msg} (and {more} more like it)"
            yield line


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to standard error what is due."""

    def __init__(self, lines: ClientLines) -> None:
        super().__init__(sys.stderr)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        for due in self._lines.due(record):
            super().emit(due)


def _is_of_clients(name: str) -> bool:
    return any(name == logger or name.startswith(f"{logger}.") for logger in _OF_CLIENTS)


def configure(level: str, *, for_cloud_run: bool, project: str | None) -> ClientLines:
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
    lines = ClientLines()
    handler = _Handler(lines)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    return lines


def trace_of(headers: MutableMapping[str, str] | Any) -> str | None:
    """The trace id in a request's headers: `traceparent` or Google's own form."""
    parts = str(headers.get("traceparent", "")).split("-")
    if len(parts) >= 4 and len(parts[1]) == 32:
        return parts[1]
    trace = str(headers.get("x-cloud-trace-context", "")).partition("/")[0]
    return trace if len(trace) == 32 and trace.isalnum() else None
