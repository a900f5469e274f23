"""An upgrade that is read in one go is what h11 reads; what is anything else is left to it."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server.upgrade import Upgrade, upgrade_in

MAX_SIZE = 16_384
HEAD = (
    b"GET /ws?position=1.a.b HTTP/1.1\r\nHost: here:8080\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Empty:\r\nX-Odd:\t a  b \t\r\n\r\n"
)


def read_by_h11(head: bytes) -> Upgrade:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_SIZE)
    parser.receive_data(head)
    request = parser.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.http_version) == (b"GET", b"1.1")
    assert isinstance(parser.next_event(), h11.EndOfMessage)
    assert parser.trailing_data == (b"", False)
    return Upgrade(request.target, list(request.headers))


def test_a_plain_upgrade_is_read() -> None:
    upgrade = upgrade_in(HEAD, MAX_SIZE)
    assert upgrade == read_by_h11(HEAD)
    assert upgrade.target == b"/ws?position=1.a.b"
    assert dict(upgrade.headers)[b"x-odd"] == b"a  b"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        HEAD[:-1],
        HEAD + b"x",
        HEAD + HEAD,
        HEAD.replace(b"GET", b"POST"),
        HEAD.replace(b"GET", b"get"),
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HEAD.replace(b"HTTP/1.1", b"HTTP/2.0"),
        HEAD.replace(b" HTTP/1.1", b""),
        HEAD.replace(b"/ws?", b"/w s?"),
        HEAD.replace(b"/ws?", b"/w\xc3\xa4?"),
        HEAD.replace(b"\r\n", b"\n"),
        HEAD.replace(b"Host: here:8080\r\n", b""),
        HEAD.replace(b"X-Empty:", b"Host: there"),
        HEAD.replace(b"X-Empty:", b"upgrade: websocket"),
        HEAD.replace(b"X-Empty:", b"Content-Length: 0"),
        HEAD.replace(b"X-Empty:", b"Transfer-Encoding: chunked"),
        HEAD.replace(b"X-Empty:", b"Expect: 100-continue"),
        HEAD.replace(b"X-Empty:", b" folded"),
        HEAD.replace(b"X-Empty:", b"X Empty:"),
        HEAD.replace(b"X-Empty:", b"X-Empty :"),
        HEAD.replace(b"X-Empty:", b":"),
        HEAD.replace(b"X-Empty:", b"X-Empty"),
        HEAD.replace(b"X-Empty:", b"X-Empty: \xc3\xa4"),
        HEAD.replace(b"X-Empty:", b"X-Empty: a\x00b"),
        HEAD.replace(b"X-Empty:", b"X-Empty: a\rb"),
        HEAD.replace(b"X-Empty:", b"X-Empty: " + b"x" * MAX_SIZE),
        HEAD.replace(b"WebSocket\r", b"h2c\r"),
        HEAD.replace(b"WebSocket\r", b"WebSocket, h2c\r"),
        HEAD.replace(b"X-Empty:", b"Connection: close"),
        HEAD.replace(b"X-Empty:", b"Sec-WebSocket-Version: 13"),
        HEAD.replace(b"Version: 13", b"Version: 8"),
        HEAD.replace(b"Sec-WebSocket-Version: 13\r\n", b""),
        HEAD.replace(b"Key: dGhlIHNhbXBsZSBub25jZQ==", b"Key:"),
        HEAD.replace(b"Key: dGhlIHNhbXBsZSBub25jZQ==", b"Key: dGhlIHNhbXBsZSBub25jZ==="),
        HEAD.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        HEAD.replace(b"Upgrade: WebSocket\r\n", b""),
        HEAD.replace(b"keep-alive, Upgrade", b"keep-alive"),
        HEAD.replace(b"Connection: keep-alive, Upgrade\r\n", b""),
    ],
)
def test_whatever_is_not_plain_is_left_to_h11(head: bytes) -> None:
    assert head != HEAD
    assert upgrade_in(head, MAX_SIZE) is None


VALUES = st.sampled_from([b"websocket", b"Upgrade", b"a, b", b" x\t", b"", b"0", b"chunked", b"\x0b", b"\x7f", b"\xff"])
NAMES = st.sampled_from(
    [
        b"Host",
        b"Upgrade",
        b"Connection",
        b"Origin",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Cookie",
        b"A-",
        b"(",
        b"",
    ]
)
HEADERS = st.lists(st.tuples(NAMES, st.one_of(VALUES, st.binary(max_size=5))), max_size=4)
PLAIN = [
    (b"Host", b"a"), (b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip


@given(
    st.sampled_from([b"/", b"/ws?a=%20b", b"*", b"http://a/ws", b"/\x7f", b""]),
    HEADERS.flatmap(lambda more: st.permutations([*PLAIN, *more])),
    st.sampled_from([b": ", b":", b":\t", b" :", b": \r\n "]),
)
def test_what_is_read_is_what_h11_reads(target: bytes, headers: list[tuple[bytes, bytes]], colon: bytes) -> None:
    lines = [b"GET " + target + b" HTTP/1.1", *(name + colon + value for name, value in headers)]
    head = b"\r\n".join([*lines, b"", b""])
    upgrade = upgrade_in(head, MAX_SIZE)
    if upgrade is not None:
        assert upgrade == read_by_h11(head)
