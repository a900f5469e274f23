"""Listening: on which addresses, and where file descriptors run out, over real sockets in a process of its own."""

import errno
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest

from app.addresses import ALL, LOOPBACK, Address
from app.server import listening
from app.server.listening import ListeningSocket, listen
from tests.support.process import ROOT

PROGRAM = """
import asyncio, resource, socket
from app.addresses import Address
from app.server.listening import listen

async def main():
    loop = asyncio.get_running_loop()
    reports, accepted = [], []
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
    (listening,) = listen([Address("127.0.0.1")], 0)
    server = await asyncio.start_server(lambda reader, writer: accepted.append(writer), sock=listening, backlog=500)
    clients = [socket.socket() for _ in range(5)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(listening.getsockname())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    while len(reports) < 3:
        await asyncio.sleep(0.01)
    assert not accepted
    pending = [timer for timer in loop._scheduled if "_start_serving" in repr(timer)]
    assert len(pending) == 1, pending
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    while len(accepted) < 5:
        await asyncio.sleep(0.01)
    assert len(reports) <= 4, reports

asyncio.run(asyncio.wait_for(main(), 30))
"""


def test_want_of_descriptors_is_reported_once_a_second_and_ends_by_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def ends(addresses: Sequence[Address], port: int = 0) -> list[tuple[str, int]]:
    """Return the hosts and ports to which sockets for these addresses are bound."""
    bound = listen(addresses, port)
    where = [sock.getsockname()[:2] for sock in bound]
    for sock in bound:
        sock.close()
    return where


@pytest.mark.parametrize(("addresses", "hosts"), [(LOOPBACK, ["127.0.0.1", "::1"]), (ALL, ["0.0.0.0", "::"])])
def test_any_free_port_is_one_port_on_all_addresses(addresses: Sequence[Address], hosts: list[str]) -> None:
    where = ends(addresses)
    assert [host for host, _ in where] == hosts
    assert len({port for _, port in where}) == 1
    assert where[0][1] > 0


def test_a_free_port_that_is_taken_on_another_address_is_not_had(monkeypatch: pytest.MonkeyPatch) -> None:
    bind, asked = listening._bind, []

    def bind_twice_in_vain(host: str, port: int) -> ListeningSocket:
        asked.append(host)
        if host == "::1" and asked.count("::1") <= 2:
            raise OSError(errno.EADDRINUSE, "taken")
        return bind(host, port)

    monkeypatch.setattr(listening, "_bind", bind_twice_in_vain)
    assert [host for host, _ in ends(LOOPBACK)] == ["127.0.0.1", "::1"]
    assert asked == ["127.0.0.1", "::1"] * 3


def test_a_port_that_is_taken_on_one_address_is_taken() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="::1") as refused:
            listen(LOOPBACK, port)
        assert refused.value.errno == errno.EADDRINUSE
    assert ends(LOOPBACK, port) == [("127.0.0.1", port), ("::1", port)]  # and nothing of the try is left


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_only_what_is_needed_has_to_be_had(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    bind = listening._bind

    def bind_without_ipv6(host: str, port: int) -> ListeningSocket:
        if ":" in host:
            raise OSError(number, "no IPv6 here")
        return bind(host, port)

    monkeypatch.setattr(listening, "_bind", bind_without_ipv6)
    assert [host for host, _ in ends(LOOPBACK)] == ["127.0.0.1"]
    with pytest.raises(OSError, match="no IPv6 here"):
        listen([Address("::1")], 0)
