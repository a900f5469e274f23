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
        ("null", False),
        ("file://", False),
        ("http://10.0.0.1", False),
        ("https://localhost.evil.com", False),
        ("ftp://localhost", False),
    ],
)
def test_on_a_laptop_loopback_may_too(origin: str, allowed: bool) -> None:
    assert OriginRule(None, local=True).allows(origin, "127.0.0.1:8080") is allowed


def test_a_list_replaces_the_default() -> None:
    rule = OriginRule(("https://app.example.com", "null"), local=True)
    assert rule.allows("https://APP.example.com:443", HOST)
    assert rule.allows("null", HOST)
    assert not rule.allows(f"https://{HOST}", HOST)
    assert not rule.allows("http://localhost", HOST)


def test_a_star_lets_everyone_in() -> None:
    assert OriginRule(("*",), local=False).allows("https://evil.com", HOST)


@pytest.mark.parametrize(
    ("origin", "scheme", "allowed"),
    [
        (f"https://{HOST}", "https", True),
        (f"https://{HOST}:443", "https", True),
        (f"http://{HOST}", "https", False),
        (f"http://{HOST}:443", "https", False),
        (f"http://{HOST}", "http", True),
        (f"https://{HOST}", "http", False),
        (f"http://{HOST}", None, True),
        (f"https://{HOST}", None, True),
    ],
)
def test_a_page_of_another_scheme_is_of_another_origin_where_the_schemes_are_known(
    origin: str, scheme: str | None, allowed: bool
) -> None:
    assert OriginRule(None, local=False).allows(origin, HOST, scheme) is allowed


def test_entries_with_wildcards_and_of_the_disk_let_in_what_they_say() -> None:
    rule = OriginRule(
        ("https://*.example.com", "https://app.test:*", "file://", "https://b\u00fccher.test"), local=False
    )
    for origin in ("https://a.example.com", "https://app.test:8443", "file://", "https://xn--bcher-kva.test"):
        assert rule.allows(origin, HOST, "https"), origin
    for origin in ("https://example.com", "http://app.test:8443", "null", "https://bucher.test", "https://a:99999", ""):
        assert not rule.allows(origin, HOST, "https"), origin


def test_null_is_let_in_where_it_is_listed_alone() -> None:
    assert OriginRule(("null",), local=False).allows("null", HOST)
    assert not OriginRule(("file://",), local=True).allows("null", HOST)


@pytest.mark.parametrize(
    ("rule", "origin", "scheme", "words"),
    [
        (OriginRule(None, local=False), "http://evil.test", "https", ["'http://evil.test'", f"'https://{HOST}'",
            "X-Forwarded-Proto and Host", "CLOUD_SOCKETS_ALLOWED_ORIGINS with http://evil.test would let it in"]),
        (OriginRule(None, local=True), "null", None, ["'null'", f"http or https://{HOST}", "nor loopback",
            "CLOUD_SOCKETS_ALLOWED_ORIGINS with null would"]),
        (OriginRule(("https://app.test",), local=True), "https://evil.test", None, [
            "CLOUD_SOCKETS_ALLOWED_ORIGINS (https://app.test)", "with https://evil.test would"]),
        (OriginRule((), local=True), "https://evil.test", None, ["which is empty"]),
        (OriginRule(None, local=True), "a b" * 1000, None, ["none that could be listed"]),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_compared_with_what_and_what_would_help(
    rule: OriginRule, origin: str, scheme: str | None, words: list[str]
) -> None:
    sentence = rule.refusal(origin, HOST, scheme)
    assert [word for word in words if word not in sentence] == [], sentence
    assert len(sentence) < 700
