"""An application on the Python client, and what a test says for the server that it talks to."""

import asyncio
import random
from typing import Any

from app.client import Client, Recovery, RequestError, State
from tests.support.deadline import soon, until
from tests.support.scripted_server import Peer


class Chance(random.Random):
    """Draws the upper end, so that a wait is its bound."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002  # as it is called
        return b


class App:
    """An application: notes what its client tells it."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.recoveries: list[Recovery] = []
        self.errors: list[RequestError] = []
        self.refused: list[Any] = []
        """The errors of what was refused (`on_refused`, for tests that ask for it)."""
        self.states: list[State] = []
        self.waits: list[float] = []
        self.now = 0.0
        self.fails_on: set[Any] = set()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def take(self, message: dict[str, Any]) -> None:
        await self.may_go_on.wait()
        self.messages.append(message["payload"])
        if message["payload"] in self.fails_on:
            raise ValueError(message["payload"])

    def refuse(self, refused: Any) -> None:
        self.refused.append(refused.error)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    def client(self, url: str, **options: Any) -> Client:
        told: dict[str, Any] = {
            "on_message": self.take,
            "on_recovery": self.recoveries.append,
            "on_error": self.errors.append,
            "on_state": self.states.append,
            "chance": Chance(),
            "sleep": self.sleep,
            "clock": lambda: self.now,
            "compression": None,
        }
        return Client(url, **(told | options))

    async def has(self, *messages: Any) -> None:
        """Wait until it has just these messages."""
        await until(lambda: len(self.messages) >= len(messages), 5, f"only {self.messages} came")
        assert self.messages == list(messages)


async def subscribed(peer: Peer, client: Client, channel: str = "news", sub_id: str = "1", **answer: Any) -> None:
    asking = asyncio.create_task(client.subscribe(channel, sub_id))
    await peer.subscribed(**answer)
    await soon(asking)


async def all_taken(client: Client, peer: Peer) -> None:
    """Wait until what the peer has sent so far was received."""
    asking = asyncio.create_task(client.get_info())
    request = await peer.heard()
    await peer.say(type="getInfo", ackId=request["ackId"])
    await soon(asking)


async def rotate(peer: Peer) -> None:
    await peer.say(type="disconnect", code=3011, reason="rotation", reconnect=True, retryAfterMs=0)
