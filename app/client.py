"""The Python client, and the reference for every other: it comes back by itself, and says where it missed something.

    async with Client("wss://hub.example.com/ws") as client:
        await client.subscribe("news", "today")
        async for message in client:
            ...

Three rules carry it (contract, sections 5 and 6).

Where to go on. A position moves to a message only when the application has taken that message and all before it on
its channel. What is asked for again is therefore never less than what may be missing; what comes twice is dropped.

One order. While a socket is replaced (close code 3011) the old one is read to its end before the first message of the
new one is handed over. The new one's stream begins at a position that the old one has passed, so whatever the old one
did not bring any more stands, in order, among what the new one brings; the rest of it are repeats. Without recovery
there is no such proof, and the application is told of a gap.

Nothing unbounded. While `QUEUE` messages wait for the application the socket is not read, unless an answer is
awaited on it, and then up to `QUEUE_WITH_REQUESTS`. A server that finds such a client too slow closes with 3008, and
the client goes on from its position.
"""

import asyncio
import contextlib
import inspect
import itertools
import json
import logging
import random
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.protocol import State as SocketState

from app.protocol import messages

logger = logging.getLogger(__name__)

Message = dict[str, Any]
"""A message as it came, decoded: `type`, `channel`, `subId`, `payload`, `id` ... (contract, section 3)."""

QUEUE = 256
QUEUE_WITH_REQUESTS = 4 * QUEUE
"""Messages that may wait for the application; the second while an answer is awaited that comes behind them."""
REMEMBERED = 10_000
"""Messages by which repeats are known; also how many may wait behind one that the application has not taken."""
MAX_REQUESTS = 1000
"""Requests that may await their answer; the next waits its turn."""
REQUEST_TIMEOUT = 10.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds: the upper ends of the first and of the longest random wait before a socket is opened again."""
PROVEN = 10.0
"""Seconds that a socket has to last before the waits begin with the first again."""
LONGEST_RETRY_AFTER = 600.0
REPLAY_OVER = 60.0
"""Seconds without a message after which nothing of a replay can still be on its way."""
FINISH_TIMEOUT = 5.0
"""Seconds for the answers that a socket which is being replaced still owes."""
MAX_FRAME = 16 * 2**20
"""Bytes: above what any server may be set to send."""

ROTATION = 3011
STAY_AWAY = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""The client itself is at fault: it would be closed again for the same."""
TRY_AGAIN_STATUSES = frozenset({408, 425, 429})
"""HTTP statuses below 500 that a moment's wait may cure."""


def comes_back(code: int) -> bool:
    """Whether a client opens a new socket after this close code (1006: the connection just ended)."""
    return code not in STAY_AWAY and not 3500 <= code < 4000


class RequestError(Exception):
    """A request was refused, or its answer did not come: `connection_lost` and `timeout` are the client's own codes.

    After a `temporary` error the same message may succeed later.
    """

    def __init__(self, code: str, value: str, *, temporary: bool, request: Mapping[str, Any]) -> None:
        super().__init__(f"{code}: {value}")
        self.code = code
        self.value = value
        self.temporary = temporary
        self.request = request


class ClosedError(Exception):
    """The client has ended and does not come back. `code`: the close code, or the HTTP status of a refused upgrade."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}" if reason else str(code))
        self.code = code
        self.reason = reason


class State(Enum):
    """What a client is doing: it is `WAITING` between two sockets, `CLOSED` for ever."""

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a subscription went on after a new socket; `channel` is None for the user's inbox and what goes to everyone.

    `recovered` is false where something may be missing: the application has to fetch its state anew. A server that
    says nothing of it has proven nothing.
    """

    channel: str | None
    recovered: bool


Callback = Callable[[Any], Awaitable[None] | None]


# Where to go on


class _Taken(Enum):
    """How far the application is with a message."""

    NOT_YET = 0
    REFUSED = 1
    """Its handler failed: when it comes again it is handed over again."""
    YES = 2


@dataclass(slots=True, eq=False)
class _Delivery:
    """A message on its way to the application, or (without one) the position that a reply carried."""

    message: Message | None = None
    position: str | None = None
    stream: "_Stream | None" = None
    wants_ack: bool = False
    taken: _Taken = _Taken.NOT_YET
    repeats: "_Delivery | None" = None
    """The same message as it came first: when that is taken, so is this."""

    @property
    def is_taken(self) -> bool:
        return self.taken is _Taken.YES or (self.repeats is not None and self.repeats.taken is _Taken.YES)


class _Stream:
    """The position of one channel, or of the inbox: the end of what was taken without anything left out before it."""

    def __init__(self, position: str | None = None) -> None:
        self.position = position
        self.sub_ids: set[str] = set()
        self.resuming: set[str] = set()
        """Subscriptions that have yet to be answered. Until the last is, `_resumed_from` stays what is asked for: each
        subId is replayed on its own, and the first to be done may be ahead of what the next has to bring."""
        self.all_recovered = True
        self._resumed_from: str | None = None
        self._ahead: deque[_Delivery] = deque()
        self._later: tuple[str, float] | None = None

    def note(self, delivery: _Delivery) -> None:
        """A message, or a position, that comes behind all that came before."""
        if delivery.position is None:
            return
        delivery.stream = self
        self._later = None
        self._ahead.append(delivery)
        if len(self._ahead) > REMEMBERED:
            self._ahead[0].taken = _Taken.YES
        self.advance()

    def reached(self, position: str | None) -> None:
        """A reply said that everything up to here was sent."""
        self.note(_Delivery(position=position, taken=_Taken.YES))

    def reached_after_replay(self, position: str | None, now: float) -> None:
        """A reply said that everything up to here will have been sent when the replay behind it is over."""
        self._later = None if position is None else (position, now)

    def advance(self) -> None:
        """Move over what was taken."""
        while self._ahead and self._ahead[0].is_taken:
            self.position = self._ahead.popleft().position

    def resume(self, now: float) -> str | None:
        """The position to go on from."""
        if self.resuming:
            return self._resumed_from
        if self._later is not None and not self._ahead and now - self._later[1] >= REPLAY_OVER:
            self.position, self._later = self._later[0], None
        return self.position

    def resumes(self, sub_id: str, position: str | None) -> None:
        """A subscription is asked for from this position on."""
        if not self.resuming:
            self._resumed_from = position
            self.all_recovered = True
        self.resuming.add(sub_id)

    def give_up_refused(self) -> None:
        """After a gap: what the application refused does not come again."""
        for delivery in self._ahead:
            if delivery.taken is _Taken.REFUSED:
                delivery.taken = _Taken.YES
        self.advance()


class _Seen:
    """The messages of late, by what they are known by."""

    def __init__(self) -> None:
        self._deliveries: OrderedDict[object, _Delivery] = OrderedDict()

    def find(self, message: Message) -> _Delivery | None:
        """The same message as it came before."""
        return self._deliveries.get(self._key(message))

    def add(self, delivery: _Delivery, message: Message) -> None:
        key = self._key(message)
        if key is None:
            return
        self._deliveries[key] = delivery
        if len(self._deliveries) > REMEMBERED:
            self._deliveries.popitem(last=False)

    @staticmethod
    def _key(message: Message) -> object:
        # A sender may choose its ids, and another the same, and an emulator that is started anew counts from 1 again:
        # the time tells them apart, and is the same in every repeat.
        message_id = message.get("pubsubId") or message.get("id")
        return None if message_id is None else (message_id, message.get("sentDateTime"))


# What waits for the application


class _Inbox:
    """Messages and recoveries in their order. Who puts waits for room; nobody is woken when there is none."""

    def __init__(self) -> None:
        self._items: deque[_Delivery | Recovery] = deque()
        self._changed = asyncio.Condition()
        self._ended = False

    async def put(self, item: _Delivery | Recovery, room: Callable[[], int]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended or len(self._items) < room())
            self._items.append(item)
            self._changed.notify_all()

    async def get(self) -> _Delivery | Recovery | None:
        """The next; None when there will be none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended or bool(self._items))
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    async def look_again(self) -> None:
        """There may be room now."""
        async with self._changed:
            self._changed.notify_all()

    async def end(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()


# One socket


@dataclass(slots=True, eq=False)
class _Request:
    message: Message
    answer: "asyncio.Future[Message]"
    resumes: bool


@dataclass(slots=True, eq=False)
class _Answered:
    """The answer to a subscribe, in its place among the messages."""

    request: _Request
    answer: Message


@dataclass(slots=True, eq=False)
class _Link:
    """A socket with what is awaited on it. `held` collects what came while its predecessor is still read."""

    socket: ClientConnection
    opened: float
    resumed: bool
    """Whether another socket was before it."""
    resumed_from: str | None
    """The position that it was opened with."""
    requests: dict[int, _Request] = field(default_factory=dict)
    welcomed: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it ended, or is about to be replaced."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when all subscriptions are answered, or will not be before what is held was handed over."""
    holding: bool = False
    held: "deque[Message | _Answered]" = field(default_factory=deque)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    farewell: Message | None = None
    code: int = 1006
    reason: str = ""

    @property
    def rotates(self) -> bool:
        farewell = self.farewell or {}
        return farewell.get("code") == ROTATION and farewell.get("reconnect") is True

    @property
    def comes_back(self) -> bool:
        told = (self.farewell or {}).get("reconnect")
        return told if isinstance(told, bool) else comes_back(self.code)


class Client:
    """A client of the service. Use it as an async context manager; it belongs to the event loop it was opened in.

    `on_message` is called with one message after the other, and may be a coroutine function; without it, iterate over
    the client. A message counts as taken when `on_message` has returned, or when the iterator is asked for the next;
    then it is acknowledged if its type is one of `ack_types` or it came with `isRetry`. If `on_message` raises on a
    message that awaits an acknowledgement, the message is handed over again when it comes again; any other is not.

    `on_recovery` gets a `Recovery`, in its place among the messages; `on_error` a `RequestError` that answers no
    awaited request (a subscription that was refused after a reconnect); `on_state` a `State`. None of them may wait
    long: messages wait behind them.

    `position` is where the user's inbox was left (`inbox_position` of an earlier client). `options` are those of
    `websockets.connect`, such as `additional_headers` or `ping_interval`. `chance`, `clock` (seconds) and `sleep` are
    for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        on_message: Callback | None = None,
        on_recovery: Callback | None = None,
        on_error: Callback | None = None,
        on_state: Callback | None = None,
        ack_types: Collection[str] = (),
        position: str | None = None,
        request_timeout: float = REQUEST_TIMEOUT,
        first_wait: float = FIRST_WAIT,
        longest_wait: float = LONGEST_WAIT,
        chance: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        **options: Any,
    ) -> None:
        self.state = State.WAITING
        self.welcome: Message = {}
        """What the server said when the latest socket was opened."""
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"not the URL of a WebSocket: {url!r}")
        self._url = url
        self._callbacks = {"message": on_message, "recovery": on_recovery, "error": on_error, "state": on_state}
        self._ack_types = frozenset(ack_types)
        self._request_timeout = request_timeout
        self._first_wait = first_wait
        self._longest_wait = longest_wait
        self._chance = chance or random.SystemRandom()
        self._clock = clock
        self._sleep = sleep
        self._options: dict[str, Any] = {"max_size": MAX_FRAME, **options}
        self._channels: dict[str, _Stream] = {}
        self._own_stream = _Stream(position)
        self._seen = _Seen()
        self._said: OrderedDict[str, None] = OrderedDict()
        """Ids of our own announces: a new socket is another sender, and would be told what the old one said."""
        self._inbox = _Inbox()
        self._handed: _Delivery | None = None
        self._numbers = itertools.count(1)
        self._turns = asyncio.Semaphore(MAX_REQUESTS)
        self._asking = 0
        self._links: set[_Link] = set()
        self._link: _Link | None = None
        self._tries = 0
        self._retry_after = 0.0
        self._changed = asyncio.Event()
        """Set when there is a link that requests may take, or the client has ended."""
        self._running: asyncio.Task[None] | None = None
        self._end: ClosedError | None = None

    # Life

    async def __aenter__(self) -> Self:
        """Open the first socket, however often it has to be tried. Raises ClosedError if it is refused for good."""
        self._running = asyncio.create_task(self._run())
        try:
            await self._ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the socket (1000) and end. Requests that are under way fail. May be called twice."""
        running = self._running
        if running is None:
            return
        running.cancel()
        await asyncio.wait({running})
        if not running.cancelled() and (error := running.exception()):
            raise error

    async def _run(self) -> None:
        end = ClosedError(1000, "closed by the client")
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._callbacks["message"] is not None:
                    tasks.create_task(self._serve())
                try:
                    await self._keep_open(tasks)
                except ClosedError as refused:
                    end = refused
                await self._finish(end)
        except BaseExceptionGroup:
            end = ClosedError(1011, "the client failed")
            raise
        finally:
            await self._finish(end)

    async def _finish(self, end: ClosedError) -> None:
        """End what waits for this client; it does not come back."""
        if self._end is not None:
            return
        self._end = end
        self._link = None
        self._changed.set()
        await self._inbox.end()
        for link in tuple(self._links):
            await link.socket.close()
        await self._become(State.CLOSED)

    async def _keep_open(self, tasks: asyncio.TaskGroup) -> None:
        """One link after the other. Returns never; raises ClosedError when there is to be no other."""
        link = await self._open(tasks, None)
        while True:
            await link.leaving.wait()
            if link.ended.is_set():
                self._judge(link)
                link = await self._open(tasks, link)
            else:
                link = await self._replace(tasks, link)

    def _judge(self, link: _Link) -> None:
        """A link ended: raises ClosedError if there is to be no other, else notes how long the server wants us away."""
        if not link.comes_back:
            raise ClosedError(link.code, link.reason or str((link.farewell or {}).get("reason", "")))
        if self._clock() - link.opened >= PROVEN:
            self._tries = 0
        self._retry_after = _seconds_away(link.farewell)

    async def _open(self, tasks: asyncio.TaskGroup, before: _Link | None) -> _Link:
        """A link with all subscriptions, however often it has to be tried. Raises ClosedError."""
        if before is not None:
            await self._wait()
        while True:
            if self._link is None:
                await self._become(State.CONNECTING)
            link = await self._try(tasks, before)
            if link is not None:
                self._link = link
                self._changed.set()
                await self._become(State.OPEN)
                return link
            await self._wait()

    async def _wait(self) -> None:
        """Full jitter: any time up to a bound that doubles, after what the server asked for."""
        if self._link is None:
            await self._become(State.WAITING)
        after, self._retry_after = self._retry_after, 0.0
        await self._sleep(after + self._jitter(self._tries))
        self._tries += 1

    def _jitter(self, tries: int) -> float:
        bound: float = min(self._longest_wait, self._first_wait * 2 ** min(tries, 30))
        return self._chance.uniform(0, bound)

    async def _try(self, tasks: asyncio.TaskGroup, before: _Link | None) -> _Link | None:
        """One try; None if there has to be another. Raises ClosedError."""
        position = self._own_stream.resume(self._clock())
        try:
            socket = await connect(_with_position(self._url, position), **self._options)
        except InvalidStatus as refused:
            status = refused.response.status_code
            logger.info("the upgrade was answered with %d", status)
            if 400 <= status < 500 and status not in TRY_AGAIN_STATUSES:
                raise ClosedError(status, "the upgrade was refused") from None
            self._retry_after = _retry_after(refused.response.headers.get("Retry-After"))
            return None
        except (OSError, WebSocketException) as error:
            logger.info("no connection: %s", error or type(error).__name__)
            return None
        link = _Link(socket, self._clock(), before is not None, position)
        link.holding = before is not None and not before.ended.is_set()
        self._links.add(link)
        tasks.create_task(self._read(link))
        tasks.create_task(self._subscribe_to_all(link))
        try:
            async with asyncio.timeout(self._request_timeout):
                await link.decided.wait()
        except TimeoutError:
            self._abandon(link)
            await socket.close()
            await link.ended.wait()
        if not link.ended.is_set():
            return link
        self._abandon(link)
        self._judge(link)
        return None

    @staticmethod
    def _abandon(link: _Link) -> None:
        """What a link held that never came into use is asked for again by the next."""
        link.held.clear()
        link.released.set()

    async def _subscribe_to_all(self, link: _Link) -> None:
        """Ask for all subscriptions anew, each from where its channel was left; close a link that cannot have them."""
        asked = []
        try:
            await link.welcomed.wait()
            now = self._clock()
            for channel, stream in self._channels.items():
                position = stream.resume(now)
                stream.resuming.clear()
                for sub_id in stream.sub_ids:
                    stream.resumes(sub_id, position)
                    asked.append(_subscription(channel, sub_id, position))
            for request in [await self._say(link, message, resumes=link.resumed) for message in asked]:
                try:
                    _check(request, await request.answer)
                except RequestError as error:
                    if error.temporary:
                        raise
                    self._drop(error.request["channel"], error.request["subId"])
                    await self._call("error", error)
        except (ConnectionClosed, RequestError):
            await link.socket.close()
        else:
            link.decided.set()

    async def _replace(self, tasks: asyncio.TaskGroup, old: _Link) -> _Link:
        """Make before break: set up the new link, read the old one to its end, then let the new one go."""
        self._retry_after = _seconds_away(old.farewell)
        self._tries = 0
        new = await self._open(tasks, old)
        if owed := [request.answer for request in old.requests.values()]:
            await asyncio.wait(owed, timeout=FINISH_TIMEOUT)
        await old.socket.close()
        await old.ended.wait()
        while new.held:
            await self._accept(new, new.held.popleft())
        new.holding = False
        new.released.set()
        return new

    # Receive

    async def _read(self, link: _Link) -> None:
        """Read a socket to its end, as fast as the application takes what comes."""
        try:
            with contextlib.suppress(ConnectionClosed):
                async for text in link.socket:
                    message = _decode(text)
                    if message is not None:
                        await self._receive(link, message)
        except asyncio.CancelledError:
            await link.socket.close()
            raise
        finally:
            link.code, link.reason = _close_of(link.socket)
            self._links.discard(link)
            self._unusable(link)
            for request in tuple(link.requests.values()):
                if not request.answer.done():
                    request.answer.set_exception(_lost(request.message))
                    request.answer.exception()  # its asker may be gone
            for event in (link.ended, link.leaving, link.decided, link.welcomed):
                event.set()

    def _unusable(self, link: _Link) -> None:
        """No further request goes to this link."""
        if self._link is link and self._end is None:
            self._link = None
            self._changed.clear()

    async def _receive(self, link: _Link, message: Message) -> None:
        if message.get("type") == messages.DISCONNECT:
            link.farewell = message
            if link.rotates:
                link.leaving.set()
            return
        item: Message | _Answered = message
        request = link.requests.pop(message["ackId"], None) if isinstance(message.get("ackId"), int) else None
        if request is not None:
            if not request.answer.done():
                request.answer.set_result(message)
            if request.message["type"] != messages.SUBSCRIBE:
                return
            item = _Answered(request, message)
        if message.get("type") == messages.WELCOME:
            self.welcome = message
            link.welcomed.set()
        if not link.holding:
            await self._accept(link, item)
            return
        link.held.append(item)
        if len(link.held) >= QUEUE:
            link.decided.set()  # the answers may stand behind what cannot be held
            await link.released.wait()

    async def _accept(self, link: _Link, item: Message | _Answered) -> None:
        """Take what came in its place among all that came."""
        if isinstance(item, _Answered):
            await self._accept_subscription(item.request, item.answer)
            return
        kind = item.get("type")
        if kind == messages.WELCOME:
            await self._accept_welcome(link, item)
        elif kind == messages.ERROR:
            await self._call("error", _error_of(item, {}))
        elif kind not in messages.COMMANDS | messages.REPLIES:  # an answer that came too late
            await self._accept_message(item)

    async def _accept_welcome(self, link: _Link, welcome: Message) -> None:
        recovered = welcome.get("recovered") is True
        if recovered:
            # The replay comes behind the welcome: its position counts when that is certainly over.
            self._own_stream.reached_after_replay(welcome.get("position"), self._clock())
        else:
            self._own_stream.give_up_refused()
            self._own_stream.reached(welcome.get("position"))
        if link.resumed or link.resumed_from is not None:
            await self._put(Recovery(None, recovered))

    async def _accept_subscription(self, request: _Request, answer: Message) -> None:
        stream = self._channels.get(request.message["channel"])
        if stream is None:
            return
        stream.resuming.discard(request.message["subId"])
        if answer.get("type") == messages.ERROR:
            return
        resumed = request.resumes or "position" in request.message
        recovered = answer.get("recovered") is True
        if resumed and not recovered:
            stream.all_recovered = False
            stream.give_up_refused()
        stream.reached(answer.get("position"))
        if resumed and not stream.resuming:
            await self._put(Recovery(request.message["channel"], stream.all_recovered))

    async def _accept_message(self, message: Message) -> None:
        wants_ack = message.get("type") in self._ack_types or message.get("isRetry") is True
        before = self._seen.find(message)
        stream = self._own_stream if message.get("channel") is None else self._channels.get(message["channel"])
        if before is not None:
            if stream is not None:  # what was replayed from an earlier place has come to this one again
                stream.note(_Delivery(position=message.get("position"), repeats=before))
            before.wants_ack |= wants_ack
            if before.taken is _Taken.YES:
                await self._acknowledge(message.get("id"), wants_ack=wants_ack)
            elif before.taken is _Taken.REFUSED:
                before.taken = _Taken.NOT_YET
                before.message = message
                await self._put(before)
            return
        delivery = _Delivery(message, message.get("position"), None, wants_ack)
        self._seen.add(delivery, message)
        if stream is not None:
            stream.note(delivery)
        if message.get("type") == messages.ANNOUNCE and message.get("id") in self._said:
            await self._settle(delivery)
        else:
            await self._put(delivery)

    async def _put(self, item: _Delivery | Recovery) -> None:
        await self._inbox.put(item, room=lambda: QUEUE_WITH_REQUESTS if self._asking else QUEUE)

    # Hand over

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """The next message; the one before is taken. Ends after `close`; raises ClosedError if the server ended it."""
        if self._callbacks["message"] is not None:
            raise RuntimeError("on_message gets the messages")
        if self._handed is not None:
            handed, self._handed = self._handed, None
            await self._settle(handed)
        while (item := await self._inbox.get()) is not None:
            if isinstance(item, Recovery):
                await self._call("recovery", item)
            elif item.message is not None:
                self._handed = item
                return item.message
        if self._end is not None and self._end.code != 1000:
            raise self._end
        raise StopAsyncIteration

    async def _serve(self) -> None:
        while (item := await self._inbox.get()) is not None:
            if isinstance(item, Recovery):
                await self._call("recovery", item)
            elif await self._call("message", item.message) or not item.wants_ack:
                await self._settle(item)
            else:
                item.taken = _Taken.REFUSED
                item.message = None

    async def _settle(self, delivery: _Delivery) -> None:
        """The application has taken a message."""
        message_id = (delivery.message or {}).get("id")
        delivery.taken = _Taken.YES
        delivery.message = None
        if delivery.stream is not None:
            delivery.stream.advance()
        await self._acknowledge(message_id, wants_ack=delivery.wants_ack)

    async def _acknowledge(self, message_id: object, *, wants_ack: bool) -> None:
        """Tell all sockets: each of them may wait for the acknowledgement of what came on both."""
        if not wants_ack or message_id is None:
            return
        text = _encode({"type": messages.ACK, "id": message_id})
        for link in tuple(self._links):
            with contextlib.suppress(ConnectionClosed):
                await link.socket.send(text)

    async def _call(self, name: str, value: object) -> bool:
        """Call back; whether that went well. What a callback raises is logged: it must not end the client."""
        callback = self._callbacks[name]
        if callback is None:
            if isinstance(value, RequestError):
                logger.warning("the server refused something: %s", value)
            return True
        try:
            result = callback(value)
            if inspect.isawaitable(result):
                await result
        except Exception:
            logger.exception("on_%s failed", name)
            return False
        return True

    async def _become(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            await self._call("state", state)

    # Ask

    async def subscribe(self, channel: str, sub_id: str, *, position: str | None = None) -> Message:
        """Subscribe, now and on every socket to come; answers the server's reply.

        With a `position` (one of `positions`, kept from an earlier client) what came since is sent first, or
        `on_recovery` tells of a gap. Raises RequestError.
        """

        def begin() -> Message:
            stream = self._channels.setdefault(channel, _Stream(position))
            stream.sub_ids.add(sub_id)
            if position is not None:
                stream.resumes(sub_id, position)
            return _subscription(channel, sub_id, position)

        try:
            return await self._ask_until_answered(begin)
        except RequestError as error:
            if error.code not in ("connection_lost", "timeout"):
                self._drop(channel, sub_id)
            raise

    async def unsubscribe(self, channel: str | None = None, sub_id: str | None = None) -> Message:
        """Leave a subscription, all of a channel, or all there are; answers the server's reply. Raises RequestError."""
        if channel is None:
            self._channels.clear()
        elif sub_id is None:
            self._channels.pop(channel, None)
        else:
            self._drop(channel, sub_id)
        request = _without_none({"type": messages.UNSUBSCRIBE, "channel": channel, "subId": sub_id})
        return await self._ask_until_answered(lambda: request)

    async def publish(
        self,
        type: str,
        channel: str | None = None,
        *,
        sub_id: str | None = None,
        user_tag: str | None = None,
        payload: object = None,
        id: str | None = None,
        attempts: int = 1,
        **properties: object,
    ) -> Message:
        """Publish a message; returns when the fan-out has accepted it, with the server's reply (`id`, `pubsubId`).

        Raises RequestError. After a temporary one the message is sent again with the same id, `attempts` times in all:
        on the same socket it is published once; where the socket was lost before the answer came, it may be twice.
        """
        message_id = id or str(uuid.uuid4())
        message = {"type": type, "channel": channel, "subId": sub_id, "userTag": user_tag, "payload": payload}
        message = _without_none({**properties, **message, "id": message_id})
        if type == messages.ANNOUNCE:
            self._said[message_id] = None
            if len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
        for attempt in itertools.count(1):
            try:
                return await self._ask(lambda: message)
            except RequestError as error:
                if not error.temporary or attempt >= attempts:
                    raise
            await self._sleep(self._jitter(attempt - 1))
        raise AssertionError("unreachable")

    async def announce(self, channel: str | None, payload: object = None, **options: Any) -> Message:
        """Publish an announce: to a channel (or one `sub_id` of it), or to all with a subscription. As `publish`."""
        return await self.publish(messages.ANNOUNCE, channel, payload=payload, **options)

    async def get_info(self, *, detail: bool = False, channel: str | None = None) -> Message:
        """The server's counts, with `detail` the lists behind them (of one channel, or all). Raises RequestError."""
        kind = messages.GET_INFO_DETAIL if detail else messages.GET_INFO
        request = _without_none({"type": kind, "channel": channel})
        return await self._ask_until_answered(lambda: request)

    @property
    def positions(self) -> dict[str, str]:
        """Where each channel can be gone on from: what came up to there was taken."""
        now = self._clock()
        found = {channel: stream.resume(now) for channel, stream in self._channels.items()}
        return {channel: position for channel, position in found.items() if position is not None}

    @property
    def inbox_position(self) -> str | None:
        """The same for what is sent to this user and to everyone."""
        return self._own_stream.resume(self._clock())

    def _drop(self, channel: str, sub_id: str) -> None:
        stream = self._channels.get(channel)
        if stream is not None:
            stream.sub_ids.discard(sub_id)
            stream.resuming.discard(sub_id)
            if not stream.sub_ids:
                del self._channels[channel]

    async def _ready(self) -> _Link:
        """The link that takes requests. Raises ClosedError."""
        while True:
            await self._changed.wait()
            if self._end is not None:
                raise self._end
            if self._link is not None:
                return self._link

    async def _ask_until_answered(self, make: Callable[[], Message]) -> Message:
        """For what may be said twice: a lost socket is no reason to give up before the timeout."""
        deadline = asyncio.get_running_loop().time() + self._request_timeout
        while True:
            try:
                return await self._ask(make, deadline)
            except RequestError as error:
                if error.code != "connection_lost":
                    raise

    async def _ask(self, make: Callable[[], Message], deadline: float | None = None) -> Message:
        """Send what `make` makes when a link is ready, and answer its reply. Raises RequestError, ClosedError."""
        deadline = deadline or asyncio.get_running_loop().time() + self._request_timeout
        self._asking += 1
        await self._inbox.look_again()
        try:
            async with asyncio.timeout_at(deadline), self._turns:
                link = await self._ready()
                message = make()
                try:
                    request = await self._say(link, message, resumes=False)
                except ConnectionClosed:
                    self._unusable(link)
                    raise _lost(message) from None
                try:
                    return _check(request, await request.answer)
                finally:
                    link.requests.pop(request.message["ackId"], None)
        except TimeoutError:
            text = f"no answer in {self._request_timeout:g} s"
            raise RequestError("timeout", text, temporary=True, request={}) from None
        finally:
            self._asking -= 1

    async def _say(self, link: _Link, message: Message, *, resumes: bool) -> _Request:
        """Send a request; its answer is a future."""
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        request = _Request({**message, "ackId": number}, answer, resumes)
        if link.ended.is_set():
            raise _lost(message)
        link.requests[number] = request
        await link.socket.send(_encode(request.message))
        return request


def _subscription(channel: str, sub_id: str, position: str | None) -> Message:
    return _without_none({"type": messages.SUBSCRIBE, "channel": channel, "subId": sub_id, "position": position})


def _without_none(message: Message) -> Message:
    return {key: value for key, value in message.items() if value is not None}


def _encode(message: Message) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def _decode(text: str | bytes) -> Message | None:
    """A message; what is none is logged and left out: a newer server may say what this client does not know."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if isinstance(message, dict):
        return message
    logger.warning("left out a frame that is no message: %.100r", text)
    return None


def _check(request: _Request, answer: Message) -> Message:
    """The answer, unless it is an error: then it is raised."""
    if answer.get("type") == messages.ERROR:
        raise _error_of(answer, request.message)
    return answer


def _error_of(answer: Message, request: Message) -> RequestError:
    temporary = answer.get("temporary") is True
    return RequestError(str(answer.get("code")), str(answer.get("value")), temporary=temporary, request=request)


def _lost(request: Message) -> RequestError:
    return RequestError("connection_lost", "the socket ended before the answer", temporary=True, request=request)


def _with_position(url: str, position: str | None) -> str:
    if position is None:
        return url
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key != "position"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("position", position)])))


def _seconds_away(farewell: Message | None) -> float:
    """How long the server wants a client to stay away."""
    milliseconds = (farewell or {}).get("retryAfterMs")
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return 0.0
    return min(max(0.0, milliseconds / 1000), LONGEST_RETRY_AFTER)


def _retry_after(text: str | None) -> float:
    """A Retry-After header in seconds; one that is a date is left to the jitter."""
    return min(float(text), LONGEST_RETRY_AFTER) if text is not None and text.isdecimal() else 0.0


def _close_of(socket: ClientConnection) -> tuple[int, str]:
    """Why a socket ended: what the server said, else what this side found, else 1006."""
    if socket.state is not SocketState.CLOSED:  # given up in the middle of closing
        return 1006, ""
    ended = socket.protocol.close_exc
    frame = ended.rcvd or ended.sent
    return (1006, "") if frame is None else (frame.code, frame.reason)
