"""Hubs without a server around them."""

from dataclasses import replace
from typing import Any

from app.clock import Clock
from app.core.router import Rules
from app.fanout import Fanout
from app.fanout.embedded import EmbeddedFanout
from app.handlers import Handlers
from app.hub import Hub, Identity, Limits
from app.journal import HistoryLimits
from app.metrics import Metrics

HISTORY = HistoryLimits(size=1000, ttl=10_000, max_bytes=10**8, delivery_skew=5)
LIMITS = Limits(
    max_payload=1000,
    max_connections=1000,
    max_subscriptions=10,
    publish_backlog=10_000,
    max_buffered=100_000,
    max_buffered_total=10_000_000,
    resend_delay=60,
    resend_timeout=600,
    history=HISTORY,
)


def make_hub(
    fanout: Fanout | None = None,
    *,
    rules: Rules | None = None,
    clock: Clock | None = None,
    instance_id: str = "0123456789ab",
    **limits: Any,
) -> Hub:
    """A hub that has to be opened and closed; `limits` are those that differ from LIMITS."""
    metrics = Metrics()
    return Hub(
        identity=Identity(instance_id),
        rules=rules or Rules(),
        limits=replace(LIMITS, **limits),
        include_user_props=(),
        fanout=fanout or EmbeddedFanout(),
        handlers=Handlers({}, metrics),
        metrics=metrics,
        clock=clock or Clock(),
        options={},
    )
