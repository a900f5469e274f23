"""Clients as the public would write them: the reference client, with what it hands over written into the ledger."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from app.client import Client, Message, Recovery, RequestError, State
from tests.chaos.ledger import Ledger, Track

SUB_ID = "1"
COMPRESSING = 10
"""Every so many-th client offers compression, as browsers do."""
OPENING = 20
"""Clients that open their first socket at a time."""
OPTIONS: dict[str, Any] = {"ping_interval": 5, "ping_timeout": 10, "open_timeout": 5, "close_timeout": 2, "proxy": None}
LONGEST_WAIT = 8.0
ACK_TYPES = ("broadcast",)


def address(url: str, who: str) -> str:
    """Where to connect so that the proxy knows whose connection it is."""
    return f"{url}?who={who}"


class Receiver:
    """A client that has joined some channels, and everything that goes to everyone."""

    def __init__(
        self, name: str, url: str, channels: Sequence[str], ledger: Ledger, *, compression: str | None
    ) -> None:
        self.name = name
        self.channels = channels
        self.refused: list[str] = []
        """What the service would not do for it; nothing, where all is well."""
        self.diary: list[str] = []
        """What became of its sockets and subscriptions, and when."""
        self._ledger = ledger
        self._tracks: dict[str | None, Track] = {channel: ledger.track(name, channel) for channel in (None, *channels)}
        self._client = Client(
            address(url, name),
            on_message=self._take,
            on_recovery=self._resume,
            on_error=self._refuse,
            on_state=self._become,
            longest_wait=LONGEST_WAIT,
            compression=compression,
            ack_types=ACK_TYPES,
            **OPTIONS,
        )

    async def open(self) -> None:
        """Connect and join. Raises ClosedError, RequestError."""
        await self._client.__aenter__()
        self._tracks[None].joined(time.monotonic())
        for channel in self.channels:
            await self._client.subscribe(channel, SUB_ID)
            self._tracks[channel].joined(time.monotonic())

    async def close(self) -> None:
        """Leave."""
        await self._client.close()

    @property
    def gone(self) -> bool:
        """Whether it will not come back."""
        return self._client.state is State.CLOSED

    def _take(self, message: Message) -> None:
        channel, payload = message.get("channel"), message.get("payload")
        track = self._tracks.get(channel)
        if track is None or not isinstance(payload, dict):
            self._ledger.foreign(self.name, channel, f"{message.get('type')} {str(payload)[:100]}")
        else:
            self._ledger.receive(track, payload.get("source"), payload.get("number"))

    def _resume(self, recovery: Recovery) -> None:
        self._tracks[recovery.channel].resumed(recovered=recovery.recovered, now=time.monotonic())
        self._note(f"{recovery.channel or 'the inbox'} {'recovered' if recovery.recovered else 'unproven'}")

    def _refuse(self, error: RequestError) -> None:
        self.refused.append(str(error))
        self._note(f"refused: {error}")

    def _become(self, state: State) -> None:
        instance = f" at {self._client.welcome.get('instanceId')}" if state is State.OPEN else ""
        self._note(f"{state.value}{instance}")

    def _note(self, text: str) -> None:
        self.diary.append(f"{time.monotonic():.3f} {text}")


class Audience:
    """All receivers."""

    def __init__(self, url: str, ledger: Ledger, channels: Sequence[str], size: int, chance: random.Random) -> None:
        """Each has a channel of its own turn, every fourth one more."""
        self.receivers = []
        for number in range(size):
            joined = {channels[number % len(channels)]}
            if number % 4 == 0:
                joined.add(chance.choice(channels))
            compression = "deflate" if number % COMPRESSING == 0 else None
            self.receivers.append(Receiver(f"client-{number}", url, sorted(joined), ledger, compression=compression))

    async def open(self) -> None:
        """Connect and join, all of them. Raises ClosedError, RequestError."""
        turns = asyncio.Semaphore(OPENING)

        async def open_in_turn(receiver: Receiver) -> None:
            async with turns:
                await receiver.open()

        await asyncio.gather(*map(open_in_turn, self.receivers))

    async def close(self) -> None:
        """Leave, all of them."""
        await asyncio.gather(*(receiver.close() for receiver in self.receivers))

    def of(self, channel: str) -> list[Receiver]:
        """Those that joined this channel."""
        return [receiver for receiver in self.receivers if channel in receiver.channels]

    @property
    def gone(self) -> list[str]:
        """Who will not come back, or was refused something."""
        return [
            f"{receiver.name}: {', '.join(receiver.refused) or 'ended for good'}"
            for receiver in self.receivers
            if receiver.gone or receiver.refused
        ]
