"""The opening handshake against the standard: each request both ways, read in one go and read by h11 bit by bit."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

from tests.integration.test_upgrades import ACCEPT, bits, head
from tests.security import wire
from tests.support.deadline import soon, until
from tests.support.process import Server

JSON_END = b'"}'
WELCOME = b'"type":"welcome"'


@pytest.fixture(params=["false", "true"], ids=["http1", "http2"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """The service without HTTP/2, and with it: neither changes what an upgrade on HTTP/1.1 is answered."""
    async with Server(CLOUD_SOCKETS_HTTP2=request.param) as running:
        yield running
        assert "Traceback" not in running.log


async def answer(server: Server, parts: Iterable[bytes], *, end: bytes = b"") -> bytes:
    """Return what comes for these parts, up to `end`, or until the service closes."""
    reader, writer = await soon(asyncio.open_connection("127.0.0.1", server.port))
    try:
        for part in parts:
            writer.write(part)
            await server.get("/health/live")  # the service has had its turn, and has read what was there
        return await soon(reader.readuntil(end) if end else reader.read(), 10)
    finally:
        writer.transport.abort()


async def answers(server: Server, request: bytes, *, end: bytes = b"") -> list[bytes]:
    """Return the answers to a request that comes at once, and bit by bit; to the end of the connection, or to `end`."""
    return [await answer(server, parts, end=end) for parts in ([request], bits(request))]


def without(found: bytes, *names: bytes) -> list[bytes]:
    """The lines of an answer without these headers."""
    return [line for line in found.split(b"\r\n") if not line.startswith(names)]


def status(found: bytes) -> int:
    return int(found.split(None, 2)[1])


def headers(found: bytes) -> dict[bytes, bytes]:
    lines = found.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}


REFUSED = {
    "HTTP/1.0": (head().replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "HTTP/1.2": (head().replace(b"HTTP/1.1", b"HTTP/1.2"), 505),
    "HTTP/0.9": (head().replace(b"HTTP/1.1", b"HTTP/0.9"), 505),
    "no version": (head(without="Sec-WebSocket-Version"), 426),
    "an old version": (head(without="Sec-WebSocket-Version", more=["Sec-WebSocket-Version: 8"]), 426),
    "two versions": (head(more=["Sec-WebSocket-Version: 13"]), 426),
    "versions in a list": (head(without="Sec-WebSocket-Version", more=["Sec-WebSocket-Version: 13, 8"]), 426),
    "a small method, and an old version": (head().replace(b"GET", b"get").replace(b"on: 13", b"on: 8"), 426),
    "no key": (head(without="Sec-WebSocket-Key"), 400),
    "an empty key": (head(without="Sec-WebSocket-Key", more=["Sec-WebSocket-Key:"]), 400),
    "a short key": (head(without="Sec-WebSocket-Key", more=["Sec-WebSocket-Key: c2hvcnQ="]), 400),
    "a long key": (head(without="Sec-WebSocket-Key", more=["Sec-WebSocket-Key: " + "A" * 24 + "=="]), 400),
    "17 bytes": (head(without="Sec-WebSocket-Key", more=["Sec-WebSocket-Key: " + "A" * 23 + "="]), 400),
    "no base64": (head(without="Sec-WebSocket-Key", more=["Sec-WebSocket-Key: " + "-" * 22 + "=="]), 400),
    "a key twice": (head(more=["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]), 400),
    "two keys": (head(more=["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]), 400),
    "two origins": (head(more=["Origin: https://a.example", "Origin: https://b.example"]), 400),
    "a body": (head(more=["Content-Length: 5"]), 400),
    "a body in chunks": (head(more=["Transfer-Encoding: chunked"]), 400),
    **{
        f"{name} above 0x7f": (head(without=name, more=[f"{name}: {value}"]).replace(b"?", b"\xe4"), 400)
        for name, value in (
            ("Connection", "Upgrade, ?"),
            ("Upgrade", "websocket, ?"),
            ("Host", "h?re"),
            ("Origin", "https://h?re"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==?"),
            ("Sec-WebSocket-Version", "13?"),
            ("Sec-WebSocket-Extensions", "permessage-deflate; ?"),
            ("Sec-WebSocket-Protocol", "json, ?"),
        )
    },
}


async def refused(server: Server, request: bytes, expected: int) -> str | None:
    """Say what is wrong with the answers to a request that is to be refused so and closed; None: nothing."""
    try:
        at_once, in_bits = await answers(server, request)
    except TimeoutError:
        return "the connection stays open"
    if not at_once or not in_bits:
        return "no answer"
    if status(at_once) != expected:
        return f"the status is {status(at_once)}"
    if without(at_once, b"date") != without(in_bits, b"date"):
        return f"{at_once!r} is not {in_bits!r}"
    found = headers(at_once)
    if b"close" not in found[b"connection"].split(b", "):
        return "there is no Connection: close"
    if expected == 426 and [found.get(name) for name in (b"sec-websocket-version", b"upgrade", b"connection")] != [
        b"13", b"websocket", b"upgrade, close",
    ]:  # fmt: skip
        return f"{found} do not tell what it takes"
    if expected != 505 and not at_once.partition(b"\r\n\r\n")[2].startswith(b'{"error":"'):
        return "there is no reason"
    return None


async def test_handshakes_beside_the_standard_are_refused_with_a_reason_and_closed(server: Server) -> None:
    """Each is answered, with one status both ways, and then the connection ends; all are counted, few logged."""
    wrong = {kind: await refused(server, request, expected) for kind, (request, expected) in REFUSED.items()}
    assert not {kind: reason for kind, reason in wrong.items() if reason}
    malformed = 2 * sum(expected != 505 for _, expected in REFUSED.values())
    metrics = (await server.get("/metrics")).body.decode()
    assert f'cloud_sockets_connections_refused_total{{reason="handshake"}} {malformed}.0' in metrics
    assert "Traceback" not in server.log
    assert len(server.log.splitlines()) < 10, server.log


async def test_many_upgrades_of_http_1_0_hold_no_connection(server: Server) -> None:
    """All are closed, although none of their clients closes, and the service goes on."""
    request = head().replace(b"HTTP/1.1", b"HTTP/1.0")
    opened = [await soon(asyncio.open_connection("127.0.0.1", server.port)) for _ in range(100)]
    for _, writer in opened:
        writer.write(request)
    found = await soon(asyncio.gather(*(reader.read() for reader, _ in opened)), 10)
    assert {status(each) for each in found} == {400}
    for _, writer in opened:
        writer.close()
    assert (await server.get("/health/ready")).status == 200


async def test_plain_get_of_the_path_is_told_what_it_takes(server: Server) -> None:
    for request in (
        head(without="Upgrade"),
        head(without="Connection"),
        head(without="Upgrade", more=["Upgrade: tls"]),
    ):
        for found in await answers(server, request, end=JSON_END):
            assert status(found) == 426, found
            assert headers(found)[b"upgrade"] == b"websocket"
            assert headers(found)[b"connection"].lower() == b"upgrade"


LISTS = {
    "two lines of Connection": head(without="Connection", more=["Connection: Upgrade", "Connection: keep-alive"]),
    "the other way round": head(without="Connection", more=["Connection: keep-alive", "Connection: UPGRADE"]),
    "empty elements": head(without="Connection", more=["Connection: , keep-alive,,\tUpgrade ,"]),
    "two protocols": head(without="Upgrade", more=["Upgrade: websocket, h2c"]),
    "two protocols, the other first": head(without="Upgrade", more=["Upgrade: h2c, WebSocket"]),
    "two lines of protocols": head(without="Upgrade", more=["Upgrade: websocket", "Upgrade: h2c"]),
    "an empty body": head(more=["Content-Length: 0"]),
}


async def test_lists_are_one_list_in_however_many_lines(server: Server) -> None:
    wrong = {}
    for kind, request in LISTS.items():
        for found in await answers(server, request, end=b"\r\n\r\n"):
            if not found.startswith(b"HTTP/1.1 101 ") or ACCEPT not in found:
                wrong[kind] = found
    assert not wrong


EXTENSIONS = {
    ("x-unknown", "permessage-deflate"): True,
    ("permessage-deflate", "x-unknown; a=1"): True,
    ("permessage-deflate; server_max_window_bits=9", "permessage-deflate"): True,
    ("x-unknown", "x-other"): False,
}


async def test_extensions_in_two_lines_are_one_offer(server: Server) -> None:
    for lines, is_agreed in EXTENSIONS.items():
        request = head(more=[f"Sec-WebSocket-Extensions: {line}" for line in lines])
        for found in await answers(server, request, end=WELCOME if not is_agreed else b"\r\n\r\n"):
            assert status(found) == 101, lines
            agreed = headers(found).get(b"sec-websocket-extensions", b"")
            assert (agreed == b"permessage-deflate") == is_agreed, (lines, found)


SUBPROTOCOLS = {
    (): None,
    ("json",): b"json",
    ("cloud-sockets",): b"cloud-sockets",
    ("json, cloud-sockets",): b"cloud-sockets",
    ("bearer.abc.def-g", "json"): b"json",
    ("bearer.abc.def-g, cloud-sockets",): b"cloud-sockets",
    ("json", "cloud-sockets"): b"cloud-sockets",
    ("chat",): None,
    ("JSON",): None,  # names of subprotocols are compared as they are
    ("bearer.abc",): None,
}


@pytest.mark.parametrize("module", ["app", "tests.support.by_message"])
async def test_subprotocol_is_chosen_where_ours_is_offered(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "module", module)
    async with Server() as running:
        for lines, chosen in SUBPROTOCOLS.items():
            request = head(more=[f"Sec-WebSocket-Protocol: {line}" for line in lines])
            for found in await answers(running, request, end=WELCOME):
                assert status(found) == 101
                assert headers(found).get(b"sec-websocket-protocol") == chosen, (lines, found)
        assert "Traceback" not in running.log


async def test_subprotocol_is_chosen_where_the_session_is_asked_first() -> None:
    """Clients that have to say who they are come by the route, not straight."""
    async with Server(
        CLOUD_SOCKETS_AUTH="session", CLOUD_SOCKETS_SESSION_PARSER="tests.support.sessions:from_header_async"
    ) as running:
        request = head(more=["X-User: ann", "Sec-WebSocket-Protocol: json"])
        for found in await answers(running, request, end=WELCOME):
            assert headers(found)[b"sec-websocket-protocol"] == b"json"


LEGAL = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
ILLEGAL = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)


async def test_close_codes_of_the_registry_are_answered_and_others_are_errors(server: Server) -> None:
    for sent in LEGAL + ILLEGAL:
        for in_parts in (False, True):
            request = head()
            reader, writer = await soon(asyncio.open_connection("127.0.0.1", server.port))
            for part in bits(request) if in_parts else [request]:
                writer.write(part)
                await server.get("/health/live")
            await soon(reader.readuntil(WELCOME))
            writer.write(wire.frame(wire.CLOSE, struct.pack("!H", sent) + "grüß".encode()))
            rest = await soon(reader.read(), 10)
            expected = sent if sent in LEGAL else 1002
            assert b"\x88" in rest, sent
            code = struct.unpack("!H", rest[rest.rindex(b"\x88") + 2 :][:2])
            assert code == (expected,), (sent, rest)
            writer.close()


async def test_close_code_1014_with_a_reason_that_is_no_utf_8_is_an_error(server: Server) -> None:
    reader, writer = await soon(asyncio.open_connection("127.0.0.1", server.port))
    writer.write(head())
    await soon(reader.readuntil(WELCOME))
    writer.write(wire.frame(wire.CLOSE, struct.pack("!H", 1014) + b"\xff"))
    rest = await soon(reader.read(), 10)
    assert struct.unpack("!H", rest[rest.rindex(b"\x88") + 2 :][:2]) == (1007,)
    writer.close()


class HTTP2Client:
    """One connection of HTTP/2."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.http = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        self.http.initiate_connection()
        self.settings: dict[int, int] = {}
        self.statuses: dict[int, int] = {}
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.ended: set[int] = set()
        self.bodies: dict[int, bytes] = {}

    @classmethod
    async def open(cls, port: int) -> "HTTP2Client":
        client = cls(*await soon(asyncio.open_connection("127.0.0.1", port)))
        await client.flush()
        return client

    async def flush(self) -> None:
        self._writer.write(self.http.data_to_send())
        await soon(self._writer.drain())

    def request(self, stream: int, method: str, path: str, *more: tuple[str, str], end: bool = True) -> None:
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        own = [each for each in more if each[0].startswith(":")]
        self.http.send_headers(stream, [*pseudo, *own, *(each for each in more if each not in own)], end_stream=end)

    async def until_ended(self, *streams: int) -> None:
        """Read until these streams have ended."""
        await self.flush()
        while not {*streams} <= self.ended:
            data = await soon(self._reader.read(65536), 10)
            assert data, "the connection was cut"
            self._take(data)
            await self.flush()

    def _take(self, data: bytes) -> None:
        for event in self.http.receive_data(data):
            match event:
                case RemoteSettingsChanged():
                    self.settings |= {int(code): change.new_value for code, change in event.changed_settings.items()}
                case ResponseReceived():
                    self.headers[event.stream_id] = dict(event.headers)
                    self.statuses[event.stream_id] = int(self.headers[event.stream_id][b":status"])
                case DataReceived():
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded() | StreamReset():
                    self.ended.add(event.stream_id)
                case ConnectionTerminated():
                    raise AssertionError("the connection was ended")

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
async def http2() -> AsyncIterator[tuple[Server, HTTP2Client]]:
    async with Server(CLOUD_SOCKETS_HTTP2="true") as running:
        client = await HTTP2Client.open(running.port)
        yield running, client
        client.close()
        assert "Traceback" not in running.log


async def test_http_2_opens_no_sockets_and_says_so(http2: tuple[Server, HTTP2Client]) -> None:
    """An extended CONNECT gets 501, of whatever protocol, and its stream ends; what it sends behind it harms nobody."""
    server, client = http2
    client.request(1, "CONNECT", "/ws", (":protocol", "websocket"), ("sec-websocket-version", "13"), end=False)
    client.request(3, "CONNECT", "/ws", (":protocol", "foo"), ("sec-websocket-version", "13"), end=False)
    client.http.send_data(1, wire.text({"type": "getInfo"}))
    client.http.send_data(3, b"x" * 1000)
    client.request(5, "CONNECT", "/ws", (":protocol", "websocket"))
    client.request(7, "GET", "/health/live")
    await client.until_ended(1, 3, 5, 7)
    assert client.statuses == {1: 501, 3: 501, 5: 501, 7: 200}
    assert not client.settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL)
    client.request(9, "GET", "/health/live")
    await client.until_ended(9)
    assert client.statuses[9] == 200
    assert (await server.get("/api/info")).json["connectionInfo"]["totalConnections"] == 0


async def test_body_behind_an_answer_over_http_2_ends_nothing_else(http2: tuple[Server, HTTP2Client]) -> None:
    """A request that is answered before its body has come may go on sending it."""
    _, client = http2
    client.request(1, "POST", "/nowhere", ("content-type", "application/json"), end=False)
    await client.flush()
    while 1 not in client.statuses:
        client._take(await soon(client._reader.read(65536), 10))
    client.http.send_data(1, b"x" * 1000)
    client.request(3, "GET", "/health/live")
    await client.until_ended(3)
    client.http.send_data(1, b"y" * 1000)
    client.request(5, "GET", "/health/live")
    await client.until_ended(5)
    assert (client.statuses[3], client.statuses[5]) == (200, 200)


async def test_plain_requests_are_served_over_http_2(http2: tuple[Server, HTTP2Client]) -> None:
    _, client = http2
    client.request(1, "GET", "/health/ready")
    client.request(3, "GET", "/ws")
    await client.until_ended(1, 3)
    assert client.statuses == {1: 200, 3: 426}
    assert b'"ready"' in client.bodies[1]


async def test_upgrade_to_h2c_is_answered_by_http_1(server: Server) -> None:
    """RFC 9113 has no such upgrade any more, so its settings are not read either."""
    for settings in ("AAMAAABkAAQAAP__", "A", ""):
        request = (
            "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
            f"Upgrade: h2c\r\nHTTP2-Settings: {settings}\r\n\r\n"
        ).encode()
        for found in await answers(server, request):
            assert status(found) == 200, found


async def test_odd_bytes_over_http_2_are_refused(http2: tuple[Server, HTTP2Client]) -> None:
    _, client = http2
    client.request(1, "G\xc3T", "/health/live")
    client.request(3, "GET", "/h\xe4lth")
    client.request(5, "GET", "/health/live")
    await client.until_ended(1, 3, 5)
    assert client.statuses == {1: 400, 3: 400, 5: 200}


async def test_idle_connections_that_were_refused_over_http_2_end(http2: tuple[Server, HTTP2Client]) -> None:
    _, client = http2
    client.request(1, "CONNECT", "/ws", (":protocol", "websocket"))
    await client.until_ended(1)

    async def is_over() -> bool:
        return not await soon(client._reader.read(65536), 10)

    await until(is_over, 10)
