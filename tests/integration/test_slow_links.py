"""Clients on a slow link: what they ask is answered while they are replayed to."""

import asyncio
from typing import Any, Self

from tests.support.client import Client, Message
from tests.support.deadline import soon, until
from tests.support.slow_replay import slow_replay

ANSWERED = 2.0
"""Seconds in which an answer comes over a link that takes 36 s for what is replayed."""


class Asking:
    """A client that reads all the time, and notes when each answer came."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.came: list[Message] = []
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            message = await self.client.receive()
            self.came.append(message)
            if (waiting := self._answers.get(str(message.get("ackId")))) is not None:
                waiting.set_result(message)

    async def ask(self, **message: Any) -> tuple[Message, float]:
        """The answer, and the seconds that it took."""
        loop = asyncio.get_running_loop()
        mark = str(len(self._answers))
        answer = self._answers[mark] = loop.create_future()
        began = loop.time()
        await self.client.send({**message, "ackId": mark})
        return await soon(answer), loop.time() - began

    def numbers(self, channel: str) -> list[int]:
        """The messages that came of a channel, by number."""
        return [each["payload"]["n"] for each in self.came if each.get("channel") == channel and "payload" in each]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


async def test_answers_go_ahead_of_a_replay() -> None:
    """Subscribes, announces and unsubscribes are answered in seconds, and what is live elsewhere comes."""
    async with (
        slow_replay("news", "sport") as bench,
        Client(bench.server.url) as bob,
        Client(bench.url, max_queue=1) as client,
        Asking(client) as ann,
    ):
        took: dict[str, float] = {}
        for channel, sub_id in (("news", "1"), ("news", "2"), ("sport", "1"), ("sport", "2")):
            reply, took[f"{channel} {sub_id}"] = await ann.ask(
                type="subscribe", channel=channel, subId=sub_id, position=bench.positions[channel]
            )
            assert reply["recovered"] is True
            assert reply["position"] == bench.positions[channel]
        _, took["announce"] = await ann.ask(type="announce", channel="else", payload=1)
        _, took["chat"] = await ann.ask(type="subscribe", channel="chat", subId="1")
        await bob.ask({"type": "announce", "channel": "chat", "payload": {"n": 7}})
        await until(lambda: bool(ann.numbers("chat")), ANSWERED)
        reply, took["unsubscribe"] = await ann.ask(type="unsubscribe", channel="sport")
        assert reply["removedConnectionCount"] == 2
        at = ann.came.index(reply)
        _, took["getInfo"] = await ann.ask(type="getInfo")
        assert max(took.values()) < ANSWERED, took
        news, sport = ann.numbers("news"), ann.numbers("sport")
        assert news == [*range(len(news))]
        assert sport == [*range(len(sport))]
        assert sport, "both are sent, in turn"
        assert not [each for each in ann.came[at + 1 :] if each.get("channel") == "sport"]


async def test_a_slow_client_gets_it_all_and_what_is_new_behind_it() -> None:
    async with (
        slow_replay(missed=300) as bench,
        Client(bench.server.url) as bob,
        Client(bench.url, max_queue=1) as client,
        Asking(client) as ann,
    ):
        for sub_id in ("1", "2"):
            await ann.ask(type="subscribe", channel="news", subId=sub_id, position=bench.positions["news"])
        await bob.ask({"type": "announce", "channel": "news", "payload": {"n": 300}})
        await until(lambda: len(ann.numbers("news")) >= 301)
        assert ann.numbers("news") == [*range(301)]
