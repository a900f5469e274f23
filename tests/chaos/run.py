"""A run: three instances, the emulator, 300 clients and 80 publishers, and what is done to them."""

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.chaos import publishers
from tests.chaos.attackers import Attackers
from tests.chaos.clients import SUB_ID, Audience
from tests.chaos.cluster import Cluster
from tests.chaos.ledger import Ledger, Violation
from tests.chaos.malformed import MALFORMED
from tests.chaos.proxy import Proxy
from tests.chaos.publishers import Crowd
from tests.chaos.report import Memory, Outcome
from tests.chaos.schedule import Fault, Kind, schedule
from tests.chaos.slots import SLOTS, VETERAN
from tests.support.cluster import Topic
from tests.support.deadline import until
from tests.support.emulator import Emulator
from tests.support.process import ROOT

CHANNELS = 40
CLIENTS = 300
RATE, RATE_TO_ALL = 40.0, 0.5
"""Messages a second, to channels and to everyone."""
LONG, LONG_RATE = 600.0, 8.0
"""Seconds of faults; and messages a second to channels in a run that is longer, for the emulator's sake."""
ROLLING_RATE = 200.0
WAITING = 1.2
"""By so much more is tried, as publishers wait for a socket while instances are replaced."""
ROLLING_CHANNELS = 100
"""More than else: with fewer clients for each message the one process that all clients share keeps up with the rate."""
FLOW = 200
"""Messages that are accepted before and after something is done to a quiet run."""
SETTLED = 90.0
"""Seconds after the last fault in which everybody must have everything."""
BURST, PADDING = 10, 60_000
"""Messages, and bytes of each, that a slow reader is given to be slow on."""
HEAP = "4g"
"""For the emulator, which keeps all of ten minutes for each subscription that it has."""
LOGS = ROOT / ".cache" / "chaos"
VIOLATIONS = "violations.log"

logger = logging.getLogger(__name__)


class Run:
    """One run. Use `stage` to set it up, then do something to it, then ask for its `outcome`."""

    def __init__(
        self,
        title: str,
        ledger: Ledger,
        cluster: Cluster,
        proxy: Proxy,
        audience: Audience,
        crowd: Crowd,
        topic: publishers.Topic,
        channels: Sequence[str],
        logs: Path,
        attackers: Attackers,
    ) -> None:
        self.ledger = ledger
        self.cluster = cluster
        self._title = title
        self._proxy = proxy
        self._audience = audience
        self._crowd = crowd
        self._topic = topic
        self._channels = channels
        self._logs = logs
        self._attackers = attackers
        self._injected: Counter[Kind] = Counter()
        self._began = time.monotonic()

    # Faults

    async def inject_all(self, faults: Sequence[Fault]) -> None:
        """Inject each at its time; returns when the last is over."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(self._began + fault.at - time.monotonic())
                tasks.create_task(self.inject(fault))

    async def inject(self, fault: Fault) -> None:
        """Do it; returns when it is over."""
        chance = random.Random(fault.seed)
        self._injected[fault.kind] += 1
        self.note(f"{fault.kind} (instance {fault.slot}, {fault.seconds:.1f} s, {fault.share:.0%})")
        match fault.kind:
            case Kind.TERMINATE:
                await self.cluster.terminate(fault.slot, replacement_first=chance.random() < 0.5)
            case Kind.KILL:
                await self.cluster.kill(fault.slot)
            case Kind.FREEZE:
                await self.cluster.freeze(fault.slot, fault.seconds)
            case Kind.FREEZE_PUBSUB:
                await self.cluster.freeze_emulator(fault.seconds)
            case Kind.DELETE_SUBSCRIPTION:
                await self.cluster.delete_subscription(fault.slot)
            case Kind.DUPLICATES:
                some = self._crowd.some_of(chance, 5)
                await asyncio.gather(*(publisher.publish(copies=2) for publisher in some))
                await asyncio.gather(*(publisher.repeat() for publisher in some))
            case Kind.MALFORMED:
                await asyncio.gather(*(self._topic.publish(data, attributes=more) for data, more in MALFORMED))
            case Kind.VANISH:
                connections = self._proxy.connections()
                for connection in chance.sample(connections, round(fault.share * len(connections))):
                    connection.vanish()
            case Kind.STALL:
                await self._stall(chance, fault.seconds)

    async def _stall(self, chance: random.Random, seconds: float) -> None:
        """Half of a channel's clients do not read while there is a burst on it."""
        channel = chance.choice(self._channels)
        slow = {receiver.name for receiver in self._audience.of(channel)[::2]}
        connections = [connection for connection in self._proxy.connections() if connection.who in slow]
        for connection in connections:
            connection.stall()
        publisher = self._crowd.one_for(channel)
        for _ in range(BURST):
            await publisher.publish(padding=PADDING)
        await asyncio.sleep(seconds)
        for connection in connections:
            connection.flow()

    def note(self, text: str) -> None:
        """Say what happens, with the time at which it does."""
        now = time.monotonic()
        logger.info("%7.1f s (%.3f) %s", now - self._began, now, text)

    async def flow(self, count: int) -> None:
        """Return when so many more messages were accepted."""
        enough = self.ledger.accepted + count
        await until(lambda: self.ledger.accepted >= enough)

    # The end

    async def _all_came(self) -> None:
        """Return when everybody has what they should have, or when it is too late. Nobody publishes meanwhile."""
        waiting = self.ledger.tracks

        async def nobody_waits() -> bool:
            nonlocal waiting
            still = []
            for track in waiting:
                if track.missing()[0]:
                    still.append(track)
                await asyncio.sleep(0)
            waiting = still
            return not waiting

        with contextlib.suppress(TimeoutError):
            await until(nobody_waits, SETTLED)

    async def _all_are_where_they_say(self) -> None:
        """Return when the instances have each client where it is, and nowhere else. Raises TimeoutError."""
        present = self._audience.present()
        found: Counter[str] = Counter()

        async def as_they_say() -> bool:
            nonlocal found
            there = await self.cluster.present(SUB_ID)
            found = Counter({channel: there[channel] for channel in self._channels})
            return found == present

        try:
            await until(as_they_say, SETTLED)
        except TimeoutError:
            wrong = {each: (found[each], present[each]) for each in self._channels if found[each] != present[each]}
            raise TimeoutError(f"rooms have others than say so (found, said): {wrong}") from None

    def _write_down(self, violations: Sequence[Violation]) -> None:
        """All violations, and the diaries of those to whom they were done."""
        wronged = {violation.client for violation in violations}
        lines = [str(violation) for violation in violations]
        for receiver in self._audience.receivers:
            if receiver.name in wronged:
                lines += [f"{receiver.name} {entry}" for entry in receiver.diary]
        (self._logs / VIOLATIONS).write_text("".join(f"{line}\n" for line in lines))

    async def outcome(self, *, all_recover: bool = False) -> Outcome:
        """Let everything come to rest, check it, and end the instances.

        Somebody must have recovered. `all_recover`: and nobody may be told `recovered: false`.
        """
        failures = []
        try:
            await self._audience.settle()
        except TimeoutError:
            failures.append("some clients had no answer when they entered or left a room")
        await self._crowd.stop()
        await self._attackers.stop()
        published_for = time.monotonic() - self._began
        self.note("the publishers stopped")
        try:
            await self._all_came()
            await self._crowd.close_accounts()
            await self._all_came()
            self.note("all has come")
            await self._all_are_where_they_say()
            await self.cluster.swept()
        except TimeoutError as late:
            failures.append(str(late))
        self.note("at rest")
        failures += self._audience.gone
        verdict = self.ledger.verdict()
        self._write_down(verdict.violations)
        if not verdict.recovered or (all_recover and verdict.unproven):
            failures.append(f"{verdict.recovered} subscriptions went on whole, {verdict.unproven} unproven")
        await self._audience.close()
        await self._crowd.close()
        await self.cluster.stop()
        orphans = await self.cluster.topic.subscriptions()
        veterans = [instance for instance in self.cluster.all if instance.slot == VETERAN]
        return Outcome(
            title=self._title,
            verdict=verdict,
            injected=self._injected,
            seconds=published_for,
            drain_times=self.cluster.drain_times,
            closed=self.cluster.closed,
            orphans=len(orphans),
            memory=[Memory(instance.name, instance.memory) for instance in veterans],
            failures=[*failures, *self.cluster.failures, *self._attackers.failures],
            attacks=self._attackers.reached,
        )


@asynccontextmanager
async def stage(
    title: str, seed: int, rate: float, channel_count: int = CHANNELS, logs: Path = LOGS, *, attacked: bool = False
) -> AsyncIterator[Run]:
    """Everything up, connected and publishing; with attackers beside it, if it is to be attacked."""
    channels = [f"channel-{number}" for number in range(channel_count)]
    chance = random.Random(seed)
    ledger = Ledger()
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("instance-*.log"):
        old.unlink()
    async with AsyncExitStack() as stack:
        emulator = Emulator(heap=HEAP)
        stack.callback(emulator.kill)
        emulator.start()
        topic = Topic(emulator.address, f"chaos-{uuid.uuid4().hex[:8]}")
        stack.push_async_callback(topic.close)
        proxy = await stack.enter_async_context(Proxy(random.Random(chance.getrandbits(32))))
        cluster = Cluster(emulator, topic, proxy, logs)
        stack.push_async_callback(cluster.close)
        await cluster.start()
        publishing = publishers.Topic(emulator.address, topic.path)
        stack.push_async_callback(publishing.close)
        crowd = Crowd(proxy.url, proxy.port, publishing, ledger, channels, random.Random(chance.getrandbits(32)))
        stack.push_async_callback(crowd.close)
        audience = Audience(proxy.url, ledger, channels, CLIENTS, random.Random(chance.getrandbits(32)))
        stack.push_async_callback(audience.close)
        await audience.open()
        await crowd.open()
        attackers = Attackers(cluster.ports, random.Random(chance.getrandbits(32)))
        stack.push_async_callback(attackers.stop)
        run = Run(title, ledger, cluster, proxy, audience, crowd, publishing, channels, logs, attackers)
        crowd.start(rate, RATE_TO_ALL)
        audience.wander()
        if attacked:
            attackers.start()
        run.note("up")
        yield run


async def chaos(seed: int, seconds: float, rate: float = RATE, *, attacked: bool = False) -> Outcome:
    """Faults by the schedule of a seed."""
    async with stage(f"chaos, seed {seed}, {seconds:.0f} s", seed, rate, attacked=attacked) as run:
        await run.inject_all(schedule(seed, seconds))
        return await run.outcome()


async def rolling_replacement(seed: int, *, attacked: bool = False) -> Outcome:
    """All three instances replaced, one after the other, under load."""
    title = f"rolling replacement under {ROLLING_RATE:.0f} messages/s"
    async with stage(title, seed, WAITING * ROLLING_RATE, ROLLING_CHANNELS, attacked=attacked) as run:
        await run.flow(FLOW)
        for slot in SLOTS:
            await run.inject(Fault(0, Kind.TERMINATE, slot, 0, 0, seed + slot))
        await run.flow(FLOW)
        return await run.outcome(all_recover=True)


async def killed_instance(seed: int, *, attacked: bool = False) -> Outcome:
    """One instance killed under load."""
    async with stage("kill -9 of an instance", seed, RATE, attacked=attacked) as run:
        await run.flow(FLOW)
        await run.inject(Fault(0, Kind.KILL, 1, 0, 0, seed))
        await run.flow(FLOW)
        return await run.outcome(all_recover=True)
