"""Which targets are a path, as they came."""

from typing import Any

import pytest

from app.web.targets import names, routable, scheme_of

HERE = "hub.example.com:8080"


def scope(raw_path: bytes | None, path: str = "/ws", root_path: str = "", host: str | None = HERE) -> dict[str, Any]:
    headers = [(b"accept", b"*/*")] + ([] if host is None else [(b"Host", host.encode())])
    made: dict[str, Any] = {"path": path, "root_path": root_path, "headers": headers}
    return made if raw_path is None else {**made, "raw_path": raw_path}


@pytest.mark.parametrize(
    "raw",
    [b"/ws", b"/ws?a=b", b"http://hub.example.com:8080/ws", b"WS://HUB.example.com:8080/ws?a=b"],
)
def test_the_path_itself_is_named(raw: bytes) -> None:
    assert names(scope(raw), "/ws")


@pytest.mark.parametrize(
    "raw",
    [
        b"//ws",
        b"/%77s",
        b"/w%73",
        b"%2Fws",
        b"/ws/",
        b"/./ws",
        b"/WS",
        b"ws",
        b"",
        b"*",
        b"http://evil.example/ws",
        b"http://hub.example.com/ws",
        b"http://hub.example.com:8080@evil.example/ws",
        b"http://hub.example.com:8080//ws",
        b"http://hub.example.com:8080/%77s",
        b"http://hub.example.com:8080",
        b"//hub.example.com:8080/ws",
    ],
)
def test_no_other_spelling_and_no_other_host_is(raw: bytes) -> None:
    assert not names(scope(raw), "/ws")


def test_a_whole_url_needs_a_host_to_be_compared_with() -> None:
    assert not names(scope(b"http://hub.example.com/ws", host=None), "/ws")


def test_below_a_mount_both_forms_are_the_path() -> None:
    assert names(scope(b"/live/ws", root_path="/live"), "/ws")
    assert names(scope(b"/ws", root_path="/live"), "/ws")
    assert not names(scope(b"/live//ws", root_path="/live"), "/ws")


def test_where_the_server_does_not_tell_the_router_decides() -> None:
    assert names(scope(None), "/ws")


@pytest.mark.parametrize(
    ("raw", "path", "expected"),
    [
        (b"/ws", "/ws", "/ws"),
        (b"?x", "", "/"),
        (b"*", "*", "/*"),
        (b"http://[/ws", "http://[/ws", "/http://[/ws"),
        (b"http://evil.example/ws", "http://evil.example/ws", "/http://evil.example/ws"),
        (b"http://hub.example.com:8080/a%20b", "http://hub.example.com:8080/a b", "/a b"),
        (b"http://hub.example.com:8080", "http://hub.example.com:8080", "/http://hub.example.com:8080"),
    ],
)
def test_whatever_comes_becomes_a_path_that_can_be_routed(raw: bytes, path: str, expected: str) -> None:
    assert routable(scope(raw, path))["path"] == expected


@pytest.mark.parametrize(
    ("forwarded", "scheme", "expected"),
    [
        (None, "ws", None),
        (None, "http", None),
        (None, "wss", "https"),
        (None, "https", "https"),
        ("https", "ws", "https"),
        ("HTTPS, http", "ws", "https"),
        ("wss", "ws", "https"),
        ("http", "ws", "http"),
        ("http", "wss", "http"),
        ("", "ws", None),
        ("gopher", "ws", None),
    ],
)
def test_the_scheme_is_what_the_proxy_says_else_what_is_seen(
    forwarded: str | None, scheme: str, expected: str | None
) -> None:
    assert scheme_of({"scheme": scheme}, forwarded) == expected
