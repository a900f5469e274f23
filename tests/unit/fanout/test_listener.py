"""Listening over the real wire: whatever ends a stream or a subscription, the instance hears again."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import grpc
import pytest

from app.fanout import Delivery, FanoutStartError, Publication
from app.fanout.pubsub import PubSubFanout
from app.fanout.pubsub import listener as module
from app.fanout.pubsub.client import PubSubClient, emulator_channel
from app.fanout.pubsub.names import TopicName
from app.metrics import Metrics
from tests.support.deadline import soon, until
from tests.support.pubsub_server import PubSubServer

TOPIC = TopicName("demo", "news")
INSTANCE = "0123456789ab"


class Instance:
    """A Pub/Sub fan-out on the test's server, and what it heard."""

    def __init__(self, server: PubSubServer, *, emulated: bool = False) -> None:
        self.metrics = Metrics()
        self.heard: list[bytes] = []
        self.fanout = PubSubFanout(
            PubSubClient(TOPIC, emulator_channel(server.address), emulated=emulated),
            self.metrics,
            prefix="hub",
            instance_id=INSTANCE,
            labels={"service": "Hub", "revision": "hub-00042", "instance": INSTANCE},
            now_ns=time.time_ns,
            chance=random.Random(1),
        )

    def deliver(self, delivery: Delivery) -> None:
        self.heard.append(delivery.data)

    async def start(self) -> None:
        await soon(self.fanout.start(self.deliver))

    async def publish(self, data: bytes) -> None:
        await soon(self.fanout.publish(Publication(data, {"channel": "news"})))

    async def hears(self, data: bytes) -> None:
        """Publish, and wait until it is heard here."""
        await self.publish(data)
        await until(lambda: data in self.heard, what=f"{data!r} was never heard")

    def count(self, name: str) -> float:
        lines = self.metrics.render().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"cloud_sockets_{name} "))

    async def is_hearing(self) -> None:
        await until(lambda: not self.fanout.unready_reasons())

    async def is_deaf(self) -> str:
        await until(lambda: bool(self.fanout.unready_reasons()))
        return self.fanout.unready_reasons()[0]


@pytest.fixture
async def make(pubsub_server: PubSubServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Instance]]:
    monkeypatch.setattr(module, "LOOPBACK_TIMEOUT", 0.5)
    async with AsyncExitStack() as stack:

        def instance(**options: bool) -> Instance:
            made = Instance(pubsub_server, **options)
            stack.push_async_callback(made.fanout.close)
            return made

        yield instance


@pytest.fixture
async def instance(pubsub_server: PubSubServer, make: Callable[..., Instance]) -> Instance:
    """One that is up, on a topic that retains nothing."""
    pubsub_server.add_topic(TOPIC.path)
    made = make()
    await made.start()
    return made


async def test_an_instance_makes_its_own_subscription(pubsub_server: PubSubServer, instance: Instance) -> None:
    (request,) = pubsub_server.calls("CreateSubscription")
    assert request.name == f"projects/demo/subscriptions/hub-{INSTANCE}"
    assert dict(request.labels) == {"service": "hub", "revision": "hub-00042", "instance": INSTANCE}
    assert request.expiration_policy.ttl.ToSeconds() == 86400
    assert request.message_retention_duration.ToSeconds() == 600
    assert request.enable_message_ordering
    assert pubsub_server.calls("Seek") == []


async def test_it_is_ready_only_when_it_heard_itself(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    gate = pubsub_server.faults.publish_gate = asyncio.Event()
    instance = make()
    starting = asyncio.create_task(instance.start())
    await until(lambda: pubsub_server.streams_opened == 1)
    assert "hear this instance's own message" in await instance.is_deaf()
    assert not starting.done()
    gate.set()
    await soon(starting)
    assert instance.fanout.unready_reasons() == []


async def test_what_is_handed_on_is_acknowledged(pubsub_server: PubSubServer, instance: Instance) -> None:
    await instance.hears(b"1")
    (subscription,) = pubsub_server.subscriptions.values()
    await until(lambda: not subscription.unacked)


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
async def test_after_the_end_of_a_stream_there_is_a_new_one(
    pubsub_server: PubSubServer, instance: Instance, code: grpc.StatusCode | None
) -> None:
    await instance.hears(b"1")
    pubsub_server.end_streams(code)
    await until(lambda: pubsub_server.streams_opened == 2)
    await instance.is_hearing()
    await instance.hears(b"2")
    assert len(pubsub_server.calls("CreateSubscription")) == 1
    assert instance.count("pubsub_gaps_total") == 0


async def test_a_new_stream_is_tried_with_every_key(pubsub_server: PubSubServer, instance: Instance) -> None:
    pubsub_server.published.clear()
    pubsub_server.end_streams()
    await until(lambda: pubsub_server.streams_opened == 2)
    await instance.is_hearing()
    assert len({message.ordering_key for message in pubsub_server.published}) == 16


async def test_what_was_published_while_the_stream_was_away_comes(
    pubsub_server: PubSubServer, instance: Instance
) -> None:
    pubsub_server.faults.refuse_next("StreamingPull", grpc.StatusCode.UNAVAILABLE, times=2)
    pubsub_server.end_streams()
    await instance.is_deaf()
    await instance.hears(b"meanwhile")


async def test_a_deleted_subscription_is_made_anew_and_the_gap_is_told(
    pubsub_server: PubSubServer, instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    await instance.hears(b"1")
    pubsub_server.delete_subscription(f"projects/demo/subscriptions/hub-{INSTANCE}")
    await until(lambda: f"projects/demo/subscriptions/hub-{INSTANCE}-2" in pubsub_server.subscriptions)
    await instance.is_hearing()
    await instance.hears(b"2")
    assert instance.count("pubsub_gaps_total") == 1
    assert "a gap: " in caplog.text


async def test_with_a_topic_that_retains_a_new_subscription_leaves_no_gap(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    instance = make()
    await instance.start()
    await instance.hears(b"1")
    pubsub_server.faults.refuse_next("CreateSubscription", grpc.StatusCode.UNAVAILABLE, times=3)
    pubsub_server.delete_subscription(f"projects/demo/subscriptions/hub-{INSTANCE}")
    await instance.is_deaf()
    await instance.hears(b"meanwhile")
    assert instance.count("pubsub_gaps_total") == 0
    (seek,) = pubsub_server.calls("Seek")
    first = next(message for message in pubsub_server.published if message.data == b"1")
    assert 0 < (first.publish_time.ToNanoseconds() - seek.time.ToNanoseconds()) / 1e9 < 10


async def test_a_stream_that_carries_nothing_is_found_out(pubsub_server: PubSubServer, instance: Instance) -> None:
    pubsub_server.faults.deaf.add(f"projects/demo/subscriptions/hub-{INSTANCE}")
    pubsub_server.end_streams()
    await until(lambda: f"projects/demo/subscriptions/hub-{INSTANCE}-2" in pubsub_server.subscriptions)
    await instance.is_hearing()
    await instance.hears(b"1")
    assert f"projects/demo/subscriptions/hub-{INSTANCE}" not in pubsub_server.subscriptions


async def test_a_stream_that_falls_silent_is_found_out(
    pubsub_server: PubSubServer, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", (0.2, 0.3))
    pubsub_server.end_streams()  # so that the new limit is seen
    await until(lambda: pubsub_server.streams_opened == 2)
    await instance.is_hearing()
    pubsub_server.faults.deaf.add(f"projects/demo/subscriptions/hub-{INSTANCE}")
    await until(lambda: f"projects/demo/subscriptions/hub-{INSTANCE}-2" in pubsub_server.subscriptions)
    await instance.is_hearing()


async def test_not_found_just_after_creation_is_tried_again(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    pubsub_server.faults.refuse_next("CreateSubscription", grpc.StatusCode.NOT_FOUND, times=2)
    pubsub_server.faults.refuse_next("StreamingPull", grpc.StatusCode.NOT_FOUND, times=2)
    instance = make()
    await instance.start()
    assert list(pubsub_server.subscriptions) == [f"projects/demo/subscriptions/hub-{INSTANCE}"]


async def test_a_topic_that_is_not_there_is_told_with_the_command_that_makes_it(make: Callable[..., Instance]) -> None:
    with pytest.raises(FanoutStartError, match="gcloud pubsub topics create news --project=demo"):
        await make().start()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("CreateSubscription", "pubsub.subscriptions.create"),
        ("Publish", "roles/pubsub.publisher"),
        ("StreamingPull", "pubsub.subscriptions.consume"),
    ],
)
async def test_a_missing_permission_is_named_with_its_role(
    pubsub_server: PubSubServer, make: Callable[..., Instance], method: str, words: str
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    pubsub_server.faults.refuse_next(method, grpc.StatusCode.PERMISSION_DENIED, times=100)
    with pytest.raises(FanoutStartError, match=words):
        await make().start()


async def test_a_service_that_is_down_at_the_start_is_waited_for(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    pubsub_server.faults.refuse_next("CreateSubscription", grpc.StatusCode.UNAVAILABLE, times=3)
    await make().start()


async def test_a_permission_that_is_lost_later_does_not_end_the_instance(
    pubsub_server: PubSubServer, instance: Instance
) -> None:
    pubsub_server.faults.refuse_next("StreamingPull", grpc.StatusCode.PERMISSION_DENIED, times=3)
    pubsub_server.end_streams()
    assert "pubsub.subscriptions.consume" in await instance.is_deaf() or pubsub_server.streams_opened
    await instance.is_hearing()
    await instance.hears(b"1")


async def test_in_the_emulator_a_missing_topic_is_made(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    instance = make(emulated=True)
    await instance.start()
    await instance.hears(b"1")
    pubsub_server.delete_topic(TOPIC.path)  # while running: the next publish finds out
    await instance.publish(b"2")
    await until(lambda: f"projects/demo/subscriptions/hub-{INSTANCE}-2" in pubsub_server.subscriptions)
    await instance.is_hearing()
    await instance.hears(b"3")


async def test_on_the_real_service_a_topic_that_vanished_is_told_and_waited_for(
    pubsub_server: PubSubServer, instance: Instance
) -> None:
    pubsub_server.delete_topic(TOPIC.path)
    publishing = asyncio.create_task(instance.publish(b"1"))
    await until(lambda: "gcloud pubsub topics create news" in "".join(instance.fanout.unready_reasons()))
    pubsub_server.add_topic(TOPIC.path)
    await soon(publishing)
    await instance.is_hearing()
    await instance.hears(b"2")


async def test_closing_deletes_the_subscription(pubsub_server: PubSubServer, instance: Instance) -> None:
    await soon(instance.fanout.close())
    assert pubsub_server.subscriptions == {}


async def test_closing_while_starting_leaves_nothing_either(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    pubsub_server.faults.publish_gate = asyncio.Event()
    instance = make()
    starting = asyncio.create_task(instance.fanout.start(instance.deliver))
    await until(lambda: pubsub_server.streams_opened == 1)
    await soon(instance.fanout.close())
    await soon(starting)
    assert pubsub_server.subscriptions == {}
