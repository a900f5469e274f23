"""Which pages may open a socket."""

import pytest

from app.auth.origins import OriginRule

HOST = "hub.example.com"


@pytest.mark.parametrize("rule", [OriginRule(None, local=False), OriginRule((), local=False)])
def test_a_client_that_sends_no_origin_is_no_page(rule: OriginRule) -> None:
    assert rule.allows(None, HOST)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://hub.example.com", "hub.example.com", True),
        ("https://HUB.example.com", "hub.EXAMPLE.com", True),
        ("https://hub.example.com", "hub.example.com:443", True),
        ("http://hub.example.com:8080", "hub.example.com:8080", True),
        ("http://hub.example.com:8080", "hub.example.com", False),
        ("https://example.com", "hub.example.com", False),
        ("https://evil.com", "hub.example.com", False),
        ("https://hub.example.com.evil.com", "hub.example.com", False),
        ("https://hub.example.com@evil.com", "hub.example.com", False),
        ("http://localhost:3000", "hub.example.com", False),
        ("null", "hub.example.com", False),
        ("", "hub.example.com", False),
        ("https://hub.example.com:x", "hub.example.com", False),
        ("https://hub.example.com", None, False),
        ("https://None", None, False),
        ("https://", "", False),
    ],
)
def test_by_default_pages_of_the_same_host_may(origin: str, host: str | None, allowed: bool) -> None:
    assert OriginRule(None, local=False).allows(origin, host) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://app.localhost", True),
        ("http://127.0.0.1:5173", True),
        ("http://[::1]:80", True),
        ("null", True),
        ("http://10.0.0.1", False),
        ("https://localhost.evil.com", False),
        ("ftp://localhost", False),
    ],
)
def test_on_a_laptop_loopback_and_files_may_too(origin: str, allowed: bool) -> None:
    assert OriginRule(None, local=True).allows(origin, "127.0.0.1:8080") is allowed


def test_a_list_replaces_the_default() -> None:
    rule = OriginRule(("https://app.example.com", "null"), local=True)
    assert rule.allows("https://APP.example.com:443", HOST)
    assert rule.allows("null", HOST)
    assert not rule.allows(f"https://{HOST}", HOST)
    assert not rule.allows("http://localhost", HOST)


def test_a_star_lets_everyone_in() -> None:
    assert OriginRule(("*",), local=False).allows("https://evil.com", HOST)
