"""Hypercorn's HTTP/2, for requests only: sockets are opened by HTTP/1.1.

A proxy in front of a service speaks HTTP/1.1 for WebSockets, as Cloud Run's does. On HTTP/2 all of a client's sockets
would share a connection, its window and its end (checked with Hypercorn 0.18 and h2 4.3).
"""

from contextlib import suppress
from typing import Any

from h2.errors import ErrorCodes
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes, Settings
from hypercorn.protocol.events import Event
from hypercorn.protocol.h2 import H2Protocol

_CONNECT = b"CONNECT"
_NOT_IMPLEMENTED = 501
"""Of an extended CONNECT for a protocol that is not spoken (RFC 8441, 4; RFC 9220, 3)."""


class HTTP2(H2Protocol):
    """One connection's."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        announced: Any = self.connection.local_settings
        self.connection.local_settings = Settings(
            client=False,
            initial_values={
                code: value for code, value in announced.items() if code != SettingCodes.ENABLE_CONNECT_PROTOCOL
            },
        )
        self.streams = _Streams()

    async def _create_stream(self, request: Any) -> None:
        headers = dict(request.headers)
        if headers[b":method"] == _CONNECT:
            await self._refuse(request.stream_id, _NOT_IMPLEMENTED)
        elif not headers[b":method"].isascii() or not headers[b":path"].isascii():
            await self._refuse(request.stream_id, 400)
        else:
            await super()._create_stream(request)

    async def _refuse(self, stream_id: int, status: int) -> None:
        self.keep_alive_requests += 1
        self.connection.send_headers(stream_id, [(b":status", b"%d" % status)], end_stream=True)
        with suppress(StreamClosedError):  # the client has ended it as well
            self.connection.reset_stream(stream_id, ErrorCodes.NO_ERROR)
        await self._flush()


class _Streams(dict[int, Any]):
    """All streams of a connection. What comes for one that is over, such as a body behind its answer, is dropped."""

    def __missing__(self, _stream_id: int) -> "_Over":
        return _OVER


class _Over:
    async def handle(self, event: Event) -> None:
        """Drop it."""


_OVER = _Over()
