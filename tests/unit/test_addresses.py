"""Hosts, addresses and origins as they are written."""

import pytest

from app.addresses import (
    ALL,
    LOOPBACK,
    Address,
    Origin,
    is_loopback_address,
    is_loopback_host,
    listening_on,
    origin_of,
    origin_pattern,
)


@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        (["127.0.0.1"], (Address("127.0.0.1"),)),
        (["localhost"], LOOPBACK),
        (["::1"], (Address("::1"),)),
        (["[::1]", "127.0.0.1"], (Address("::1"), Address("127.0.0.1"))),
        (["localhost", "::1"], (Address("127.0.0.1"), Address("::1"))),
        (["0.0.0.0"], ALL),
        (["127.0.0.1", "0.0.0.0"], ALL),
        (["::"], (Address("::"), Address("0.0.0.0", needed=False))),
        (["10.0.0.7", "fd00:0::7"], (Address("10.0.0.7"), Address("fd00::7"))),
    ],
)
def test_addresses_stand_for_themselves_and_all_are_those_of_both_kinds(
    hosts: list[str], addresses: tuple[Address, ...]
) -> None:
    assert listening_on(hosts) == addresses


@pytest.mark.parametrize("host", ["", "hub.example.com", "127.0.0.1:8080", "127.1", "[::1]:80", "*", "1.2.3.256"])
def test_what_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"address"):
        listening_on([host])


def test_no_address_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no address"):
        listening_on([])


@pytest.mark.parametrize(
    "header",
    ["localhost", "LOCALHOST:8080", "a.b.localhost:1", "localhost.", "127.0.0.1:", "127.8.9.1", "[::1]", "[::1]:65535"],
)
def test_loopback_names_are_this_machine_with_any_port(header: str) -> None:
    assert is_loopback_host(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        ":8080",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1:80@evil.example",
        "evillocalhost",
        ".localhost",
        "128.0.0.1",
        "0.0.0.0",
        "10.0.0.1:8080",
        "[::2]",
        "::1",
        "localhost:x",
        "localhost/",
        "127.0.0.1 evil.example",
        "2130706433",
    ],
)
def test_no_other_host_is(header: str) -> None:
    assert not is_loopback_host(header)


def test_an_address_of_ipv4_on_a_dual_stack_socket_is_what_it_is() -> None:
    assert is_loopback_address("::ffff:127.0.0.1")
    assert not is_loopback_address("::ffff:10.0.0.1")
    assert not is_loopback_address("<local>")


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://App.example.com", Origin("https", "app.example.com", 443)),
        ("http://app.example.com:80", Origin("http", "app.example.com", 80)),
        ("http://[0:0::1]:3000", Origin("http", "[::1]", 3000)),
        ("chrome-extension://abc", Origin("chrome-extension", "abc", None)),
        ("file://", Origin("file", "", None)),
        ("null", None),
        ("", None),
        ("https://", None),
        ("https://a:b", None),
        ("https://a@b", None),
        ("https://a/", None),
        ("https://[x]", None),
        ("https://a b", None),
    ],
)
def test_an_origin_header_is_read(text: str, origin: Origin | None) -> None:
    assert origin_of(text) == origin


MATCHES = [
    ("https://app.example.com", "https://app.example.com"),
    ("https://APP.example.com:443", "https://app.example.com"),
    ("https://app.example.com", "https://app.example.com:443"),
    ("http://app.example.com:80", "http://app.example.com"),
    ("https://app.example.com:8443", "https://app.example.com:8443"),
    ("https://*.example.com", "https://app.example.com"),
    ("https://*.example.com", "https://a.b.example.com"),
    ("https://*.example.com:8443", "https://app.example.com:8443"),
    ("https://app.example.com:*", "https://app.example.com:8443"),
    ("https://app.example.com:*", "https://app.example.com"),
    ("https://*.example.com:*", "https://app.example.com:1"),
    ("http://*.localhost:*", "http://app.localhost:3000"),
    ("https://bücher.example", "https://xn--bcher-kva.example"),
    ("https://BÜCHER.example", "https://xn--bcher-kva.example"),
    ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ("https://*.bücher.example", "https://a.xn--bcher-kva.example"),
    ("https://例え。テスト", "https://xn--r8jz45g.xn--zckzah"),
    (f"https://{chr(0x10D0)}{chr(0x1C90)}.example", "https://xn--loda.example"),  # a capital since Unicode 11
    ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
    ("http://192.168.0.7:3000", "http://192.168.0.7:3000"),
    ("file://", "file://"),
    ("capacitor://localhost", "capacitor://localhost"),
    ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
]
DIFFERS = [
    ("https://app.example.com", "http://app.example.com"),
    ("https://app.example.com", "https://app.example.com:8443"),
    ("https://*.example.com", "https://example.com"),
    ("https://*.example.com", "https://.example.com"),
    ("https://*.example.com", "https://evilexample.com"),
    ("https://*.example.com", "https://app.example.com.evil.example"),
    ("https://*.example.com", "https://app.example.com:8443"),
    ("https://*.example.com", "http://app.example.com"),
    ("https://app.example.com:*", "http://app.example.com:443"),
    ("https://app.example.com:*", "https://an.app.example.com"),
    ("https://bücher.example", "https://bucher.example"),
    ("file://", "file://host"),
]


@pytest.mark.parametrize(("entry", "origin"), MATCHES)
def test_an_entry_means_what_it_says(entry: str, origin: str) -> None:
    page = origin_of(origin)
    assert page is not None
    assert origin_pattern(entry).matches(page)


@pytest.mark.parametrize(("entry", "origin"), DIFFERS)
def test_and_nothing_else(entry: str, origin: str) -> None:
    page = origin_of(origin)
    assert page is None or not origin_pattern(entry).matches(page)


REFUSED = [
    "example.com",
    "//example.com",
    "https://",
    "https://:8443",
    "https://example.com/",
    "https://example.com/path",
    "https://user@example.com",
    "https://example.com:0",
    "https://example.com:65536",
    "https://example.com:999999",
    "https://example.com:x",
    "https://example..com",
    "https://example.com.",
    "https://-example.com",
    f"https://{'a' * 64}.com",
    f"https://{'.'.join(['a' * 60] * 5)}",
    "https://exa mple.com",
    "https://*",
    "https://*.",
    "https://app.*.com",
    "https://*app.example.com",
    "https://**.example.com",
    "*.example.com",
    "*://example.com",
    "https://*.127.0.0.1",
    "https://*.[::1]",
    "http://127.1",
    "http://127.0.0.01",
    "http://0x7f000001",
    "http://[::g]",
    "http://[127.0.0.1]",
    "wss://example.com",
    "ws://*.example.com",
    "file:///",
    "file:///home/page.html",
    "file://host",
    "https://straße.example",
    "https://xn--.example",
    "https://xn--\u00fc.example",
    "https://xn--a-.example",
]


@pytest.mark.parametrize("entry", REFUSED)
def test_an_entry_that_no_page_could_have_is_refused_with_a_sentence(entry: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]{2}"):
        origin_pattern(entry)


@pytest.mark.parametrize(
    ("said", "meant"), [("ws://a.test:8080", "http://a.test:8080"), ("wss://a.test", "https://a.test")]
)
def test_a_library_that_names_the_sockets_scheme_means_the_pages(said: str, meant: str) -> None:
    assert origin_of(said) == origin_of(meant) is not None
