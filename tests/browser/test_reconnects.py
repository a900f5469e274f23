"""Sockets that are replaced all the time, by all that replaces sockets, while rooms are entered and left.

Two instances on one topic stand behind a proxy. One is killed, one is drained, connections are cut or go dead, and all
sockets rotate every few seconds. A third instance, which nothing befalls, takes what is published.
"""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from tests.browser.engines import engine
from tests.browser.site import site
from tests.chaos.proxy import Connection, Proxy
from tests.support.client import Client
from tests.support.cluster import Topic
from tests.support.deadline import soon, until
from tests.support.process import Server
from tests.support.pubsub_server import PubSubServer

VISITORS = Path(__file__).with_name("visitors.js")
NAMES = [f"visitor-{number}" for number in range(6)]
HALL = "hall"
"""The room that everybody is in from the beginning to the end."""
ROOMS = [f"room-{number}" for number in range(6)]
EACH = 25
"""Reconnects of each kind, at the least ..."""
IN_ALL = 100
"""... and sockets that were opened anew: two of those that were counted may have hit the same one."""
REPLACED, DEAD = 0.4, 0.3
"""The parts of the cuts that hit a socket which is being replaced, and of which neither end is told."""
BETWEEN = (0.05, 0.35)
"""Seconds from one fault to the next."""
PACE = 0.02
"""Seconds between two messages."""
FAULTS_A_ROUND = 8
"""After so many it is held against the hub who is where."""
LONGEST = 150.0
SEED = 18
VARIABLES = {
    "CLOUD_SOCKETS_AUTH": "session",  # so that a client is shown what its own socket has, and no more
    "CLOUD_SOCKETS_SESSION_PARSER": "tests.support.sessions:from_query",
}
ROTATES = {"CLOUD_SOCKETS_REQUEST_TIMEOUT": "3"}
"""Sockets are told to move on after 2.4 to 2.7 s."""


class Kind(StrEnum):
    """An event that replaces sockets."""

    KILL = "kill"
    DRAIN = "drain"
    CUT = "cut"
    ROTATION = "rotation"


class Remote:
    """A page that does what it is asked to, one thing after the other."""

    def __init__(self) -> None:
        self._orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def hear(self, body: bytes) -> bytes:
        """Take what the page did last, and answer what it is to do next."""
        if (answer := json.loads(body)) is not None:
            self._answers.put_nowait(answer)
        return json.dumps(await self._orders.get()).encode()

    async def ask(self, order: str, given: object = None) -> Any:
        """Have it do this; answers what came of it."""
        self._orders.put_nowait({"order": order, "given": given})
        answer = await soon(self._answers.get(), 60)
        assert answer["done"] == order
        return answer["answer"]

    def end(self) -> None:
        """The last thing that it is to do."""
        self._orders.put_nowait({"order": "end", "given": None})


class Publisher:
    """Numbers messages in each room, and publishes them one after the other."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._begun: dict[str, float] = {}
        self._latest = dict.fromkeys([HALL, *ROOMS], 0)
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Publish until this is cancelled."""
        for room in itertools.cycle(self._latest):
            async with self._turn:
                await self._publish(room)
            await asyncio.sleep(PACE)

    async def _publish(self, room: str) -> None:
        number, now = self._latest[room] + 1, time.time() * 1000
        payload = {"number": number, "previous": self._begun.get(room)}
        answer = await self._client.ask({"type": "announce", "channel": room, "payload": payload})
        assert answer["type"] == "ack", answer
        self._latest[room], self._begun[room] = number, now

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[dict[str, int]]:
        """Publish a last one in each room, and then nothing within this; yields their numbers."""
        async with self._turn:
            for room in self._latest:
                await self._publish(room)
            yield self._latest


class House:
    """The instances behind the proxy, and what can be done to them."""

    def __init__(self, topic: Topic, proxy: Proxy, chance: random.Random, stack: AsyncExitStack, **more: str) -> None:
        self._topic = topic
        self._proxy = proxy
        self._chance = chance
        self._stack = stack
        self._variables = {**VARIABLES, **ROTATES, **more}
        self._dead: list[Connection] = []
        self.instances: list[Server] = []
        self.reconnects = Counter[Kind]()
        self.drained: list[Server] = []

    async def fill(self) -> None:
        """Have two instances that are not to go, ready."""
        while len(self.instances) < 2:
            server = await self._stack.enter_async_context(self._topic.server(**self._variables))
            self.instances.append(server)
            self._proxy.add(server.port)

    def _connections(self, server: Server | None = None) -> list[Connection]:
        """All that carry something, or those to an instance."""
        return [
            connection for connection in self._proxy.connections() if server is None or _port(connection) == server.port
        ]

    async def befall(self, kind: Kind) -> bool:
        """Do this, and count whom it hits. Answers whether a socket is dead whose client knows nothing of it."""
        if kind is Kind.CUT:
            return await self._cut()
        server = self._chance.choice(self.instances)
        self.instances.remove(server)
        await self.fill()  # beside it, which serves until then
        self.reconnects[kind] += len(self._connections(server))
        if kind is Kind.KILL:
            server.kill()
            self._proxy.remove(server.port)
        else:
            self._proxy.remove(server.port)
            server.terminate()
            self.drained.append(server)
        return False

    async def _cut(self) -> bool:
        drawn = self._chance.random()
        if drawn < REPLACED:  # the old one of two
            with suppress(TimeoutError):
                await until(lambda: self._being_replaced() is not None, 3)
        connection = self._being_replaced() if drawn < REPLACED else None
        if connection is None:
            if not (connections := self._connections()):
                return False
            connection = self._chance.choice(connections)
        self.reconnects[Kind.CUT] += 1
        if drawn < 1 - DEAD:
            connection.abort()
            return False
        connection.vanish()
        self._dead.append(connection)
        return True

    def _being_replaced(self) -> Connection | None:
        """One whose client has opened the next."""
        latest: dict[str, Connection] = {}
        for connection in self._connections():
            if connection.who in latest:
                return latest[connection.who]
            latest[connection.who] = connection
        return None

    def bury(self) -> None:
        """The network tells the instances, too, of the connections that went dead."""
        for connection in self._dead:
            connection.abort()
        self._dead.clear()

    async def present(self) -> Counter[tuple[str, str]]:
        """How many are in each (room, subId), as all instances say together."""
        found = Counter[tuple[str, str]]()
        for server in self.instances:
            detail = (await server.get("/api/info/detail")).json
            for room, subscriptions in detail["channelInfo"]["channels"].items():
                for subscription in subscriptions:
                    found[room, subscription["subId"]] += subscription["numConnections"]
        return found


def _port(connection: Connection) -> int:
    assert connection.instance.transport is not None
    return int(connection.instance.transport.get_extra_info("peername")[1])


async def _is_right(house: House, page: Remote, publisher: Publisher) -> None:
    """All have stopped: everybody has all there is, and the hub says of each room what the clients say."""
    await page.ask("halt")
    house.bury()
    async with publisher.paused() as latest:
        inside = Counter[tuple[str, str]]()
        for room, sub_ids in await page.ask("settle", latest):
            inside.update((room, sub_id) for sub_id in sub_ids)

        assert (await page.ask("report"))["wrong"] == []

        async def agrees() -> bool:
            return await house.present() == inside

        try:
            await until(agrees, 10)
        except TimeoutError:
            assert await house.present() == inside


async def _befall(house: House, page: Remote, publisher: Publisher, chance: random.Random) -> dict[str, Any]:
    """Faults until there were enough of each kind; answers what the page has to report."""
    await page.ask("begin")
    publishing = asyncio.create_task(publisher.run())
    try:
        for count in itertools.count(1):
            if count % FAULTS_A_ROUND == 1:
                await page.ask("wander")
            wanted = [kind for kind in (Kind.KILL, Kind.DRAIN, Kind.CUT) if house.reconnects[kind] < EACH]
            if wanted and await house.befall(chance.choice(wanted)):
                await page.ask("wake")  # a page hears of another network, and of nothing else
            await asyncio.sleep(chance.uniform(*BETWEEN))
            if count % FAULTS_A_ROUND == 0:
                await _is_right(house, page, publisher)
                report: dict[str, Any] = await page.ask("report")
                house.reconnects[Kind.ROTATION] = report["rotations"]
                opened = report["sockets"] - len(NAMES)
                if opened >= IN_ALL and min(house.reconnects[kind] for kind in Kind) >= EACH:
                    break
            assert not publishing.done(), publishing.result()
    finally:
        publishing.cancel()
        with suppress(asyncio.CancelledError):
            await publishing
    for server in house.drained:
        assert await server.wait(9) == 0
    return report


@pytest.mark.once
@pytest.mark.timeout(LONGEST + 90)
@pytest.mark.parametrize("name", ["chromium", "firefox", "webkit"])
async def test_rooms_are_right_and_nothing_is_lost_or_doubled_whatever_replaces_sockets(
    name: str, tmp_path: Path, pubsub_server: PubSubServer, topic: str
) -> None:
    chance = random.Random(SEED)
    pubsub_server.emulates = True
    page = Remote()
    async with AsyncExitStack() as stack:
        shared = Topic(pubsub_server.address, topic)
        stack.push_async_callback(shared.close)
        address = await stack.enter_async_context(site(None, VISITORS, hear=page.hear))
        browser = await stack.enter_async_context(engine(name, tmp_path))
        quiet = await stack.enter_async_context(shared.server(**VARIABLES))
        client = await stack.enter_async_context(Client(f"{quiet.url}?who=publisher"))
        proxy = await stack.enter_async_context(Proxy(chance))
        house = House(shared, proxy, chance, stack, CLOUD_SOCKETS_ALLOWED_ORIGINS=address.rstrip("/"))
        await house.fill()
        given = {"url": proxy.url, "seed": SEED, "names": NAMES, "hall": HALL, "rooms": ROOMS}
        script = f"const {{serve}} = await import('/visitors.js'); return serve({json.dumps(given)});"
        began = time.monotonic()
        running = asyncio.create_task(browser.run(address, script, LONGEST))
        befalling = asyncio.create_task(_befall(house, page, Publisher(client), chance))
        try:
            await asyncio.wait({running, befalling}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                pytest.fail(f"the page ended: {await running}")
            report = await befalling
        finally:
            page.end()
            befalling.cancel()
            await asyncio.gather(soon(running), befalling, return_exceptions=True)
        print(name, {kind.value: house.reconnects[kind] for kind in Kind}, report, f"{time.monotonic() - began:.0f} s")
    # There was something to be lost, and rooms to be wrong.
    assert report["messages"] > 500
    assert report["stays"] > 60
    assert report["passed"] > 15
    assert report["checks"] > 80
