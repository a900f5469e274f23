"""The Python client, and the reference for every other: it comes back by itself, and says where it missed something.

    async with Client("wss://hub.example.com/ws") as client:
        await client.subscribe("news", "today")
        async for message in client:
            ...

Five rules carry it (contract, sections 5 and 6).

Wishes. `subscribe` and `unsubscribe` change at once what the client wants; the last call wins. Each socket is kept at
exactly that, also the one that is about to replace another. What they return only tells that the hub has confirmed.

Where to go on. A position moves to a message only when the application has taken that message and all before it on
its channel. What is asked for again is therefore never less than what may be missing; what comes twice is dropped. A
subscription that was asked for again and not answered keeps the position that it had, whatever the others bring.

One order. While a socket is replaced (close code 3011) the old one is read to its end before the first message of the
new one is handed over. The new one's stream begins at a position that the old one has passed, so whatever the old one
did not bring any more stands, in order, among what the new one brings; the rest of it are repeats. Without recovery
there is no such proof, and the application is told of a gap.

Nothing is late while something comes. A timeout counts from the last byte of a message, so that a slow link gets done.

Nothing unbounded. While `QUEUE` messages wait for the application the socket is not read. Where the application awaits
an answer the socket is read on; a channel that brings more than `QUEUE_WITH_REQUESTS`, or `MAX_UNTAKEN`, is then left,
and asked for again from where it was when half of that is taken. What the server does not keep for so long is a gap. A
server that finds a client too slow closes with 3008, and the client goes on from its position.
"""

import asyncio
import contextlib
import difflib
import heapq
import inspect
import itertools
import json
import logging
import math
import random
import ssl
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import CTRL_OPCODES, Frame
from websockets.protocol import State as SocketState
from websockets.uri import parse_uri

from app.protocol import messages

logger = logging.getLogger(__name__)

T = TypeVar("T")

Message = dict[str, Any]
"""A message as it came, decoded: `type`, `channel`, `subId`, `payload`, `id` ... (contract, section 3)."""

QUEUE = 256
QUEUE_WITH_REQUESTS = 9_000
"""Messages that may wait for the application; the second while it awaits an answer, which comes behind them. Repeats of
all of them have to be known: it is below `REMEMBERED`."""
MAX_UNTAKEN = 16 * 2**20
"""Characters, as they came, that may wait to be handed out."""
REMEMBERED = 10_000
"""Messages by which repeats are known; also how many may wait behind one that the application has not taken."""
MAX_REQUESTS = 1000
"""Requests that may await their answer; the next waits its turn."""
MAX_TOLD = 1000
"""Events whose callback waits for the one before; what comes above that is logged and left out."""
REQUEST_TIMEOUT = 10.0
OPEN_TIMEOUT = 60.0
"""Seconds for a socket to open: a platform may hold it back while it starts an instance."""
CHECK_TIMEOUT = 2.0
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

CLOSED_HERE = "closed by the client"
ROTATION = 3011
NOT_AUTHENTICATED = 3500
STAY_AWAY = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""The client itself is at fault: it would be closed again for the same."""
TRY_AGAIN_STATUSES = frozenset({408, 425, 429})
"""HTTP statuses below 500 that a moment's wait may cure."""
STATUS_TEXTS = {
    401: "the service does not know who this is: the session, token or key is missing or has expired",
    403: "the service does not let this client in",
    404: "no service has WebSockets at this path",
    429: "the service is asked too often",
    503: "the service has no room or is shutting down",
}


def comes_back(code: int) -> bool:
    """Whether a client opens a new socket after this close code (1006: the connection just ended)."""
    return code not in STAY_AWAY and not 3500 <= code < 4000


class RequestError(Exception):
    """A request was refused, or its answer did not come.

    `connection_lost`, `timeout` and `unsubscribed` (`unsubscribe` was called before the answer) are the client's own
    codes. After a `temporary` error the same message may succeed later; `retry_after` is how many seconds the server
    wants a client to wait.
    """

    def __init__(
        self, code: str, value: str, *, temporary: bool, request: Mapping[str, Any], retry_after: float = 0.0
    ) -> None:
        super().__init__(f"{code}: {value}")
        self.code = code
        self.value = value
        self.temporary = temporary
        self.request = request
        self.retry_after = retry_after


class ConnectError(Exception):
    """A try to connect failed. `code`: the close code, `status`: that of the HTTP answer, where there was one.

    While it is `temporary` the client goes on trying.
    """

    def __init__(self, text: str, *, temporary: bool, code: int | None = None, status: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.status = status
        self.temporary = temporary


class ClosedError(Exception):
    """The client has ended and does not come back by itself.

    `code`: the close code, or the HTTP status of a refused upgrade.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}" if reason else str(code))
        self.code = code
        self.reason = reason


class State(Enum):
    """Activity of a client: it is `WAITING` between two sockets, `CLOSED` until `connect` is called again."""

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


@dataclass(frozen=True, slots=True)
class Refused:
    """The service did not do what nobody awaits an answer to: a try to connect, or a subscription after a reconnect."""

    error: RequestError | ConnectError


Callback = Callable[[Any], Awaitable[None] | None]

_Outcome = Message | RequestError | ClosedError
"""An answer, or why there is none."""
_Key = tuple[str, str]
"""A channel and a subId."""


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
    answers: "tuple[_Wish, _Held] | None" = None
    """The subscription that goes on with the stream from here, and the position that it has until then."""
    consumers: int = 0
    """Those who have yet to take it."""
    failed: bool = False
    """One of them could not."""
    size: int = 0
    """Characters, as it came."""

    @property
    def is_taken(self) -> bool:
        return self.taken is _Taken.YES or (self.repeats is not None and self.repeats.taken is _Taken.YES)


class _Stream:
    """The position of one channel, or of the inbox: the end of what was taken without anything left out before it."""

    def __init__(self, position: str | None = None) -> None:
        self.position = position
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

    def reached(self, position: str | None, answers: "tuple[_Wish, _Held] | None" = None) -> None:
        """A reply said that everything up to here was sent."""
        self.note(_Delivery(position=position, taken=_Taken.YES, answers=answers))

    def reached_after_replay(self, position: str | None, now: float) -> None:
        """A reply said that everything up to here will have been sent when the replay behind it is over."""
        self._later = None if position is None else (position, now)

    def advance(self) -> None:
        """Move over what was taken."""
        while self._ahead and self._ahead[0].is_taken:
            delivery = self._ahead.popleft()
            self.position = delivery.position
            if delivery.answers is not None:
                wish, held = delivery.answers
                wish.let_go(held)

    def resume(self, now: float) -> str | None:
        """The position to go on from."""
        if self._later is not None and not self._ahead and now - self._later[1] >= REPLAY_OVER:
            self.position, self._later = self._later[0], None
        return self.position

    @property
    def received(self) -> str | None:
        """The position of the latest that came, taken or not."""
        return self._ahead[-1].position if self._ahead else self.position

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
        # the time tells them apart, and is the same in every repeat. One id to two addresses is two messages.
        message_id = message.get("pubsubId") or message.get("id")
        return None if message_id is None else (message_id, message.get("sentDateTime"), _address_of(message))


def _address_of(message: Message) -> object:
    """Return the address within which a message's id counts, beside its sender."""
    return (message.get("type"), message.get("channel"), message.get("subId"), message.get("userTag"))


# What is wished


@dataclass(slots=True, eq=False)
class _Claim:
    """A caller's part in a wish."""

    pending: int = 0
    """Calls that await the answer."""
    kept: bool = False
    """One of them was answered, or left to the client to go on with."""


@dataclass(slots=True, eq=False)
class _Held:
    """The position of a subscription that does not go on with the stream of its channel yet."""

    position: str | None


@dataclass(slots=True, eq=False)
class _Wish:
    """A subscription that somebody wants: `claims` says who (None: plain `subscribe`)."""

    sub_id: str
    claims: "dict[Channel | None, _Claim]" = field(default_factory=dict)
    answered: bool = False
    """A socket has had it: it goes on from where it was."""
    held: _Held | None = None
    start: _Held | None = None
    """Position at which the subscription began, until the application has taken what its channel had brought before."""
    waiters: list[asyncio.Future[_Outcome]] = field(default_factory=list)
    """Calls whose request is yet to be sent."""

    def let_go(self, held: _Held) -> None:
        """Let the subscription go on with the stream of its channel."""
        if self.held is held:
            self.held = None
        if self.start is held:
            self.start = None


class _Place:
    """A channel of which something is wished: its stream, and its subscriptions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stream = _Stream()
        self.wishes: dict[str, _Wish] = {}
        self.parked = False
        """True: the channel brought more than may wait. It was left, and is asked for again when there is room."""
        self.cut_off = False
        """True: what comes of the channel is dropped. It comes again after the answer that it was asked for again."""

    def position(self, wish: _Wish, now: float) -> str | None:
        """Return the position at which a subscription goes on."""
        own = wish.held or wish.start
        return self.stream.resume(now) if own is None else own.position

    def furthest_behind_first(self) -> list[_Wish]:
        """Return the subscriptions in this order. Those that have yet to be answered have the older position: what they
        bring is not asked for by the others too. Those that began ahead of the stream have a later one."""
        return sorted(self.wishes.values(), key=lambda wish: (wish.start is not None, wish.held is None))


class _Wishes:
    """All that is wished, by channel."""

    def __init__(self) -> None:
        self.places: dict[str, _Place] = {}
        self._left: OrderedDict[tuple[Any, Any], None] = OrderedDict()
        """Subscriptions, and channels (with None), that nobody wishes any more."""

    def want(self, owner: "Channel | None", channel: str, sub_id: str) -> tuple[_Place, _Wish, _Claim]:
        """Somebody wants a subscription from now on."""
        self._left.pop((channel, sub_id), None)
        self._left.pop((channel, None), None)
        place = self.places.setdefault(channel, _Place(channel))
        wish = place.wishes.setdefault(sub_id, _Wish(sub_id))
        return place, wish, wish.claims.setdefault(owner, _Claim())

    def of(self, channel: str | None, sub_id: str | None) -> list[tuple[_Place, _Wish]]:
        """Those of a channel, or all (None), and there of a subId, or all."""
        return [
            (place, wish)
            for name, place in self.places.items()
            if channel in (None, name)
            for wish in place.wishes.values()
            if sub_id in (None, wish.sub_id)
        ]

    def find(self, key: _Key) -> tuple[_Place, _Wish] | None:
        place = self.places.get(key[0])
        wish = None if place is None else place.wishes.get(key[1])
        return None if place is None or wish is None else (place, wish)

    def is_claimed(self, owner: "Channel | None", channel: str, sub_id: str | None) -> bool:
        """Return whether this owner has the subscription, or (None) any of the channel."""
        place = self.places.get(channel)
        if place is None:
            return False
        if sub_id is None:
            return any(owner in wish.claims for wish in place.wishes.values())
        return sub_id in place.wishes and owner in place.wishes[sub_id].claims

    def were_left(self, channel: str | None, sub_id: str | None) -> bool:
        """Return whether nobody wants any more what came for these."""
        return (channel, sub_id if isinstance(sub_id, str) else None) in self._left

    def forget(self, place: _Place, wish: _Wish, error: RequestError) -> None:
        """Forget a subscription that is not wished any more; `error` is for callers that await that it is sent."""
        if place.wishes.get(wish.sub_id) is wish:
            del place.wishes[wish.sub_id]
            self._left[place.name, wish.sub_id] = None
        if not place.wishes and self.places.get(place.name) is place:
            del self.places[place.name]
            self._left[place.name, None] = None
        while len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        _settle(wish.waiters, error)
        wish.waiters = []


# What waits for the application


class _Tap:
    """Somebody who takes messages: the client's iterator, a channel's, or all callbacks together."""

    def __init__(self) -> None:
        self.queue: deque[_Delivery] = deque()
        self.handed: _Delivery | None = None
        self.begun = False
        self.closed = False
        self.loops = 0
        """`async for` loops that are under way."""
        self.left = False
        """The last of them has ended, and nobody has asked for a message since."""
        self.overflowed = False
        """True: the log says that nobody takes what is in the queue."""

    @property
    def holds_up(self) -> bool:
        """Return whether the others wait while this one is full."""
        return self.begun and not self.left and len(self.queue) >= QUEUE


class _Inbox:
    """Messages and recoveries in their order, and who takes them. Whoever waits for a message hands out to all."""

    def __init__(
        self,
        wishes: _Wishes,
        *,
        is_called: bool,
        settle: Callable[[_Delivery], None],
        tell: Callable[[Recovery], Coroutine[Any, Any, None]],
    ) -> None:
        """`is_called`: there is a callback for all messages; `settle` is told what was taken, `tell` of a recovery."""
        self._wishes = wishes
        self.is_ended = False
        self.iterator = _Tap()
        self.called = _Tap()
        """For all callbacks together."""
        self.called.begun = True
        self.handles: dict[str, list[Channel]] = {}
        """By channel: those that somebody listens to."""
        self.on_taken: Callable[[], None] = lambda: None
        """Called when there is more room."""
        self._is_called = is_called
        self._settle = settle
        self._tell = tell
        self.telling: asyncio.Task[None] | None = None
        """A recovery is told of, whoever gives up waiting for a message: nothing behind it is handed out meanwhile."""
        self._items: deque[_Delivery | Recovery] = deque()
        self._size = 0
        self._bell = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def has(self, count: int, size: int) -> bool:
        """Return whether so many messages wait to be handed out, or so many characters of them."""
        return len(self._items) >= count or self._size >= size

    def put(self, item: _Delivery | Recovery) -> None:
        self._items.append(item)
        if isinstance(item, _Delivery):
            self._size += item.size
        self.ring()

    def end(self) -> None:
        """There will be no more."""
        self.is_ended = True
        self.ring()

    def ring(self) -> None:
        """Something about what waits, or who takes it, has changed."""
        self._bell.set()

    async def rung(self) -> None:
        """Wait for that; nothing may be awaited between the look at it and this."""
        self._bell.clear()
        await self._bell.wait()

    async def next_of(self, tap: _Tap) -> Message | None:
        """The next message of an iterator; with that, the one before is taken. None: there will be none."""
        tap.begun, tap.left = True, False
        if tap.handed is not None:
            handed, tap.handed = tap.handed, None
            self.done(handed, well=True)
        if await self.fill(tap):
            tap.handed = tap.queue.popleft()
            self.ring()
            return tap.handed.message
        return None

    async def fill(self, tap: _Tap) -> bool:
        """Wait until there is a message for this one; False if there will be none."""
        while not self._has_wanted(tap):
            if tap.closed or (self.is_ended and not self._items):
                return False
            if self.telling or not self._items or (tap is self.called and not self._is_listened_to):
                if self.is_ended and not self.telling:
                    return False
            elif self._hand_out_next():
                continue
            await self.rung()
        return True

    def _has_wanted(self, tap: _Tap) -> bool:
        """Return whether the next in a tap's queue is to be taken; what nobody wants any more is done with."""
        while tap.queue:
            if self._is_wanted(tap.queue[0]):
                return True
            self.done(tap.queue.popleft(), well=True)
            self.ring()
        return False

    def _is_wanted(self, delivery: _Delivery) -> bool:
        message = delivery.message
        return message is not None and not self._wishes.were_left(message.get("channel"), message.get("subId"))

    @property
    def _is_listened_to(self) -> bool:
        return self._is_called or any(handle.listens for handles in self.handles.values() for handle in handles)

    def _hand_out_next(self) -> bool:
        """Hand out what is first; False if somebody has no room for it, or it has to be told of first."""
        item = self._items[0]
        if isinstance(item, Recovery):
            if item.channel is not None and self._wishes.were_left(item.channel, None):
                self._items.popleft()
                return True
            self.telling = asyncio.create_task(self._tell(item))
            self.telling.add_done_callback(self._told)
            return False
        taps = self._takers_of(item.message or {}) if self._is_wanted(item) else []
        if any(tap.holds_up for tap in taps):
            return False
        self._items.popleft()
        self._size -= item.size
        item.consumers, item.failed = len(taps), False
        for tap in taps:
            tap.queue.append(item)
            if len(tap.queue) > QUEUE:
                if not tap.overflowed:
                    logger.warning("nobody iterates over the messages of a handle or client: the oldest are left out")
                    tap.overflowed = True
                self.done(tap.queue.popleft(), well=True)
        if not taps:
            self._settle(item)
        self.on_taken()
        self.ring()
        return True

    def _told(self, telling: asyncio.Task[None]) -> None:
        self.telling = None
        if not telling.cancelled():
            self._items.popleft()
        self.ring()

    async def finish_telling(self) -> None:
        """Give what is told its time; what is not told by then is told to who iterates further."""
        telling = self.telling
        if telling is None or telling is asyncio.current_task():
            return
        try:
            await asyncio.wait({telling}, timeout=FINISH_TIMEOUT)
        finally:
            telling.cancel()
        await asyncio.wait({telling})

    def _takers_of(self, message: Message) -> list[_Tap]:
        handles = self.wanting(message)
        taps = [self.iterator] if self.iterator.begun and not self._is_called else []
        if self._is_called or any(handle.listeners_of(message) for handle in handles):
            taps.append(self.called)
        taps += [handle.tap for handle in handles if handle.tap.begun or self._keeps_for(handle)]
        return taps

    def _keeps_for(self, handle: "Channel") -> bool:
        """A handle over which nobody iterates may be for who does later, if nothing else takes its messages."""
        return not self._is_called and not self.iterator.begun and not handle.listens

    async def iterate(
        self, tap: _Tap, take: Callable[[], Awaitable[Message]], handle: "Channel | None" = None
    ) -> AsyncGenerator[Message]:
        """Yield what `take` brings, for an `async for`, however that is left."""
        tap.loops += 1
        try:
            while True:
                try:
                    message = await take()
                except StopAsyncIteration:
                    return
                yield message
        finally:
            tap.loops -= 1
            if not tap.loops:
                self._leave(tap, handle)

    def _leave(self, tap: _Tap, handle: "Channel | None") -> None:
        """Nobody iterates any more, and nobody else waits for that."""
        tap.left = True
        if handle is not None:
            tap.begun = False
            if not self._keeps_for(handle):
                queue, tap.queue = tap.queue, deque()
                for delivery in queue:
                    self.done(delivery, well=True)
        self.ring()

    def wanting(self, message: Message) -> "list[Channel]":
        """The handles that get a message."""
        return [handle for handle in self.handles.get(message.get("channel", ""), ()) if handle.wants(message)]

    def done(self, delivery: _Delivery, *, well: bool) -> None:
        """One of those who get a message is done with it."""
        delivery.consumers -= 1
        delivery.failed |= not well
        if delivery.consumers > 0:
            return
        if delivery.failed:
            delivery.taken = _Taken.REFUSED
            delivery.message = None
        else:
            self._settle(delivery)

    def listen(self, handle: "Channel") -> None:
        """Have this handle get messages."""
        handles = self.handles.setdefault(handle.name, [])
        if handle not in handles:
            handles.append(handle)
            self.ring()

    def ignore(self, handle: "Channel") -> None:
        """Undo that."""
        handles = self.handles.get(handle.name, [])
        if handle in handles:
            handles.remove(handle)
        if not handles:
            self.handles.pop(handle.name, None)
        self.ring()

    def purge(self, handle: "Channel") -> None:
        """Be done with what came for a handle, and it does not want any more."""
        queue, handle.tap.queue = handle.tap.queue, deque()
        for delivery in queue:
            if delivery.message is not None and handle.wants(delivery.message):
                handle.tap.queue.append(delivery)
            else:
                self.done(delivery, well=True)
        self.ring()


class _Teller:
    """Calls callbacks in order without waiting for them: what a coroutine function does comes beside all else."""

    def __init__(self, callbacks: Mapping[str, Callback | None]) -> None:
        self._callbacks = callbacks
        self._telling: deque[tuple[str, Awaitable[None]]] = deque()
        self._changed = asyncio.Event()
        self._is_ended = False

    def tell(self, name: str, value: object) -> None:
        callback = self._callbacks[name]
        if callback is None:
            return
        try:
            result = callback(value)
        except Exception:
            logger.exception("on_%s failed", name)
            return
        if inspect.isawaitable(result):
            self._telling.append((name, result))
            if len(self._telling) > MAX_TOLD:
                logger.warning("on_%s takes too long: an event is left out", name)
                _drop(self._telling.popleft()[1])
            self._changed.set()

    def begin(self) -> None:
        self._is_ended = False

    def end(self) -> None:
        """Return from `keep_telling` when all was told."""
        self._is_ended = True
        self._changed.set()

    async def keep_telling(self) -> None:
        while self._telling or not self._is_ended:
            await self._tell_all()
            if not self._is_ended:
                self._changed.clear()
                await self._changed.wait()

    async def _tell_all(self) -> None:
        while self._telling:
            name, told = self._telling.popleft()
            try:
                await told
            except Exception:
                logger.exception("on_%s failed", name)

    async def tell_the_rest(self) -> None:
        """Tell what was not told when `keep_telling` was cancelled, as far as it takes no time."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINISH_TIMEOUT):
                    await self._tell_all()
        finally:
            for _, told in self._telling:
                _drop(told)
            self._telling.clear()


# One socket


class _Socket(ClientConnection):
    """Knows when bytes of a message came last; answers to pings are none."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heard = self.loop.time()
        self._control = 0

    def data_received(self, data: bytes) -> None:
        self._control = 0
        super().data_received(data)
        if len(data) > self._control:
            self.heard = self.loop.time()

    def process_event(self, event: Any) -> None:
        if isinstance(event, Frame) and event.opcode in CTRL_OPCODES:
            self._control += 2 + len(event.data)
        super().process_event(event)


@dataclass(slots=True, eq=False)
class _Join:
    """A subscription as a socket was asked for it."""

    place: _Place
    wish: _Wish
    position: str | None
    resumes: bool
    """A recovery, or a gap, is told of."""
    quiet: bool
    """Only a gap is: it is the client itself that had left it."""
    again: bool
    """The socket had it; only the answer is wanted."""
    asked: bool = True
    """True: the request is not answered yet."""
    waiters: list[asyncio.Future[_Outcome]] = field(default_factory=list)

    @property
    def key(self) -> _Key:
        return self.place.name, self.wish.sub_id


@dataclass(slots=True, eq=False)
class _Request:
    """A request that was sent and is not answered: a call of the application, a subscribe, or an unsubscribe."""

    message: Message
    call: "_Call | None" = None
    join: _Join | None = None
    leaves: tuple[_Key, ...] = ()
    answer: asyncio.Future[_Outcome] | None = None
    """For who awaits that it is left."""


@dataclass(slots=True, eq=False)
class _Answered:
    """The answer to a subscribe, in its place among the messages."""

    join: _Join
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
    joins: dict[_Key, _Join] = field(default_factory=dict)
    """Subscriptions that the server will have when it has done all that it was asked."""
    resuming: dict[str, set[_Join]] = field(default_factory=dict)
    """By channel: subscriptions whose answer is awaited to tell how the channel went on."""
    gaps: set[str] = field(default_factory=set)
    loud: set[str] = field(default_factory=set)
    """Channels whose recovery is told, not only a gap."""
    owing: set[int] = field(default_factory=set)
    """Requests for what was wished when it was welcomed."""
    delayed: set[_Key] = field(default_factory=set)
    """Subscriptions that the server would not have, or let go, for now."""
    delays: int = 0
    retrying: bool = False
    """The delayed are seen to."""
    writing: asyncio.Task[None] | None = None
    outbox: deque[bytes] = field(default_factory=deque)
    posted: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when anything was."""
    greeted: bool = False
    """The welcome came."""
    welcomed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it did, and all that is wished was asked for; or it ended."""
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it ended, or is about to be replaced."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when all that it owes is answered, or will not be before what is held was handed over."""
    holding: bool = False
    held: "deque[tuple[Message | _Answered, int]]" = field(default_factory=deque)
    """With the size of each."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    paused: bool = False
    """True: the socket is not read, since the application is behind."""
    told: bool = False
    """The application knows why it failed."""
    read: float = 0.0
    """When a message was read last, by the event loop's clock."""
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

    @property
    def usable(self) -> bool:
        """Return whether the link takes requests."""
        return self.greeted and not self.ended.is_set()

    @property
    def heard(self) -> float:
        """When something came last."""
        return max(self.read, getattr(self.socket, "heard", 0.0))

    def post(self, text: bytes) -> None:
        """Send this behind all that was posted before."""
        self.outbox.append(text)
        self.posted.set()
        if len(self.outbox) > REMEMBERED:  # the server takes nothing
            self.cut()

    def cut(self) -> None:
        """End it without a word: the next one goes on from where the client is."""
        self.socket.transport.abort()


# Requests


@dataclass(slots=True, eq=False)
class _Call:
    """A request of the application. `patient`: a lost socket is no reason to give up before the timeout."""

    line: "_Line"
    number: int
    message: Message
    text: bytes
    attempts: int
    patient: bool
    answer: asyncio.Future[_Outcome]
    sent: tuple[_Link, int] | None = None
    """Link on which the call is under way, and its `ackId` there."""
    sleeping: bool = False
    """True: the call is sent again later, and nothing that was called later before it."""
    strict: bool = False
    """True: the call was refused before. Whether it is again has to be known before the next is sent."""
    queued: bool = True
    gone: bool = False

    def __lt__(self, other: "_Call") -> bool:
        return self.number < other.number


class _Line:
    """Requests in the order of their calls: none overtakes one that has to be sent again."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: list[_Call] = []
        self._gone = 0
        """Of those that wait, how many nobody awaits."""
        self._strict: _Call | None = None
        self._under_way = 0

    def join(self, message: Message, attempts: int, *, patient: bool) -> _Call:
        """Take the last place. Raises TypeError or ValueError for what cannot be JSON."""
        answer: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        call = _Call(self, next(self._numbers), message, _encode(message), attempts, patient, answer)
        heapq.heappush(self._waiting, call)
        return call

    def next(self) -> _Call | None:
        """The one to send now; None if the others have to wait."""
        while self._waiting and self._waiting[0].gone:
            self._gone -= 1
            heapq.heappop(self._waiting)
        if not self._waiting or self._strict is not None or self._under_way >= MAX_REQUESTS:
            return None
        if self._waiting[0].sleeping:
            return None
        call = heapq.heappop(self._waiting)
        call.queued = False
        self._under_way += 1
        if call.strict:
            self._strict = call
        return call

    def leave(self, call: _Call) -> None:
        """Nobody awaits its answer any more."""
        self.over(call)
        call.gone = True
        if call.queued:
            self._gone += 1
            if 2 * self._gone > len(self._waiting):
                self._waiting = [call for call in self._waiting if not call.gone]
                self._gone = 0
                heapq.heapify(self._waiting)

    def over(self, call: _Call) -> None:
        """Note that a call is not under way any more."""
        if call.sent is not None:
            link, number = call.sent
            link.requests.pop(number, None)
            call.sent = None
            self._under_way -= 1
        if self._strict is call:
            self._strict = None

    def back(self, call: _Call) -> None:
        """Take the old place again, before all that were called later."""
        if not call.queued:
            call.queued = True
            heapq.heappush(self._waiting, call)

    def end(self, error: ClosedError) -> None:
        """No further one is sent."""
        for call in self._waiting:
            if not call.answer.done():
                call.answer.set_result(error)
            call.queued = False
        self._waiting.clear()
        self._gone = 0


# The client


class Client:
    """A client of the service. Use it as an async context manager, or with `connect` and `close`.

    It belongs to the event loop it was opened in.

    `on_message` is called with one message after the other, and may be a coroutine function; without it, iterate over
    the client, or over its channels (`channel`). A message counts as taken when `on_message` has returned, or when the
    iterator is asked for the next; then it is acknowledged if its type is one of `ack_types` or it came with
    `isRetry`. If `on_message` raises, the message is not taken: it is handed over again when it comes again, which is
    when the server resends it, or after the next reconnect. All callbacks may await requests on this client.

    `on_recovery` gets a `Recovery`, in its place among the messages; `on_state` a `State`; `on_refused` a `Refused`,
    whose `error` is a `ConnectError` (a try to connect failed) or a `RequestError` that answers no awaited request (a
    subscription that was refused after a reconnect). `on_error` gets the latter alone, where it is not temporary.

    `request_timeout` is for how long nothing may come while an answer is awaited (`math.inf`: for ever). `position` is
    where the user's inbox was left (`inbox_position` of an earlier client). `options` are those of
    `websockets.connect`, such as `additional_headers` or `ping_interval`; `open_timeout` is 60 s here. `chance`,
    `clock` (seconds) and `sleep` are for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        on_message: Callback | None = None,
        on_recovery: Callback | None = None,
        on_error: Callback | None = None,
        on_refused: Callback | None = None,
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
        _expect_url(url)
        if isinstance(ack_types, str):
            raise TypeError("ack_types is a collection of types, not a string")
        self._url = url
        self._callbacks = {
            "message": on_message,
            "recovery": on_recovery,
            "error": on_error,
            "refused": on_refused,
            "state": on_state,
        }
        self._ack_types = frozenset(ack_types)
        self._request_timeout = _seconds("request_timeout", request_timeout)
        self._first_wait = _seconds("first_wait", first_wait, or_zero=True)
        self._longest_wait = _seconds("longest_wait", longest_wait, or_zero=True)
        self._chance = chance or random.SystemRandom()
        self._clock = clock
        self._sleep = sleep
        self._options = _checked(options)
        self._wishes = _Wishes()
        self._own_stream = _Stream(position)
        self._seen = _Seen()
        self._said: OrderedDict[object, None] = OrderedDict()
        """Our own announces, by id and address: a new socket is another sender, and would be told what the old said."""
        self._inbox = _Inbox(
            self._wishes, is_called=on_message is not None, settle=self._settle, tell=self._tell_of_recovery
        )
        self._inbox.on_taken = self._unpark
        self._teller = _Teller(self._callbacks)
        self._parked: list[_Place] = []
        self._numbers = itertools.count(1)
        self._publishes = _Line()
        self._questions = _Line()
        self._awaited: set[asyncio.Future[_Outcome]] = set()
        """Answers that the application awaits."""
        self._heard = 0.0
        """When something came last on a socket that has ended, by the event loop's clock."""
        self._links: set[_Link] = set()
        self._link: _Link | None = None
        """The link that takes requests."""
        self._tries = 0
        self._retry_after = 0.0
        self._hurry = asyncio.Event()
        """Set when the next try should come at once."""
        self._changed = asyncio.Event()
        """Set when there is a link that takes requests, or the client has ended."""
        self._ended = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._callers: set[asyncio.Task[None]] = set()
        """Tasks in which the application's own code runs."""
        self._end: ClosedError | None = None

    # Life

    async def connect(self) -> None:
        """Open the first socket, however often it has to be tried; open the client again after `close`.

        What was subscribed then is subscribed again, and goes on from where it was. Raises ClosedError if it is
        refused for good.
        """
        running = self._running
        if running is not None and not running.done() and self._end is not None:
            if self._is_within:
                raise RuntimeError("the client is still closing: call connect() in a task of its own")
            await asyncio.wait({running})
        begins = running is None or running.done()
        if begins:
            self._end = None
            self._ended.clear()
            self._inbox.is_ended = False
            self._teller.begin()
            self._tries, self._retry_after = 0, 0.0
            self._changed.clear()
            self._running = asyncio.create_task(self._run())
        try:
            await self._changed.wait()
        except BaseException:
            if begins:
                await self.close()
            raise
        if self._end is not None:
            raise self._end

    async def close(self) -> None:
        """Close the socket (1000) and end. Requests that are under way fail. May be called twice."""
        running = self._running
        if running is None:
            return
        if not running.done():
            self._conclude(ClosedError(1000, CLOSED_HERE))
            running.cancel()
        if self._is_within:  # it would wait for itself
            return
        await asyncio.wait({running})
        if self.state is not State.CLOSED:  # it had not begun
            await self._finish(ClosedError(1000, CLOSED_HERE))
        if not running.cancelled() and (error := running.exception()):
            raise error

    @property
    def _is_within(self) -> bool:
        """Return whether the client waits for the task that asks."""
        return asyncio.current_task() in {self._running, self._inbox.telling, *self._callers}

    async def __aenter__(self) -> Self:
        """As `connect`."""
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def check(self, timeout: float = CHECK_TIMEOUT) -> bool:
        """Ask at once whether the socket still is one, as after the machine slept or the network changed.

        Where nothing comes within `timeout` seconds it is replaced; a client that waits tries again at once. Answers
        whether the socket is good.
        """
        self._expect_running()
        link = self._link
        if link is None:
            self._hurry.set()
            return False
        if link.paused:  # it brings more than the application takes
            return True
        asked = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(timeout):
                await (await link.socket.ping())
                return True
        if link.heard > asked and not link.ended.is_set():  # the answer is behind something long
            return True
        self._hurry.set()
        link.cut()
        return False

    async def _run(self) -> None:
        end = ClosedError(1000, CLOSED_HERE)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._callers = {tasks.create_task(self._serve()), tasks.create_task(self._teller.keep_telling())}
                try:
                    await self._keep_open(tasks)
                except ClosedError as refused:
                    end = refused
                await self._finish(end)
        except BaseExceptionGroup:
            end = ClosedError(1011, "the client failed")
            raise
        finally:
            self._tasks = None
            await self._finish(end)
            await self._inbox.finish_telling()
            await self._teller.tell_the_rest()

    def _conclude(self, end: ClosedError) -> None:
        """End what waits for this client; who awaits an answer may still get it while the sockets are closed."""
        if self._end is not None:
            return
        self._end = end
        self._ended.set()
        self._link = None
        for line in (self._publishes, self._questions):
            line.end(end)
        for _, wish in self._wishes.of(None, None):
            _settle(wish.waiters, end)
        self._changed.set()
        self._inbox.end()

    async def _finish(self, end: ClosedError) -> None:
        """End the client, with its sockets."""
        self._conclude(end)
        for link in tuple(self._links):
            await _leave(link)
        self._become(State.CLOSED)
        self._teller.end()

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
            reason = link.reason or str((link.farewell or {}).get("reason", ""))
            if link.code == NOT_AUTHENTICATED or not link.greeted:
                text = f"{reason or 'the service ended the socket'} (close code {link.code})"
                self._refuse(link, ConnectError(text, temporary=False, code=link.code))
            raise ClosedError(link.code, reason)
        if self._clock() - link.opened >= PROVEN:
            self._tries = 0
        self._retry_after = _seconds_away(link.farewell)

    def _refuse(self, link: _Link | None, error: ConnectError) -> None:
        """Tell why a try failed, once."""
        if link is not None:
            if link.told:
                return
            link.told = True
        logger.info("no connection: %s", error)
        self._teller.tell("refused", Refused(error))

    async def _open(self, tasks: asyncio.TaskGroup, before: _Link | None) -> _Link:
        """A link with all that is wished, however often it has to be tried. Raises ClosedError."""
        if before is not None:
            await self._wait()
        while True:
            if self._link is None:
                self._become(State.CONNECTING)
            link = await self._try(tasks, before)
            if link is not None:
                self._link = link
                self._changed.set()
                self._send_calls()
                self._ask_for_all(link)
                self._become(State.OPEN)
                return link
            await self._wait()

    async def _wait(self) -> None:
        """Full jitter: any time up to a bound that doubles, after what the server asked for."""
        if self._link is None:
            self._become(State.WAITING)
        after, self._retry_after = self._retry_after, 0.0
        await self._sleep_unless(self._hurry, after + self._jitter(self._tries))
        self._hurry.clear()
        self._tries += 1

    async def _sleep_unless(self, event: asyncio.Event, seconds: float) -> None:
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        waiting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({sleeping, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if sleeping.done():
                sleeping.result()
        finally:
            sleeping.cancel()
            waiting.cancel()

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
            for_good = 400 <= status < 500 and status not in TRY_AGAIN_STATUSES
            text = STATUS_TEXTS.get(status, "the upgrade to a WebSocket was refused")
            self._refuse(None, ConnectError(f"{text} (HTTP {status})", temporary=not for_good, status=status))
            if for_good:
                raise ClosedError(status, "the upgrade was refused") from None
            self._retry_after = _retry_after(refused.response.headers.get("Retry-After"))
            return None
        except Exception as error:
            if not isinstance(error, OSError | WebSocketException):
                logger.warning("connecting failed: %r", error)
            self._refuse(None, ConnectError(_why(error, self._url), temporary=True))
            return None
        link = _Link(socket, self._clock(), before is not None, position)
        link.holding = before is not None and not before.ended.is_set()
        self._links.add(link)
        link.writing = tasks.create_task(self._write(link))
        tasks.create_task(self._read(link))
        if await self._is_in_time(link, link.decided if link.holding else link.welcomed):
            tasks.create_task(self._watch(link))
            return link
        if not link.ended.is_set():
            link.cut()
            await link.ended.wait()
            self._refuse(link, ConnectError("the socket was opened, and nothing came", temporary=True, code=link.code))
        link.held.clear()  # what it brought is asked for again by the next
        link.released.set()
        self._judge(link)
        if not link.greeted:
            reason = f": {link.reason}" if link.reason else ""
            text = f"the socket ended before the welcome (close code {link.code}{reason})"
            self._refuse(link, ConnectError(text, temporary=True, code=link.code))
        return None

    async def _is_in_time(self, link: _Link, event: asyncio.Event) -> bool:
        """Wait for something on a link for as long as anything comes; False if that ends, or the link."""
        loop = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(event.wait())
        try:
            await self._in_time(waiting, loop.time(), lambda: loop.time() if link.paused else link.heard)
        except TimeoutError:
            return False
        finally:
            waiting.cancel()
        return not link.ended.is_set()

    async def _watch(self, link: _Link) -> None:
        """End a link that does not answer what was asked anew."""
        if not await self._is_in_time(link, link.decided):
            link.cut()

    async def _replace(self, tasks: asyncio.TaskGroup, old: _Link) -> _Link:
        """Make before break: set up the new link, read the old one to its end, then let the new one go."""
        self._retry_after = _seconds_away(old.farewell)
        self._tries = 0
        new = await self._open(tasks, old)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_TIMEOUT):
                while old.requests and not old.ended.is_set():
                    old.answered.clear()
                    await old.answered.wait()
        await _leave(old)
        await old.ended.wait()
        self._release(new)
        return new

    def _release(self, link: _Link) -> None:
        """Let what a link held come next: its predecessor is read to its end."""
        if not link.holding:
            return
        link.holding = False
        for join in link.joins.values():
            self._hold(join)
        while link.held:
            self._accept(link, *link.held.popleft())
        link.released.set()

    # Read and write

    async def _write(self, link: _Link) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await link.posted.wait()
                link.posted.clear()
                while link.outbox:
                    await link.socket.send(link.outbox.popleft(), text=True)

    async def _read(self, link: _Link) -> None:
        """Read a socket to its end, as fast as the application takes what comes."""
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(ConnectionClosed):
                async for text in link.socket:
                    link.read = loop.time()
                    message = _decode(text)
                    if message is not None:
                        self._receive(link, message, len(text))
                        await self._until_there_is_room(link)
        except asyncio.CancelledError:
            await _leave(link)
            raise
        finally:
            if link.writing is not None:
                link.writing.cancel()
            link.code, link.reason = _close_of(link.socket)
            self._links.discard(link)
            self._heard = max(self._heard, link.heard)
            self._unusable(link)
            for event in (link.ended, link.leaving, link.decided, link.welcomed, link.answered):
                event.set()
            for request in tuple(link.requests.values()):
                self._lost(request)
            link.requests.clear()

    async def _until_there_is_room(self, link: _Link) -> None:
        """Stop reading while too much waits for the application, unless it awaits what is still to be read."""
        if link.holding and len(link.held) >= QUEUE:
            link.decided.set()  # the answers may stand behind what cannot be held
            await link.released.wait()
        while not self._inbox.is_ended and self._inbox.has(QUEUE, MAX_UNTAKEN):
            if self._awaits_an_answer and not self._inbox.has(REMEMBERED, 2 * MAX_UNTAKEN):
                break
            link.paused = True
            await self._inbox.rung()
        if link.paused:
            link.paused = False
            link.read = asyncio.get_running_loop().time()

    @property
    def _awaits_an_answer(self) -> bool:
        """Return whether the application awaits an answer. One that came and is about to be given counts no more."""
        return any(not answer.done() for answer in self._awaited)

    @contextlib.contextmanager
    def _awaiting(self, answer: asyncio.Future[_Outcome]) -> Iterator[None]:
        """Read on, whatever waits for the application: it awaits this."""
        self._awaited.add(answer)
        self._inbox.ring()
        try:
            yield
        finally:
            self._awaited.discard(answer)

    def _unusable(self, link: _Link) -> None:
        """No further request goes to this link."""
        if self._link is link and self._end is None:
            self._link = None
            self._changed.clear()

    def _lost(self, request: _Request) -> None:
        """The socket ended before the answer."""
        if request.call is not None:
            if self._end is None:
                self._fail(request.call, _connection_lost(request.message))
            elif not request.call.answer.done():
                request.call.answer.set_result(self._end)
        elif request.join is not None:
            join = request.join
            waiters = [waiter for waiter in join.waiters if not waiter.done()]
            if join.place.wishes.get(join.wish.sub_id) is not join.wish:
                _settle(waiters, _unsubscribed(request.message))
            elif self._end is not None:
                _settle(waiters, self._end)
            else:
                join.wish.waiters += waiters
                if self._link is not None and waiters:
                    self._ask_for(self._link, join.place, join.wish)
        elif request.answer is not None and not request.answer.done():
            request.answer.set_result(_nothing_left(request.message))  # what it had is gone with it

    def _receive(self, link: _Link, message: Message, size: int) -> None:
        if message.get("type") == messages.DISCONNECT:
            link.farewell = message
            if link.rotates:
                link.leaving.set()
            return
        item: Message | _Answered = message
        number = message.get("ackId")
        request = link.requests.pop(number, None) if isinstance(number, int) else None
        if request is not None:
            link.answered.set()
            if request.join is None:
                self._answered(link, request, message)
                return
            item = _Answered(request.join, message)
        if not link.holding:
            self._accept(link, item, size)
        else:
            link.held.append((item, size))
        if request is not None:
            self._answered(link, request, message)
            link.owing.discard(request.message["ackId"])
            if not link.owing:
                link.decided.set()
        elif message.get("type") == messages.WELCOME and not link.greeted:
            self.welcome = message
            link.greeted = True
            self._ask_for_all(link)
            link.owing.update(link.requests)
            link.welcomed.set()
            if not link.owing:
                link.decided.set()

    def _answered(self, link: _Link, request: _Request, answer: Message) -> None:
        """Tell who awaits the answer."""
        error = _error_of(answer, request.message) if answer.get("type") == messages.ERROR else None
        if request.call is not None:
            if error is not None:
                self._fail(request.call, error)
                return
            request.call.line.over(request.call)
            if not request.call.answer.done():
                request.call.answer.set_result(answer)
            self._send_calls()
        elif request.join is not None:
            self._subscribed(link, request.join, answer if error is None else error)
        else:
            if error is not None and error.temporary:
                self._later(link, request.leaves, error)
            if request.answer is not None and not request.answer.done():
                request.answer.set_result(answer if error is None else error)

    # Take what came

    def _accept(self, link: _Link, item: Message | _Answered, size: int) -> None:
        """Take what came in its place among all that came."""
        if isinstance(item, _Answered):
            self._accept_subscription(link, item.join, item.answer)
            return
        kind = item.get("type")
        if kind == messages.WELCOME:
            self._accept_welcome(link, item)
        elif kind == messages.ERROR:
            self._tell_refused(_error_of(item, {}))
        elif kind not in messages.COMMANDS | messages.REPLIES:  # an answer that came too late
            self._accept_message(item, size)

    def _accept_welcome(self, link: _Link, welcome: Message) -> None:
        recovered = welcome.get("recovered") is True
        if recovered:
            # The replay comes behind the welcome: its position counts when that is certainly over.
            self._own_stream.reached_after_replay(welcome.get("position"), self._clock())
        else:
            self._own_stream.give_up_refused()
            self._own_stream.reached(welcome.get("position"))
        if link.resumed or link.resumed_from is not None:
            self._inbox.put(Recovery(None, recovered))

    def _accept_subscription(self, link: _Link, join: _Join, answer: Message) -> None:
        place, wish = join.place, join.wish
        if link.joins.get(join.key) is join and answer.get("type") != messages.ERROR:
            if join.resumes and not join.quiet:
                link.loud.add(place.name)
            if join.resumes and answer.get("recovered") is not True:
                link.gaps.add(place.name)
                place.stream.give_up_refused()
            place.cut_off = False
            before = place.position(wish, self._clock()) if wish.answered else None
            if before is not None and not join.resumes and not join.again:
                # The socket that this one replaces had it first, and what came there is to be gone on from.
                self._join(link, place, wish, before, resumes=True, quiet=True)
            elif answer.get("position") is not None:
                if not wish.answered and wish.held is None:
                    wish.start = _Held(answer["position"])
                own = wish.held or wish.start
                place.stream.reached(answer["position"], None if own is None else (wish, own))
            else:
                wish.held = None
            wish.answered = True
        self._resumed(link, join)

    def _resumed(self, link: _Link, join: _Join) -> None:
        """When the last subscription of a channel is answered, tell how the channel went on."""
        channel = join.place.name
        resuming = link.resuming.get(channel)
        if resuming is None:
            return
        resuming.discard(join)
        if resuming:
            return
        del link.resuming[channel]
        is_gap, is_loud = channel in link.gaps, channel in link.loud
        link.gaps.discard(channel)
        link.loud.discard(channel)
        if self._wishes.places.get(channel) is join.place and (is_gap or is_loud):
            self._inbox.put(Recovery(channel, not is_gap))

    def _accept_message(self, message: Message, size: int) -> None:
        wants_ack = message.get("type") in self._ack_types or message.get("isRetry") is True
        before = self._seen.find(message)
        channel = message.get("channel")
        place = None if channel is None else self._wishes.places.get(channel)
        stream = self._own_stream if channel is None else None if place is None else place.stream
        if place is not None and message.get("position") is not None:
            if before is None and self._inbox.has(QUEUE_WITH_REQUESTS, MAX_UNTAKEN) and not place.cut_off:
                self._park(place)
            if place.cut_off:
                return
        if before is not None:
            if stream is not None:  # what was replayed from an earlier place has come to this one again
                stream.note(_Delivery(position=message.get("position"), repeats=before))
            before.wants_ack |= wants_ack
            if before.taken is _Taken.YES:
                self._acknowledge(message.get("id"), wants_ack=wants_ack)
            elif before.taken is _Taken.REFUSED:
                before.taken = _Taken.NOT_YET
                before.message, before.size = message, size
                self._inbox.put(before)
            return
        delivery = _Delivery(message, message.get("position"), None, wants_ack, size=size)
        self._seen.add(delivery, message)
        if stream is not None:
            stream.note(delivery)
        if message.get("type") == messages.ANNOUNCE and (message.get("id"), _address_of(message)) in self._said:
            self._settle(delivery)
        else:
            self._inbox.put(delivery)

    def _park(self, place: _Place) -> None:
        """Leave a channel that brings more than may wait, while the application awaits an answer behind it."""
        place.parked = place.cut_off = True
        self._parked.append(place)
        for link in self._links:
            if self._leave_on(link, [join for join in link.joins.values() if join.place is place]):
                self._say(link, {"type": messages.UNSUBSCRIBE, "channel": place.name})

    def _unpark(self) -> None:
        """There is room: go on from what came."""
        if not self._parked or self._inbox.has(QUEUE_WITH_REQUESTS // 2 + 1, MAX_UNTAKEN // 2 + 1):
            return
        parked, self._parked = self._parked, []
        for place in parked:
            place.parked = False
            if self._wishes.places.get(place.name) is not place:
                continue
            for link in self._links:
                for wish in place.furthest_behind_first():
                    if not link.usable:
                        pass
                    elif wish.answered and (place.name, wish.sub_id) not in link.joins:
                        position = place.stream.received if wish.held is None else wish.held.position
                        self._join(link, place, wish, position, resumes=True, quiet=True)
                    else:
                        self._ask_for(link, place, wish)

    # Hand over

    def channel(self, name: str) -> "Channel":
        """A handle on a channel. Each has subscriptions of its own: what one leaves the others keep."""
        return Channel(name, self._inbox, self._wishes, self)

    def __aiter__(self) -> AsyncGenerator[Message]:
        """All messages to come. While nobody iterates, `QUEUE` are kept, and handles do not wait for that."""
        return self._inbox.iterate(self._inbox.iterator, self.__anext__)

    async def __anext__(self) -> Message:
        """The next message; the one before is taken. Ends after `close`; raises ClosedError if the server ended it."""
        if self._callbacks["message"] is not None:
            raise RuntimeError("on_message gets the messages")
        message = await self._inbox.next_of(self._inbox.iterator)
        if message is None:
            raise self.iteration_end
        return message

    @property
    def iteration_end(self) -> Exception:
        """Exception that ends an iteration: ClosedError if the server ended the client, else StopAsyncIteration."""
        return self._end if self._end is not None and self._end.code != 1000 else StopAsyncIteration()

    async def _serve(self) -> None:
        """Call the callbacks that take messages, for one message after the other."""
        tap = self._inbox.called
        while await self._inbox.fill(tap):
            delivery = tap.queue.popleft()
            well = False
            try:
                well = delivery.message is not None and await self._hand_to_callbacks(delivery.message)
            finally:
                self._inbox.done(delivery, well=well)

    async def _hand_to_callbacks(self, message: Message) -> bool:
        well = await self._call("message", message)
        for handle in self._inbox.wanting(message):
            for listener in handle.listeners_of(message):
                well = await _call_back(f"a listener of {handle.name}", listener, message) and well
        return well

    def _settle(self, delivery: _Delivery) -> None:
        """The application has taken a message."""
        message_id = (delivery.message or {}).get("id")
        delivery.taken = _Taken.YES
        delivery.message = None
        if delivery.stream is not None:
            delivery.stream.advance()
        self._acknowledge(message_id, wants_ack=delivery.wants_ack)

    def _acknowledge(self, message_id: object, *, wants_ack: bool) -> None:
        """Tell all sockets: each of them may wait for the acknowledgement of what came on both."""
        if not wants_ack or message_id is None:
            return
        text = _encode({"type": messages.ACK, "id": message_id})
        for link in tuple(self._links):
            link.post(text)

    # Tell

    async def _call(self, name: str, value: object) -> bool:
        """Call back and wait; whether that went well."""
        callback = self._callbacks[name]
        return callback is None or await _call_back(f"on_{name}", callback, value)

    async def _tell_of_recovery(self, recovery: Recovery) -> None:
        await self._call("recovery", recovery)

    def _tell_refused(self, error: RequestError) -> None:
        if self._callbacks["error"] is None and self._callbacks["refused"] is None:
            logger.warning("the server refused something: %s", error)
        if not error.temporary:
            self._teller.tell("error", error)
        self._teller.tell("refused", Refused(error))

    def _become(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._teller.tell("state", state)

    # Subscribe

    async def subscribe(self, channel: str, sub_id: str, *, position: str | None = None) -> Message:
        """Subscribe, now and on every socket to come; answers the server's reply.

        The subscription is wished from the call on, and the last of `subscribe` and `unsubscribe` counts. After a
        temporary RequestError (`timeout`, `rate_limited` ...) it still is: the client goes on trying. After any other,
        or if the call is cancelled, it is not. With a `position` (one of `positions`, kept from an earlier client) what
        came since is sent first, or `on_recovery` tells of a gap.
        """
        return await self._subscribe(None, channel, sub_id, position)

    async def unsubscribe(self, channel: str | None = None, sub_id: str | None = None) -> Message:
        """Leave a subscription, all of a channel, or all there are; answers the server's reply.

        What a handle has (`channel`) stays. It is not wished any more from the call on, whatever becomes of the answer.
        Raises RequestError.
        """
        if channel is None and sub_id is not None:
            raise TypeError("a sub_id needs a channel")
        return await self._unsubscribe(None, channel, sub_id)

    async def subscribe_for(self, handle: "Channel", sub_id: str, *, position: str | None = None) -> Message:
        """`Channel.subscribe`, which is where it is asked for."""
        return await self._subscribe(handle, handle.name, sub_id, position)

    async def unsubscribe_for(self, handle: "Channel", sub_id: str | None = None) -> Message:
        """`Channel.unsubscribe`."""
        return await self._unsubscribe(handle, handle.name, sub_id)

    async def _subscribe(self, owner: "Channel | None", channel: str, sub_id: str, position: str | None) -> Message:
        self._expect_running()
        _encode(_subscription(channel, sub_id, position))  # or it cannot be sent
        place, wish, claim = self._wishes.want(owner, channel, sub_id)
        claim.pending += 1
        waiter: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        wish.waiters.append(waiter)
        if position is not None:
            wish.held = _Held(position)
        try:
            for link in self._in_turn():
                if position is not None and link.usable and (channel, sub_id) in link.joins and not place.parked:
                    self._join(link, place, wish, position, resumes=True)
                else:
                    self._ask_for(link, place, wish)
            with self._awaiting(waiter):
                outcome = await self._in_time(waiter, asyncio.get_running_loop().time())
            claim.kept |= isinstance(outcome, dict) or (isinstance(outcome, RequestError) and outcome.temporary)
        except TimeoutError:
            claim.kept = True
            outcome = self._timeout(_subscription(channel, sub_id, position))
        finally:
            claim.pending -= 1
            waiter.cancel()
            if not claim.pending and not claim.kept and wish.claims.get(owner) is claim:
                self._unwish(owner, [(place, wish)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _unsubscribe(self, owner: "Channel | None", channel: str | None, sub_id: str | None) -> Message:
        message = _without_none({"type": messages.UNSUBSCRIBE, "channel": channel, "subId": sub_id})
        _encode(message)  # or it cannot be sent
        wishes = self._wishes.of(channel, sub_id)
        answers = self._unwish(owner, wishes, message if owner is None else None)
        if owner is None:
            self._expect_running()
        if not answers:
            return _nothing_left(message)
        started = asyncio.get_running_loop().time()
        total = _nothing_left(message)
        try:
            for awaited in answers:
                with self._awaiting(awaited):
                    outcome = await self._in_time(awaited, started)
                if isinstance(outcome, Exception):
                    raise outcome
                total = {**outcome, **_sum(total, outcome)}
        except TimeoutError:
            raise self._timeout(message) from None
        return total

    def _unwish(
        self, owner: "Channel | None", wishes: "list[tuple[_Place, _Wish]]", message: Message | None = None
    ) -> list[asyncio.Future[_Outcome]]:
        """Take a claim from these, and leave those that nobody claims: in one go by `message`, if it says just that.

        Answers who tells that they are left.
        """
        left: dict[_Wish, _Key] = {}
        for place, wish in wishes:
            wish.claims.pop(owner, None)
            if not wish.claims:
                left[wish] = place.name, wish.sub_id
                self._wishes.forget(place, wish, _unsubscribed(_subscription(place.name, wish.sub_id, None)))
        if owner is not None:
            self._inbox.purge(owner)
        at_once = message is not None and not any(wish.claims for _, wish in wishes)
        answers: list[asyncio.Future[_Outcome]] = []
        for number, link in enumerate(self._in_turn()):
            joins = [join for join in link.joins.values() if join.wish in left]
            self._leave_on(link, joins)
            if message is not None and at_once:
                requests = [(message, tuple(left.values()))] if joins or number == 0 else []
            else:
                requests = [
                    ({"type": messages.UNSUBSCRIBE, "channel": key[0], "subId": key[1]}, (key,))
                    for key in (join.key for join in joins)
                ]
            for request, leaves in requests:
                answer = asyncio.get_running_loop().create_future() if number == 0 else None
                self._say(link, request, leaves=leaves, answer=answer)
                if answer is not None:
                    answers.append(answer)
        return answers

    def _in_turn(self) -> list[_Link]:
        """The links that take requests, the one that answers first."""
        return sorted((link for link in self._links if link.usable), key=lambda link: link is not self._link)

    def _ask_for_all(self, link: _Link) -> None:
        """Ask for all that is wished and not there."""
        for place in tuple(self._wishes.places.values()):
            for wish in place.furthest_behind_first():
                self._ask_for(link, place, wish)

    def _ask_for(self, link: _Link, place: _Place, wish: _Wish) -> None:
        """Ask a link for a subscription that it does not have, or once more for the sake of who awaits the answer."""
        if place.parked or not link.usable or (place.name, wish.sub_id) in link.delayed:
            return
        join = link.joins.get((place.name, wish.sub_id))
        if join is None:
            position = place.position(wish, self._clock()) if wish.answered or wish.held is not None else None
            self._join(link, place, wish, position, resumes=wish.answered or position is not None)
        elif wish.waiters and self._link in (None, link):
            if join.asked:
                join.waiters += wish.waiters
                wish.waiters = []
            else:
                self._join(link, place, wish, None, again=True)

    def _join(
        self,
        link: _Link,
        place: _Place,
        wish: _Wish,
        position: str | None,
        *,
        resumes: bool = False,
        quiet: bool = False,
        again: bool = False,
    ) -> None:
        join = _Join(place, wish, position, resumes, quiet, again)
        if self._link in (None, link):
            join.waiters, wish.waiters = wish.waiters, []
        link.joins[join.key] = join
        if resumes:
            link.resuming.setdefault(place.name, set()).add(join)
        if not link.holding:
            self._hold(join)
        self._say(link, _subscription(place.name, wish.sub_id, position), join=join)

    def _hold(self, join: _Join) -> None:
        """Until it is answered, a subscription that is asked for again stays where it is."""
        if join.resumes:
            join.wish.held = _Held(join.place.position(join.wish, self._clock()))

    def _leave_on(self, link: _Link, joins: list[_Join]) -> bool:
        """Forget what a link will not have any more; whether there was any."""
        for join in joins:
            del link.joins[join.key]
            self._resumed(link, join)
        return bool(joins)

    def _subscribed(self, link: _Link, join: _Join, outcome: Message | RequestError) -> None:
        """A subscribe was answered."""
        join.asked = False
        waiters, join.waiters = join.waiters, []
        is_awaited = any(not waiter.done() for waiter in waiters)
        _settle(waiters, outcome)
        if isinstance(outcome, dict):
            return
        is_current = link.joins.get(join.key) is join
        if is_current:
            del link.joins[join.key]
        if not is_current or join.place.wishes.get(join.wish.sub_id) is not join.wish:
            return
        if outcome.temporary:
            for claim in join.wish.claims.values():
                claim.kept = True
            self._later(link, (join.key,), outcome)
        else:
            self._wishes.forget(join.place, join.wish, outcome)
            self._unwish_everywhere(join)
        if not is_awaited:
            self._tell_refused(outcome)

    def _unwish_everywhere(self, join: _Join) -> None:
        """Leave on all sockets what one of them was refused: the others are not to have it."""
        for link in self._links:
            others = [other for other in link.joins.values() if other.wish is join.wish]
            if self._leave_on(link, others):
                channel, sub_id = join.key
                self._say(link, {"type": messages.UNSUBSCRIBE, "channel": channel, "subId": sub_id}, leaves=(join.key,))

    def _later(self, link: _Link, keys: tuple[_Key, ...], error: RequestError) -> None:
        """The server would not do something for now: try it again."""
        if self._tasks is None or self._end is not None:
            return
        link.delayed.update(keys)
        if not link.retrying:
            link.retrying = True
            self._tasks.create_task(self._try_again(link, error.retry_after + self._jitter(link.delays)))
            link.delays += 1

    async def _try_again(self, link: _Link, seconds: float) -> None:
        await self._sleep_unless(link.ended, seconds)
        link.retrying = False
        delayed, link.delayed = link.delayed, set()
        if not link.usable:
            return
        for channel, sub_id in delayed:
            found = self._wishes.find((channel, sub_id))
            if found is not None:
                self._ask_for(link, *found)
            else:
                request = {"type": messages.UNSUBSCRIBE, "channel": channel, "subId": sub_id}
                self._say(link, request, leaves=((channel, sub_id),))

    # Ask

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

        Raises RequestError. After a temporary one the message is sent again with the same id, `attempts` times in all,
        and before all that is published later: on the same socket it is published once; where the socket was lost
        before the answer came, it may be twice.
        """
        message_id = id or str(uuid.uuid4())
        message = {"type": type, "channel": channel, "subId": sub_id, "userTag": user_tag, "payload": payload}
        properties.pop("ackId", None)  # it is the client's own
        message = _without_none({**properties, **message, "id": message_id})
        if type == messages.ANNOUNCE:
            self._said[message_id, _address_of(message)] = None
            if len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
        return await self._ask(self._publishes, message, attempts)

    async def announce(self, channel: str | None, payload: object = None, **options: Any) -> Message:
        """Publish an announce: to a channel (or one `sub_id` of it), or to all with a subscription. As `publish`."""
        return await self.publish(messages.ANNOUNCE, channel, payload=payload, **options)

    async def get_info(self, *, detail: bool = False, channel: str | None = None) -> Message:
        """The server's counts, with `detail` the lists behind them (of one channel, or all). Raises RequestError."""
        kind = messages.GET_INFO_DETAIL if detail else messages.GET_INFO
        return await self._ask(self._questions, _without_none({"type": kind, "channel": channel}), patient=True)

    @property
    def positions(self) -> dict[str, str]:
        """Where each channel can be gone on from: what came up to there was taken."""
        now = self._clock()
        found = {
            channel: place.position(place.furthest_behind_first()[0], now)
            for channel, place in self._wishes.places.items()
        }
        return {channel: position for channel, position in found.items() if position is not None}

    @property
    def inbox_position(self) -> str | None:
        """The same for what is sent to this user and to everyone."""
        return self._own_stream.resume(self._clock())

    def _expect_running(self) -> None:
        """Raise ClosedError or RuntimeError where nothing can be asked."""
        if self._end is not None:
            raise self._end
        if self._running is None:
            raise RuntimeError("the client is not open: await connect() first, or use it with `async with`")

    async def _ask(self, line: _Line, message: Message, attempts: int = 1, *, patient: bool = False) -> Message:
        """Send a request when it is its turn, and answer its reply. Raises RequestError, ClosedError."""
        self._expect_running()
        loop = asyncio.get_running_loop()
        call = line.join(message, attempts, patient=patient)
        started = loop.time()
        tries = itertools.count()
        try:
            self._send_calls()
            while True:
                try:
                    with self._awaiting(call.answer):
                        outcome = await self._in_time(call.answer, started)
                except TimeoutError:
                    outcome = self._timeout(message)
                    self._fail(call, outcome)
                if isinstance(outcome, dict):
                    return outcome
                if not call.sleeping:
                    raise outcome
                after = outcome.retry_after if isinstance(outcome, RequestError) else 0.0
                await self._sleep_unless(self._ended, after + self._jitter(next(tries)))
                call.sleeping = False
                started = loop.time()
                self._send_calls()
        finally:
            line.leave(call)
            self._send_calls()

    def _send_calls(self) -> None:
        """Send what may be sent now."""
        for line in (self._publishes, self._questions):
            while self._link is not None and (call := line.next()) is not None:
                call.sent = self._link, self._say(self._link, call.message, call.text, call=call)

    def _fail(self, call: _Call, error: RequestError) -> None:
        """A call was not answered well: have it sent again if it may be, before all that were called later."""
        call.line.over(call)
        answer = call.answer
        may_be_sent_again = error.temporary and self._end is None and not call.gone
        if may_be_sent_again and call.patient and error.code == "connection_lost":
            call.line.back(call)
            self._send_calls()
            return
        if may_be_sent_again and call.attempts > 1:
            call.attempts -= 1
            call.sleeping = True
            call.strict = error.code != "connection_lost"
            call.answer = asyncio.get_running_loop().create_future()
            call.line.back(call)
        if not answer.done():
            answer.set_result(error)
        self._send_calls()

    def _timeout(self, message: Message) -> RequestError:
        text = f"nothing came in {self._request_timeout:g} s"
        return RequestError("timeout", text, temporary=True, request=message)

    async def _in_time(self, future: asyncio.Future[T], started: float, heard: Callable[[], float] | None = None) -> T:
        """The result; raises TimeoutError when nothing has come for too long. Something that comes is no answer, but
        one may be behind it."""
        loop = asyncio.get_running_loop()
        while not future.done():
            last = max(started, (heard or self._heard_last)())
            rest = last + self._request_timeout - loop.time()
            if rest <= 0:
                raise TimeoutError
            await asyncio.wait({future}, timeout=None if math.isinf(rest) else rest)
        return future.result()

    def _heard_last(self) -> float:
        return max([self._heard, *(link.heard for link in self._links)])

    def _say(
        self,
        link: _Link,
        message: Message,
        text: bytes | None = None,
        *,
        call: _Call | None = None,
        join: _Join | None = None,
        leaves: tuple[_Key, ...] = (),
        answer: asyncio.Future[_Outcome] | None = None,
    ) -> int:
        """Send a request, and note what it is for; answers its number."""
        number = next(self._numbers)
        link.requests[number] = _Request({**message, "ackId": number}, call, join, leaves, answer)
        link.post(b'%s,"ackId":%d}' % ((text or _encode(message))[:-1], number))
        return number


class Channel:
    """A handle on a channel: it has subscriptions of its own, and gets what it has subscribed to and nothing else.

        news = client.channel("news")
        await news.subscribe("today")
        async for message in news:
            ...

    Several handles, and `Client.subscribe`, may want the same subscription: the client leaves it when nobody does.
    Messages are taken by `on` listeners or by iterating; a message that several take counts as taken when all have.
    While nobody iterates, `QUEUE` messages are kept for who does later; nobody waits for that. Who takes messages by
    `anext` alone has to go on with it, or close the handle: all wait for one that is full.
    """

    def __init__(self, name: str, inbox: _Inbox, wishes: _Wishes, client: Client) -> None:
        self.name = name
        self.tap = _Tap()
        self._inbox = inbox
        self._wishes = wishes
        self._client = client
        self._listeners: list[tuple[str, Callback]] = []

    async def subscribe(self, sub_id: str = "default", *, position: str | None = None) -> Message:
        """As `Client.subscribe`, for this handle."""
        self._expect_open()
        self._inbox.listen(self)
        return await self._client.subscribe_for(self, sub_id, position=position)

    async def unsubscribe(self, sub_id: str | None = None) -> Message:
        """Leave a subscription of this handle, or all; what others have stays."""
        return await self._client.unsubscribe_for(self, sub_id)

    async def announce(self, payload: object = None, *, type: str = messages.ANNOUNCE, **options: Any) -> Message:
        """Publish to the channel, as `Client.publish`: `sub_id`, `attempts` ..."""
        return await self._client.publish(type, self.name, payload=payload, **options)

    def on(self, type: str, listener: Callback) -> Callable[[], None]:
        """Hand messages of a type to `listener`, which may be a coroutine function. What it answers ends that."""
        self._expect_open()
        entry = (type, listener)
        self._listeners.append(entry)
        self._inbox.listen(self)

        def remove() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)
                self._inbox.ring()

        return remove

    async def close(self) -> None:
        """Leave all subscriptions of this handle, and end its listeners and its iteration."""
        if self.tap.closed:
            return
        self.tap.closed = True
        if self.tap.handed is not None:
            self._inbox.done(self.tap.handed, well=True)
            self.tap.handed = None
        self._listeners.clear()
        self._inbox.ignore(self)
        with contextlib.suppress(ClosedError, RuntimeError):
            await self._client.unsubscribe_for(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncGenerator[Message]:
        return self._inbox.iterate(self.tap, self.__anext__, self)

    async def __anext__(self) -> Message:
        """The next message for this handle; the one before is taken. Ends as that of the client, and after `close`."""
        if not self.tap.closed:
            self._inbox.listen(self)
        message = await self._inbox.next_of(self.tap)
        if message is None:
            raise StopAsyncIteration if self.tap.closed else self._client.iteration_end
        return message

    @property
    def listens(self) -> bool:
        """Return whether anybody takes messages by `on`."""
        return bool(self._listeners)

    def wants(self, message: Message) -> bool:
        """Return whether a message of the channel is for this handle."""
        return self._wishes.is_claimed(self, self.name, message.get("subId"))

    def listeners_of(self, message: Message) -> list[Callback]:
        """Those who take a message, by its type."""
        return [listener for type, listener in self._listeners if type == message.get("type")]

    def _expect_open(self) -> None:
        if self.tap.closed:
            raise RuntimeError("this handle is closed: client.channel(name) makes another")


async def _call_back(name: str, callback: Callback, value: object) -> bool:
    """Call back, and wait; what a callback raises is logged: it must not end the client."""
    try:
        result = callback(value)
        if inspect.isawaitable(result):
            await result
    except Exception:
        logger.exception("%s failed", name)
        return False
    return True


async def _leave(link: _Link) -> None:
    """Close a socket behind what was posted."""
    with contextlib.suppress(ConnectionClosed, TimeoutError):
        async with asyncio.timeout(FINISH_TIMEOUT):
            while link.outbox:
                await link.socket.send(link.outbox.popleft(), text=True)
    await link.socket.close()


def _settle(waiters: list[asyncio.Future[_Outcome]], outcome: _Outcome) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(outcome)


def _drop(told: Awaitable[None]) -> None:
    """Nobody will await this."""
    if inspect.iscoroutine(told):
        told.close()


def _seconds(name: str, value: object, *, or_zero: bool = False) -> float:
    """A time that was given; raises TypeError or ValueError where it is none."""
    allowed = f"a {'non-negative' if or_zero else 'positive'} number of seconds{'' if or_zero else ', or math.inf'}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {allowed}, not {value!r}")
    if math.isnan(value) or value < 0 or (value == 0 and not or_zero) or (or_zero and math.isinf(value)):
        raise ValueError(f"{name} is {allowed}, not {value!r}")
    return float(value)


OWN_OPTIONS = ("on_message", "on_recovery", "on_error", "on_refused", "on_state", "ack_types", "position")
OWN_TIMES = ("request_timeout", "first_wait", "longest_wait")
SOCKET_TIMES = ("open_timeout", "ping_interval", "ping_timeout", "close_timeout")


def _expect_url(url: str) -> None:
    """Raise ValueError at once for what no socket can be opened to."""
    wrong = f"not the URL of a WebSocket: {url!r}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{wrong}: {error}") from None
    if parts.scheme not in ("ws", "wss") or not host or parts.fragment:
        raise ValueError(f"{wrong}: it is ws:// or wss://, a host, and a path; nothing stands behind a #")
    if port == 0:
        raise ValueError(f"{wrong}: a port is 1 to 65535")
    try:
        host.encode("idna")
        parse_uri(url)
    except InvalidURI as error:
        raise ValueError(f"{wrong}: {error.msg}") from None
    except UnicodeError:
        allowed = "names of 1 to 63 characters with a dot between them, or an address"
        raise ValueError(f"{wrong}: a host is {allowed}") from None
    if not host.isprintable() or " " in host:
        raise ValueError(f"{wrong}: there is a space or a control character in the host")


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a socket; raises TypeError or ValueError at once for what none can be opened with."""
    sockets = inspect.signature(connect.__init__).parameters
    transports = inspect.signature(asyncio.BaseEventLoop.create_connection).parameters
    known = {
        *(name for name, parameter in sockets.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY),
        *transports,
        *(
            "proxy_ssl",
            "proxy_server_hostname",
            "proxy_ssl_handshake_timeout",
            "proxy_ssl_shutdown_timeout",
            "unix",
            "path",
        ),
    } - {"self", "protocol_factory"}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, [*OWN_OPTIONS, *OWN_TIMES, *known], 1, 0.5)
            raise TypeError(f"unknown option {name!r}" + (f": is it {near[0]!r}?" if near else ""))
    checked = {"max_size": MAX_FRAME, "open_timeout": OPEN_TIMEOUT, "create_connection": _Socket, **options}
    for name in SOCKET_TIMES:
        if checked.get(name) is not None:
            value = _seconds(name, checked[name])
            checked[name] = None if math.isinf(value) else value
    return checked


def _why(error: Exception, url: str) -> str:
    """Plain words for why there is no socket."""
    parts = urlsplit(url)
    where = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
    detail = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return f"{where} did not answer in time"
    if isinstance(error, ssl.SSLError):
        return f"{where} could not be spoken to securely: {detail}"
    if isinstance(error, OSError):
        return f"nobody answers at {where}: {detail}"
    if isinstance(error, InvalidHandshake):
        return f"{where} does not answer as a WebSocket does: {detail}"
    if isinstance(error, WebSocketException):
        return f"no connection to {where}: {detail}"
    return f"no connection to {where}: {type(error).__name__}: {error}"


def _subscription(channel: str, sub_id: str, position: str | None) -> Message:
    return _without_none({"type": messages.SUBSCRIBE, "channel": channel, "subId": sub_id, "position": position})


def _without_none(message: Message) -> Message:
    return {key: value for key, value in message.items() if value is not None}


def _encode(message: Message) -> bytes:
    """A message in UTF-8. Half of a surrogate pair has no form there, and travels escaped."""
    try:
        return _compact(message).encode()
    except UnicodeEncodeError:
        return _compact(message, ensure_ascii=True).encode()


def _compact(message: Message, *, ensure_ascii: bool = False) -> str:
    return json.dumps(message, ensure_ascii=ensure_ascii, allow_nan=False, separators=(",", ":"))


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


def _error_of(answer: Message, request: Message) -> RequestError:
    return RequestError(
        str(answer.get("code")),
        str(answer.get("value")),
        temporary=answer.get("temporary") is True,
        request=request,
        retry_after=_seconds_away(answer),
    )


def _connection_lost(request: Message) -> RequestError:
    return RequestError("connection_lost", "the socket ended before the answer", temporary=True, request=request)


def _unsubscribed(request: Message) -> RequestError:
    text = "unsubscribe() was called before the answer"
    return RequestError("unsubscribed", text, temporary=False, request=request)


COUNTS = ("removedConnectionCount", "subscriptionsDeleted", "channelsDeleted")


def _nothing_left(request: Message) -> Message:
    """The answer to an unsubscribe where there is no socket any more that has anything to leave."""
    place: Message = {key: request[key] for key in ("channel", "subId") if key in request}
    return {"type": messages.ACK, **place, **dict.fromkeys(COUNTS, 0)}


def _sum(one: Message, other: Message) -> Message:
    """The counts of two answers to an unsubscribe."""
    return {name: one[name] + other[name] if isinstance(other.get(name), int) else one[name] for name in COUNTS}


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
