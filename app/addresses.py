"""Hosts and origins as headers and the configuration have them. Pure."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

DEFAULT_PORTS = {"http": 80, "https": 443}
LOCALHOST = "localhost"
FILE = "file"
"""The scheme of pages that some browsers open from the disk: their origin is `file://`, that of others `null`."""

_HOST = r"\[[0-9A-Fa-f:.]+\]|[^/?#\s@:\[\]\x00-\x1f\x7f-\x9f]*"
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://({_HOST})(?::([0-9]{{1,5}}))?")
_PATTERN = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://({_HOST})(?::(\*|[0-9]{{1,5}}))?")
_OF_SOCKETS = {"ws": "http", "wss": "https"}
_HOST_AND_PORT = re.compile(rf"({_HOST})(?::([0-9]{{0,5}}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LOOPBACK_NAME = re.compile(r"(?:[a-z0-9_-]+\.)*localhost\.?")
_TWO_MEANINGS = re.compile("[\u00df\u03c2\u200c\u200d]")
"""Letters that IDNA 2003, which Python has, and IDNA 2008, which browsers have, write differently."""
_LONGEST_HOST = 253


class Address(NamedTuple):
    """An IP address to listen on. One that is not `needed` is left out where the machine has none of its kind."""

    host: str
    needed: bool = True


ALL = (Address("0.0.0.0"), Address("::", needed=False))
LOOPBACK = (Address("127.0.0.1"), Address("::1", needed=False))


def listening_on(hosts: Sequence[str]) -> tuple[Address, ...]:
    """Return the addresses that these stand for. Raises ValueError for what is none."""
    found: dict[str, Address] = {}
    for host in hosts:
        these: tuple[Address, ...] = LOOPBACK
        if host.lower() != LOCALHOST:
            ip = ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
            if ip.is_unspecified:
                return ALL if ip.version == 4 else (Address("::"), Address("0.0.0.0", needed=False))
            these = (Address(str(ip)),)
        for address in these:
            if address.needed or address.host not in found:
                found[address.host] = address
    if not found:
        raise ValueError("no address")
    return tuple(found.values())


def is_loopback_address(text: str) -> bool:
    """Return whether this is an IP address of the machine itself; a dual-stack socket has IPv4's as `::ffff:…`."""
    try:
        ip = ip_address(text)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback


def is_loopback(host: str) -> bool:
    """Return whether a host, in lower case and without its port, is this machine whatever a name server says."""
    if _LOOPBACK_NAME.fullmatch(host):
        return True
    return is_loopback_address(host[1:-1] if host.startswith("[") else host)


@lru_cache(maxsize=64)  # each upgrade is asked for its own
def is_loopback_host(header: str) -> bool:
    """Return whether a Host header names this machine, with any port."""
    found = _HOST_AND_PORT.fullmatch(header.lower())
    return found is not None and is_loopback(found[1])


class Origin(NamedTuple):
    """Scheme, host and port of a page, in lower case; the port is None where the scheme has no default."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        is_default = self.port == DEFAULT_PORTS.get(self.scheme)
        return f"{self.scheme}://{self.host}" + ("" if is_default else f":{self.port}")


def origin_of(text: str) -> Origin | None:
    """Read an Origin header; None for `null` and for what is no origin.

    Of libraries that name the scheme of the socket instead of a page's, the page's is meant.
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme, host, port = found.groups()
    scheme = _OF_SOCKETS.get(scheme, scheme)
    if scheme in DEFAULT_PORTS and not host:
        return None
    try:
        return Origin(scheme, _plain(host), int(port) if port else DEFAULT_PORTS.get(scheme))
    except ValueError:
        return None


def _plain(host: str) -> str:
    """Return the one form of a host that browsers write. Raises ValueError."""
    return f"[{IPv6Address(host[1:-1]).compressed}]" if host.startswith("[") else host


class OriginPattern(NamedTuple):
    """Which pages an entry of the configuration means."""

    scheme: str
    host: str
    """Of any subdomain: what is behind the `*`, with its dot."""
    port: int | None
    any_subdomain: bool = False
    any_port: bool = False

    def matches(self, origin: Origin) -> bool:
        """Return whether a page of this origin is meant."""
        return (
            origin.scheme == self.scheme
            and (self.any_port or origin.port == self.port)
            and (
                origin.host == self.host
                if not self.any_subdomain
                else origin.host.endswith(self.host) and len(origin.host) > len(self.host)
            )
        )


def origin_pattern(text: str) -> OriginPattern:
    """Read an entry such as `https://*.example.com` or `https://app.example.com:*`.

    Raises ValueError, with a sentence, for what no browser would ever send.
    """
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise ValueError("an origin is scheme://host or scheme://host:port, without a path")
    scheme, host, port = found[1].lower(), found[2], found[3]
    if scheme in ("ws", "wss"):
        raise ValueError(f"a page's origin has http or https where its socket has {scheme}")
    if scheme == FILE:
        if host or port:
            raise ValueError("pages from the disk have the origin file:// or null, without a path")
        return OriginPattern(FILE, "", None)
    if port not in (None, "*") and not 0 < int(port) < 65536:
        raise ValueError(f"{port} is no port")
    any_subdomain = host.startswith("*.")
    name = _host_of(host[2:] if any_subdomain else host, is_web=scheme in DEFAULT_PORTS)
    if any_subdomain and is_address(name):
        raise ValueError("an address has no subdomains")
    any_port = port == "*"
    number = DEFAULT_PORTS.get(scheme) if port is None or any_port else int(port)
    return OriginPattern(scheme, f".{name}" if any_subdomain else name, number, any_subdomain, any_port)


def _host_of(host: str, *, is_web: bool) -> str:
    """Return a configured host as browsers write it. Raises ValueError."""
    if not host:
        raise ValueError("the host is missing")
    if "*" in host:
        raise ValueError("* stands for subdomains (https://*.example.com) or a port (https://app.example.com:*) alone")
    if host.startswith("["):
        try:
            return _plain(host.lower())
        except ValueError:
            raise ValueError(f"{host} is no IPv6 address") from None
    host = _ascii(host).lower()
    if not is_web:
        return host
    labels = host.split(".")
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise ValueError(f"{host} is no IPv4 address of four numbers") from None
    if len(host) > _LONGEST_HOST or not all(_LABEL.fullmatch(label) and _is_decodable(label) for label in labels):
        raise ValueError(f"{host} is no host name")
    return host


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    if _TWO_MEANINGS.search(host):
        raise ValueError(f"{host} can be read in two ways: write what browsers send, which begins with xn--")
    try:
        # Python's tables for names are those of Unicode 3.2: what is newer it leaves as it is, capitals too.
        return unicodedata.normalize("NFKC", host).lower().encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"{host} is no name that Python can encode: write its xn-- form") from None


def _is_decodable(label: str) -> bool:
    if not label.startswith("xn--"):
        return True
    try:
        return not label[4:].encode().decode("punycode").isascii()
    except UnicodeError:
        return False


def is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    return host.startswith("[") or host.rpartition(".")[2].isdigit()


def same_host(origin: Origin, host: str, scheme: str | None) -> bool:
    """Return whether a page is of the host that a request's Host header names.

    `scheme` is what the request came by. Where nobody knows, it is the page's: it may be https that ends in front of
    the service.
    """
    if origin.scheme not in DEFAULT_PORTS or scheme not in (None, origin.scheme):
        return False
    return origin_of(f"{origin.scheme}://{host}") == origin
