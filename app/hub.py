"""The hub of one instance: it owns the connections and the state, and does what the router decides.

`publish` hands a message to a fan-out. `deliver` is what a fan-out hands in, on its way to the connections that want
it. `send` is one frame to one connection. A message goes one way: receive, publish, deliver, send.
"""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from app.arrival import Arrival
from app.clock import Clock, rfc3339
from app.connection import Connection, Outgoing, Outlet
from app.core import info
from app.core.channels import ChannelManager
from app.core.deduplication import Deduplicator
from app.core.router import (
    Acknowledge,
    Audience,
    CallHandler,
    Everyone,
    Inform,
    OneUser,
    Publish,
    Router,
    Rules,
    Subscribe,
    Subscribers,
    Unsubscribe,
)
from app.core.users import User, UserMap
from app.director import MessageDirector
from app.fanout import Delivery, Fanout, FanoutStartError, Publication
from app.fanout.backlog import Backlog
from app.fanout.embedded import EmbeddedFanout
from app.handlers import Handlers
from app.metrics import Metrics
from app.protocol import codec, messages
from app.protocol.close_codes import CloseCode
from app.protocol.errors import ErrorCode, MessageError
from app.protocol.frame import Frame
from app.protocol.messages import Json, Message
from app.resender import Resender
from app.tasks import TaskOwner

logger = logging.getLogger(__name__)

T = TypeVar("T")

STAMP_ROOM = 256
"""Bytes by which a message grows beyond what its client sent: id and sentDateTime."""
DRAIN_TIMEOUT = 3.0
FINISH_TIMEOUT = 1.0
RETURN_WINDOW_MS = 1000
"""Clients of a stopping instance are told to come back at a time of their own within this."""
WELCOME_TEXT = "the cloud-sockets WebSocket"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which instance this is."""

    instance_id: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The hub's bounds; sizes in bytes, times in seconds."""

    max_payload: int
    max_connections: int
    max_subscriptions: int
    publish_backlog: int
    max_buffered: int
    max_buffered_total: int
    resend_delay: float
    resend_timeout: float


@dataclass(frozen=True, slots=True)
class Published:
    """A message that a fan-out has accepted: its id, and the carrier's own id for it, if any."""

    id: str
    pubsub_id: str | None


class Hub:
    """One instance of the service. It belongs to its event loop; only `emit_threadsafe` may be called elsewhere."""

    def __init__(
        self,
        *,
        identity: Identity,
        rules: Rules,
        limits: Limits,
        include_user_props: Collection[str],
        fanout: Fanout,
        handlers: Handlers,
        metrics: Metrics,
        clock: Clock,
        options: Mapping[str, Any],
        custom_pubsub: bool = False,
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.connections: dict[str, Connection] = {}
        self.channels: ChannelManager[Connection] = ChannelManager()
        self.users: UserMap[Connection] = UserMap(tuple(include_user_props))
        self.metrics = metrics
        self.director = MessageDirector(self)
        self.draining = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.failed: asyncio.Future[FanoutStartError] | None = None
        """Done when the hub can never be ready, with the reason; None before `open`."""
        self._router = Router(rules)
        self._handlers = handlers
        self._clock = clock
        self._options = options
        self._custom_pubsub = custom_pubsub
        self._fanout = fanout
        self._local = EmbeddedFanout()
        self._outgoing = Outgoing(limits.max_buffered_total)
        self._tasks = TaskOwner(MessageError, FanoutStartError)
        self._backlog = Backlog(fanout, limits.publish_backlog, metrics)
        self._sequence = 0
        self._deduplicator = Deduplicator()
        self._resender = Resender(limits.resend_delay, limits.resend_timeout, clock, metrics)
        self._all_gone = asyncio.Event()
        self._started = False
        self._watch_gauges()

    # Life

    async def open(self) -> None:
        """Start the fan-outs; returns at once, `unready_reasons` tells when they are up."""
        self.loop = asyncio.get_running_loop()
        self.failed = self.loop.create_future()
        await self._local.start(self.deliver)
        self._tasks.start(self._start_fanout(self.failed))

    async def _start_fanout(self, failed: "asyncio.Future[FanoutStartError]") -> None:
        try:
            await self._fanout.start(self.deliver)
        except FanoutStartError as error:
            logger.critical("cannot start: %s", error)
            failed.set_result(error)
        else:
            self._started = True

    def unready_reasons(self) -> list[str]:
        """Why this instance should get no new clients now, in plain words; empty while it is ready."""
        reasons = ["the instance is shutting down"] if self.draining else []
        if self.failed is None:
            return [*reasons, "the hub is not started"]
        if self.failed.done():
            return [*reasons, str(self.failed.result())]
        waiting = self._fanout.unready_reasons()
        return [*reasons, *(waiting or ([] if self._started else ["the fan-out is starting"]))]

    def notes(self) -> list[str]:
        """What its operator should know although it is ready, in plain words."""
        return self._fanout.notes()

    async def drain(self) -> None:
        """Send all clients elsewhere: tell each, then close it (1012). Returns when they are gone, in a few seconds."""
        self.draining = True
        for connection in tuple(self.connections.values()):
            wait = self._clock.chance.randrange(RETURN_WINDOW_MS)
            self._end(connection, CloseCode.SERVICE_RESTART, "service restart", retry_after_ms=wait)
        if self.connections:
            self._all_gone.clear()
            try:
                async with asyncio.timeout(DRAIN_TIMEOUT):
                    await self._all_gone.wait()
            except TimeoutError:
                for connection in tuple(self.connections.values()):
                    connection.cut()

    async def close(self) -> None:
        """Flush what was accepted, leave no subscription behind, end all tasks. After `drain`; may be called twice."""
        self.draining = True
        await self._fanout.close()
        await self._local.close()
        self._resender.close()
        await self._handlers.close()
        await self._tasks.finish(FINISH_TIMEOUT)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run something beside, as long as the hub is open; await it or leave it."""
        return self._tasks.start(coroutine)

    # Connections

    @property
    def full(self) -> bool:
        """Whether there is no room for another connection."""
        return len(self.connections) >= self.limits.max_connections

    def connect(self, user: User | None, session_user: Any, outlet: Outlet) -> Connection:
        """Take in a socket and send its welcome. The caller owes an `open` once it is accepted, and a `disconnect`."""
        connection = Connection(
            self._clock.new_id(),
            user,
            session_user,
            outgoing=self._outgoing,
            max_buffered=self.limits.max_buffered,
            outlet=outlet,
        )
        self.connections[connection.id] = connection
        if user is not None:
            self.users.add(connection, user)
        self.metrics.connections_opened.inc()
        name = f"{user.name} to " if user is not None else "to "
        self.tell(
            connection,
            type=messages.WELCOME,
            message=f"Welcome {name}{WELCOME_TEXT}",
            numConnections=len(self.connections),
            numUsers=len(self.users.names),
            connectionId=connection.id,
            instanceId=self.identity.instance_id,
        )
        if self.draining:  # it slipped in while its upgrade was under way
            self._end(connection, CloseCode.SERVICE_RESTART, "service restart", retry_after_ms=0)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Forget a socket that is gone, with all it had."""
        connection.ended()
        del self.connections[connection.id]
        self.channels.unsubscribe(connection)
        if connection.user is not None:
            self.users.remove(connection, connection.user)
        self._resender.forget(connection)
        self.metrics.connections_closed.labels(str(int(connection.close_code or 0))).inc()
        if not self.connections:
            self._all_gone.set()

    def silent(self, connection: Connection) -> None:
        """End a connection whose client does not answer any more."""
        self._end(connection, CloseCode.NO_PONG, "no pong")

    def _end(self, connection: Connection, code: CloseCode, reason: str, retry_after_ms: int | None = None) -> None:
        farewell = self._own_frame(
            type=messages.DISCONNECT,
            code=int(code),
            reason=reason,
            reconnect=code.reconnect,
            retryAfterMs=retry_after_ms,
        )
        connection.close(code, reason, farewell)

    # Receive: what a client says

    async def receive(self, connection: Connection, data: str | bytes) -> None:
        """Do what a client's frame asks for, and answer it. Never raises for what a client sends."""
        if not isinstance(data, str):
            error = MessageError(ErrorCode.BINARY_FRAME, "messages are JSON in text frames")
            self._refuse(connection, error, None, data[: codec.MAX_SHOWN_LENGTH].decode(errors="replace"))
            return
        decoded = codec.decode(data)
        if isinstance(decoded, codec.Refused):
            self._refuse(connection, decoded.error, decoded.ack_id, decoded.shown)
            return
        self.metrics.received.inc()
        message, shown = decoded
        try:
            await self._do(connection, message, shown)
        except MessageError as error:
            self._refuse(connection, error, message.ack_id, shown)
        except Exception:
            logger.exception("a message could not be handled", extra={"connection": connection.id})
            failure = MessageError(ErrorCode.INTERNAL, "the service failed on this message")
            self._refuse(connection, failure, message.ack_id, shown)

    async def _do(self, connection: Connection, message: Message, shown: Json | str) -> None:
        match self._router.request_of(message):
            case Subscribe(channel, sub_id):
                self.subscribe(connection, channel, sub_id, message.ack_id)
            case Unsubscribe(channel, sub_id):
                self.unsubscribe(connection, channel, sub_id, message.ack_id)
            case Acknowledge(message_id):
                self._resender.pending.acknowledge(connection, message_id)
                if message.ack_id is not None:
                    self._reply(connection, message.ack_id, id=message_id)
            case Inform(detail, channel):
                answer = self.info_detail(channel) if detail else self.info()
                self.tell(connection, type=message.type, ackId=message.ack_id, **answer)
            case CallHandler(kind):
                await self._handlers.call(kind, connection, codec.to_object(message), self.director)
                if message.ack_id is not None:
                    self._reply(connection, message.ack_id, id=message.id)
            case Publish(shared):
                await self._publish_for(connection, message, shown, shared=shared)

    async def _publish_for(self, connection: Connection, message: Message, shown: Json | str, *, shared: bool) -> None:
        """Publish a client's message. Only the handing over is awaited; the answer comes once it is accepted."""
        publishing = self._publish(message, shared=shared, sender=connection.id)
        if not shared:
            self._accepted(connection, message, await publishing)
            return

        async def answer() -> None:
            try:
                self._accepted(connection, message, await publishing)
            except MessageError as error:
                self._refuse(connection, error, message.ack_id, shown)

        self._tasks.start(answer())

    def _accepted(self, connection: Connection, message: Message, published: Published) -> None:
        if message.ack_id is not None:
            self._reply(connection, message.ack_id, id=published.id, pubsubId=published.pubsub_id)

    def subscribe(self, connection: Connection, channel: str, sub_id: str, ack_id: Json | None = None) -> None:
        """Subscribe a connection and tell it so. Raises MessageError over the limit."""
        if (
            not self.channels.has(connection, channel, sub_id)
            and self.channels.subscription_count_of(connection) >= self.limits.max_subscriptions
        ):
            raise MessageError(
                ErrorCode.TOO_MANY_SUBSCRIPTIONS,
                f"a connection can have at most {self.limits.max_subscriptions} subscriptions",
            )
        self.channels.subscribe(connection, channel, sub_id)
        self._reply(
            connection,
            ack_id,
            channel=channel,
            subId=sub_id,
            numConnections=len(self.channels.connections_of(channel, sub_id)),
        )

    def unsubscribe(
        self,
        connection: Connection,
        channel: str | None = None,
        sub_id: str | None = None,
        ack_id: Json | None = None,
    ) -> None:
        """Unsubscribe a connection from a subscription, a channel or everything, and tell it what that took away."""
        removed = self.channels.unsubscribe(connection, channel, sub_id)
        self._reply(
            connection,
            ack_id,
            channel=channel,
            subId=sub_id,
            removedConnectionCount=removed.connections,
            subscriptionsDeleted=removed.subscriptions,
            channelsDeleted=removed.channels,
        )

    def _refuse(self, connection: Connection, error: MessageError, ack_id: Json | None, shown: Json | str) -> None:
        self.metrics.errors.labels(error.code.value).inc()
        self.tell(
            connection,
            type=messages.ERROR,
            code=error.code.value,
            value=error.value,
            msg=shown,
            ackId=ack_id,
            temporary=error.code.temporary,
        )
        if error.code.malformed_input and connection.errors.exceeded(self._clock.monotonic()):
            self._end(connection, CloseCode.TOO_MANY_ERRORS, "too many errors")

    # Publish: to a fan-out

    async def publish_from_outside(self, message: Message) -> Published:
        """Publish what came over HTTP: to all instances, whatever its type, as from the topic. Raises MessageError."""
        return await self._publish(message, shared=True, sender=None)

    async def publish(self, message: Message) -> Published:
        """Publish a message of this process by its type's rules, with no sender to leave out. Raises MessageError."""
        # Each call is a sender of its own, so that two handlers may pass on messages of two clients that have the
        # same id.
        return await self._publish(message, shared=self._router.publish_of(message).shared, sender=self._clock.new_id())

    async def emit(self, channel: str | None, sub_id: str | None, type: str, payload: Any = None) -> Published:
        """The seed's `socketEmitter.emit`: to a channel, a subscription or as the type says. Raises MessageError."""
        fields = {"type": type, "channel": channel, "subId": sub_id, "payload": payload}
        return await self.publish(codec.from_object({key: value for key, value in fields.items() if value is not None}))

    def emit_threadsafe(
        self, channel: str | None, sub_id: str | None, type: str, payload: Any = None
    ) -> "Future[Published]":
        """`emit` from any other thread; wait for the result, or leave it."""
        if self.loop is None:
            raise RuntimeError("the hub is not started")
        return asyncio.run_coroutine_threadsafe(self.emit(channel, sub_id, type, payload), self.loop)

    async def logout(self, user_tag: str) -> None:
        """The seed's `handleLogout`: close (3503) a user's sockets on all instances, or raise MessageError."""
        try:
            await self._hand_over(Message(type=messages.LOGOUT, user_tag=user_tag), shared=True, sender=None)
        finally:
            self._log_out_here(user_tag)

    def _log_out_here(self, user_tag: str) -> None:
        for connection in tuple(self.users.connections_of(user_tag)):
            self._end(connection, CloseCode.LOGGED_OUT, "logged out")

    async def _publish(self, message: Message, *, shared: bool, sender: str | None) -> Published:
        audience = self._router.audience_of(message)
        fanout = self._fanout if shared else self._local
        if isinstance(audience, OneUser) and not fanout.reaches_others and not self._receivers(audience):
            raise MessageError(ErrorCode.USER_OFFLINE, f"User with user tag {audience.user_tag} is not online")
        return await self._hand_over(message, shared=shared, sender=sender)

    async def _hand_over(self, message: Message, *, shared: bool, sender: str | None) -> Published:
        """Stamp a message and give it to the fan-out, as far as the backlog allows."""
        message_id = message.id or self._clock.new_id()
        stamped = message.stamped(id=message_id, sent_date_time=self._clock.now())
        data = codec.encode(stamped)
        if len(data) > self.limits.max_payload + STAMP_ROOM:
            raise MessageError(ErrorCode.TOO_LARGE, f"a message may have at most {self.limits.max_payload} bytes")
        attributes = {
            "type": stamped.type,
            "channel": stamped.channel,
            "subId": stamped.sub_id,
            "userTag": stamped.user_tag,
            "origin": self.identity.instance_id,
            "sender": sender,
        }
        place = {key: value for key, value in attributes.items() if value is not None}
        if not shared:
            await self._local.publish(Publication(data, place))
            self.metrics.published.labels("local", "accepted").inc()
            return Published(message_id, None)
        self._sequence += 1
        publication = Publication(data, {**place, "seq": str(self._sequence)})
        return Published(message_id, await self._backlog.publish(publication))

    # Deliver: from a fan-out

    def deliver(self, delivery: Delivery) -> None:
        """Send what a fan-out hands in to the connections that want it, once. Never raises for what is in it."""
        now = self._clock.monotonic()
        attributes = delivery.attributes
        sender, origin = attributes.get("sender", ""), attributes.get("origin")
        known_by = self._deduplicator.carried_before(delivery.key, origin, attributes.get("seq"), now)
        if known_by is not None:
            self.metrics.duplicates.labels(known_by).inc()
            return
        try:
            arrival = self._take_in(delivery)
            if arrival.is_between_hubs:
                self._heed(arrival.message, origin or "")
                return
            receivers = self._receivers(self._router.audience_of(arrival.address))
            message_id = arrival.id
            if message_id is not None and self._deduplicator.sent_before(sender, message_id, now):
                self.metrics.duplicates.labels("id").inc()
                return
            self.metrics.arrived.inc()
            if receivers and delivery.live:
                # An announce does not come back to the socket that sent it; the seed's other types do.
                left_out = sender if arrival.address.type == messages.ANNOUNCE else None
                self._send_arrival(receivers, arrival, left_out)
        except MessageError as error:
            self.metrics.malformed.labels(error.code.value).inc()
            logger.warning("dropped the malformed message %s: %s", delivery.id, error)

    def _take_in(self, delivery: Delivery) -> Arrival:
        arrival = Arrival(delivery)
        if len(delivery.data) > self.limits.max_payload + (STAMP_ROOM if arrival.is_own else 0):
            raise MessageError(ErrorCode.TOO_LARGE, f"a message may have at most {self.limits.max_payload} bytes")
        return arrival

    def _complete(self, arrival: Arrival) -> Message:
        """Give a message what all instances agree on: its own id and time where a hub set them, else its carrier's."""
        message, delivery = arrival.message, arrival.delivery
        sent_date_time = message.sent_date_time if arrival.is_own else None
        if sent_date_time is None:
            published = delivery.publish_time_ns
            sent_date_time = self._clock.now() if published is None else rfc3339(published)
        return message.arrived(
            id=message.id or delivery.id or self._clock.new_id(),
            sent_date_time=sent_date_time,
            pubsub_id=delivery.id,
        )

    def _heed(self, message: Message, origin: str) -> None:
        """What another instance tells; a type that is not known here comes from a newer release."""
        if message.type == messages.LOGOUT and message.user_tag is not None and origin != self.identity.instance_id:
            self._log_out_here(message.user_tag)

    def _receivers(self, audience: Audience) -> Collection[Connection]:
        match audience:
            case Everyone():
                return self.connections.values()
            case OneUser(user_tag):
                return self.users.connections_of(user_tag)
            case Subscribers(channel, sub_id) if channel is not None:
                return self.channels.connections_of(channel, sub_id)
            case Subscribers():
                return self.channels.subscribed_connections()

    # Send: to connections

    def send(self, connection: Connection, message: Message) -> Message:
        """Send one message to one connection, with an id and a time; answers it as it was sent."""
        stamped = self.stamp(message)
        awaits_ack = stamped.type in self._router.rules.ack_types
        self._send_to_all((connection,), codec.encode_frame(stamped), stamped if awaits_ack else None)
        return stamped

    def stamp(self, message: Message) -> Message:
        """A message as it would be sent: with an id and a time."""
        return message.stamped(id=self._clock.new_id(), sent_date_time=self._clock.now())

    def _send_arrival(self, receivers: Collection[Connection], arrival: Arrival, left_out: str | None) -> None:
        awaits_ack = arrival.address.type in self._router.rules.ack_types
        mine = arrival.delivery.attributes.get("origin") == self.identity.instance_id
        if mine and arrival.delivery.id is None and not awaits_ack:
            frame = Frame(arrival.delivery.data)  # as it was written here: its carrier has nothing to add
            self._send_to_all(receivers, frame, left_out=left_out)
            return
        message = self._complete(arrival)
        self._send_to_all(receivers, codec.encode_frame(message), message if awaits_ack else None, left_out)

    def _send_to_all(
        self,
        connections: Collection[Connection],
        frame: Frame,
        acknowledged: Message | None = None,
        left_out: str | None = None,
    ) -> None:
        """Send one frame to all of these; `acknowledged` is what it says, if each has to acknowledge it."""
        skipped = None if left_out is None else self.connections.get(left_out)
        if acknowledged is None:
            self.metrics.sent.inc(self._outgoing.send(frame, connections, skipped))
            return
        sent = 0
        for connection in connections:
            if connection is not skipped and connection.send(frame):
                sent += 1
                self._resender.expect(connection, acknowledged)
        self.metrics.sent.inc(sent)

    def _reply(self, connection: Connection, ack_id: Json | None, **fields: object) -> None:
        self.tell(connection, type=messages.ACK, ackId=ack_id, **fields)

    def tell(self, connection: Connection, **fields: object) -> None:
        """Send what the service itself says; what is None is left out, id and sentDateTime are added."""
        if connection.send(self._own_frame(**fields)):
            self.metrics.sent.inc()

    def _own_frame(self, **fields: object) -> Frame:
        """What the service itself says; an `id` of None in `fields` gets a new one."""
        return codec.encode_reply(
            {**fields, "id": fields.get("id") or self._clock.new_id(), "sentDateTime": self._clock.now()}
        )

    # Info

    def info(self) -> dict[str, Any]:
        """What getInfo answers."""
        return info.info(self._server_info(), len(self.connections), self.channels, self.users, self._resender.pending)

    def info_detail(self, channel: str | None = None) -> dict[str, Any]:
        """What getInfoDetail answers, of all channels or of one."""
        return info.info_detail(
            self._server_info(), len(self.connections), self.channels, self.users, self._resender.pending, channel
        )

    def _server_info(self) -> dict[str, Any]:
        revision = {} if self.identity.revision is None else {"revision": self.identity.revision}
        return {
            "instanceId": self.identity.instance_id,
            **revision,
            "customPubSub": self._custom_pubsub,
            "options": self._options,
        }

    def _watch_gauges(self) -> None:
        watch = self.metrics.watch
        watch(self.metrics.connections, lambda: len(self.connections))
        watch(self.metrics.users, lambda: len(self.users.names))
        watch(self.metrics.channels, lambda: len(self.channels.channels))
        watch(self.metrics.subscriptions, lambda: self.channels.subscription_count)
        watch(self.metrics.buffered_bytes, lambda: self._outgoing.bytes)
        watch(self.metrics.acks_pending, lambda: len(self._resender.pending))
        watch(self.metrics.publish_backlog_bytes, lambda: self._backlog.bytes)
        watch(self.metrics.publish_backlog_messages, lambda: self._backlog.messages)
