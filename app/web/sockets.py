"""WebSockets: from the upgrade to the last frame, by Quart's route or straight."""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sized
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs

from quart import Blueprint, Response, Websocket, websocket
from werkzeug.exceptions import NotFound

from app.connection import Connection
from app.hub import Hub
from app.logs import current_trace, trace_of
from app.protocol import codec
from app.protocol.close_codes import CloseCode
from app.protocol.frame import Frame
from app.web.control import Control, control_of
from app.web.door import OTHER_HOST, Door, Guest, Refused, Undecided
from app.web.one_task import Send, Straight
from app.web.targets import host_of, names, scheme_of
from app.web.turn_away import TurnAway

logger = logging.getLogger(__name__)

ANYBODY = Guest(None, None)
ACCEPT: dict[str, Any] = {"type": "websocket.accept", "subprotocol": None, "headers": []}
SUBPROTOCOLS = ("cloud-sockets", "json")
"""Names of the service's messages, as a client may ask for them; the first that is offered is chosen. A browser ends a
socket for which it offered some and none was chosen."""
IDENTIFY_TIMEOUT = 10.0
"""Seconds in which a session parser tells who opens a socket; until then a place is kept for it."""
MAX_QUERY = 2048
"""Bytes of a query that is read: a position has 600 at most. A longer one takes milliseconds, and names none."""
SHOWN = 200
"""Characters of a header that a log line shows."""
RETRY_AFTER = {"Retry-After": "1"}
"""Seconds: another instance, or this one a moment later, has room."""


def socket_routes(hub: Hub, door: Door, path: str) -> Blueprint:
    """The route on which sockets are opened."""
    routes = Blueprint("sockets", __name__)
    say_once = _SaidOnce()
    turn_away = TurnAway(hub)

    @routes.websocket(path)
    async def open_socket() -> Response | None:
        upgrade: Websocket = cast("Any", websocket)._get_current_object()  # noqa: SLF001  # for other tasks
        if not names(upgrade.scope, path):
            raise NotFound
        guest = await _admit(hub, door, upgrade, turn_away)
        if not isinstance(guest, Guest):
            return guest
        control = control_of(upgrade.scope)
        if control is not None and control.takes_frames:
            accept = partial(upgrade.accept, subprotocol=_subprotocol(upgrade.scope))
            await _serve_frames(hub, guest, control, _position_in(upgrade.query_string), accept)
        else:
            say_once("this server takes no ready frames: each client gets each message encoded anew")
            hub.metrics.connections_by_message.inc()
            await _serve_messages(hub, guest, upgrade, control)
        return None

    return routes


class Objection(NamedTuple):
    """Why no socket is opened: the status and text of the answer, and what it is counted as."""

    status: int
    reason: str
    text: str
    headers: dict[str, str] | None = None


DRAINING = Objection(503, "draining", "the instance is shutting down", RETRY_AFTER)
NOT_STARTED = Objection(503, "not_started", "the hub is not started", RETRY_AFTER)
DEAF = Objection(503, "deaf", "the instance does not hear what is published", RETRY_AFTER)
FULL = Objection(503, "full", "the instance has no room for another connection", RETRY_AFTER)
MISDIRECTED = Objection(421, "host", OTHER_HOST)
FOREIGN = Objection(403, "origin", "pages of this origin may not open a socket here")
UNKNOWN = Objection(401, "unauthenticated", "a session with a user is needed")
UNDECIDED = Objection(401, "unauthenticated", "who asks could not be found out")


def _objection(hub: Hub, door: Door, origin: str | None, host: str | None, scheme: str | None) -> Objection | None:
    """What speaks against a socket, whoever it is for."""
    if door.takes_host is not None and host is not None and not door.takes_host(host):
        return MISDIRECTED
    if hub.draining:
        return DRAINING
    if not hub.is_started:
        return NOT_STARTED
    if hub.deaf:
        return DEAF
    if hub.full:
        return FULL
    return None if door.origins.allows(origin, host, scheme) else FOREIGN


async def _admit(hub: Hub, door: Door, upgrade: Websocket, turn_away: TurnAway) -> Guest | Response | None:
    """Return who comes in; or the answer to the upgrade; or None: a page was told why it is refused, and closed."""
    origin, host = upgrade.headers.get("Origin"), host_of(upgrade.scope["headers"])
    scheme = scheme_of(upgrade.scope, upgrade.headers.get("X-Forwarded-Proto"))
    objection = _objection(hub, door, origin, host, scheme)
    if objection is not None:
        if objection is FOREIGN:
            logger.warning("refused a socket: %s", door.origins.refusal(origin or "", host, scheme))
        elif objection is MISDIRECTED:
            logger.warning("refused a socket for the host %r: %s", (host or "")[:SHOWN], OTHER_HOST)
        return _refuse(hub, objection)
    if door.identify is None:
        return ANYBODY
    try:
        with hub.arrival():
            async with asyncio.timeout(IDENTIFY_TIMEOUT):
                return await door.identify(upgrade)
    except TimeoutError:
        logger.warning("refused a socket: the session parser took more than %.0f s", IDENTIFY_TIMEOUT)
        return _refuse(hub, UNDECIDED)
    except Undecided as refused:
        logger.warning("refused a socket: %s", refused)
        return _refuse(hub, UNDECIDED)
    except Refused as refused:
        logger.warning("refused a socket: %s", refused)
        answer = _refuse(hub, UNKNOWN)
    is_told = origin is not None and await turn_away(upgrade, CloseCode.UNAUTHENTICATED, UNKNOWN.text)
    return None if is_told else answer


def _refuse(hub: Hub, objection: Objection) -> Response:
    hub.metrics.connections_refused.labels(objection.reason).inc()
    body = codec.encode_json({"error": objection.text})
    return Response(body, objection.status, objection.headers, content_type="application/json")


class _SaidOnce:
    """A warning that would else come with every socket."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, sentence: str) -> None:
        if not self._said:
            self._said = True
            logger.warning(sentence)


def _subprotocol(scope: Any) -> str | None:
    """The subprotocol that is spoken with a client, of those that it offers; None: none."""
    offered = scope.get("subprotocols") or ()
    return next((name for name in SUBPROTOCOLS if name in offered), None)


def _position_in(query: bytes) -> str | None:
    """Where a client that comes back was in its inbox, in the query of its URL."""
    if not query or len(query) > MAX_QUERY:
        return None
    return parse_qs(query.decode(errors="replace"), keep_blank_values=True).get("position", [""])[0] or None


def straight_way(hub: Hub, door: Door, path: str) -> Straight:
    """The way of sockets that nothing speaks against: the same as the route's, without asking Quart.

    Where everybody is welcome without a session there is nothing to ask it for, and finding that out is a quarter of
    what connecting costs. Whoever is to be refused, or is to say who they are, is the route's. This app sets nothing
    that Quart would have to look at besides: no root path, no host, and of functions before a socket only the one that
    notes its trace.
    """

    target = path.encode()

    def straight(scope: Any, control: Control, send: Send) -> Awaitable[None] | None:
        if door.identify is not None or scope["raw_path"] != target:
            return None
        # Of a header that is there twice the first counts, as with Quart.
        headers = {name.decode("latin1"): value.decode("latin1") for name, value in reversed(scope["headers"])}
        scheme = scheme_of(scope, headers.get("x-forwarded-proto"))
        if _objection(hub, door, headers.get("origin"), headers.get("host"), scheme) is not None:
            return None
        current_trace.set(trace_of(headers))
        accept = {**ACCEPT, "subprotocol": _subprotocol(scope)} if scope["subprotocols"] else ACCEPT
        return _serve_frames(hub, ANYBODY, control, _position_in(scope["query_string"]), lambda: send(accept))

    return straight


async def _serve_frames(
    hub: Hub, guest: Guest, control: Control, position: str | None, accept: Callable[[], Awaitable[None]]
) -> None:
    """The fast way: what the hub sends is written to the connection as it is."""
    connection = hub.connect(*guest[:2], outlet=control, position=position, session_ends=guest.session_ends)
    _Watch(hub, connection, control)
    try:
        await accept()
        connection.open()
        run: Any = copy_context().run  # its log lines have its trace
        control.on_text = partial(run, hub.receive_at_once, connection)
        while True:  # until the socket is gone, and this is cancelled
            await hub.receive(connection, await control.receive())
            control.taken()
    finally:
        _unwatch(control)
        try:
            for message in control.unread():  # what a client says just before it goes is heard
                await hub.receive(connection, message)
        finally:
            hub.disconnect(connection)


class _Watch:
    """Tells the hub what the server sees of a client. Its methods take a third of what as many lambdas would."""

    __slots__ = ("_connection", "_hub")

    def __init__(self, hub: Hub, connection: Connection, control: Control) -> None:
        self._hub = hub
        self._connection = connection
        control.limit()
        control.on_unanswered, control.on_silence = self._unanswered, self._silent
        control.on_flood, control.on_crowded = self._flooded, self._crowded

    def _unanswered(self) -> None:
        self._hub.ask_for_life(self._connection)

    def _silent(self) -> None:
        self._hub.silent(self._connection)

    def _flooded(self) -> None:
        self._hub.flooded(self._connection)

    def _crowded(self) -> None:
        self._hub.crowded(self._connection)


def _unwatch(control: Control) -> None:
    control.on_unanswered = control.on_silence = control.on_text = control.on_flood = control.on_crowded = None
    control.release()


async def _serve_messages(hub: Hub, guest: Guest, upgrade: Websocket, control: Control | None) -> None:
    """The way that every ASGI server has: a task sends message after message."""
    aborted = asyncio.Event()
    messages = MessageOutlet(upgrade.send, upgrade.close, abort=aborted.set)
    position = _position_in(upgrade.query_string)
    connection = hub.connect(*guest[:2], outlet=messages, position=position, session_ends=guest.session_ends)
    if control is not None:
        _Watch(hub, connection, control)
    try:
        await upgrade.accept(subprotocol=_subprotocol(upgrade.scope))
        connection.open()
        reading = asyncio.create_task(_read(hub, connection, upgrade, control))
        sending = asyncio.create_task(messages.run())
        aborting = asyncio.create_task(aborted.wait())
        tasks = {reading, sending, aborting}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        messages.drop()
        if control is not None:
            _unwatch(control)
        hub.disconnect(connection)


async def _read(hub: Hub, connection: Connection, upgrade: Websocket, control: Control | None) -> None:
    try:
        while True:
            await _take(hub, connection, await upgrade.receive())
            if control is not None:
                control.taken()
            await asyncio.sleep(0)  # others have their turn, however much this one says
    finally:
        # What a client said just before it closed came with the close, and Quart does not wait until it is read.
        inbox = _inbox_of(upgrade)
        while inbox is not None and not inbox.empty():
            await _take(hub, connection, inbox.get_nowait())


def _inbox_of(upgrade: Any) -> "asyncio.Queue[str | bytes | None] | None":
    """Where Quart (0.23, else 0.22) queues what a client says."""
    queue = getattr(getattr(upgrade, "buffer", None), "_queue", None)
    if queue is None:
        queue = getattr(getattr(upgrade, "_receive", None), "__self__", None)
    return queue if isinstance(queue, asyncio.Queue) else None


async def _take(hub: Hub, connection: Connection, data: str | bytes | None) -> None:
    await hub.receive(connection, b"" if data is None else data)  # an empty binary frame comes as None


class MessageOutlet:
    """An outlet that sends by ASGI, from `run`."""

    sock: socket.socket | None = None
    backlog: Sized = ()
    deflates = False
    on_end: Callable[[], object] | None = None

    def __init__(
        self,
        send: Callable[[str], Awaitable[None]],
        close: Callable[[int, str], Awaitable[None]],
        *,
        abort: Callable[[], object],
    ) -> None:
        self._send = send
        self._close = close
        self._abort = abort
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()

    def rest(self, _data: bytes, _taken: int) -> int:
        """Not called without a `sock`."""
        raise NotImplementedError

    def write(self, frames: list[Frame]) -> int:
        """Queue frames."""
        self._frames.extend(frames)
        self._bytes += sum(frame.size for frame in frames)
        self._wake.set()
        return self._bytes

    def waiting(self) -> int:
        """What is queued."""
        return self._bytes

    def unacknowledged(self) -> int:
        """Return the queued bytes; the server has the rest."""
        return self._bytes

    def unsent(self) -> int:
        """Return the same."""
        return self._bytes

    def close(self, code: int, reason: str) -> None:
        """Have `run` close the socket when all is sent."""
        self._closing = (code, reason)
        self._wake.set()

    def abort(self) -> None:
        """Cut the connection."""
        self._abort()

    def drop(self) -> None:
        """Nothing is sent any more."""
        self._frames.clear()
        self._bytes = 0

    async def run(self) -> None:
        """Send until the socket is closed from this side."""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                await self._send(frame.text)
                self._bytes -= frame.size
            if self._closing is not None:
                await self._close(*self._closing)
                return
            self._wake.clear()
            await self._wake.wait()
