"""Instances that die or sleep, in real processes on the real emulator, and the commands that clear up by hand."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass

import pytest

from tests.support.client import Client
from tests.support.cluster import PROJECT, Topic, clients, cluster
from tests.support.deadline import soon, until
from tests.support.process import ROOT, Server

SHORT = {"CLOUD_SOCKETS_ORPHAN_GRACE": "4"}
LONG = {"CLOUD_SOCKETS_ORPHAN_GRACE": "60"}


async def instance_of(server: Server) -> str:
    return str((await server.get("/api/info")).json["serverInfo"]["instanceId"])


@dataclass
class Done:
    status: int
    out: str
    error: str


async def run(topic: Topic, *arguments: str, **variables: str) -> Done:
    """`python -m app` with these arguments, on this topic."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PUBSUB_EMULATOR_HOST": topic.address,
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        "CLOUD_SOCKETS_PUBSUB_TOPIC_NAME": topic.name,
        **variables,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", *arguments, cwd=ROOT, env=environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await soon(process.communicate(), 60)
    assert b"Traceback" not in error, error.decode()
    return Done(await process.wait(), out.decode(), error.decode())


async def test_what_a_killed_instance_left_is_deleted_once_by_one_that_lives(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 3, **SHORT) as (published, servers):
        killed = await instance_of(servers[2])
        servers[2].kill()
        await servers[2].wait()
        assert f"{topic}-{killed}" in await published.subscriptions()

        async def swept() -> bool:
            return f"{topic}-{killed}" not in await published.subscriptions()

        await until(swept, 30)
        deleted = [await server.metric("pubsub_orphans_deleted_total") for server in servers[:2]]
        assert sorted(deleted) == [0, 1]
        assert len(await published.subscriptions()) == 2
        for server in servers[:2]:
            assert (await server.get("/health/ready")).status == 200


async def test_an_instance_that_sleeps_within_the_grace_is_left_alone_and_loses_nothing(
    emulator_address: str, topic: str
) -> None:
    async with cluster(emulator_address, topic, 2, **LONG) as (published, servers):
        async with clients(servers) as (ann, bob):
            await bob.subscribe("news")
            before = sorted(await published.subscriptions())
            servers[1].terminate(signal.SIGSTOP)
            for number in range(20):
                assert (await ann.ask({"type": "announce", "channel": "news", "payload": number}))["type"] == "ack"
            await asyncio.sleep(12)  # the sleep is what is tested: longer than any loopback may take
            servers[1].terminate(signal.SIGCONT)
            assert [message["payload"] for message in await bob.collect(20)] == list(range(20))
            await ann.ask({"type": "announce", "channel": "news", "payload": "after"})
            assert (await bob.receive())["payload"] == "after"
            assert sorted(await published.subscriptions()) == before
            assert await servers[1].metric("pubsub_subscriptions_made_total") == 1
            assert "not listening" not in servers[1].log.partition("listening to")[2]


async def test_an_instance_that_slept_too_long_makes_itself_a_new_subscription(
    emulator_address: str, topic: str
) -> None:
    async with cluster(emulator_address, topic, 2, **SHORT) as (published, servers):
        async with clients(servers) as (ann, bob):
            await bob.subscribe("news")
            sleeper = f"{topic}-{bob.welcome['instanceId']}"
            servers[1].terminate(signal.SIGSTOP)

            async def swept() -> bool:
                return sleeper not in await published.subscriptions()

            await until(swept, 30)
            await ann.ask({"type": "announce", "channel": "news", "payload": "meanwhile"})
            servers[1].terminate(signal.SIGCONT)
            assert (await bob.receive())["payload"] == "meanwhile"  # the emulator's topic retains it
            assert f"{sleeper}-2" in await published.subscriptions()
            await ann.ask({"type": "announce", "channel": "news", "payload": "after"})
            assert (await bob.receive())["payload"] == "after"


@pytest.mark.once
async def test_by_hand_the_dead_are_told_from_the_living(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 2, CLOUD_SOCKETS_ORPHAN_GRACE="0") as (published, servers):
        alive, dead = [await instance_of(server) for server in servers]
        servers[1].kill()
        await servers[1].wait()

        listed = await run(published, "subscriptions", "list")
        assert (listed.status, listed.error) == (0, "")
        assert all(f"{topic}-{one}" in listed.out for one in (alive, dead))

        refused = await run(published, "subscriptions", "sweep", "--grace", "1")
        assert (refused.status, refused.out) == (2, "")
        assert "--yes" in refused.error

        dry = await run(published, "subscriptions", "sweep", "--grace", "1", "--dry-run")
        assert dry.status == 0
        assert f"would delete {topic}-{dead}: its instance has said nothing for 1 s, and did not answer" in dry.out
        assert f"kept {topic}-{alive}: its instance spoke " in dry.out
        assert len(await published.subscriptions()) == 2

        swept = await run(published, "subscriptions", "sweep", "--grace", "15", "--yes")
        assert (swept.status, swept.error) == (0, "")
        assert f"deleted {topic}-{dead}: its instance has said nothing for 15 s, and did not answer" in swept.out
        assert f"kept {topic}-{alive}: its instance spoke " in swept.out
        assert "CPU is throttled may be silent for 900 s" in swept.out
        assert await published.subscriptions() == [f"{topic}-{alive}"]
        again = await run(published, "subscriptions", "sweep", "--grace", "1", "--yes")
        assert (again.status, again.out.splitlines()[-1]) == (0, "nothing to delete")
        async with Client(servers[0].url) as ann:
            await ann.subscribe("news")
            assert await ann.nothing_came()


async def test_what_goes_wrong_is_said_in_a_sentence(emulator_address: str, topic: str) -> None:
    published = Topic(emulator_address, topic)
    try:
        away = await run(published, "subscriptions", "list", PUBSUB_EMULATOR_HOST="127.0.0.1:1")
        assert away.status == 1
        assert "Pub/Sub cannot be used now (UNAVAILABLE" in away.error
        for wrong in (["nonsense"], ["subscriptions"], ["subscriptions", "sweep", "--grace", "soon"]):
            assert (await run(published, *wrong)).status == 2
        assert (await run(published, "subscriptions", "list", CLOUD_SOCKETS_PUBSUB_TOPIC_NAME="")).status == 2
        told = await run(published, "subscriptions", "sweep", "--help")
        assert (told.status, "Exit status: 0" in told.out) == (0, True)
    finally:
        await published.close()
