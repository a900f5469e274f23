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


def configure(level: str, *, for_cloud_run: bool, project: str | None) -> None:
    """Send all logging of the process to standard error in one form."""

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
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def trace_of(headers: MutableMapping[str, str] | Any) -> str | None:
    """The trace id in a request's headers: `traceparent` or Google's own form."""
    parts = str(headers.get("traceparent", "")).split("-")
    if len(parts) >= 4 and len(parts[1]) == 32:
        return parts[1]
    trace = str(headers.get("x-cloud-trace-context", "")).partition("/")[0]
    return trace if len(trace) == 32 and trace.isalnum() else None
