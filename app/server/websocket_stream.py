"""Hypercorn's WebSocket stream, with what it lacks (checked with Hypercorn 0.18 and wsproto 1.3):

- The app may hand over frames that are ready, see `app.server.control`. Hypercorn makes, and compresses, each anew.
- A message is measured in bytes, and what is too big is not kept. Hypercorn counts a text's characters and goes on
  collecting.
- A frame that breaks the protocol, such as invalid UTF-8, is answered with its close code. Hypercorn hangs up without a
  word.
- After such a close the client gets a moment to read the close frame before the connection is shut: shut at once, with
  input still unread, the connection would be reset and the frame lost.
- Compression is for all receivers at once, see `app.server.deflate`, and can be turned off.
- A client that answers no ping is given up, see `app.server.pings`.
- A connection whose upgrade is none is closed. Hypercorn leaves it open for as long as the client likes.
- Short messages that came whole are passed on at once, see `app.server.whole_texts`. Hypercorn wakes a task.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from hypercorn.protocol.events import Data, Event, Request, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import server_extensions_handshake
from wsproto.utilities import generate_accept_token

from app.core.rate import TokenBucket
from app.protocol.close_codes import CROWDED, CloseCode
from app.server.config import ServerConfig
from app.server.control import CONTROL, MAX_WAITING, Control
from app.server.deflate import SharedDeflate, asks_for_less
from app.server.first_reader import FirstReader
from app.server.inbox import AppTasks
from app.server.unfinished import NOTED_FROM
from app.server.whole_texts import COMPRESSED, LONGEST, texts_in

logger = logging.getLogger(__name__)

LINGER = 2.0
LINGER_BROKEN = 0.5
"""Seconds that a client has to take the close frame and answer it; less where its answer could not be read."""
LINGER_BYTES = 64 * 1024
"""Bytes that a client may send before it answers the close frame; one that sends more is not reading."""
CONTROL_RATE, CONTROL_BURST = 5, 50
"""Pings and pongs of one client a second, and at once. Clients ping every few seconds; a pong is asked for twice a
minute."""
PART_RATE, PART_BURST = 1000, 5000
"""Parts of messages of one client a second, and at once: the largest message in parts of 64 bytes."""
INFLATER = 40 * 1024
"""Bytes that an inflater takes while more of its message is to come."""


class _Incoming:
    """State of incoming frames: a message in parts, and how often some kinds of frame come."""

    __slots__ = ("control_frames", "is_holding", "is_in_parts", "lingered", "part_frames", "parts")

    def __init__(self) -> None:
        self.parts = bytearray()
        """Of a message of which more is to come, in UTF-8 if it is a text."""
        self.is_in_parts = False
        self.is_holding = False
        """True: the budget counts what the connection holds."""
        self.lingered = 0
        """Bytes that came behind our close frame."""
        self.control_frames: TokenBucket | None = None  # made when they are needed, which is seldom
        self.part_frames: TokenBucket | None = None


class WebSocketStream(WSStream):
    """One WebSocket of Hypercorn's."""

    config: ServerConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._control = Control(getattr(self.send, "__self__", None), self._begin_close, self.config.turns)
        # Beyond 30 attributes each instance would have a dict of its own, of 2 kB.
        self._incoming: _Incoming | None = None  # made when something comes that is no short message
        self._reader: FirstReader | None = None
        self._deflate: SharedDeflate | None = None
        """The socket's compression, if it has one."""
        self._broken = False  # the client broke the protocol: what else it sends cannot be read
        self._is_over = False  # the client has ended its side
        self._over: asyncio.Event | None = None  # the same for who waits for it
        self._lingering = False
        self._heard = True  # something came since the last ping

    async def handle(self, event: Event) -> None:
        if isinstance(event, Data):
            self._heard = True
            if self._broken or self._is_over:
                return  # wsproto raises at what comes behind a close frame
            if self._lingering and self._has_said_too_much(len(event.data)):
                return
        if isinstance(event, StreamClosed):
            self._ended()
            self._control.gone()
            self._control.forget()
            self._forget_parser()
            self._let_go()
            if self.config.websocket_pings is not None:
                self.config.websocket_pings.unwatch(self)
        if not isinstance(event, Request):
            await super().handle(event)
            if self.closed and isinstance(event, Data) and not self.handshake.accepted:
                await self._refuse_early()
            return
        group, self.task_group = self.task_group, cast("Any", AppTasks(self.task_group, self._control.inbox))
        await super().handle(event)
        self.task_group = group
        if self.closed:  # it is no upgrade after all, and was told so
            await self.send(StreamClosed(stream_id=self.stream_id))
        else:  # the app's task has not run yet
            self.scope["extensions"][CONTROL] = cast("Any", self._control)

    def take(self, data: bytes) -> bool:
        """Pass on messages that came whole, at once; False where `handle` is to see what it is."""
        if self.state is not ASGIWebsocketState.CONNECTED or self.connection.state is not ConnectionState.OPEN:
            return False
        longest = min(LONGEST, self.config.websocket_max_message_size)
        deflate = self._deflate
        ahead = deflate.ahead() if deflate is not None and COMPRESSED in data else None
        texts = texts_in(data, MAX_WAITING, longest, ahead)
        if texts is None or not self._is_between_messages():
            return False
        self._heard = True
        try:
            if not self._control.pass_on(texts):
                return False
            if ahead is not None and deflate is not None and not self._broken:
                deflate.window = ahead.window
                self._note_window(deflate)
            return True
        except Exception:  # as where it fails in the app's task
            logger.exception("a message could not be handled")
            self._begin_close(CloseReason.INTERNAL_ERROR, "")
            return True

    def _is_between_messages(self) -> bool:
        """Whether wsproto has nothing of a message of which more is to come."""
        protocol: Any = self.connection._proto  # noqa: SLF001
        frames, messages = protocol._frame_decoder, protocol._message_decoder  # noqa: SLF001
        return frames.header is None and not frames.buffer.buffer and messages.opcode is None

    async def app_send(self, message: Any) -> None:
        if message is None and self._lingering:
            return  # the app has ended, the connection will when the client has
        await super().app_send(message)
        if message is not None and message["type"] == "websocket.close" and self.handshake.accepted:
            self._linger()

    async def _refuse_early(self) -> None:
        """It was answered 400, as it speaks before its handshake is done: the app shall not answer it, too."""
        self._control.gone()
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _accept(self, message: Any) -> None:
        """Answer the handshake, with our own compression in place of Hypercorn's."""
        self.state = ASGIWebsocketState.CONNECTED
        given = [*message.get("headers", [])]
        headers = self._handshake(message.get("subprotocol"))
        head = b""
        if given:
            await self.send(Response(stream_id=self.stream_id, status_code=101, headers=headers + given))
        elif self._control.takes_frames:  # it leaves with the first of them
            head = _head_of(headers + self.config.response_headers("h11"))
        else:
            await self.send(Data(self.stream_id, _head_of(headers + self.config.response_headers("h11"))))
        await self.config.log.access(self.scope, {"status": 101, "headers": []}, time.time() - self.start_time)
        if self.closed:
            return  # the client went before it could be answered
        self._control.accepted(deflates=self._deflate is not None, head=head)
        if self.config.websocket_pings is not None:
            self.config.websocket_pings.watch(self)

    def _handshake(self, subprotocol: str | None) -> list[tuple[bytes, bytes]]:
        headers = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
        handshake = self.handshake
        offers, handshake.extensions = handshake.extensions, None
        deflate = SharedDeflate(
            self.config.websocket_max_message_size,
            asks=asks_for_less(offers or ()),
            has_room=self.config.windows.has_room,
        )
        agreed = server_extensions_handshake(offers, [deflate]) if offers and self.config.websocket_deflate else None
        if agreed is not None:
            headers.append((b"sec-websocket-extensions", agreed))
        if subprotocol is not None:
            headers.append((b"sec-websocket-protocol", subprotocol.encode()))
        if handshake.key is not None:
            headers.append((b"sec-websocket-accept", generate_accept_token(handshake.key)))
        handshake.accepted = True
        self._deflate = deflate if deflate.enabled() else None
        self.connection = Connection(ConnectionType.SERVER, [deflate] if self._deflate is not None else [])
        return headers

    def _forget_parser(self) -> None:
        """wsproto's protocol refers to its parser, a generator, and that to it."""
        protocol: Any = getattr(getattr(self, "connection", None), "_proto", None)
        if hasattr(protocol, "_parse_more"):
            protocol._parse_more = iter(())  # noqa: SLF001

    def _begin_close(self, code: int, reason: str) -> None:
        self._spawn(self.app_send, {"type": "websocket.close", "code": code, "reason": reason})

    def ping(self) -> None:
        """Ask the client whether it is there."""
        self._heard = False
        self._spawn(self._send_wsproto_event, Ping())

    def _spawn(self, function: Callable[..., Any], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the connection, and its group of tasks, has just ended
            self.task_group.spawn(function, *arguments)

    async def _send_wsproto_event(self, event: Any) -> None:
        if head := self._control.take_head():
            await self.send(Data(stream_id=self.stream_id, data=head))
        if isinstance(event, CloseConnection):
            self._control.end()  # nothing may follow a close frame, which may wait to be written
        await super()._send_wsproto_event(event)

    def silent(self) -> bool:
        """Whether nothing came since the ping, although it would have been read."""
        return not self._heard and not self._control.holds_back

    def insist(self) -> None:
        """Have the app send the client a message, which may bring out its answer."""
        if self._control.on_unanswered is not None:
            self._control.on_unanswered()

    def give_up(self) -> None:
        """Tell the app that the client does not answer."""
        if self._control.on_silence is not None:
            self._control.on_silence()

    async def _handle_events(self) -> None:
        turns = self.config.turns
        ends = turns.first(turns.time())
        while (last := await self._handle_some(ends, turns.time)) is not None:
            self._note_held(last)
            ends = await turns.next(ends)
            if self.closed or self._broken:
                return
        self._note_held()

    async def _handle_some(self, ends: float, time: Callable[[], float]) -> int | None:
        """Handle what came until its time is over; return what the parser keeps of it then, None: all is handled."""
        # Not in the loop that waits for turns: there each of wsproto's generators would keep the last event.
        for event in self.connection.events():
            if isinstance(event, Message):
                await self._handle_message(event, time)
            elif isinstance(event, Ping | Pong):
                await self._handle_control_frame(event, time())
            elif isinstance(event, CloseConnection):
                await self._handle_close(event)
                continue  # nothing that counts comes behind it
            if self._broken:
                return None
            if time() >= ends:
                return len(event.data) if isinstance(event, Message) else 0
        return None

    def settle(self) -> None:
        """Count anew what is held, now that what was read is handled."""
        if self._incoming is not None and self._incoming.is_holding:
            self._note_held()

    async def _handle_control_frame(self, event: Ping | Pong, now: float) -> None:
        bucket = self._came.control_frames
        if bucket is None:
            bucket = self._came.control_frames = TokenBucket(CONTROL_RATE, CONTROL_BURST)
        if not bucket.take(now):
            self._flooded()
        elif isinstance(event, Ping):
            await self._send_wsproto_event(event.response())

    @property
    def _came(self) -> _Incoming:
        if self._incoming is None:
            self._incoming = _Incoming()
        return self._incoming

    def _flooded(self) -> None:
        """Tell the app of a frame that comes faster than any client needs."""
        if self._control.on_flood is not None:
            self._control.on_flood()

    async def _handle_message(self, event: Message[Any], time: Callable[[], float]) -> None:
        if self.connection.state is not ConnectionState.OPEN:
            return  # said after our close: nobody listens
        data = event.data
        is_text = isinstance(event, TextMessage)
        came = self._came
        is_whole = event.message_finished and not came.is_in_parts
        if not is_whole:
            self._count_part(event, time)
            came.is_in_parts = True
        size = len(data) if not isinstance(data, str) or data.isascii() else len(data.encode())
        if len(came.parts) + size > self.config.websocket_max_message_size:
            await self._fail(CloseReason.MESSAGE_TOO_BIG)
            return
        if not is_whole:
            # One growing piece of memory: a list of parts of one byte takes a hundred times what it says.
            came.parts += data.encode() if isinstance(data, str) else data
            if not event.message_finished:
                return
            whole, came.parts, came.is_in_parts = came.parts, bytearray(), False
            data = whole.decode() if is_text else bytes(whole)
        elif not is_text:
            data = bytes(data)
        await self.app_put(  # type: ignore[misc]
            {"type": "websocket.receive", "text": data if is_text else None, "bytes": None if is_text else data}
        )
        del data
        await self._control.passed_on()

    def _count_part(self, event: Message[Any], time: Callable[[], float]) -> None:
        if not event.frame_finished or event.message_finished:
            return
        bucket = self._came.part_frames
        if bucket is None:
            bucket = self._came.part_frames = TokenBucket(PART_RATE, PART_BURST)
        if not bucket.take(time()):
            self._flooded()

    # What is not handled yet

    def _note_held(self, parsed: int = 0) -> None:
        """Have what this connection holds counted, where that is worth it, with what the parser keeps."""
        came = self._came
        behind = 0 if self._reader is None else self._reader.behind
        held = parsed + len(came.parts) + self._control.inbox.bytes + behind
        if self._deflate is not None:
            self._note_window(self._deflate)
            if self._deflate.is_inflating:
                held += INFLATER
        if held >= NOTED_FROM or came.is_holding:
            came.is_holding = held >= NOTED_FROM
            self._control.on_drained = self._note_held if came.is_holding else None
            self.config.unfinished.hold(self, held)

    def _note_window(self, deflate: SharedDeflate) -> None:
        """Have what the client may refer back to counted, where that may be much."""
        if deflate.may_keep_much:
            self.config.windows.hold(self, len(deflate.window))

    def _drop_window(self) -> None:
        if self._deflate is not None:
            self._deflate.drop()
            self._note_window(self._deflate)

    def _let_go(self) -> None:
        """Hold nothing from now on."""
        self._drop_window()
        came, self._incoming = self._incoming, None
        if self._reader is not None:
            self._reader.on_pause = None
            self._reader = None
        self._control.on_drained = None
        if came is not None and came.is_holding:
            self.config.unfinished.hold(self, 0)

    def watch_reader(self, reader: FirstReader) -> None:
        """Count what this reader has for the stream as well."""
        self._reader = reader
        reader.on_pause = self._note_held

    def shed(self) -> None:
        """Let go of all that came in, and close: what all connections hold is too much, and this one holds most."""
        self._broken = True  # what else it sends is not read
        came, self._incoming = self._incoming, None
        if came is not None and came.is_holding:
            self.config.unfinished.hold(self, 0)
        self._forget_parser()  # it keeps the last that it parsed
        self._control.on_drained = None
        self._control.drop_waiting()
        self._drop_window()
        if self._control.on_crowded is not None:
            self._control.on_crowded()
        else:
            self._begin_close(CloseCode.SLOW_CONSUMER, CROWDED)

    def _has_said_too_much(self, size: int) -> bool:
        """Count what a client says behind our close frame; where it is too much nothing more of it is parsed."""
        came = self._came
        came.lingered += size
        if came.lingered <= LINGER_BYTES:
            return False
        # It is still read, and dropped, for a moment: shut at once, the close frame would be lost.
        self._broken = True
        asyncio.get_running_loop().call_later(LINGER_BROKEN, self._ended)
        return True

    async def _handle_close(self, event: CloseConnection) -> None:
        state = self.connection.state
        if state is ConnectionState.REMOTE_CLOSING:
            await self._send_wsproto_event(event.response())
            await self.send(StreamClosed(stream_id=self.stream_id))
        elif state is ConnectionState.CLOSED:
            self._ended()
        else:  # not the client's close: wsproto's way to say that the client broke the protocol
            self._broken = True
            await self._fail(event.code)

    async def _fail(self, code: int) -> None:
        """Close on a client that cannot be served on, and tell the app that it is gone."""
        if self._incoming is not None:
            self._incoming.parts, self._incoming.is_in_parts = bytearray(), False
        await self._send_wsproto_event(CloseConnection(code=code))
        self._linger()
        self._control.gone()
        await self.app_put({"type": "websocket.disconnect", "code": code})  # type: ignore[misc]

    def _linger(self) -> None:
        """After our close frame: give the client a moment to read it and answer, then end the connection."""
        if not self._lingering and not self.closed:
            self._lingering = True
            self.task_group.spawn(self._end_connection)

    def _ended(self) -> None:
        self._is_over = True
        if self._over is not None:
            self._over.set()

    async def _end_connection(self) -> None:
        if not self._is_over:
            self._over = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_BROKEN if self._broken else LINGER):
                    await self._over.wait()
        await self.send(StreamClosed(stream_id=self.stream_id))


def _head_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The answer to an upgrade on HTTP/1.1 in which nothing is the app's, so that nothing needs a look.

    h11 takes a tenth of all that a connection costs to write the same.
    """
    lines = [b"HTTP/1.1 101 Switching Protocols", *(name + b": " + value for name, value in headers), b"", b""]
    return b"\r\n".join(lines)
