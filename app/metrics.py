"""Every metric, in one table. The only importer of prometheus_client.

Labels take values from fixed sets only: nothing that a client or publisher sends becomes a label.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily

__all__ = ["CONTENT_TYPE", "Metrics"]


class Tally:
    """A counter for what happens with every message, for one thread. The library's own, for many, takes 1 us."""

    __slots__ = ("_count", "_name", "_text")

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._count = 0

    def inc(self, amount: int = 1) -> None:
        """So many more."""
        self._count += amount

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the library, which asks for it."""
        yield CounterMetricFamily(self._name, self._text, self._count)


class Metrics:
    """The metrics of one instance, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        counter, gauge, tally = self._counter, self._gauge, self._tally

        self.connections = gauge("connections", "Open WebSocket connections")
        self.connections_opened = counter("connections_opened", "WebSocket connections that were accepted")
        self.connections_refused = counter(
            "connections_refused",
            "Upgrades that were refused, by reason: "
            "draining, not_started, full, deaf, host, origin, unauthenticated, handshake",
            "reason",
        )
        self.connections_turned_away = gauge(
            "connections_turned_away", "Sockets of pages that are being told why they are refused, and closed"
        )
        self.connections_closed = counter(
            "connections_closed", "Connections that ended, by close code; 0: the client ended it", "code"
        )
        self.connections_sent_elsewhere = counter(
            "connections_sent_elsewhere",
            "Clients that were told to open their socket anew, by reason: drain, age, rollover, deafness, gap",
            "reason",
        )
        self.connections_by_message = counter(
            "connections_by_message",
            "Connections that were sent message by message: their server takes no ready frames",
        )
        self.sends_to_many = gauge(
            "sends_to_many",
            "1 where one system call was found to write to many connections; 0 where each takes its own",
        )
        self.users = gauge("users", "Users with at least one connection")
        self.channels = gauge("channels", "Channels with at least one subscription")
        self.subscriptions = gauge("subscriptions", "Subscriptions (channel and subId) with at least one connection")

        self.received = tally("messages_received", "Messages from WebSocket clients that were well-formed")
        self.errors = counter("errors", "Messages that were answered with an error, by its code", "code")
        self.published = counter(
            "messages_published",
            "Messages handed to a fan-out, by fan-out (shared, local) and result (accepted, refused, failed)",
            "fanout",
            "result",
        )
        self.publish_backlog_bytes = gauge(
            "publish_backlog_bytes", "Bytes handed to the shared fan-out and not accepted yet"
        )
        self.publish_backlog_messages = gauge(
            "publish_backlog_messages", "Messages handed to the shared fan-out and not accepted yet"
        )
        self.arrived = tally("messages_arrived", "Messages that a fan-out handed in and that were delivered on")
        self.duplicates = counter(
            "duplicates_dropped", "Messages that came again, by what they were known by: pubsub_id, sequence, id", "by"
        )
        self.malformed = counter(
            "malformed_dropped", "Messages from the topic that could not be used, by the error's code", "code"
        )
        self.sent = tally("messages_sent", "Frames handed to connections")
        self.history_bytes = gauge("history_bytes", "What the kept messages take")
        self.history_messages = gauge("history_messages", "Messages that are kept for clients that come back")
        self.history_streams = gauge("history_streams", "Channels and inboxes of which something is known")
        self.history_evicted = counter(
            "history_evicted", "Messages that were let go of, by reason: size, age, bytes", "reason"
        )
        self.recoveries = counter(
            "recoveries",
            "Answers to clients that came back with a position: recovered, or why it could not be proven "
            "(off, epoch, uncovered, evicted, unknown, malformed, busy)",
            "result",
        )
        self.replaying = gauge("replaying", "Messages that wait to be replayed to clients that come back")
        self.replayed = counter("messages_replayed", "Messages sent to clients that had missed them")
        self.stale = counter(
            "messages_stale", "Messages kept for recovery only: they came too late to be news (CLOUD_SOCKETS_MAX_AGE)"
        )
        self.buffered_bytes = gauge("buffered_bytes", "Bytes that wait for connections to take them")

        self.subscription_bytes = gauge("subscription_bytes", "What the subscriptions of all connections take")
        self.unfinished_bytes = gauge(
            "unfinished_bytes", "Bytes that came in and are not handled yet: parts of messages, bodies, what waits"
        )
        self.window_bytes = gauge(
            "window_bytes", "What clients that compress may refer back to, where it is more than 1 KiB of one"
        )
        self.connections_shed = counter(
            "connections_shed",
            "Connections closed because of what they sent or left lying, by reason: "
            "rate, unfinished, window, replay, idle, crowded",
            "reason",
        )
        self.log_lines_held_back = gauge(
            "log_lines_held_back", "Lines of clients that were not logged: all clients have one a second"
        )
        self.acks_pending_bytes = gauge("acks_pending_bytes", "What the messages that wait to be acknowledged take")
        self.acks_pending = gauge("acks_pending", "Messages that connections have yet to acknowledge")
        self.acks_resent = counter("acks_resent", "Messages sent again because no acknowledgement came")
        self.acks_put_off = counter(
            "acks_put_off", "Messages not sent again yet: the connection has not taken what was sent before"
        )
        self.acks_given_up = counter(
            "acks_given_up",
            "Messages whose acknowledgement is no longer waited for, by reason: "
            "timeout, too_many, too_large, unsubscribed, logged_out, disconnected",
            "reason",
        )
        self.handler_calls = counter(
            "handler_calls", "Custom handlers that ended, by result: done, failed, timeout", "result"
        )

        self.pubsub_hearing = gauge("pubsub_hearing", "1 while this instance hears its own messages on the topic")
        self.pubsub_lag = gauge(
            "pubsub_lag_seconds", "How long the latest message of this instance took from its publishing to its hearing"
        )
        self.pubsub_orphans_deleted = counter(
            "pubsub_orphans_deleted", "Subscriptions of dead instances that this instance deleted"
        )
        self.pubsub_received = counter("pubsub_messages_received", "Messages that Pub/Sub delivered, loopbacks too")
        self.publish_requests = counter(
            "pubsub_publish_requests", "Publish requests to Pub/Sub, by result: stored, retried, failed", "result"
        )
        self.pubsub_streams = counter("pubsub_streams", "Streaming pulls that were opened")
        self.pubsub_subscriptions_made = counter("pubsub_subscriptions_made", "Instance subscriptions that were made")
        self.pubsub_gaps = counter("pubsub_gaps", "Times after which messages may be missing on this instance")

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Have a gauge read its value when it is asked for."""
        gauge.set_function(value)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"cloud_sockets_{name}", text, labels, registry=self._registry)

    def _tally(self, name: str, text: str) -> Tally:
        tally = Tally(f"cloud_sockets_{name}", text)
        self._registry.register(tally)
        return tally

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"cloud_sockets_{name}", text, registry=self._registry)
