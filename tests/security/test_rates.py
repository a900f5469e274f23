"""Rates: a client that sends too fast is told when to go on, and ended if it does not heed that."""

import asyncio
from typing import Any

import pytest

from tests.security.programs import KEPT
from tests.security.wire import RawSocket, deflated, text
from tests.support.client import Client, Message
from tests.support.deadline import soon, until
from tests.support.link import slow_link
from tests.support.process import Server

pytestmark = [pytest.mark.once, pytest.mark.alone]

BURST = 5000
"""Messages that a connection may send at once, by default."""
READERS = 10
LINK = 2_000_000
"""Bytes a second that each reader can take."""


def numbered(count: int) -> bytes:
    """So many small messages."""
    frames = (text({"type": "announce", "channel": "fast", "payload": at, "ackId": at}) for at in range(count))
    return b"".join(frames)


async def replies_to(sender: RawSocket, count: int) -> list[Message]:
    """Send numbered messages, and read the replies to all of them or to the end of the connection."""
    sending = asyncio.create_task(sender.send(numbered(count)))
    replies: list[Message] = []
    try:
        while len(replies) < count:
            replies.append(await soon(sender.receive()))
            if replies[-1]["type"] == "disconnect":
                break
        return replies
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_fast_sender_is_told_to_wait_and_loses_nothing_unknowingly() -> None:
    """Of 8,000 messages at once each is delivered, or answered `rate_limited` with the time to wait."""
    async with Server(**KEPT) as server:
        reader, sender = await RawSocket.open(server.port), await RawSocket.open(server.port)
        await reader.ask({"type": "subscribe", "channel": "fast", "subId": "1"})
        replies = await replies_to(sender, 8000)
        accepted = [reply["ackId"] for reply in replies if reply["type"] == "ack"]
        refused = [reply for reply in replies if reply["type"] == "error"]
        assert BURST <= len(accepted) < 8000
        assert {(reply["code"], reply["temporary"]) for reply in refused} == {("rate_limited", True)}
        assert all(type(reply["retryAfterMs"]) is int and reply["retryAfterMs"] > 0 for reply in refused)
        assert sorted(accepted + [reply["ackId"] for reply in refused]) == list(range(8000))
        delivered = [(await soon(reader.receive()))["payload"] for _ in accepted]
        assert delivered == accepted

        # What it was told is true: after that time there is room again.
        await asyncio.sleep(refused[-1]["retryAfterMs"] / 1000)
        assert (await soon(sender.ask({"type": "getInfo"})))["type"] == "getInfo"


async def test_sender_that_goes_on_and_on_is_ended() -> None:
    """Of 20,000 messages at once the first are delivered; then the sender is told to stay away, and closed (3508)."""
    async with Server(**KEPT) as server, Client(server.url) as bystander:
        sender = await RawSocket.open(server.port)
        replies = await replies_to(sender, 20_000)
        assert sum(reply["type"] == "ack" for reply in replies) >= BURST
        assert replies[-1]["type"] == "disconnect", replies[-1]
        assert (replies[-1]["code"], replies[-1]["reconnect"]) == (3508, False)
        assert await soon(sender.discard()) == 3508
        assert await bystander.nothing_came()


@pytest.mark.parametrize("off", [False, True])
async def test_rates_can_be_switched_off(off: bool) -> None:
    """With both rates 0 a connection may send as fast as it can."""
    rates = {"CLOUD_SOCKETS_MESSAGE_RATE": "0", "CLOUD_SOCKETS_BYTE_RATE": "0"} if off else {}
    async with Server(**KEPT, **rates) as server:
        sender = await RawSocket.open(server.port)
        codes = {reply.get("code") for reply in await replies_to(sender, 8000)}
        assert codes == ({None} if off else {None, "rate_limited"})

        sender = await RawSocket.open(server.port, deflate=True)
        await sender.send(deflated({"type": "announce", "channel": "big", "ackId": 1, "payload": "x" * 250_000}) * 80)
        codes = {(await soon(sender.receive())).get("code") for _ in range(80)}
        assert codes == ({None} if off else {None, "rate_limited"})


async def collect(port: int, got: list[int], closes: list[int | None], enough: asyncio.Event) -> None:
    """Read broadcasts until there are enough; come back after a close, from the last position."""
    position = None
    while True:
        reader = await RawSocket.open(port, query=f"?position={position}" if position else "")
        position = reader.welcome["position"]
        if closes:
            assert reader.welcome["recovered"] is True
        try:
            while True:
                message: dict[str, Any] = await reader.receive()
                if message["type"] == "broadcast":
                    position = message["position"]
                    got.append(message["payload"][0])
                    enough.set()
        except OSError:
            closes.append(reader.close_code)


async def test_deflated_broadcasts_do_not_push_readers_out() -> None:
    """Of 12.5 kB that inflate to 10 MB of broadcasts, ten readers on slow links lose nothing of what was accepted."""
    async with Server(**KEPT) as server, slow_link(server.port, LINK) as port:
        got: list[list[int]] = [[] for _ in range(READERS)]
        closes: list[list[int | None]] = [[] for _ in range(READERS)]
        news = asyncio.Event()
        reading = [asyncio.create_task(collect(port, *each, news)) for each in zip(got, closes, strict=True)]

        async def all_read() -> bool:
            return await server.metric("connections") == READERS

        await until(all_read)

        sender = await RawSocket.open(server.port, deflate=True)
        await sender.send(
            b"".join(
                deflated({"type": "broadcast", "ackId": number, "payload": [number, "x" * 250_000]})
                for number in range(40)
            )
        )
        accepted = []
        answers = 0
        while answers < 40:
            reply = await soon(sender.receive())
            answers += reply["type"] in ("ack", "error")
            if reply["type"] == "ack":
                accepted.append(reply["ackId"])
        assert accepted

        async def all_came() -> None:
            while sum(len(each) >= len(accepted) for each in got) < READERS - 1:
                news.clear()
                await news.wait()

        await soon(all_came())
        for task in reading:
            task.cancel()
        results = await asyncio.gather(*reading, return_exceptions=True)
        print(len(accepted), closes)
        whole = [each == accepted for each in got]
        assert sum(whole) >= READERS - 1, (accepted, got, closes, results)
        assert sum(not each for each in closes) >= READERS - 1, closes
