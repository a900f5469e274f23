"""The instances, each in a place of its own behind the proxy, and the emulator; and what can be done to them."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

from tests.chaos.clients import ACK_TYPES
from tests.chaos.proxy import Proxy
from tests.chaos.slots import SLOTS
from tests.support.cluster import Topic
from tests.support.deadline import until
from tests.support.emulator import Emulator
from tests.support.process import Server

ORPHAN_GRACE = 45
SWEPT = 2.5 * ORPHAN_GRACE
"""Seconds after which what a killed instance left must be deleted."""
STARTED = 120.0
"""Seconds that an instance may take until it is ready, as Cloud Run's start-up probe allows: all that the topic retains
comes from the emulator, which may stand still meanwhile."""
DRAIN = 8.0
"""Seconds that an instance may take to end (contract, section 1)."""
DRAIN_NEVER = 30.0
VARIABLES = {
    "CLOUD_SOCKETS_ORPHAN_GRACE": str(ORPHAN_GRACE),
    "CLOUD_SOCKETS_HISTORY_TTL": "120",
    "CLOUD_SOCKETS_MAX_BUFFERED": str(128 * 1024),
    "CLOUD_SOCKETS_REQUEST_TIMEOUT": "120",
    "CLOUD_SOCKETS_ACK_MESSAGE_TYPES": ",".join(ACK_TYPES),
}
"""Apart from these it runs as it comes. A history that is full within a run; slow readers that are felt; sockets that
move on beside all else; and what goes to everyone is sent again until it is acknowledged."""
CLOSED = {3008: "ended as too slow", 3012: "ended without a pong"}
"""Close codes that are counted, in plain words."""
SAMPLE_EVERY = 5.0
PAGE = os.sysconf("SC_PAGE_SIZE")


class Instance:
    """One process of the service, from its start to its end."""

    def __init__(self, slot: int, number: int, server: Server) -> None:
        self.name = f"instance-{slot}-{number}"
        self.slot = slot
        self.server = server
        self.started = time.monotonic()
        self.frozen = False
        self.memory: list[tuple[float, int]] = []
        """Its age in seconds and its resident bytes, again and again."""

    async def instance_id(self) -> str:
        """What it calls itself."""
        info = (await self.server.get("/api/info")).json
        return str(info["serverInfo"]["instanceId"])

    def sample(self) -> None:
        """Look at its memory."""
        with contextlib.suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{self.server.process.pid}/statm").read_text().split()[1])
            self.memory.append((time.monotonic() - self.started, pages * PAGE))


class Cluster:
    """Three instances on one topic of an emulator, in rotation of a proxy. Close it, whatever happens."""

    def __init__(self, emulator: Emulator, topic: Topic, proxy: Proxy, logs: Path) -> None:
        self.topic = topic
        self.instances: dict[int, Instance] = {}
        self.all: list[Instance] = []
        self.drain_times: list[float] = []
        self.closed: Counter[str] = Counter()
        """Why instances ended connections, of those that could be asked: not of the killed."""
        self.failures: list[str] = []
        """Instances that did not end as they should, in plain words."""
        self._emulator = emulator
        self._proxy = proxy
        self._logs = logs
        self._turns = {slot: asyncio.Lock() for slot in SLOTS}
        """Two faults of one instance come one after the other."""
        self._emulator_turn = asyncio.Lock()
        self._sampling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Have an instance in each place, ready."""
        await asyncio.gather(*(self._fill(slot) for slot in SLOTS))
        self._sampling = asyncio.create_task(self._sample())

    async def _sample(self) -> None:
        while True:
            for instance in self.instances.values():
                instance.sample()
            await asyncio.sleep(SAMPLE_EVERY)

    async def _fill(self, slot: int) -> Instance:
        """Start an instance in a place; in rotation once it is ready."""
        number = sum(instance.slot == slot for instance in self.all)
        instance = Instance(slot, number, self.topic.server(**VARIABLES))
        instance.server.start_deadline = STARTED
        self.all.append(instance)
        await instance.server.__aenter__()
        instance.sample()
        self.instances[slot] = instance
        self._proxy.add(instance.server.port)
        return instance

    def _out_of_rotation(self, slot: int) -> Instance:
        instance = self.instances[slot]
        self._proxy.remove(instance.server.port)
        instance.sample()
        return instance

    def ports(self) -> list[int]:
        """Where the instances are, each with its own port."""
        return [instance.server.port for instance in self.instances.values()]

    # What can be done to them

    async def terminate(self, slot: int, *, replacement_first: bool) -> None:
        """SIGTERM, as Cloud Run does it: no new connections from then on. A replacement comes before, or after."""
        async with self._turns[slot]:
            instance = self._out_of_rotation(slot)
            if replacement_first:
                await self._fill(slot)
            await self._drain(instance)
            if not replacement_first:
                await self._fill(slot)

    async def _drain(self, instance: Instance) -> None:
        for code, reason in CLOSED.items():
            self.closed[reason] += int(await instance.server.metric(f'connections_closed_total{{code="{code}"}}'))
        began = time.monotonic()
        instance.server.terminate()
        try:
            status = await instance.server.wait(DRAIN_NEVER)
        except TimeoutError:
            status = None
            instance.server.kill()
            await instance.server.wait()
        took = time.monotonic() - began
        self.drain_times.append(took)
        if status != 0:
            self.failures.append(f"{instance.name} ended with {status} after {took:.1f} s")
        elif took > DRAIN:
            self.failures.append(f"{instance.name} took {took:.1f} s to end")
        self._keep_log(instance)

    async def kill(self, slot: int) -> None:
        """`kill -9`, and a replacement."""
        async with self._turns[slot]:
            instance = self._out_of_rotation(slot)
            instance.server.kill()
            await instance.server.wait()
            self._keep_log(instance)
            await self._fill(slot)

    async def freeze(self, slot: int, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long. It stays in rotation: who is given to it has to find out."""
        async with self._turns[slot]:
            instance = self.instances[slot]
            instance.server.terminate(signal.SIGSTOP)
            instance.frozen = True
            await asyncio.sleep(seconds)
            instance.frozen = False
            instance.server.terminate(signal.SIGCONT)

    async def freeze_emulator(self, seconds: float) -> None:
        """SIGSTOP of the emulator, and SIGCONT after so long."""
        async with self._emulator_turn:
            self._emulator.pause()
            try:
                await asyncio.sleep(seconds)
            finally:
                self._emulator.resume()

    async def delete_subscription(self, slot: int) -> None:
        """Take the subscription away from an instance that listens on it."""
        async with self._turns[slot], self._emulator_turn:
            instance_id = await self.instances[slot].instance_id()
            for name in await self.topic.subscriptions():
                if instance_id in name:
                    await self.topic.delete_subscription(name)

    # The end

    async def swept(self) -> None:
        """Return when no instance that was killed has a subscription any more. Raises TimeoutError."""

        living = [await instance.instance_id() for instance in self.instances.values()]

        async def none_left() -> bool:
            return all(any(each in name for each in living) for name in await self.topic.subscriptions())

        await until(none_left, SWEPT, "subscriptions of killed instances are left")

    async def present(self, sub_id: str) -> Counter[str]:
        """How many connections are subscribed to a subId of each channel, over all instances."""
        found: Counter[str] = Counter()
        for instance in self.instances.values():
            channels = (await instance.server.get("/api/info/detail")).json["channelInfo"]["channels"]
            for channel, subscriptions in channels.items():
                found[channel] += sum(each["numConnections"] for each in subscriptions if each["subId"] == sub_id)
        return found

    async def stop(self) -> None:
        """SIGTERM to all, and no replacement."""
        if self._sampling is not None:
            self._sampling.cancel()
        await asyncio.gather(*(self._drain(self._out_of_rotation(slot)) for slot in SLOTS))

    async def close(self) -> None:
        """End whatever still runs, and keep its log."""
        if self._sampling is not None:
            self._sampling.cancel()
        self._emulator.resume()
        for instance in self.all:
            process = instance.server._process
            if process is not None and process.returncode is None:
                instance.server.kill()
                await instance.server.wait()
                self._keep_log(instance)

    def _keep_log(self, instance: Instance) -> None:
        (self._logs / f"{instance.name}.log").write_text(instance.server.log)
