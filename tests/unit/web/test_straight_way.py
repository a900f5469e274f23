"""Which sockets go straight to the hub, and that no other does."""

from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote

import pytest

from app.addresses import is_loopback_host
from app.auth.origins import OriginRule
from app.logs import current_trace
from app.web.door import Door, Guest
from app.web.sockets import _position_in, straight_way

TRACE = "0af7651916cd43dd8448eb211c80319c"
HOME, ABROAD = "http://here", "https://elsewhere.example"


async def somebody(_upgrade: object) -> Guest:
    return Guest(None, None)


def goes_straight(
    *headers: tuple[str, str], path: str = "/ws", identify: Any = None, takes_host: Any = None, state: str = ""
) -> bool:
    hub = SimpleNamespace(**{name: name == state for name in ("draining", "deaf", "full")}, is_started=True)
    door = Door(
        OriginRule(None, local=False),
        takes_host,
        identify,
        lambda _: 200,
        has_keys=False,
        metrics_open_to_loopback=False,
    )
    scope = {
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": b"",
        "subprotocols": [],
        "headers": [(name.encode(), value.encode()) for name, value in (("host", "here"), *headers)],
    }
    unused: Any = None
    way: Any = straight_way(cast("Any", hub), door, "/ws")(scope, unused, unused)
    if way is not None:
        way.close()
    return way is not None


def test_who_is_welcome_goes_straight() -> None:
    assert goes_straight()
    assert goes_straight(("origin", HOME))


@pytest.mark.parametrize("state", ["draining", "deaf", "full"])
def test_who_is_to_be_refused_does_not(state: str) -> None:
    assert not goes_straight(state=state)


def test_who_is_to_say_who_they_are_does_not() -> None:
    assert not goes_straight(identify=somebody)


def test_what_is_elsewhere_does_not() -> None:
    assert not goes_straight(path="/")
    assert not goes_straight(path="/ws/")
    assert not goes_straight(path="//ws")
    assert not goes_straight(path="/%77s")
    assert not goes_straight(path="%2Fws")
    assert not goes_straight(path="http://here/ws")


def test_what_is_for_another_host_does_not() -> None:
    assert not goes_straight(takes_host=is_loopback_host)
    assert goes_straight(takes_host="here".__eq__)


def test_the_scheme_in_front_counts() -> None:
    secure = ("x-forwarded-proto", "https")
    assert not goes_straight(("origin", HOME), secure)
    assert goes_straight(("origin", HOME.replace("http:", "https:")), secure)


def test_pages_of_elsewhere_do_not_and_the_first_of_two_origins_counts() -> None:
    assert not goes_straight(("origin", ABROAD))
    assert not goes_straight(("origin", ABROAD), ("origin", HOME))
    assert goes_straight(("origin", HOME), ("origin", ABROAD))


def test_its_log_lines_have_its_trace() -> None:
    token = current_trace.set(None)
    try:
        assert goes_straight(("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"))
        assert current_trace.get() == TRACE
    finally:
        current_trace.reset(token)


@pytest.mark.parametrize(
    ("query", "position"),
    [
        (b"", None),
        (b"position=1.a.b", "1.a.b"),
        (b"a=b&position=1.a%2Eb&position=2", "1.a.b"),
        (b"position=", None),
        (b"position=&position=1.a.b", None),
        (b"position", None),
        (b"position=%ff", "\ufffd"),
        (b"\xff", None),
    ],
)
def test_a_position_is_read_from_the_query(query: bytes, position: str | None) -> None:
    assert _position_in(query) == position
