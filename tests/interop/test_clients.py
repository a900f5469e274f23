"""Each client connects, says and hears all sizes, answers pings, and learns why it is closed."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.interop.adapter import Adapter
from tests.interop.clients import KINDS, PLAIN, Kind, Missing, Run
from tests.interop.table import Row
from tests.interop.tap import PING, PONG, Tap, Wire
from tests.support.client import Client
from tests.support.deadline import until
from tests.support.process import Server

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

SIZES = (10, 3_000, 60_000, 200_000)
TOO_BIG = 300_000
COMPRESSED_FROM = 3_000
"""Bytes of a message that all who compress do compress."""
WORDS = ("news", "ümlaut", "naïve", "日本", "😀", '"quoted"', "back\\slash", "a/b", "12345")
IDLE = 120.0
"""Seconds."""
LEAST = 15
"""Clients that have to be there."""


def text_of(size: int) -> str:
    """A text of so many bytes, of all kinds of characters."""
    chance = random.Random(size)
    text = ""
    while len(text.encode()) < size:
        text += chance.choice(WORDS) + f" {chance.random()} "
    return text.encode()[:size].decode(errors="ignore")


class QuickHub(Server):
    """The hub, with pings that come sooner."""

    module = "tests.interop.hub"


def found(kind: Kind, row: Row) -> Run:
    """How the client is begun; where it is not there, that is said, and the test is skipped."""
    row.kind = "client"
    try:
        return kind.run()
    except Missing as reason:
        row.missing = f"{kind.name}: {reason}"
        pytest.skip(row.missing)


def shown(kind: Kind, step: str, right: str, saw: str, row: Row) -> None:
    """Hold what a client shows against what is right, or what is known of it."""
    row.note(step, saw)
    known = kind.known.get(step)
    if known is None:
        assert saw.startswith(right), saw
    else:
        assert saw.startswith(known.shows), f"{step}: a known fault is no more as it was: {saw}"
        row.known.append(f"{kind.name}: {step}: shows {saw!r}, not {right!r}: {known.why}")


@asynccontextmanager
async def opened(kind: Kind, run: Run, tap: Tap, mode: str, row: Row) -> AsyncIterator[tuple[Adapter, Wire]]:
    """A client that has its welcome. What is known to fail may be tried again."""
    for attempt in range(1, kind.tries + 1):
        async with Adapter(run, tap.url, mode) as adapter:
            last = attempt == kind.tries
            try:
                await adapter.next("open")
                assert (await adapter.message(30 if last else 2))["type"] == "welcome"
            except (ConnectionError, TimeoutError):
                if last:
                    raise
                continue
            row.note("connect", "ok" if attempt == 1 else f"try {attempt}")
            if attempt > 1:
                row.known.append(f"{kind.name}: connect: {kind.known['connect'].why}")
            yield adapter, tap.wires[-1]
            return


async def said(peer: Client) -> Any:
    """The payload of the next message that is more than a question whether somebody is there."""
    while (message := await peer.receive())["type"] == "ping":
        pass
    return message["payload"]


async def exchange(adapter: Adapter, peer: Client, size: int) -> None:
    """Send a message each way; all get both, equal to what was sent."""
    text = text_of(size)
    await adapter.send({"type": "broadcast", "payload": text})
    assert await said(peer) == text
    assert (await adapter.message())["payload"] == text
    await peer.send({"type": "broadcast", "payload": [text]})
    assert await said(peer) == [text]
    assert (await adapter.message())["payload"] == [text]


def compression(kind: Kind, wire: Wire, mode: str, row: Row) -> None:
    """See that what was to be compressed was."""
    by_hub, by_client = ([frame.compressed for frame in frames.messages] for frames in (wire.hub, wire.client))
    row.note("hub compressed", f"{sum(by_hub)}/{len(by_hub)}")
    row.note("client compressed", f"{sum(by_client)}/{len(by_client)}")
    if mode == PLAIN:
        assert not wire.hub.extensions
        assert not any(by_hub + by_client)
        return
    assert wire.hub.extensions.startswith("permessage-deflate")
    large = 2 * sum(size >= COMPRESSED_FROM for size in SIZES)
    assert sum(by_hub) >= large
    assert any(by_client) == kind.compresses


CASES = [pytest.param(kind, mode, id=f"{kind.name}-{mode}") for kind in KINDS for mode in kind.modes]


@pytest.mark.parametrize(("kind", "mode"), CASES)
async def test_a_client(kind: Kind, mode: str, row: Row) -> None:
    run = await asyncio.to_thread(found, kind, row)
    row.cells.update(client=kind.name, version=run.version, mode=mode)
    async with QuickHub() as hub, Tap(hub.port) as tap:
        async with Client(hub.url) as peer, opened(kind, run, tap, mode, row) as (one, wire):
            for size in SIZES:
                await exchange(one, peer, size)
            row.note("10 B to 200 kB")
            compression(kind, wire, mode, row)
            await until(lambda: wire.hub.has(PING) and wire.client.has(PONG), what="no pong")
            await exchange(one, peer, 10)  # and it is still there
            row.note("ping")
            await one.send({"type": "broadcast", "payload": "x" * TOO_BIG})
            shown(kind, "too big", "1009", await one.next("close"), row)
        async with opened(kind, run, tap, mode, row) as (two, wire):
            await two.close()
            await until(lambda: wire.client.close is not None and wire.hub.close is not None, what="no close")
            assert wire.hub.close is not None
            shown(kind, "close", "1000", str(wire.hub.close.code), row)
        async with opened(kind, run, tap, mode, row) as (three, wire):
            hub.terminate()
            farewell = await three.message()
            assert (farewell["type"], farewell["code"], farewell["reconnect"]) == ("disconnect", 3001, True)
            shown(kind, "shutdown", "3001", (await three.next("close")).strip(), row)
            assert await hub.wait() == 0
        assert wire.hub.close is not None
        assert wire.hub.close.code == 3001


def test_there_are_enough_clients(row: Row) -> None:
    """Each is one of its own: `libcurl` counts once, and so do the classes that Node takes from undici."""
    there = set()
    for kind in KINDS:
        try:
            kind.run()
        except Missing:
            continue
        there.add(kind.name)
    kin = {"pycurl (libcurl)", "Node's own class"}
    assert len(there - kin) >= LEAST, sorted(there)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "libcurl" in kind.name], ids=lambda kind: kind.name)
async def test_a_listener_on_libcurl_that_is_idle_stays(kind: Kind, row: Row) -> None:
    """With the pings of the hub as it is: it was closed after 33 s."""
    run = await asyncio.to_thread(found, kind, row)
    row.cells.update(client=kind.name, version=run.version, mode=f"idle {IDLE:.0f} s")
    async with Server() as hub, Tap(hub.port) as tap, opened(kind, run, tap, PLAIN, row) as (one, wire):
        with pytest.raises(TimeoutError):
            await one.message(IDLE)
        pings = sum(frame.opcode == PING for frame in wire.hub.frames)
        assert pings >= 3
        row.note("ping", f"{pings}")
        async with Client(hub.url) as peer:
            await exchange(one, peer, 10)
        row.note("10 B to 200 kB", "10 B")
