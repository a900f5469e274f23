"""Clearing up behind instances that died, and never behind one that lives."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from app.fanout import Publication
from app.fanout.pubsub import PubSubFanout
from app.fanout.pubsub.client import PubSubClient, emulator_channel
from app.fanout.pubsub.listener import Times
from app.fanout.pubsub.names import TopicName
from app.fanout.pubsub.sweeper import Sweeper
from app.metrics import Metrics
from tests.support.deadline import soon, until
from tests.support.pubsub_server import PubSubServer

TOPIC = TopicName("demo", "news")
LIVE, DEAD = "a" * 12, "d" * 12
HOUR = 3600 * 10**9


class Member:
    """An instance with a sweeper that is asked by hand."""

    def __init__(self, server: PubSubServer, instance_id: str, labels: dict[str, str] | None = None) -> None:
        client = PubSubClient(TOPIC, emulator_channel(server.address), emulated=False)
        common: dict[str, Any] = {"prefix": "hub", "instance_id": instance_id, "chance": random.Random(1)}
        self.instance_id = instance_id
        self.fanout = PubSubFanout(
            client,
            Metrics(),
            labels={"instance": instance_id} if labels is None else labels,
            now_ns=time.time_ns,
            times=Times(loopback=0.5, tick=0.1),
            **common,
        )
        self.listener = self.fanout._listener
        self.sweeper = Sweeper(client, self.listener, Metrics(), grace=1800, **common)

    async def speak(self) -> None:
        """Say something, and hear it."""
        before = self.listener.own_heard_ns
        await soon(self.fanout.publish(Publication(b"1", {"origin": self.instance_id, "seq": "1"})))
        await until(lambda: self.listener.own_heard_ns > before)

    def let_pass(self, hours: int = 1) -> None:
        """Have all that was heard, and the beginning of listening, be older."""
        assert self.listener.watching_from_ns is not None
        self.listener.watching_from_ns -= hours * HOUR
        peers = self.listener.peers
        peers._spoke = {name: at - hours * HOUR for name, at in peers._spoke.items()}


@pytest.fixture
async def make(pubsub_server: PubSubServer) -> AsyncIterator[Callable[..., Any]]:
    pubsub_server.add_topic(TOPIC.path)
    async with AsyncExitStack() as stack:

        async def member(instance_id: str, **options: Any) -> Member:
            made = Member(pubsub_server, instance_id, **options)
            stack.push_async_callback(made.fanout.close)
            await soon(made.fanout.start(lambda _: None))
            return made

        yield member


async def die(member: Member) -> None:
    """As kill -9 does it: the subscription stays."""
    await member.fanout._tasks.finish(0)


def subscription(instance_id: str) -> str:
    return TOPIC.subscription(f"hub-{instance_id}")


async def test_what_a_dead_instance_left_is_deleted_after_the_grace(
    pubsub_server: PubSubServer, make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    dead, live = await make(DEAD), await make(LIVE)
    await die(dead)
    assert await live.sweeper.sweep() == []
    live.let_pass()
    live.sweeper._first_seen.clear()
    live.sweeper._first_seen[subscription(DEAD)] = 0
    await live.speak()
    assert await live.sweeper.sweep() == [subscription(DEAD)]
    assert list(pubsub_server.subscriptions) == [subscription(LIVE)]
    assert f"its instance {DEAD} has said nothing for 1800 s" in caplog.text
    assert await live.sweeper.sweep() == []


async def test_an_instance_that_spoke_within_the_grace_is_left_alone(
    pubsub_server: PubSubServer, make: Callable[..., Any]
) -> None:
    other, live = await make(DEAD), await make(LIVE)
    live.let_pass()
    live.sweeper._first_seen[subscription(DEAD)] = 0
    await other.speak()
    await live.speak()
    await until(lambda: DEAD in live.fanout.peers)
    assert await live.sweeper.sweep() == []
    assert len(pubsub_server.subscriptions) == 2


async def test_a_newcomer_that_has_heard_nobody_yet_judges_nobody(
    pubsub_server: PubSubServer, make: Callable[..., Any]
) -> None:
    dead = await make(DEAD)
    await die(dead)
    newcomer = await make(LIVE)
    newcomer.sweeper._first_seen[subscription(DEAD)] = 0
    await newcomer.speak()
    assert await newcomer.sweeper.sweep() == []


async def test_who_was_deaf_or_stopped_begins_to_listen_anew(
    pubsub_server: PubSubServer, make: Callable[..., Any]
) -> None:
    dead, live = await make(DEAD), await make(LIVE)
    await die(dead)
    live.let_pass()
    live.sweeper._first_seen[subscription(DEAD)] = 0
    pubsub_server.end_streams()
    await until(lambda: not live.listener.hearing.is_set())
    assert await live.sweeper.sweep() == []
    await until(lambda: not live.fanout.unready_reasons())
    await live.speak()
    assert await live.sweeper.sweep() == []
    live.let_pass()
    live.sweeper._first_seen[subscription(DEAD)] = 0
    live.listener._was_stopped(31.0)  # SIGSTOP, or no CPU
    since = live.listener.watching_from_ns
    await until(lambda: live.listener.watching_from_ns not in (None, since))
    await live.speak()
    assert await live.sweeper.sweep() == []


async def test_of_several_that_live_one_does_it(pubsub_server: PubSubServer, make: Callable[..., Any]) -> None:
    dead = await make(DEAD)
    members = [await make(letter * 12) for letter in "abc"]
    await die(dead)
    for member in members:
        member.let_pass()
        member.sweeper._first_seen[subscription(DEAD)] = 0
    for member in members:
        await member.speak()
    for member in members:
        await until(lambda member=member: len(member.fanout.peers) == 2)  # type: ignore[misc]
    swept = await asyncio.gather(*(member.sweeper.sweep() for member in members))
    assert sorted(map(len, swept)) == [0, 0, 1]


async def test_a_subscription_that_no_instance_made_is_left_alone(
    pubsub_server: PubSubServer, make: Callable[..., Any]
) -> None:
    stranger = await make(DEAD, labels={"instance": "somebody"})
    live = await make(LIVE)
    await die(stranger)
    live.let_pass()
    live.sweeper._first_seen[subscription(DEAD)] = 0
    await live.speak()
    assert await live.sweeper.sweep() == []
    assert subscription(DEAD) in pubsub_server.subscriptions


async def test_a_living_instance_whose_subscription_was_deleted_makes_itself_a_new_one(
    pubsub_server: PubSubServer, make: Callable[..., Any]
) -> None:
    live = await make(LIVE)
    pubsub_server.delete_subscription(subscription(LIVE))
    await until(lambda: TOPIC.subscription(f"hub-{LIVE}-2") in pubsub_server.subscriptions)
    await until(lambda: not live.fanout.unready_reasons())


async def test_a_sweep_that_may_not_list_is_no_end_of_the_instance(
    pubsub_server: PubSubServer, make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    live = await make(LIVE)
    pubsub_server.faults.refuse_next("ListTopicSubscriptions", grpc.StatusCode.PERMISSION_DENIED, times=100)
    live.sweeper._grace = 0.1
    running = asyncio.create_task(live.sweeper.run())
    await until(lambda: "missing permission for projects/demo/topics/news: pubsub.topics.get" in caplog.text)
    assert not running.done()
    running.cancel()
