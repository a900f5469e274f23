"""(f) Pub/Sub: what a received message costs an instance, and how long one is under way through the emulator."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE
from typing import Any

from app.fanout.pubsub import TopicName, connect
from app.fanout.pubsub.client import PubSubClient, PubsubMessage
from app.fanout.pubsub.names import ordering_key
from bench.machine import LOAD_CORE
from bench.peers import OURS
from bench.processes import Server, ServerFailed, free_port, pinned, stop
from bench.results import Cell, Results
from bench.tools import ROOT
from tests.support.client import Client
from tests.support.deadline import until
from tests.support.emulator import Emulator, NoEmulator

PUBSUB = "Pub/Sub"
LATENCY = "Pub/Sub latency"
TOPIC = TopicName("demo", "bench")
BATCH = 100
HEARD, UNHEARD = "news", "nobody"
"""Channels: with one subscriber, and with none."""
ALONE, THROUGH_US = "the emulator alone", "the emulator and the service"
_PAYLOAD = "x" * 126


def pubsub(results: Results, *, short: bool) -> None:
    """Measure both; where something is missing, say so in `results`."""
    try:
        asyncio.run(_received(results, rounds=1 if short else 5, count=500 if short else 20_000))
    except (ServerFailed, OSError, TimeoutError) as failure:
        results.failures[PUBSUB] = str(failure)
    try:
        emulator = Emulator().start()
    except NoEmulator as reason:
        results.failures[LATENCY] = str(reason)
        return
    try:
        asyncio.run(_latency(results, emulator.address, count=20 if short else 300))
    except (ServerFailed, OSError, TimeoutError) as failure:
        results.failures[LATENCY] = str(failure)
    finally:
        emulator.kill()


def _service(address: str, port: int) -> Server:
    """An instance on the topic, on the servers' core."""
    environment = {
        **OURS.environment(port),
        "PUBSUB_EMULATOR_HOST": address,
        "GOOGLE_CLOUD_PROJECT": TOPIC.project,
        "CLOUD_SOCKETS_PUBSUB_TOPIC_NAME": TOPIC.topic,
    }
    return Server(OURS.command(port), environment, port)


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


async def _is_ready(port: int) -> None:
    async def ready() -> bool:
        try:
            return '"ready"' in await asyncio.to_thread(_get, port, "/health/ready")
        except OSError:  # 503 too
            return False

    await until(ready)


@contextmanager
def _pubsub_of_our_own() -> Iterator[str]:
    """A Pub/Sub server that is quick enough to be no part of the figure, in a process on the load's core."""
    command = pinned(LOAD_CORE, [sys.executable, "-m", "tests.support.pubsub_server"])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdin=PIPE, stdout=PIPE)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        stop(process)


async def _received(results: Results, *, rounds: int, count: int) -> None:
    with _pubsub_of_our_own() as address:
        client = connect(TOPIC, emulator=address, endpoint=None)
        port = free_port()
        with _service(address, port) as server:
            await _is_ready(port)
            async with Client(f"ws://127.0.0.1:{port}{OURS.path}") as subscriber:
                await subscriber.subscribe(HEARD)
                sequence = itertools.count()
                for turn, (channel, subscribers) in enumerate([(UNHEARD, 0), (HEARD, 1)] * (rounds + 1)):
                    # The last one is heard: what is waited for. To ask the service itself would be part of the figure.
                    messages = [_message(channel, next(sequence)) for _ in range(count)]
                    messages.append(_message(HEARD, next(sequence)))
                    cpu = await _cpu_of(client, server, subscriber, messages, heard=subscribers * count + 1)
                    if turn >= 2:  # nobody is measured cold
                        results.add(Cell(PUBSUB, OURS.name, subscribers), cpu_us=cpu / count / 1e3)
        await client.close()
    print(f"{PUBSUB}: done", flush=True)


def _message(channel: str, sequence: int) -> Any:
    """As another instance publishes it."""
    identity = f'"id":"00000000-0000-4000-8000-{sequence:012d}","sentDateTime":"2026-01-31T12:00:00.123Z"'
    return PubsubMessage(
        data=f'{{"type":"announce","channel":"{channel}","payload":"{_PAYLOAD}",{identity}}}'.encode(),
        attributes={
            "type": "announce",
            "channel": channel,
            "origin": "bench",
            "sender": "nobody",
            "seq": str(sequence),
        },
        ordering_key=ordering_key(channel),
    )


async def _cpu_of(client: PubSubClient, server: Server, subscriber: Client, messages: list[Any], *, heard: int) -> int:
    """CPU time that the service took for all of these, of which a subscriber hears so many; in nanoseconds."""
    before = server.cpu_ns()

    async def publish() -> None:
        for start in range(0, len(messages), BATCH):
            for _, batch in itertools.groupby(
                messages[start : start + BATCH], key=lambda message: message.ordering_key
            ):
                await client.publish(list(batch), timeout=30)

    async def hear() -> None:
        for _ in range(heard):
            await subscriber.socket.recv()

    async with asyncio.timeout(120):
        await asyncio.gather(publish(), hear())
    return server.cpu_ns() - before


async def _latency(results: Results, address: str, *, count: int) -> None:
    """Each message on its way to a socket, and to a bare stream on a subscription of its own."""
    client = connect(TOPIC, emulator=address, endpoint=None)
    await client.create_topic()
    port = free_port()
    with _service(address, port):
        await _is_ready(port)
        bare = TOPIC.subscription("bare")
        await client.create_subscription(bare, {})
        stream = client.open_stream(bare, "bench")
        await stream.open()
        arrived: dict[str, int] = {}
        reading = asyncio.create_task(_read(stream, arrived))
        async with Client(f"ws://127.0.0.1:{port}/ws") as socket:
            await socket.subscribe("news")
            for number in range(count):
                marked = f"{number}"
                message = PubsubMessage(
                    data=b"{}", attributes={"type": "announce", "channel": "news", "mark": marked},
                    ordering_key=ordering_key("news"),
                )  # fmt: skip
                began = time.monotonic_ns()
                await client.publish([message], timeout=10)
                await socket.receive()
                ours = time.monotonic_ns() - began
                await until(lambda marked=marked: marked in arrived)  # type: ignore[misc]
                results.add(Cell(LATENCY, THROUGH_US), ms=ours / 1e6)
                results.add(Cell(LATENCY, ALONE), ms=(arrived[marked] - began) / 1e6)
        await stream.half_close()
        reading.cancel()
        stream.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await client.close()
    print(f"{LATENCY}: done", flush=True)


async def _read(stream: Any, arrived: dict[str, int]) -> None:
    while (received := await stream.read()) is not None:
        now = time.monotonic_ns()
        for item in received:
            arrived[item.message.attributes.get("mark", "")] = now
        if received:
            await stream.acknowledge([item.ack_id for item in received])
