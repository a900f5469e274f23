"""The hub of one instance: it owns the connections and the state, and does what the router decides.

`publish` hands a message to a fan-out. `deliver` is what a fan-out hands in, on its way to the connections that want
it. `send` is one frame to one connection. A message goes one way: receive, publish, deliver, send.
"""

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from app.arrival import Address, Arrival, sender_of
from app.clock import Clock
from app.connection import Connection, Outlet
from app.core import info
from app.core.acknowledgements import SentMessage
from app.core.channels import ChannelManager
from app.core.deduplication import Deduplicator, OnTheirWay, sent_name
from app.core.departures import Reason
from app.core.info import Viewer
from app.core.position import Position
from app.core.rate import SenderLimits, SenderRate
from app.core.router import (
    Acknowledge,
    Addressed,
    Audience,
    CallHandler,
    Everyone,
    Inform,
    OneUser,
    Publish,
    Request,
    Router,
    Rules,
    Subscribe,
    Subscribers,
    Unsubscribe,
)
from app.core.users import User, UserMap
from app.director import MessageDirector
from app.endings import Endings
from app.fanout import PROCESS, PROCESS_LENGTH, Delivery, Fanout, FanoutStartError, Publication
from app.fanout.backlog import Backlog
from app.fanout.embedded import EmbeddedFanout
from app.handlers import Handlers
from app.journal import SECOND, HistoryLimits, Journal, Place, Resumed
from app.metrics import Metrics
from app.outgoing import CROWD_BYTES, Outgoing
from app.protocol import codec, messages
from app.protocol.close_codes import CROWDED, CloseCode
from app.protocol.errors import ErrorCode, MessageError
from app.protocol.frame import Frame
from app.protocol.messages import Json, Message
from app.replaying import Again, Order, Replaying, ReplayLost
from app.resender import Resender
from app.sending import SendToEach, one_by_one
from app.tasks import TaskOwner

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEGABYTE = 1024 * 1024
STAMP_ROOM = 256
"""Bytes by which a message grows beyond what its client sent: id and sentDateTime."""
FREE_BURST = MEGABYTE
"""Bytes of its burst that a client may use whatever its audience; beyond, they must be able to take it."""
MANY_LAGGING = 5
"""Fewer receivers that are behind have themselves to blame; so many at once have the sender. It is no part of the
audience, which a sender could fill up with connections of its own."""
LAG_RETRY = 1.0
"""Seconds after which it may try again."""
FINISH_TIMEOUT = 1.0
LOOK_AROUND = 1.0
"""Seconds between two looks at what is too old, and at what was lost."""
NOT_STARTED = (
    "the hub is not started: the server, or the app that this one is mounted in, runs no lifespan for it; "
    "have the parent's lifespan await app.startup() at its start and app.shutdown() at its end"
)
WELCOME_TEXT = "the cloud-sockets WebSocket"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which instance this is."""

    instance_id: str
    revision: str | None = None
    process: str = field(default_factory=lambda: secrets.token_hex(PROCESS_LENGTH // 2))
    """By what instances know the messages of this process, and clients never do."""


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
    history: HistoryLimits
    max_awaiting_bytes: int = 32 * MEGABYTE
    """Bytes of all messages that wait to be acknowledged, for all connections."""
    max_subscription_bytes: int = 64 * MEGABYTE
    """Bytes that the subscriptions of all connections take."""
    message_rate: int = 0
    """Messages of one connection a second; 0: as many as it likes."""
    byte_rate: int = 0
    """Bytes of one connection a second, inflated; 0: as many as it likes."""
    max_age: float | None = None
    """Older messages are kept for recovery, and not sent as news."""
    request_timeout: float = 3600.0
    rollover: float | None = None


class Published(NamedTuple):
    """A message that a fan-out has accepted: its id, and the carrier's own id for it, if any."""

    id: str
    pubsub_id: str | None
    duplicate: bool = False
    """True: the message repeats one of the same sender, id, type and address. Receivers get the first one alone."""


class ReadAhead(NamedTuple):
    """A message that waits for its handler, and what was read of it."""

    text: str
    decoded: codec.Decoded


class RateLimited(MessageError):
    """A message that is refused for now; `retry_after` in seconds."""

    def __init__(self, value: str, retry_after: float) -> None:
        super().__init__(ErrorCode.RATE_LIMITED, value)
        self.retry_after = retry_after


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
        shows_channels: bool = False,
        send_to_each: SendToEach = one_by_one,
    ) -> None:
        """Take what a hub needs. `shows_channels`: any client may see which channels there are, as on a laptop."""
        self.identity = identity
        self.limits = limits
        self.connections: dict[str, Connection] = {}
        self.channels: ChannelManager[Connection] = ChannelManager(limits.max_subscription_bytes)
        self.users: UserMap[Connection] = UserMap(tuple(include_user_props))
        self.metrics = metrics
        self._published_here = metrics.published.labels("local", "accepted")
        self._published_at_once = metrics.published.labels("shared", "accepted")
        self.director = MessageDirector(self)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.failed: asyncio.Future[FanoutStartError] | None = None
        """Done when the hub can never be ready, with the reason; None before `open`."""
        self._router = Router(rules)
        self._handlers = handlers
        self._clock = clock
        self._options = options
        self._custom_pubsub = custom_pubsub
        self._shows_channels = shows_channels
        self._fanout = fanout
        self._local = EmbeddedFanout()
        crowd_bytes = min(CROWD_BYTES, limits.max_buffered)
        self._outgoing = Outgoing(limits.max_buffered_total, send_to_each, crowd_bytes)
        self._tasks = TaskOwner(MessageError, FanoutStartError)
        self._backlog = Backlog(fanout, limits.publish_backlog, metrics)
        self._sequence = 0
        self._deduplicator = Deduplicator()
        self._on_their_way = OnTheirWay()
        self._journal = Journal(fanout, limits.history, self.users, metrics, self._end_replay)
        self._replays_given_up = 0
        """Since they were last logged: one line a second tells of all of them."""
        self._looking: asyncio.TimerHandle | None = None
        self._resender = Resender(limits.resend_delay, limits.resend_timeout, limits.max_awaiting_bytes, clock, metrics)
        self._endings = Endings(
            fanout,
            metrics,
            clock,
            timeout=limits.request_timeout,
            rollover=limits.rollover,
            revision=identity.revision,
        )
        self._sender_limits = SenderLimits.of(limits.message_rate, limits.byte_rate)
        self._outside = SenderRate(self._sender_limits)
        """Rate of all publishers over HTTP together."""
        self._arriving = 0
        """Clients that are asked who they are, and have a place kept."""
        self._started = False
        self._is_open = False
        self._missed_its_start = False
        """True: the log says already that nobody has started the hub."""
        self._watch_gauges()

    # Life

    async def open(self) -> None:
        """Start the fan-outs; returns at once, `unready_reasons` tells when they are up."""
        self.loop = asyncio.get_running_loop()
        self.failed = self.loop.create_future()
        self._is_open = True
        self._look_around(self.loop)
        self._endings.open()
        await self._local.start(self.deliver_local)
        if self._fanout.at_once is not None:  # it is up at once too, and what is published next must not be lost
            await self._start_fanout(self.failed)
        else:
            self._tasks.start(self._start_fanout(self.failed))

    async def _start_fanout(self, failed: "asyncio.Future[FanoutStartError]") -> None:
        try:
            await self._fanout.start(self.deliver)
        except FanoutStartError as error:
            logger.critical("cannot start: %s", error)
            failed.set_result(error)
        else:
            self._started = True

    @property
    def is_started(self) -> bool:
        """Return whether the hub is open. The first to find that nobody has opened it has that logged."""
        if not self._is_open and not self._missed_its_start:
            self._missed_its_start = True
            logger.error("refusing sockets and messages: %s", NOT_STARTED)
        return self._is_open

    def _need_start(self) -> None:
        if not self.is_started:
            raise MessageError(ErrorCode.UNAVAILABLE, "the hub is not started")

    def unready_reasons(self) -> list[str]:
        """Why this instance should get no new clients now, in plain words; empty while it is ready."""
        reasons = ["the instance is shutting down"] if self.draining else []
        if self.failed is None:
            return [*reasons, NOT_STARTED]
        if self.failed.done():
            return [*reasons, str(self.failed.result())]
        waiting = self._fanout.unready_reasons()
        return [*reasons, *(waiting or ([] if self._started else ["the fan-out is starting"]))]

    def notes(self) -> list[str]:
        """What its operator should know although it is ready, in plain words."""
        return self._fanout.notes()

    @property
    def draining(self) -> bool:
        """Whether the instance is being stopped and takes no new sockets."""
        return self._endings.draining

    @property
    def deaf(self) -> bool:
        """Whether a socket would hear nothing here of what others publish."""
        return self._fanout.deaf

    async def drain(self) -> None:
        """Send all clients elsewhere: tell each, then close it (3001). Returns when that is under way for all."""
        await self._endings.drain()

    async def gone(self) -> None:
        """With `drain`: return when the clients are gone, in a few seconds, and cut the rest. Goes beside `close`."""
        await self._endings.gone()

    async def close(self) -> None:
        """Flush what was accepted, leave no subscription behind, end all tasks. After `drain`; may be called twice."""
        self._endings.close()
        await self._fanout.close()
        await self._local.close()
        self._resender.close()
        if self._looking is not None:
            self._looking.cancel()
        await self._handlers.close()
        await self._tasks.finish(FINISH_TIMEOUT)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run something beside, as long as the hub is open; await it or leave it."""
        return self._tasks.start(coroutine)

    # Connections

    @property
    def full(self) -> bool:
        """Return whether the instance has no room for another connection, counting those on their way in."""
        return len(self.connections) + self._arriving >= self.limits.max_connections

    @contextmanager
    def arrival(self) -> Iterator[None]:
        """Keep a place for a client that is asked who it is. What follows must connect it without waiting, or leave."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def connect(
        self,
        user: User | None,
        session_user: Any,
        outlet: Outlet,
        position: str | None = None,
        session_ends: float | None = None,
    ) -> Connection:
        """Take in a socket and send its welcome, and what it missed since `position`.

        It is closed (3005) at `session_ends`, in Unix seconds; None: the user's session has no end, or there is none.
        The caller owes an `open` once it is accepted, and a `disconnect`.
        """
        connection = Connection(
            self._clock.new_id(),
            user,
            session_user,
            outgoing=self._outgoing,
            max_buffered=self.limits.max_buffered,
            outlet=outlet,
            rate=SenderRate(self._sender_limits),
        )
        connection.since = self._clock.monotonic()
        self.connections[connection.id] = connection
        if user is not None:
            self.users.add(connection, user)
        self.metrics.connections_opened.inc()
        name = f"{user.name} to " if user is not None else "to "
        resumed = self._journal.welcome(connection, position)
        self.tell(
            connection,
            type=messages.WELCOME,
            message=f"Welcome {name}{WELCOME_TEXT}",
            numConnections=len(self.connections),
            numUsers=len(self.users.names),
            connectionId=connection.id,
            instanceId=self.identity.instance_id,
            position=resumed.position,
            recovered=resumed.recovered,
        )
        self._replay(connection, resumed)
        self._endings.join(connection, session_ends)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Forget a socket that is gone, with all it had."""
        connection.ended()  # in one step with the rest: nothing may be sent to what it belongs to in between
        del self.connections[connection.id]
        self.channels.unsubscribe(connection)
        if connection.user is not None:
            self.users.remove(connection, connection.user)
        self._resender.forget(connection)
        self._journal.forget(connection)
        self.metrics.connections_closed.labels(str(int(connection.close_code or 0))).inc()
        self._endings.leave(connection)

    def ask_for_life(self, connection: Connection) -> None:
        """Send a client that owes an answer a message; with it, or to it, some give a sign of life."""
        frame = codec.encode_reply(
            {"type": messages.PING, "id": self._clock.new_id(), "sentDateTime": self._clock.now()}
        )
        connection.send(frame)

    def silent(self, connection: Connection) -> None:
        """End a connection whose client does not answer any more."""
        self._end(connection, CloseCode.NO_PONG, "no pong")

    def flooded(self, connection: Connection) -> None:
        """Count a frame that came faster than any client needs as malformed input."""
        if connection.errors.exceeded(self._clock.monotonic()):
            self._end(connection, CloseCode.TOO_MANY_ERRORS, "too many errors")

    def crowded(self, connection: Connection) -> None:
        """End a connection because what is unfinished of all takes too much, and this one's most."""
        self._end(connection, CloseCode.SLOW_CONSUMER, CROWDED)

    def _end(self, connection: Connection, code: CloseCode, reason: str) -> None:
        self._endings.end(connection, code, reason)

    # Receive: what a client says

    async def receive(self, connection: Connection, data: str | bytes) -> None:
        """Do what a client's frame asks for, and answer it. Never raises for what a client sends."""
        if isinstance(data, str):
            ahead, connection.ahead = connection.ahead, None
            call = ahead.decoded if ahead is not None and ahead.text is data else self._receive(connection, data)
            if call is not None:
                await self._call_handler(connection, *call)
            return
        error = MessageError(ErrorCode.BINARY_FRAME, "messages are JSON in text frames")
        text = data.decode(errors="replace")
        self._refuse(connection, error, codec.ack_id_of(text), codec.shown(text))

    def receive_at_once(self, connection: Connection, text: str) -> bool:
        """The same without waiting; False, with nothing done, for what calls a handler: that takes its time.

        What was read of such a message is kept until it is received.
        """
        decoded = self._receive(connection, text)
        if decoded is not None:
            connection.ahead = ReadAhead(text, decoded)
        return decoded is None

    def _receive(self, connection: Connection, text: str) -> codec.Decoded | None:
        """Do what needs no waiting; answers what calls a handler."""
        if connection.close_code is not None and connection.is_barred:
            return None
        now = self._clock.monotonic()
        size = len(text) if text.isascii() else len(text.encode())
        wait = connection.rate.take(size, now)
        if wait:
            self._limit(connection, text, size, wait, now)
            return None
        decoded = codec.decode(text)
        if isinstance(decoded, codec.Refused):
            self._refuse(connection, decoded.error, decoded.ack_id, decoded.shown)
            return None
        message, shown = decoded
        try:
            request = self._router.request_of(message)
            if isinstance(request, CallHandler):
                return decoded
            self._do(connection, message, shown, request)
        except Exception as error:
            self._fail(connection, message, shown, error)
        self.metrics.received.inc()
        return None

    def _limit(self, connection: Connection, text: str, size: int, wait: float, now: float) -> None:
        """Refuse a message of a client that sends too fast; end it if it goes on and on."""
        error = RateLimited(
            f"a client may send {self.limits.message_rate} messages and {self.limits.byte_rate} bytes a second "
            "(0: any number)",
            wait,
        )
        self._refuse_for_now(connection, error, codec.ack_id_of(text), codec.shown(text))
        if connection.rate.refused_too_often(size, now):
            self.metrics.connections_shed.labels("rate").inc()
            self._end(connection, CloseCode.RATE_LIMITED, "rate limited again and again")

    async def _call_handler(self, connection: Connection, message: Message, shown: Json | str) -> None:
        self.metrics.received.inc()
        try:
            made = partial(codec.to_object, message)
            await self._handlers.call(message.type, connection, made, self.director, len(shown))
            if message.ack_id is not None:
                self._reply(connection, message.ack_id, id=message.id)
        except Exception as error:
            self._fail(connection, message, shown, error)

    def _fail(self, connection: Connection, message: Message, shown: Json | str, error: Exception) -> None:
        if isinstance(error, RateLimited):
            self._refuse_for_now(connection, error, message.ack_id, shown)
            return
        if not isinstance(error, MessageError):
            logger.error("a message could not be handled", exc_info=error, extra={"connection": connection.id})
            error = MessageError(ErrorCode.INTERNAL, "the service failed on this message")
        self._refuse(connection, error, message.ack_id, shown)

    def _do(self, connection: Connection, message: Message, shown: Json | str, request: Request) -> None:
        match request:
            case Publish():
                self._publish_for(connection, message, shown, request)
            case Subscribe(channel, sub_id, position):
                self.subscribe(connection, channel, sub_id, message.ack_id, position)
            case Unsubscribe(channel, sub_id):
                self.unsubscribe(connection, channel, sub_id, message.ack_id)
            case Acknowledge(message_id):
                self._resender.pending.acknowledge(connection, message_id)
                if message.ack_id is not None:
                    self._reply(connection, message.ack_id, id=message_id)
            case Inform(detail, channel):
                answer = self.info_detail(channel, connection) if detail else self.info(connection)
                size = self.tell(connection, type=message.type, ackId=message.ack_id, **answer)
                connection.rate.charge(size, self._clock.monotonic())

    def _publish_for(self, connection: Connection, message: Message, shown: Json | str, request: Publish) -> None:
        """Publish a client's message. The answer comes once it is accepted, and nobody waits for that."""
        if connection.rate.used > FREE_BURST and self._is_lagging(request.audience):
            raise RateLimited("those whom it is for cannot take more now; send it again later", LAG_RETRY)
        hand_out = self._hands_out(request)
        if hand_out is not None:
            self._accepted(connection, message, self._publish_here(message, request, connection.id, hand_out))
            return

        async def answer() -> None:
            try:
                self._accepted(connection, message, await self._publish(message, request, sender=connection.id))
            except MessageError as error:
                self._refuse(connection, error, message.ack_id, shown)

        self._tasks.start(answer())

    def _is_lagging(self, audience: Audience) -> bool:
        """Return whether several of an audience are behind, so that a burst would cost them their connection."""
        much = self.limits.max_buffered // 2
        return sum(each.buffered > much for each in self._receivers(audience)) >= MANY_LAGGING

    def _accepted(self, connection: Connection, message: Message, published: Published) -> None:
        if message.ack_id is not None:
            again = published.duplicate or None
            self._reply(connection, message.ack_id, id=published.id, pubsubId=published.pubsub_id, duplicate=again)

    def subscribe(
        self,
        connection: Connection,
        channel: str,
        sub_id: str,
        ack_id: Json | None = None,
        position: str | None = None,
    ) -> None:
        """Subscribe a connection, tell it so, and send what it missed since `position`. Raises MessageError.

        Nothing happens for one that has gone, as while a handler ran for it.
        """
        if connection.id not in self.connections:
            return
        if (
            not self.channels.has(connection, channel, sub_id)
            and self.channels.subscription_count_of(connection) >= self.limits.max_subscriptions
        ):
            raise MessageError(
                ErrorCode.TOO_MANY_SUBSCRIPTIONS,
                f"a connection can have at most {self.limits.max_subscriptions} subscriptions",
            )
        # The names as the registry has them: so the journal keeps no copies, which nobody would count.
        channel, sub_id = self.channels.subscribe(connection, channel, sub_id, position)
        resumed = self._journal.join(connection, channel, sub_id, position)
        self._reply(
            connection,
            ack_id,
            channel=channel,
            subId=sub_id,
            numConnections=len(self.channels.connections_of(channel, sub_id)),
            position=resumed.position,
            recovered=resumed.recovered,
        )
        self._replay(connection, resumed)

    def unsubscribe(
        self,
        connection: Connection,
        channel: str | None = None,
        sub_id: str | None = None,
        ack_id: Json | None = None,
    ) -> None:
        """Unsubscribe a connection from a subscription, a channel or everything, and tell it what that took away."""
        removed = self.channels.unsubscribe(connection, channel, sub_id)
        self._journal.leave(connection, channel, sub_id)
        if removed.connections and self._resender.pending.count_of(connection):
            self._resender.unsubscribed(connection, channel, sub_id, partial(self._belongs_to, connection))
        self._reply(
            connection,
            ack_id,
            channel=channel,
            subId=sub_id,
            removedConnectionCount=removed.connections,
            subscriptionsDeleted=removed.subscriptions,
            channelsDeleted=removed.channels,
        )

    def _refuse(
        self, connection: Connection, error: MessageError, ack_id: Json | None, shown: Json | str, **more: object
    ) -> None:
        self.metrics.errors.labels(error.code.value).inc()
        self.tell(
            connection,
            type=messages.ERROR,
            code=error.code.value,
            value=error.value,
            msg=shown,
            ackId=ack_id,
            temporary=error.code.temporary,
            **more,
        )
        if error.code.malformed_input and connection.errors.exceeded(self._clock.monotonic()):
            self._end(connection, CloseCode.TOO_MANY_ERRORS, "too many errors")

    def _refuse_for_now(
        self, connection: Connection, error: RateLimited, ack_id: Json | None, shown: Json | str
    ) -> None:
        retry_after = max(1, math.ceil(error.retry_after * 1000))
        self._refuse(connection, error, ack_id, shown, retryAfterMs=retry_after)

    # Publish: to a fan-out

    async def publish_from_outside(self, message: Message) -> Published:
        """Publish what came over HTTP: to all instances, whatever its type, as from the topic. Raises MessageError.

        There is no rate for services; yet what they send at once must not cost clients their connection.
        """
        audience = self._router.audience_of(message)
        self._outside.charge(len(message.payload or b""), self._clock.monotonic())
        if self._outside.used > FREE_BURST and self._is_lagging(audience):
            raise RateLimited("those whom it is for cannot take more now; send it again later", LAG_RETRY)
        return await self._publish(message, Publish(True, audience), sender=None)

    async def publish(self, message: Message) -> Published:
        """Publish a message of this process by its type's rules, with no sender to leave out. Raises MessageError."""
        # Each call is a sender of its own, so that two handlers may pass on messages of two clients that have the
        # same id.
        return await self._publish(message, self._router.publish_of(message), sender=self._clock.new_id())

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
            self._need_start()
            await self._hand_over(Message(type=messages.LOGOUT, user_tag=user_tag), sender=None)
        finally:
            self._log_out_here(user_tag)

    def _log_out_here(self, user_tag: str) -> None:
        for connection in tuple(self.users.connections_of(user_tag)):
            self._end(connection, CloseCode.LOGGED_OUT, "logged out")
            self._resender.logged_out(connection)

    async def _publish(self, message: Message, request: Publish, *, sender: str | None) -> Published:
        hand_out = self._hands_out(request)
        if hand_out is not None:
            return self._publish_here(message, request, sender, hand_out)
        if not self._is_open:
            self._need_start()
        if message.id is not None and (repeat := self._repeat_of(message, message.id, sender)) is not None:
            return repeat
        self._expect_somebody(request.audience, self._fanout)
        if message.id is None:
            return await self._hand_over(message, sender)
        return await self._hand_over_once(message, message.id, sender)

    def _hands_out(self, request: Publish) -> Callable[[Publication], None] | None:
        """Return the function that delivers such a message before it returns; None where its carrier takes its time."""
        return self._fanout.at_once if request.shared else self._local.hand_out

    def _publish_here(
        self, message: Message, request: Publish, sender: str | None, hand_out: Callable[[Publication], None]
    ) -> Published:
        """Publish what is delivered at once. Nothing waits, and nothing of it can come twice: it needs no number."""
        if not self._is_open:
            self._need_start()
        if message.id is not None and (repeat := self._repeat_of(message, message.id, sender)) is not None:
            return repeat
        self._expect_somebody(request.audience, self._fanout if request.shared else self._local)
        message_id, data, attributes = self._as_it_goes_out(message, sender)
        hand_out(Publication(data, attributes))
        (self._published_at_once if request.shared else self._published_here).inc()
        return Published(message_id, None)

    def _expect_somebody(self, audience: Audience, fanout: Fanout) -> None:
        """Tell a sender, where that can be known, that the only one whom it is for is not there."""
        if isinstance(audience, OneUser) and not fanout.reaches_others and not self._receivers(audience):
            raise MessageError(ErrorCode.USER_OFFLINE, f"User with user tag {audience.user_tag} is not online")

    def _repeat_of(self, message: Message, message_id: str, sender: str | None) -> Published | None:
        """Return the answer to a message that came out of a fan-out before; None for any other."""
        who = sender_of(self.identity.process, sender)
        if not self._deduplicator.has_sent(who, _sent_name(message_id, message), self._clock.monotonic()):
            return None
        self.metrics.duplicates.labels("id").inc()
        return Published(message_id, None, duplicate=True)

    async def _hand_over_once(self, message: Message, message_id: str, sender: str | None) -> Published:
        """Give a message to the shared fan-out that may be a repeat of one that has not come back from there yet.

        Such a repeat goes there too, in case that the first one does not: which of them comes out first is for all
        instances to see.
        """
        who, name = sender_of(self.identity.process, sender), _sent_name(message_id, message)
        own, first = self._on_their_way.begin(who, name, self._clock.monotonic())
        try:
            published = await self._hand_over(message, sender)
        except BaseException:
            self._on_their_way.failed(who, name, own)
            raise
        own.is_accepted = True
        if own.is_repeat or (first is not None and first.is_accepted):
            return published._replace(duplicate=True)
        return published

    async def _hand_over(self, message: Message, sender: str | None) -> Published:
        """Give a message to the shared fan-out, as far as the backlog allows."""
        message_id, data, attributes = self._as_it_goes_out(message, sender)
        self._sequence += 1
        attributes["seq"] = str(self._sequence)
        return Published(message_id, await self._backlog.publish(Publication(data, attributes)))

    def _as_it_goes_out(self, message: Message, sender: str | None) -> tuple[str, bytes, dict[str, str]]:
        """The id, the JSON and the attributes of a message, stamped."""
        message_id = message.id or self._clock.new_id()
        stamped = message.stamped(id=message_id, sent_date_time=self._clock.now())
        data = codec.encode(stamped)
        if len(data) > self.limits.max_payload + STAMP_ROOM:
            raise MessageError(ErrorCode.TOO_LARGE, f"a message may have at most {self.limits.max_payload} bytes")
        attributes = (
            ("type", stamped.type),
            ("channel", stamped.channel),
            ("subId", stamped.sub_id),
            ("userTag", stamped.user_tag),
            ("origin", self.identity.instance_id),
            (PROCESS, self.identity.process),
            ("sender", sender),
        )
        return message_id, data, {name: value for name, value in attributes if value is not None}

    # Deliver: from a fan-out

    def deliver(self, delivery: Delivery) -> None:
        """Send what the shared fan-out hands in to the connections that want it, once, and keep it for others.

        Never raises for what is in it.
        """
        self._look_for_a_gap()
        now = self._clock.monotonic()
        taken_in = self._take_in(delivery, now)
        if taken_in is None:
            return
        arrival, audience = taken_in
        place = self._journal.keep(arrival, delivery, audience, now)
        if delivery.live and not self._is_stale(delivery):
            self._send_arrival(self._receivers(audience), arrival, place)
        arrival.release()

    def deliver_local(self, delivery: Delivery) -> None:
        """The same for what stays on this instance, and is not kept."""
        now = self._clock.monotonic()
        taken_in = self._take_in(delivery, now)
        if taken_in is not None:
            arrival, audience = taken_in
            if not self._router.rules.pubsub_types:
                # Where nothing is listed, nobody chose what need not be kept: whoever comes back is told the truth.
                self._journal.lose(audience, now)
            self._send_arrival(self._receivers(audience), arrival, None)

    def _take_in(self, delivery: Delivery, now: float) -> tuple[Arrival, Audience] | None:
        """A message that is new and for clients, and whom it is for. What else came is seen to here."""
        known_by = self._deduplicator.carried_before(delivery.key, delivery.counted, now)
        if known_by is not None:
            self.metrics.duplicates.labels(known_by).inc()
            return None
        try:
            arrival = self._read(delivery)
            if arrival.is_between_hubs:
                self._heed(arrival)
                return None
            audience = self._router.audience_of(arrival.address)
            message_id = arrival.id
            if message_id is None:
                name, is_repeat = "", False
            else:
                name = sent_name(message_id, *arrival.address)
                is_repeat = self._deduplicator.sent_before(arrival.sender, name, now)
        except MessageError as error:
            self._drop(delivery.id, error)
            return None
        if arrival.is_from_here and self._on_their_way:
            self._on_their_way.came_back(arrival.sender, name, is_repeat=is_repeat)
        if is_repeat:
            self.metrics.duplicates.labels("id").inc()
            return None
        self.metrics.arrived.inc()
        return arrival, audience

    def _read(self, delivery: Delivery) -> Arrival:
        arrival = Arrival(delivery, self.identity.process)
        if len(delivery.data) > self.limits.max_payload + (STAMP_ROOM if arrival.is_own else 0):
            raise MessageError(ErrorCode.TOO_LARGE, f"a message may have at most {self.limits.max_payload} bytes")
        return arrival

    def _drop(self, carrier_id: str | None, error: MessageError) -> None:
        self.metrics.malformed.labels(error.code.value).inc()
        logger.warning("dropped the malformed message %s: %s", carrier_id, error)

    def _is_stale(self, delivery: Delivery) -> bool:
        """Whether it is too old to be news."""
        if self.limits.max_age is None or delivery.publish_time_ns is None:
            return False
        stale = self._clock.unix_ns() - delivery.publish_time_ns > self.limits.max_age * SECOND
        if stale:
            self.metrics.stale.inc()
        return stale

    def _end_replay(self, connection: Connection) -> None:
        """End a client that takes too little of what is replayed to it; it goes on from where it then is."""
        self._give_up_replay(connection)
        connection.overflow()

    def _give_up_replay(self, connection: Connection) -> None:
        self._journal.drop_replay(connection)
        if connection.close_code is None:
            self.metrics.connections_shed.labels("replay").inc()
            self._replays_given_up += 1

    def _look_around(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self._clock.monotonic()
        self._journal.expire(now)
        for connection in self._journal.stalled(now):
            self._end_replay(connection)
        if self._replays_given_up:
            logger.warning("ended %d clients that took too little of their replay", self._replays_given_up)
            self._replays_given_up = 0
        self._look_for_a_gap()
        self._looking = loop.call_later(LOOK_AROUND, self._look_around, loop)

    def _look_for_a_gap(self) -> None:
        """Where this instance missed something, its clients may get it from another: from where they are now."""
        if self._journal.found_gap():
            self._endings.close_all(Reason.GAP)

    def _heed(self, arrival: Arrival) -> None:
        """What another instance tells; a type that is not known here comes from a newer release."""
        message = arrival.message
        if message.type == messages.LOGOUT and message.user_tag is not None and not arrival.is_from_here:
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

    def _belongs_to(self, connection: Connection, audience: Audience) -> bool:
        return connection in self._receivers(audience)

    def _subscribers(self, address: Addressed) -> Subscribers | None:
        """The subscriptions by which a message comes; None where it comes to its receivers without."""
        audience = self._router.audience_of(address)
        return audience if isinstance(audience, Subscribers) else None

    # Send: to connections

    def send(self, connection: Connection, message: Message) -> Message:
        """Send one message to one connection, with an id and a time; answers it as it was sent."""
        stamped = self.stamp(message)
        awaits_ack = stamped.type in self._router.rules.ack_types
        frame = codec.encode_frame(stamped)
        audience = None
        if stamped.channel is not None:
            frame.order = (0, Address(stamped.type, stamped.channel, stamped.sub_id, None), None)
            audience = Subscribers(stamped.channel, stamped.sub_id)
        self._send_to_all((connection,), frame, stamped.id if awaits_ack else None, audience=audience)
        return stamped

    def stamp(self, message: Message) -> Message:
        """A message as it would be sent: with an id and a time."""
        return message.stamped(id=self._clock.new_id(), sent_date_time=self._clock.now())

    def _send_arrival(self, receivers: Collection[Connection], arrival: Arrival, place: Place | None) -> None:
        # An announce does not come back to the socket that sent it; the seed's other types do.
        # Only this instance knows its own connections: nobody else may have one left out.
        is_sent_back = not arrival.is_from_here or arrival.address.type != messages.ANNOUNCE
        left_out = None if is_sent_back else arrival.sender[PROCESS_LENGTH:]
        if not receivers:
            return
        order = (arrival.number, arrival.address, place)  # which is read only where somebody is replayed to
        if place is None or self._journal.is_the_same_for_all(place):
            self._send_as(receivers, arrival, None if place is None else place.position, order, left_out)
            return
        at: dict[Position, list[Connection]] = {}
        for connection in receivers:
            position = self._journal.position_for(connection, place, arrival.address.channel)
            if position is not None and connection.id != left_out:
                at.setdefault(position, []).append(connection)
        for position, connections in at.items():
            self._send_as(connections, arrival, position, order)

    def _order_of(self, order: tuple[int, Address, Place | None]) -> Order:
        """Read what an arrival must not overtake on its way to a client."""
        number, (_, channel, sub_id, _), place = order
        if place is None:
            return self._order_of_what_is_not_kept(channel, sub_id)
        if channel is None:
            return Order((None,), number)
        if place.stream.kind == "channel":
            return Order((channel,), number, (channel, sub_id))
        return Order((None, channel), number, None, place.position)

    def _order_of_what_is_not_kept(self, channel: str | None, sub_id: str | None) -> Order:
        return Order((channel,), self._journal.between, None if channel is None else (channel, sub_id))

    def _send_as(
        self,
        receivers: Collection[Connection],
        arrival: Arrival,
        position: Position | None,
        order: tuple[int, Address, Place | None],
        left_out: str | None = None,
    ) -> None:
        """Send an arrival to these, with this position."""
        written = None if position is None else position.encode()
        awaits_ack = arrival.address.type in self._router.rules.ack_types
        if arrival.is_from_here and arrival.carrier_id is None and not awaits_ack:
            # As it was written here: its carrier has nothing to add but the position.
            marks = {} if written is None else {"position": written}
            frame = Frame(codec.completed(arrival.data, **marks))
            frame.order = order
            self._send_to_all(receivers, frame, left_out=left_out)
            return
        try:
            message = arrival.completed(written, self._clock)
        except MessageError as error:
            self._drop(arrival.carrier_id, error)
            return
        frame = codec.encode_frame(message)
        frame.order = order
        number = arrival.number or None
        audience = self._subscribers(arrival.address) if awaits_ack else None
        self._send_to_all(receivers, frame, message.id if awaits_ack else None, left_out, number, audience)

    def _replay(self, connection: Connection, resumed: Resumed) -> None:
        if resumed.run is None:
            return

        def make(most_ahead: int) -> Replaying:
            return Replaying(
                partial(self._written_again, connection),
                self._order_of,
                partial(self._journal.joins_of, connection),
                most_ahead,
            )

        self._journal.waits(connection, connection.replay(resumed.run, resumed.replay, make))

    def _written_again(self, connection: Connection, again: Again, is_last: bool) -> Frame | None:
        """A message that a client missed, written when the client has room for it. Raises ReplayLost."""
        arrival = again.message()
        self._journal.replayed(connection, 1)
        if arrival is None:  # its client took so long that the history has let go of it
            self._give_up_replay(connection)
            raise ReplayLost
        try:
            message = arrival.completed(self._journal.borne(again, arrival, is_last=is_last), self._clock)
        except MessageError:
            return None  # nobody was sent it when it was new either
        frame = codec.encode_frame(message)
        if message.type in self._router.rules.ack_types and message.id is not None:
            audience = self._subscribers(arrival.address)
            self._resender.expect(SentMessage(message.id, frame.data, arrival.number or None, audience), (connection,))
            connection.rate.credit()
        self.metrics.replayed.inc()
        self.metrics.sent.inc()
        return frame

    def _send_to_all(
        self,
        connections: Collection[Connection],
        frame: Frame,
        awaited: str | None = None,
        left_out: str | None = None,
        number: int | None = None,
        audience: Subscribers | None = None,
    ) -> None:
        """Send one frame to all of these; `awaited` is the id of its message, if each has to acknowledge it.

        `number` is the journal's for the message, if that may bring it a second time, and `audience` the subscriptions
        with which the waiting for it ends.
        """
        skipped = None if left_out is None else self.connections.get(left_out)
        if awaited is None:
            self.metrics.sent.inc(self._outgoing.send(frame, connections, skipped))
            return
        sent = []
        for connection in connections:
            if connection is not skipped and connection.send(frame):
                sent.append(connection)
                connection.rate.credit()
        self._resender.expect(SentMessage(awaited, frame.data, number, audience), sent)
        self.metrics.sent.inc(len(sent))

    def _reply(self, connection: Connection, ack_id: Json | None, **fields: object) -> None:
        self.tell(connection, type=messages.ACK, ackId=ack_id, **fields)

    def tell(self, connection: Connection, **fields: object) -> int:
        """Send what the service itself says; what is None is left out, id and sentDateTime are added.

        Returns the frame's size in bytes.
        """
        frame = self._own_frame(**fields)
        if connection.send(frame):
            self.metrics.sent.inc()
        return frame.size

    def farewell(self, code: CloseCode, reason: str) -> Frame:
        """The last word before a close, for a client that has no connection here."""
        return self._own_frame(
            type=messages.DISCONNECT, code=int(code), reason=reason, reconnect=code.reconnect, retryAfterMs=0
        )

    def _own_frame(self, **fields: object) -> Frame:
        """What the service itself says; an `id` of None in `fields` gets a new one."""
        return codec.encode_reply(
            {**fields, "id": fields.get("id") or self._clock.new_id(), "sentDateTime": self._clock.now()}
        )

    # Info

    def info(self, viewer: Connection | None = None) -> dict[str, Any]:
        """Return the answer to getInfo for this client; None: for who may see all."""
        return info.info(
            self._server_info(),
            len(self.connections),
            self.channels,
            self.users,
            self._resender.pending,
            self._viewer(viewer),
        )

    def info_detail(self, channel: str | None = None, viewer: Connection | None = None) -> dict[str, Any]:
        """Return the answer to getInfoDetail for this client (None: for who may see all), of all channels or of one."""
        return info.info_detail(
            self._server_info(),
            len(self.connections),
            self.channels,
            self.users,
            self._resender.pending,
            channel,
            self._viewer(viewer),
            self._told_of_connections(),
        )

    def _viewer(self, connection: Connection | None) -> Viewer[Connection] | None:
        if connection is None:
            return None
        name = None if connection.user is None else connection.user.name
        return Viewer(connection, name, self._shows_channels)

    def _told_of_connections(self) -> Iterator[dict[str, Any]]:
        now = self._clock.monotonic()
        for connection in self.connections.values():
            yield {
                "connectionId": connection.id,
                **({} if connection.user is None else {"user": connection.user.name}),
                "channels": len(self.channels.channels_of(connection)),
                "subscriptions": self.channels.subscription_count_of(connection),
                "awaitingMsgs": self._resender.pending.count_of(connection),
                "bufferedBytes": connection.buffered,
                "ageSeconds": int(now - connection.since),
            }

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
        watch(self.metrics.subscription_bytes, lambda: self.channels.bytes)
        watch(self.metrics.buffered_bytes, lambda: self._outgoing.bytes)
        watch(self.metrics.acks_pending, lambda: len(self._resender.pending))
        watch(self.metrics.acks_pending_bytes, lambda: self._resender.pending.bytes)
        watch(self.metrics.publish_backlog_bytes, lambda: self._backlog.bytes)
        watch(self.metrics.publish_backlog_messages, lambda: self._backlog.messages)


def _sent_name(message_id: str, message: Message) -> str:
    return sent_name(message_id, message.type, message.channel, message.sub_id, message.user_tag)
