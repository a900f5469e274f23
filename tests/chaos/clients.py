"""Clients as the public would write them: the reference client, with what it hands over written into the ledger."""

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from app.client import Client, ClosedError, Message, Recovery, RequestError, State
from tests.chaos.ledger import Ledger, Track

SUB_ID = "1"
COMPRESSING = 10
"""Every so many-th client offers compression, as browsers do."""
OPENING = 20
"""Clients that open their first socket at a time."""
OPTIONS: dict[str, Any] = {"ping_interval": 5, "ping_timeout": 10, "open_timeout": 5, "close_timeout": 2, "proxy": None}
LONGEST_WAIT = 8.0
ACK_TYPES = ("broadcast",)
STAY, AWAY = (4.0, 20.0), (1.0, 8.0)
"""Seconds for which a client is in a room, and between two rooms, at the least and at the most."""
IN_ONE_TURN = 0.2
"""The part of the rooms that are entered and left in one turn, before either is answered."""
SETTLED = 90.0
"""Seconds in which what was asked last is answered."""
AGAIN = (0.2, 1.0)
"""Seconds after which a client asks again what had no answer."""


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
        self.rooms: set[str] = set()
        """The rooms that it is in now, beside its channels."""
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

    # Rooms

    async def wander(self, rooms: Sequence[str], chance: random.Random, stopping: asyncio.Event) -> None:
        """Enter and leave rooms, one after the other; who is in one when it is to stop stays there."""
        while not await _ends(stopping, chance.uniform(*AWAY)):
            room = chance.choice(rooms)
            stay = self._tracks[room] = self._ledger.track(self.name, room, is_passing=True)
            if chance.random() < IN_ONE_TURN:
                await self._pass_by(room)
            else:
                await self._surely(lambda: self._client.subscribe(room, SUB_ID), chance)  # noqa: B023
                stay.joined(time.monotonic())
                self.rooms.add(room)
                self._note(f"in {room}")
                if await _ends(stopping, chance.uniform(*STAY)):
                    return
                self.rooms.discard(room)
                await self._surely(lambda: self._client.unsubscribe(room, SUB_ID), chance)  # noqa: B023
                self._note(f"out of {room}")
            stay.left(time.monotonic())

    async def _pass_by(self, room: str) -> None:
        """Enter and leave in one turn: what was said last counts, whatever comes of the first."""
        entering = asyncio.ensure_future(self._client.subscribe(room, SUB_ID))
        await asyncio.sleep(0)
        leaving = asyncio.ensure_future(self._client.unsubscribe(room, SUB_ID))
        for error in await asyncio.gather(entering, leaving, return_exceptions=True):
            if isinstance(error, BaseException) and not isinstance(error, RequestError | ClosedError):
                raise error
        self._note(f"by {room}")

    async def _surely(self, ask: Callable[[], Awaitable[object]], chance: random.Random) -> None:
        """Ask until it is answered."""
        while not self.gone:
            try:
                await ask()
            except RequestError as error:
                if not error.temporary and error.code not in ("timeout", "connection_lost"):
                    self._refuse(error)
                await asyncio.sleep(chance.uniform(*AGAIN))
            except ClosedError:
                return
            else:
                return

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
        if (track := self._tracks.get(recovery.channel)) is not None and track.left_at == math.inf:
            track.resumed(recovered=recovery.recovered, now=time.monotonic())
        self._note(f"{recovery.channel or 'the inbox'} {'recovered' if recovery.recovered else 'unproven'}")

    def _refuse(self, error: RequestError) -> None:
        self.refused.append(str(error))
        self._note(f"refused: {error}")

    def _become(self, state: State) -> None:
        instance = f" at {self._client.welcome.get('instanceId')}" if state is State.OPEN else ""
        self._note(f"{state.value}{instance}")

    def _note(self, text: str) -> None:
        self.diary.append(f"{time.monotonic():.3f} {text}")


async def _ends(stopping: asyncio.Event, seconds: float) -> bool:
    """Wait for so many seconds; answers whether it is to stop."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
    return stopping.is_set()


class Audience:
    """All receivers."""

    def __init__(self, url: str, ledger: Ledger, channels: Sequence[str], size: int, chance: random.Random) -> None:
        """Each has a channel of its own turn, every fourth one more, and is in some others now and then."""
        self.receivers: list[Receiver] = []
        self._channels = channels
        self._chance = chance
        self._stopping = asyncio.Event()
        self._wandering: list[asyncio.Task[None]] = []
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

    def wander(self) -> None:
        """From now on all of them enter and leave rooms."""
        for receiver in self.receivers:
            rooms = [channel for channel in self._channels if channel not in receiver.channels]
            chance = random.Random(self._chance.getrandbits(32))
            wandering = receiver.wander(rooms, chance, self._stopping)
            self._wandering.append(asyncio.get_running_loop().create_task(wandering))

    async def settle(self) -> None:
        """Return when all of them stay where they are. Raises TimeoutError."""
        self._stopping.set()
        async with asyncio.timeout(SETTLED):
            await asyncio.gather(*self._wandering)

    def present(self) -> Counter[str]:
        """How many are in each channel."""
        return Counter(channel for receiver in self.receivers for channel in (*receiver.channels, *receiver.rooms))

    async def close(self) -> None:
        """Leave, all of them."""
        self._stopping.set()
        for wandering in self._wandering:
            wandering.cancel()
        await asyncio.gather(*self._wandering, return_exceptions=True)
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
