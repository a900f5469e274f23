"""Each proxy, configured as docs/interop.md shows it, carries a socket as it is."""

import asyncio
from pathlib import Path

import pytest
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tests.interop.proxies import PROXIES, Proxy, running
from tests.interop.table import Row
from tests.interop.tap import Tap
from tests.interop.test_clients import SIZES, TOO_BIG, QuickHub, said, text_of
from tests.support.client import Client
from tests.support.process import Server

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

IDLE = 5
"""Seconds after which a proxy ends what is idle; the pings of the hub come every 2."""
IDLE_FOR = 3 * IDLE
NAME = "app.example.com"
"""Name by which browsers know the proxy."""


@pytest.fixture(params=PROXIES, ids=lambda proxy: proxy.name)
def proxy(request: pytest.FixtureRequest, row: Row) -> Proxy:
    """One after the other; where one is not installed, that is said, and the test is skipped."""
    one: Proxy = request.param
    row.kind = "proxy"
    row.cells.update(proxy=one.name, version=one.version)
    if one.path is None:
        row.missing = f"{one.name}: apt-get install {one.package}"
        pytest.skip(row.missing)
    return one


async def exchange(one: Client, peer: Client) -> None:
    for size in SIZES:
        text = text_of(size)
        for sender in (one, peer):
            await sender.send({"type": "broadcast", "payload": text})
            assert await said(one) == text
            assert await said(peer) == text


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


async def test_a_socket_through_a_proxy(proxy: Proxy, row: Row, tmp_path: Path) -> None:
    async with QuickHub() as hub, Tap(hub.port) as tap, running(proxy, tmp_path, tap.port, IDLE) as port:
        url = f"ws://127.0.0.1:{port}/ws"
        async with Client(hub.url) as peer, Client(url, compression="deflate") as one:
            wire = tap.wires[-1]
            row.note("connect")
            assert wire.hub.extensions.startswith("permessage-deflate")
            assert one.socket.response is not None
            assert "permessage-deflate" in one.socket.response.headers["Sec-WebSocket-Extensions"]
            await exchange(one, peer)
            assert any(frame.compressed for frame in wire.hub.frames)
            assert any(frame.compressed for frame in wire.client.frames)
            row.note("10 B to 200 kB")
            # Nothing but the hub's pings, and the pongs, goes through now.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.socket.recv(), IDLE_FOR)
            await exchange(one, peer)
            row.note("idle", f"{IDLE_FOR} s at {IDLE} s")
            await one.socket.close(1000, "bye")
            assert wire.client.close is not None
            assert (wire.client.close.code, one.socket.close_code) == (1000, 1000)
        async with Client(url) as two:
            await two.send("x" * TOO_BIG)
            assert (await two.closed())[0] == 1009
        async with Client(url) as three:
            hub.terminate()
            code, before = await three.closed()
            assert (code, before[-1]["type"], three.socket.close_reason) == (3001, "disconnect", "shutdown")
        row.note("codes", "1000 1009 3001")
        assert await hub.wait() == 0
        tap.stop()
        # Whoever comes now is turned away in a way that clients take for one that will pass.
        with pytest.raises((InvalidHandshake, OSError)) as refused:
            async with Client(url):
                pass
        if isinstance(refused.value, InvalidStatus):
            assert refused.value.response.status_code >= 500
            row.note("hub gone", refused.value.response.status_code)
        else:
            row.note("hub gone", "cut")


async def test_the_time_of_a_proxy_counts(proxy: Proxy, row: Row, tmp_path: Path) -> None:
    """Without the pings in time the socket is cut: so the test above waits for what is really configured."""
    async with (
        Server() as hub,
        running(proxy, tmp_path, hub.port, 1) as port,
        Client(f"ws://127.0.0.1:{port}/ws") as one,
    ):
        if proxy.cuts:
            assert (await asyncio.wait_for(one.closed(), 15))[0] == 1006
            row.note("cut", "after 1 s")
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.socket.recv(), 5)
            row.note("cut", "never")


async def test_who_asks_is_told_to_the_hub(proxy: Proxy, row: Row, tmp_path: Path) -> None:
    """Host and the scheme come through: a page of the proxy's own name may open a socket, and no other."""
    async with Server(CLOUD_SOCKETS_HOST="0.0.0.0") as hub, Tap(hub.port) as tap:
        async with running(proxy, tmp_path, tap.port, IDLE) as port:
            url = f"ws://{NAME}:{port}/ws"
            own = {"host": "127.0.0.1", "port": port, "additional_headers": {}}
            async with Client(url, **own, origin=f"http://{NAME}:{port}") as one:
                assert one.welcome["type"] == "welcome"
            head = tap.wires[-1].client.head.lower()
            assert f"host: {NAME}:{port}" in head
            assert "x-forwarded-for: 127.0.0.1" in head
            assert "x-forwarded-proto: http" in head
            with pytest.raises(InvalidStatus) as refused:
                async with Client(url, **own, origin="https://evil.example"):
                    pass
            assert refused.value.response.status_code == 403
        # A hub of this machine alone takes no such name: it has to be told that it serves others.
        async with Server() as own_hub, running(proxy, _folder(tmp_path, "own"), own_hub.port, IDLE) as port:
            with pytest.raises(InvalidStatus) as refused:
                async with Client(f"ws://{NAME}:{port}/ws", host="127.0.0.1", port=port):
                    pass
            assert refused.value.response.status_code == 421
            row.note("headers", "Host, -For, -Proto")
