"""Requests that mean another host, another spelling, or somebody else's place: a laptop's hub is the laptop's own."""

import asyncio
import json
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from tests.security import wire
from tests.support.deadline import soon
from tests.support.process import ROOT, Server

pytestmark = pytest.mark.once

CLOUD_RUN = {"K_SERVICE": "hub", "CLOUD_SOCKETS_AUTH": "anonymous"}
OWN = ("localhost", "localhost:9", "LocalHost:8080", "hub.localhost", "127.0.0.1:1", "127.255.0.1", "[::1]", "[::1]:80")
FOREIGN = (
    "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost",
    "10.0.0.1", "0.0.0.0", "[::2]", "",
)  # fmt: skip


class Told(NamedTuple):
    """The answer to a request."""

    status: int
    head: bytes
    body: bytes


async def ask(port: int, request: bytes, *, in_bits: bool = False, host: str = wire.HOST) -> Told:
    """Send a request, whole or so that no part of it is a head by itself; return what comes first."""
    reader, writer = await soon(asyncio.open_connection(host, port))
    try:
        for part in (request[:3], request[3:-2], request[-2:]) if in_bits else (request,):
            writer.write(part)
            await writer.drain()
            if in_bits:  # so that each is read by itself
                await soon(_alive(port))
        head = await soon(reader.readuntil(b"\r\n\r\n"))
        status = int(head.split(None, 2)[1])
        sizes = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return Told(status, head, await soon(reader.readexactly(int(sizes[0]))) if sizes else b"")
    finally:
        writer.transport.abort()


async def _alive(port: int) -> None:
    reader, writer = await asyncio.open_connection(wire.HOST, port)
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()


def upgrade(target: str = "/ws", **headers: Any) -> bytes:
    return wire.upgrade(**headers).replace(b"GET /ws ", f"GET {target} ".encode(), 1)


def get(target: str, *, version: str = "1.1", host: str | None = "localhost", more: Iterable[str] = ()) -> bytes:
    lines = [f"GET {target} HTTP/{version}", *([] if host is None else [f"Host: {host}"]), *more]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


@pytest.mark.parametrize("module", ["app", "tests.support.by_message"])
async def test_an_open_hub_on_loopback_takes_names_of_loopback_alone(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page whose name a name server turns to 127.0.0.1 is of the same origin as this hub would be, without this."""
    monkeypatch.setattr(Server, "module", module)
    async with Server() as server:
        for host in OWN:
            for in_bits in (False, True):
                assert (await ask(server.port, upgrade(Host=host), in_bits=in_bits)).status == 101, host
            assert (await ask(server.port, get("/health/live", host=host))).status == 200, host
        for host in FOREIGN:
            own_origin = {"Origin": f"http://{host}"} if host else {}
            for in_bits in (False, True):
                told = await ask(server.port, upgrade(Host=host, **own_origin), in_bits=in_bits)
                assert told.status == 421, host
                assert "CLOUD_SOCKETS_HOST" in json.loads(told.body)["error"]
            for path in ("/health/live", "/metrics", "/api/info", "/client.js", "/ws", "/nowhere"):
                told = await ask(server.port, get(path, host=host))
                assert told.status == 421, (host, path)
                assert "CLOUD_SOCKETS_HOST" in json.loads(told.body)["error"]
            publishing = wire.post(b'{"type":"announce"}').replace(b"Host: localhost", f"Host: {host}".encode())
            assert (await ask(server.port, publishing)).status == 421, host
        assert await server.metric('connections_refused_total{reason="host"}') == 2 * len(FOREIGN)
        await server.logged("refused a socket for the host 'evil.example'")


async def test_a_client_of_http_1_0_may_say_no_host_as_no_browser_does() -> None:
    async with Server() as server:
        assert (await ask(server.port, get("/health/live", version="1.0", host=None))).status == 200
        assert (await ask(server.port, get("/health/live", version="1.0", host="evil.example"))).status == 421
        assert (await ask(server.port, get("/health/live", version="1.1", host=None))).status == 400


@pytest.mark.parametrize(
    "variables",
    [{"CLOUD_SOCKETS_HOST": "0.0.0.0"}, CLOUD_RUN, {"CLOUD_SOCKETS_AUTH": "session", "SECRET_KEY": "s"}],
    ids=["all addresses", "Cloud Run", "sessions"],
)
async def test_where_others_are_meant_to_come_any_host_is_taken(variables: dict[str, str]) -> None:
    async with Server(**variables) as server:
        assert (await ask(server.port, get("/health/live", host="hub.example.com"))).status == 200
        expected = 401 if "SECRET_KEY" in variables else 101
        assert (await ask(server.port, upgrade(Host="hub.example.com"))).status == expected


def listens(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex((host, port)) == 0


def address_outside() -> str | None:
    """An IPv4 address of this machine that is not its loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return None if found.startswith("127.") else found


async def test_a_laptops_hub_listens_on_both_loopback_addresses_and_nowhere_else() -> None:
    async with Server() as server:
        assert listens("127.0.0.1", server.port)
        assert listens("::1", server.port)
        assert not listens("127.0.0.2", server.port)
        outside = address_outside()
        assert outside is None or not listens(outside, server.port)
        assert f"Running on http://127.0.0.1:{server.port} " in server.log
        assert f"Running on http://[::1]:{server.port} " in server.log
        assert "0.0.0.0" not in server.log
        assert (await ask(server.port, upgrade(Host="[::1]"), host="::1")).status == 101


@pytest.mark.parametrize("variables", [{"CLOUD_SOCKETS_HOST": "0.0.0.0"}, CLOUD_RUN], ids=["named", "Cloud Run"])
async def test_all_addresses_are_those_of_ipv6_too(variables: dict[str, str]) -> None:
    async with Server(**variables) as server:
        assert all(listens(host, server.port) for host in ("127.0.0.1", "127.0.0.2", "::1"))
        assert f"http://0.0.0.0:{server.port} " in server.log
        assert f"http://[::]:{server.port} " in server.log


async def test_one_named_address_is_the_only_one() -> None:
    async with Server(CLOUD_SOCKETS_HOST="127.0.0.1") as server:
        assert [listens(host, server.port) for host in ("127.0.0.1", "127.0.0.2", "::1")] == [True, False, False]


async def test_an_address_that_is_none_ends_it_and_one_of_another_machine_too() -> None:
    for host, status, words in (
        ("hub.example.com", 2, "CLOUD_SOCKETS_HOST is 'hub.example.com': allowed is IP addresses"),
        ("192.0.2.1", 1, "(192.0.2.1)"),
    ):
        server = Server(CLOUD_SOCKETS_HOST=host)
        await server.start()
        assert await server.wait() == status
        assert words in server.log
        assert "Traceback" not in server.log


def image_environment() -> dict[str, str]:
    """The service's own variables that the Dockerfile sets."""
    lines = (line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("ENV "))
    words = [word.partition("=") for line in lines for word in line.split()[1:]]
    return {name: value for name, _, value in words if name.startswith("CLOUD_SOCKETS_")}


async def test_the_images_hub_serves_others_and_is_warned_of_at_its_start() -> None:
    async with Server(**image_environment()) as server:
        assert all(listens(host, server.port) for host in ("127.0.0.2", "::1"))
        warned = [line for line in server.log.splitlines() if "warning" in line]
        assert [word for word in ("CLOUD_SOCKETS_AUTH", "CLOUD_SOCKETS_API_KEYS") if word in "".join(warned)] == [
            "CLOUD_SOCKETS_AUTH",
            "CLOUD_SOCKETS_API_KEYS",
        ]
    async with Server() as server:
        assert "warning" not in server.log


SPELLINGS = (
    "//ws", "/%77s", "/w%73", "%2Fws", "/%2Fws", "/ws/", "/./ws", "/x/../ws", "/ws%00", "ws", "?ws", "*",
    "http://evil.example/ws", "http://localhost@evil.example/ws", "http://localhost//ws", "http://[/ws",
    "//localhost/ws",
)  # fmt: skip


@pytest.mark.parametrize("in_bits", [False, True], ids=["whole", "in bits"])
async def test_other_spellings_of_the_sockets_path_are_no_path(in_bits: bool) -> None:
    async with Server() as server:
        for target in SPELLINGS:
            told = await ask(server.port, upgrade(target), in_bits=in_bits)
            assert told.status == 404, (target, told.head)
        for target in ("/ws", "/ws?position=x", "http://localhost/ws"):
            assert (await ask(server.port, upgrade(target), in_bits=in_bits)).status == 101, target
        assert await server.metric("connections_opened_total") == 3
        assert "Traceback" not in server.log


async def test_other_spellings_of_http_paths_are_none_either() -> None:
    """No other spelling brings through a proxy in front what it keeps to itself by a rule for `/metrics`."""
    async with Server() as server:
        for path in ("/metrics", "/api/info", "/api/info/detail", "/health/live", "/client.js", "/ws"):
            escaped = f"/%{ord(path[1]):x}{path[2:]}"
            for target in (f"/{path}", escaped, path.replace("/", "%2F", 1), f"{path}/", f"http://evil.example{path}"):
                assert (await ask(server.port, get(target))).status == 404, target
            assert (await ask(server.port, get(path))).status in (200, 426), path
        for target in ("?x", "http://[", "*"):
            assert (await ask(server.port, get(target))).status == 404, target
        assert "Traceback" not in server.log


FORWARDED = (
    "Forwarded: for=203.0.113.1", "X-Forwarded-For: 203.0.113.1", "x-forwarded-proto: https", "X-FORWARDED-HOST: a",
    "Via: 1.1 proxy", "X-Envoy-External-Address: 203.0.113.1", "x-envoy-attempt-count: 1", "X-Forwarded-For:",
)  # fmt: skip


async def test_metrics_are_a_sidecars_own_not_those_of_who_comes_through_one() -> None:
    for keys, refusal in (({}, 403), ({"CLOUD_SOCKETS_API_KEYS": "key"}, 401)):
        async with Server(**CLOUD_RUN, **keys) as server:
            assert (await ask(server.port, get("/metrics"))).status == 200
            assert (await ask(server.port, get("/metrics", host="[::1]"), host="::1")).status == 200
            for line in FORWARDED:
                assert (await ask(server.port, get("/metrics", more=[line]))).status == refusal, line
            if keys:
                with_key = [FORWARDED[0], "Authorization: Bearer key"]
                assert (await ask(server.port, get("/metrics", more=with_key))).status == 200
            outside = address_outside()
            if outside is not None:
                assert (await ask(server.port, get("/metrics"), host=outside)).status == refusal


async def test_metrics_of_a_laptop_are_not_for_who_comes_through_a_tunnel() -> None:
    async with Server(CLOUD_SOCKETS_HOST="0.0.0.0") as server:
        assert (await ask(server.port, get("/metrics"))).status == 200
        for line in FORWARDED:
            assert (await ask(server.port, get("/metrics", more=[line]))).status == 403, line
        outside = address_outside()
        if outside is not None:
            assert (await ask(server.port, get("/metrics"), host=outside)).status == 403
