"""Clients that wander between hubs at random: nothing is lost, nothing ordered comes twice, on real hubs.

What may be promised is proven for the pure core (tests/unit/core/test_recovery_properties.py). Here the hubs' own part
is tried: who is sent what, with which position, and in which order. Time is in whole ticks of a second.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.clock import Clock
from app.connection import Connection
from app.core.users import User
from app.fanout import Deliver, Delivery, Fanout, Publication
from app.hub import Hub
from tests.support.hubs import HISTORY, make_hub
from tests.support.outlet import FakeOutlet

SKEW = 8
SECOND = 10**9
HUBS = 3
MESSAGES = 40
KEYS = ("k", "k", "j", None)


class Carrier(Fanout):
    """A fan-out that delivers when it is told to."""

    def __init__(self, covers_from: int) -> None:
        self._covers_from = covers_from
        self.deliver: Deliver = lambda _: None

    async def start(self, deliver: Deliver) -> None:
        self.deliver = deliver

    async def publish(self, publication: Publication) -> str | None:
        raise NotImplementedError

    async def close(self) -> None: ...

    @property
    def covers_from(self) -> int:
        return self._covers_from


@dataclass
class Published:
    number: int
    delivery: Delivery
    sub_id: str | None
    to: str
    """`channel`, `inbox` or `everyone`."""


@dataclass
class Client:
    """Follows the rules of app.client, and drops nothing."""

    sub_ids: tuple[str, ...]
    position: str | None = None
    inbox: str | None = None
    resuming: set[str] = field(default_factory=set)
    resumed_from: str | None = None
    got: list[int] = field(default_factory=list)
    owed: dict[str, set[int]] = field(default_factory=lambda: {"channel": set(), "own": set()})
    connection: Connection | None = None
    outlet: FakeOutlet = field(default_factory=FakeOutlet)
    taken: int = 0

    def read(self, frames: int | None = None) -> None:
        """Take what was written, or only so many frames of it."""
        texts = self.outlet.texts
        end = len(texts) if frames is None else min(len(texts), self.taken + frames)
        for text in texts[self.taken : end]:
            self._take(json.loads(text))
        self.taken = end

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "welcome":
                if message.get("recovered") is not True:
                    self._forget("own")
                self.inbox = message["position"]
            case "ack":
                self.resuming.discard(message["subId"])
                if message.get("recovered") is not True:
                    self._forget("channel")
                self.position = message["position"]
            case _:
                self.got.append(message["payload"])
                if "channel" in message:
                    self.position = message["position"]
                else:
                    self.inbox = message["position"]

    def _forget(self, stream: str) -> None:
        """A gap was told: what came before is not asked for any more."""
        self.owed[stream] = {number for number in self.owed[stream] if number in self.coming}
        self.got = [number for number in self.got if number not in self.of[stream]]

    coming: set[int] = field(default_factory=set)
    """What has yet to arrive where the client is."""
    of: dict[str, set[int]] = field(default_factory=lambda: {"channel": set(), "own": set()})


class World:
    """Three hubs, one client, and what happens to them."""

    def __init__(self, seed: int, sub_ids: tuple[str, ...], history_size: int) -> None:
        self.chance = random.Random(seed)
        self.now = 1000
        self.client = Client(sub_ids)
        self.carriers: list[Carrier] = []
        self.hubs: list[Hub] = []
        self.published: list[Published] = []
        self.arrivals: list[list[tuple[int, int, Published]]] = [[] for _ in range(HUBS)]
        self.arrived: list[set[int]] = [set() for _ in range(HUBS)]
        self.latest: dict[tuple[int, str], int] = {}
        self.at: int | None = None
        self._history_size = history_size

    async def run(self, stack: AsyncExitStack) -> None:
        for number in range(HUBS):
            carrier = Carrier(990 * SECOND)
            hub = self._hub(number, carrier)
            await hub.open()
            stack.push_async_callback(hub.close)
            self.carriers.append(carrier)
            self.hubs.append(hub)
        await asyncio.sleep(0)
        while len(self.published) < MESSAGES:
            self.now += self.chance.choice((0, 0, 1, 3))
            self._deliver()
            await asyncio.sleep(0)
            act = self.chance.random()
            if act < 0.6:
                self._publish()
            elif act < 0.8:
                self._come()
                await asyncio.sleep(0)
            else:
                self._go(self.chance.choice((None, 0, 1, 2, 5)))
        self.now += 2 * SKEW
        self._deliver()
        self._go(None)
        self._come()
        for _ in range(3):
            await asyncio.sleep(0)
        self.client.read()

    def _hub(self, number: int, carrier: Carrier) -> Hub:
        return make_hub(
            carrier,
            clock=Clock(monotonic=lambda: float(self.now), unix_ns=lambda: self.now * SECOND),
            instance_id=f"{number:012x}",
            history=replace(HISTORY, size=self._history_size, delivery_skew=SKEW),
        )

    def _publish(self) -> None:
        number = len(self.published)
        to = self.chance.choice(("channel", "channel", "channel", "inbox", "everyone"))
        sub_id = self.chance.choice((None, "1", "2", "3")) if to == "channel" else None
        attributes = {
            "channel": {"type": "announce", "channel": "news", **({} if sub_id is None else {"subId": sub_id})},
            "inbox": {"type": "notification", "userTag": "ann"},
            "everyone": {"type": "broadcast"},
        }[to]
        key = self.chance.choice(KEYS)
        delivery = Delivery(str(number).encode(), attributes, f"m{number}", self.now * SECOND, key)
        published = Published(number, delivery, sub_id, to)
        self.published.append(published)
        for hub in range(HUBS):
            arrival = self.now + self.chance.randrange(SKEW)
            if key is not None:
                arrival = self.latest[hub, key] = max(arrival, self.latest.get((hub, key), 0))
            self.arrivals[hub].append((arrival, number, published))
            if self.chance.random() < 0.2:
                self.arrivals[hub].append((arrival + self.chance.choice((2, 50)), number, published))
        stream = "channel" if to == "channel" else "own"
        if to != "channel" or sub_id in (None, *self.client.sub_ids):
            self.client.of[stream].add(number)
            if self.client.inbox is not None and (stream == "own" or self.client.position is not None):
                self.client.owed[stream].add(number)

    def _deliver(self) -> None:
        for hub, arrivals in enumerate(self.arrivals):
            arrivals.sort(key=lambda each: each[:2])
            while arrivals and arrivals[0][0] <= self.now:
                _, number, published = arrivals.pop(0)
                self.arrived[hub].add(number)
                self.carriers[hub].deliver(published.delivery)

    def _come(self) -> None:
        """Connect somewhere, and subscribe to everything from where it was left."""
        self._go(None)
        client = self.client
        self.at = self.chance.randrange(HUBS)
        client.coming = {number for _, number, _ in self.arrivals[self.at]} - self.arrived[self.at]
        client.outlet, client.taken = FakeOutlet(), 0
        hub = self.hubs[self.at]
        client.connection = hub.connect(User("ann", ("ann",)), "ann", client.outlet, client.inbox)
        client.connection.open()
        if not client.resuming:
            client.resumed_from = client.position
        client.resuming = set(client.sub_ids)
        for sub_id in client.sub_ids:
            hub.subscribe(client.connection, "news", sub_id, None, client.resumed_from)

    def _go(self, frames: int | None) -> None:
        """Be cut off, with only so many frames read (None: all that was written)."""
        client = self.client
        if client.connection is None or self.at is None:
            return
        client.connection.flush()
        client.read(frames)
        if client.resuming:
            client.position = client.resumed_from
        self.hubs[self.at].disconnect(client.connection)
        client.connection = None


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.parametrize("history_size", [1000, 4])
@pytest.mark.parametrize("sub_ids", [("1",), ("1", "2")], ids=["one", "two"])
@pytest.mark.parametrize("seed", [*range(60), 5136])
async def test_nothing_is_lost_between_hubs_and_nothing_ordered_comes_twice(
    seed: int, sub_ids: tuple[str, ...], history_size: int, stack: AsyncExitStack
) -> None:
    world = World(seed, sub_ids, history_size)
    await world.run(stack)
    client = world.client
    got = Counter(client.got)
    missed = (client.owed["channel"] | client.owed["own"]) - set(got)
    assert missed == set(), "nothing is lost"
    keys = {each.number: each.delivery.ordering_key for each in world.published}
    ordered = [number for number in client.got if keys[number] is not None]
    twice = [number for number in ordered if got[number] > 1]
    assert twice == [], "nothing ordered comes twice"
    for to in ("channel", "own"):
        for key in ("k", "j"):
            numbers = [number for number in ordered if keys[number] == key and number in client.of[to]]
            assert numbers == sorted(numbers), "each key comes in its order"
    assert all(number in client.of["channel"] | client.of["own"] for number in got), "nothing comes that is for others"
