"""Listening over the real wire: whatever ends a stream or a subscription, the instance hears again."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

import grpc
import pytest

from app.fanout import PROCESS, PROCESS_LENGTH, Delivery, FanoutStartError, Publication
from app.fanout.pubsub import PubSubFanout
from app.fanout.pubsub.client import PubSubClient, PubSubError, PubsubMessage, emulator_channel
from app.fanout.pubsub.listener import HEARTBEAT, ROLL_CALL, Times
from app.fanout.pubsub.names import TopicName, all_backlogs
from app.metrics import Metrics
from app.protocol.errors import ErrorCode, MessageError
from tests.support.deadline import soon, until
from tests.support.pubsub_server import PubSubServer

TOPIC = TopicName("demo", "news")
INSTANCE = "0123456789ab"
QUICK = Times(loopback=0.5, proof=2, tick=0.1, deaf=1)
PATIENT = replace(QUICK, loopback=10, proof=20)
"""For a subscription that has to last, however busy the machine is."""


def process_of(instance_id: str) -> str:
    """Return the process that an instance says it is, and clients never see."""
    return instance_id.ljust(PROCESS_LENGTH, "-")


class Instance:
    """A Pub/Sub fan-out on the test's server, and what it heard."""

    def __init__(
        self,
        server: PubSubServer,
        *,
        emulated: bool = False,
        instance_id: str = INSTANCE,
        times: Times = QUICK,
        now_ns: Callable[[], int] = time.time_ns,
        **options: Any,
    ) -> None:
        self.metrics = Metrics()
        self.heard: list[bytes] = []
        self.deliveries: list[Delivery] = []
        self.fanout = PubSubFanout(
            PubSubClient(TOPIC, emulator_channel(server.address), emulated=emulated),
            self.metrics,
            prefix="hub",
            instance_id=instance_id,
            process=process_of(instance_id),
            labels={"service": "Hub", "revision": "hub-00042", "instance": instance_id},
            now_ns=now_ns,
            chance=random.Random(1),
            times=times,
            **options,
        )
        self.listener = self.fanout._listener

    def deliver(self, delivery: Delivery) -> None:
        self.heard.append(delivery.data)
        self.deliveries.append(delivery)

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

    def received(self) -> float:
        return self.count("pubsub_messages_received_total")

    def covers_from_ns(self) -> int | None:
        return self.fanout.covers_from

    def heard_through(self) -> int | None:
        return self.fanout.heard_through

    def deaf_for_good(self) -> bool:
        return self.fanout.deaf

    async def is_hearing(self) -> None:
        await until(lambda: not self.fanout.unready_reasons())

    async def is_deaf(self) -> str:
        await until(lambda: bool(self.fanout.unready_reasons()))
        return self.fanout.unready_reasons()[0]


@pytest.fixture
async def make(pubsub_server: PubSubServer) -> AsyncIterator[Callable[..., Instance]]:
    async with AsyncExitStack() as stack:

        def instance(**options: Any) -> Instance:
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
    assert {message.ordering_key for message in pubsub_server.published} == set(all_backlogs())


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
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    instance = make(times=replace(QUICK, quiet=(0.2, 0.3)))
    await instance.start()
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


# Warm-up: what a new instance knows of the time before it


async def earlier(pubsub_server: PubSubServer, make: Callable[..., Instance], *numbers: int) -> None:
    """An instance that published these and is gone."""
    first = make(instance_id="a" * 12)
    await first.start()
    for number in numbers:
        await first.hears(b"%d" % number)
    await soon(first.fanout.close())


@pytest.mark.parametrize("emulated", [False, True])
async def test_a_new_instance_has_heard_what_came_before_it_when_it_is_ready_and_sends_it_to_nobody(
    pubsub_server: PubSubServer, make: Callable[..., Instance], emulated: bool
) -> None:
    pubsub_server.emulates = emulated
    pubsub_server.add_topic(TOPIC.path, retention=600)
    await earlier(pubsub_server, make, 1, 2, 3)
    pubsub_server.let_pass(100)
    instance = make(history_ttl=300, emulated=emulated)
    assert instance.covers_from_ns() is None
    await instance.start()
    assert [(delivery.data, delivery.live) for delivery in instance.deliveries] == [
        (b"1", False),
        (b"2", False),
        (b"3", False),
    ]
    assert {delivery.ordering_key for delivery in instance.deliveries} == {"cs-00"}
    assert instance.fanout.covers_from is not None
    age = (time.time_ns() - instance.fanout.covers_from) / 1e9
    assert 90 < age < 120, "as far as there is evidence"
    assert instance.fanout.begins_there, "and nothing was ever published before"
    assert instance.fanout.notes() == []
    await instance.hears(b"4")
    assert instance.deliveries[-1].live


@pytest.mark.parametrize("emulated", [False, True])
async def test_it_looks_back_no_further_than_history_goes(
    pubsub_server: PubSubServer, make: Callable[..., Instance], emulated: bool
) -> None:
    pubsub_server.emulates = emulated
    pubsub_server.add_topic(TOPIC.path, retention=600)
    await earlier(pubsub_server, make, 1)
    pubsub_server.let_pass(200)
    await earlier(pubsub_server, make, 2)
    pubsub_server.let_pass(200)
    instance = make(history_ttl=300, emulated=emulated)
    await instance.start()
    assert instance.heard == [b"2"]
    assert instance.fanout.covers_from is not None
    assert (time.time_ns() - instance.fanout.covers_from) / 1e9 < 310


@pytest.mark.parametrize("key", ["cs-07", ""])
async def test_it_is_not_ready_before_the_backlog_of_every_key_and_of_none_is_heard(
    pubsub_server: PubSubServer, make: Callable[..., Instance], key: str
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    await earlier(pubsub_server, make, 1)
    pubsub_server.faults.deaf_keys.add((f"projects/demo/subscriptions/hub-{INSTANCE}", key))
    instance = make(history_ttl=300, times=replace(QUICK, loopback=3))
    starting = asyncio.create_task(instance.start())
    await until(lambda: b"1" in instance.heard)
    assert not starting.done()
    assert instance.fanout.covers_from is None
    await soon(starting)  # on another subscription: what this one swallowed is gone
    assert f"projects/demo/subscriptions/hub-{INSTANCE}-2" in pubsub_server.subscriptions


async def test_without_retention_it_knows_of_nothing_before_and_says_so_once(
    pubsub_server: PubSubServer, make: Callable[..., Instance], caplog: pytest.LogCaptureFixture
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    before = time.time_ns()
    instance = make(history_ttl=300)
    await instance.start()
    pubsub_server.delete_subscription(f"projects/demo/subscriptions/hub-{INSTANCE}")
    await until(lambda: pubsub_server.streams_opened == 2)
    await instance.is_hearing()
    assert not instance.fanout.begins_there
    (note,) = instance.fanout.notes()
    assert "gcloud pubsub topics update news --project=demo --message-retention-duration=600s" in note
    assert caplog.text.count(note) == 1
    assert instance.fanout.covers_from is not None
    assert instance.fanout.covers_from > before
    assert pubsub_server.calls("Seek")[1:] == []


async def test_a_retention_that_is_too_short_is_noted(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    instance = make(history_ttl=1200)
    await instance.start()
    assert "retains only 600 s" in instance.fanout.notes()[0]
    assert not instance.fanout.begins_there


async def test_without_history_nothing_is_looked_back_for_and_nothing_noted(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    instance = make()
    await instance.start()
    assert (pubsub_server.calls("Seek"), instance.fanout.notes()) == ([], [])
    assert instance.fanout.covers_from is not None


async def test_what_it_covers_stays_where_it_was_when_a_hole_is_closed(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    await earlier(pubsub_server, make, 1)
    pubsub_server.let_pass(100)
    instance = make(history_ttl=300)
    await instance.start()
    await instance.hears(b"2")
    covered = instance.fanout.covers_from
    pubsub_server.delete_subscription(f"projects/demo/subscriptions/hub-{INSTANCE}")
    await instance.is_deaf()
    await instance.hears(b"3")
    await instance.is_hearing()
    assert instance.fanout.covers_from == covered
    assert instance.count("pubsub_gaps_total") == 0


async def test_what_it_covers_moves_forward_over_a_gap(pubsub_server: PubSubServer, instance: Instance) -> None:
    await instance.hears(b"1")
    covered = instance.fanout.covers_from
    assert covered is not None
    pubsub_server.delete_subscription(f"projects/demo/subscriptions/hub-{INSTANCE}")
    await instance.is_deaf()
    deaf = time.time_ns()
    await until(lambda: pubsub_server.streams_opened == 2)
    await instance.is_hearing()
    assert instance.fanout.covers_from is not None
    assert covered < deaf < instance.fanout.covers_from


async def test_a_topic_that_was_made_anew_proves_nothing_of_its_predecessor(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    instance = make(history_ttl=300)
    await instance.start()
    await instance.hears(b"1")
    pubsub_server.delete_topic(TOPIC.path)
    pubsub_server.add_topic(TOPIC.path, retention=600)
    made = time.time_ns()
    await instance.listener.topic_missing()
    await until(lambda: pubsub_server.streams_opened == 2)
    await instance.is_hearing()
    assert instance.count("pubsub_gaps_total") == 1
    assert instance.fanout.covers_from is not None
    assert instance.fanout.covers_from > made
    other = make(instance_id="b" * 12, history_ttl=300)
    await other.start()
    assert other.fanout.covers_from is not None
    assert other.fanout.covers_from > made


async def test_a_seek_that_fails_leaves_no_more_than_what_came_since(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    await earlier(pubsub_server, make, 1)
    pubsub_server.faults.refuse_next("Seek", grpc.StatusCode.UNAVAILABLE)
    before = time.time_ns()
    instance = make(history_ttl=300)
    await instance.start()
    assert instance.fanout.covers_from is not None
    assert instance.fanout.covers_from > before


async def test_a_straggler_from_before_the_start_is_live_because_nobody_else_will_send_it(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    await earlier(pubsub_server, make, 1)
    pubsub_server.let_pass(50)
    instance = make(history_ttl=300)
    await instance.start()
    old = next(message for message in pubsub_server.published if message.data == b"1")
    pubsub_server.deliver_again(old)
    await until(lambda: instance.heard.count(b"1") == 2)
    assert [delivery.live for delivery in instance.deliveries] == [False, True]


# Deafness


async def test_the_lag_is_that_of_any_own_message(pubsub_server: PubSubServer, instance: Instance) -> None:
    instance.metrics.pubsub_lag.set(-1)
    await soon(instance.fanout.publish(Publication(b"1", {"channel": "news", "origin": INSTANCE, "seq": "1"})))
    await until(lambda: 0 <= instance.count("pubsub_lag_seconds") < 10)


async def test_an_own_message_that_is_not_heard_is_asked_after_although_others_are(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    instance = make(times=replace(QUICK, overdue=0.3))
    await instance.start()
    pubsub_server.faults.deaf_keys.add((f"projects/demo/subscriptions/hub-{INSTANCE}", "cs-00"))
    await soon(instance.fanout.publish(Publication(b"lost", {"channel": "news", "origin": INSTANCE, "seq": "1"})))
    await until(lambda: b"lost" in instance.heard)
    assert f"projects/demo/subscriptions/hub-{INSTANCE}-2" in pubsub_server.subscriptions
    assert instance.count("pubsub_gaps_total") == 0


async def test_it_is_deaf_for_good_once_another_chance_is_gone_and_until_it_hears_again(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    instance = make(times=replace(QUICK, quiet=(0.2, 0.3)))
    await instance.start()
    pubsub_server.faults.all_deaf = True
    await instance.is_deaf()
    assert not instance.deaf_for_good(), "its first chance is another subscription"
    await until(instance.deaf_for_good)
    assert instance.fanout.deaf
    assert pubsub_server.streams_opened > 1
    pubsub_server.faults.all_deaf = False
    await instance.is_hearing()
    assert not instance.fanout.deaf


async def test_who_hears_itself_on_all_keys_but_one_is_deaf_too(
    pubsub_server: PubSubServer, make: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "app.fanout.pubsub.listener.RETRY_DELAY", (0.05, 0.1)
    )  # it is never long without an own message
    pubsub_server.add_topic(TOPIC.path, retention=600)
    instance = make(times=replace(QUICK, loopback=0.3, deaf=2))
    await instance.start()
    name = f"projects/demo/subscriptions/hub-{INSTANCE}"
    pubsub_server.faults.deaf_keys |= {
        (f"{name}{suffix}", "cs-07") for suffix in ("", *(f"-{n}" for n in range(2, 99)))
    }
    pubsub_server.delete_subscription(name)
    await until(instance.deaf_for_good)
    pubsub_server.faults.deaf_keys.clear()
    await instance.is_hearing()
    assert not instance.fanout.deaf


async def test_an_instance_that_cannot_publish_is_deaf_too_and_leaves_its_stream_alone(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    instance = make(times=replace(QUICK, quiet=(0.2, 0.3)))
    await instance.start()
    pubsub_server.faults.refuse_next("Publish", grpc.StatusCode.UNAVAILABLE, times=10_000)
    assert "UNAVAILABLE" in await instance.is_deaf()
    await until(instance.deaf_for_good)
    pubsub_server.faults.refuse.clear()
    await instance.is_hearing()
    assert not instance.fanout.deaf
    assert pubsub_server.streams_opened == 1


def test_the_times_keep_what_they_promise() -> None:
    times = Times()
    assert times.quiet[1] + times.loopback <= 30
    assert times.overdue + times.tick + times.proof < 30


# Who else is there


async def test_instances_know_each_other_by_anything_they_say(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    old = make(revision="hub-00001")
    await old.start()
    assert old.fanout.peers == {}
    new = make(instance_id="b" * 12, revision="hub-00002")
    await new.start()
    await until(lambda: "b" * 12 in old.fanout.peers)
    assert old.fanout.peers["b" * 12].revision == "hub-00002"
    assert INSTANCE not in new.fanout.peers, "it has said nothing since"
    await soon(old.fanout.publish(Publication(b"1", {"channel": "news", "origin": INSTANCE, "seq": "1"})))
    await until(lambda: INSTANCE in new.fanout.peers)
    assert abs(new.fanout.peers[INSTANCE].spoke_ns - time.time_ns()) < 10e9


async def test_who_has_nothing_to_say_says_that_it_lives_and_who_talks_does_not(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    def heartbeats() -> int:
        return sum(message.attributes["type"] == HEARTBEAT for message in pubsub_server.published)

    pubsub_server.add_topic(TOPIC.path)
    quiet = make(times=replace(QUICK, heartbeat=(1.5, 1.5)), revision="hub-00001")
    await quiet.start()
    for number in range(30):
        attributes = {"origin": INSTANCE, PROCESS: process_of(INSTANCE), "seq": str(number)}
        await soon(quiet.fanout.publish(Publication(b"1", attributes)))
        await asyncio.sleep(0.1)
    assert heartbeats() == 0
    await until(lambda: heartbeats() == 1)
    assert pubsub_server.published[-1].attributes["revision"] == "hub-00001"


async def test_a_roll_call_is_answered_at_once(pubsub_server: PubSubServer, make: Callable[..., Instance]) -> None:
    pubsub_server.add_topic(TOPIC.path)
    one, other = make(), make(instance_id="b" * 12)
    await one.start()
    await other.start()
    await one.listener.call_roll()

    def heartbeats() -> list[str]:
        said = [message.attributes for message in pubsub_server.published]
        return [attributes["origin"] for attributes in said if attributes["type"] == HEARTBEAT]

    await until(lambda: heartbeats() == ["b" * 12])
    assert one.heard == other.heard == []


async def test_roll_calls_are_answered_once_in_five_seconds(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    """Whoever may publish can call the roll; all instances hear all answers, so these are few."""
    pubsub_server.add_topic(TOPIC.path)
    instance = make()
    await instance.start()

    def count(kind: str) -> int:
        return sum(message.attributes["type"] == kind for message in pubsub_server.published)

    async def call() -> None:
        heard = instance.received()
        await soon(instance.fanout.publish(Publication(b"{}", {"type": ROLL_CALL, "origin": "anybody"})))
        await until(lambda: instance.received() > heard)

    await call()
    await until(lambda: count(HEARTBEAT) == 1)
    before = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - before < 1.0:  # ticks in plenty
        await call()
    assert count(HEARTBEAT) == 1


async def test_nobody_speaks_for_an_instance_whose_name_they_know(
    pubsub_server: PubSubServer, instance: Instance
) -> None:
    """An origin is public; a message that has it and not the process is not this instance's own."""
    listener = instance.listener
    heard_ns, flying = listener.own_heard_ns, listener.canaries
    flying.replace("cs-00", "1-99", 0.0)
    received = instance.received()
    forged = {"origin": INSTANCE, "type": HEARTBEAT, "token": "1-99"}
    await soon(instance.fanout._client.publish([_signal(forged, process) for process in ("", "x" * 32)], timeout=5))
    await until(lambda: instance.received() >= received + 2)
    assert flying.any_of(["cs-00"])
    assert listener.own_heard_ns == heard_ns
    await soon(instance.fanout._client.publish([_signal(forged, process_of(INSTANCE))], timeout=5))
    await until(lambda: not flying.any_of(["cs-00"]))


def _signal(attributes: dict[str, str], process: str) -> Any:
    return PubsubMessage(data=b"{}", attributes={**attributes, PROCESS: process}, ordering_key="cs-00")


# Outages


async def test_what_was_accepted_while_pubsub_came_and_went_is_all_heard(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    instance = make(history_ttl=300)
    await instance.start()
    chance = random.Random(7)
    accepted: list[bytes] = []

    async def publish(number: int) -> None:
        data = b"%d" % number
        try:
            await instance.fanout.publish(Publication(data, {"channel": f"c{number % 40}"}))
        except MessageError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
        else:
            accepted.append(data)

    publishing = []
    for number in range(400):
        if number % 20 == 0:
            match chance.randrange(4):
                case 0:
                    pubsub_server.end_streams()
                case 1:
                    pubsub_server.faults.refuse_next("Publish", grpc.StatusCode.UNAVAILABLE, times=5)
                case 2:
                    pubsub_server.faults.stored_but_failed.append(grpc.StatusCode.DEADLINE_EXCEEDED)
                case 3:
                    pubsub_server.delete_subscription(next(iter(pubsub_server.subscriptions)))
                    await until(lambda: bool(pubsub_server.subscriptions))
        publishing.append(asyncio.create_task(publish(number)))
        await asyncio.sleep(0.002)
    await soon(asyncio.gather(*publishing))
    await until(lambda: set(accepted) <= set(instance.heard), what="something accepted was never heard")
    assert len(accepted) == 400
    assert instance.count("pubsub_gaps_total") == 0


async def test_a_stop_of_the_process_is_no_deafness(pubsub_server: PubSubServer, make: Callable[..., Instance]) -> None:
    pubsub_server.add_topic(TOPIC.path)
    instance = make(times=replace(QUICK, quiet=(0.2, 0.3)))
    await instance.start()
    for _ in range(3):
        await asyncio.sleep(0.3)
        time.sleep(1.5)  # noqa: ASYNC251  # nothing runs, as after SIGSTOP; longer than a canary may take
    await instance.hears(b"1")
    assert instance.count("pubsub_subscriptions_made_total") == 1
    assert instance.count("pubsub_streams_total") == 1


async def test_a_stop_that_is_longer_than_the_subscription_keeps_messages_is_looked_back_over(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=3600)
    instance = make(history_ttl=300)
    await instance.start()
    await instance.hears(b"1")
    instance.listener._last_read_ns -= 700 * 10**9
    await instance.publish(b"2")
    await until(lambda: f"projects/demo/subscriptions/hub-{INSTANCE}-2" in pubsub_server.subscriptions)
    await until(lambda: b"2" in instance.heard)
    await instance.is_hearing()
    assert instance.count("pubsub_gaps_total") == 0


async def test_behind_a_hole_nothing_is_handed_over_before_the_hole_is_told(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    instance = make(times=PATIENT)
    covered: dict[bytes, int | None] = {}

    def deliver(delivery: Delivery) -> None:
        covered[delivery.data] = instance.fanout.covers_from
        instance.deliver(delivery)

    await soon(instance.fanout.start(deliver))
    await instance.hears(b"1")
    received = instance.count("pubsub_messages_received_total")
    second = f"projects/demo/subscriptions/hub-{INSTANCE}-2"
    gate = pubsub_server.faults.publish_gate = asyncio.Event()  # without its own messages it cannot be proven
    pubsub_server.delete_subscription(f"projects/demo/subscriptions/hub-{INSTANCE}")
    await until(lambda: second in pubsub_server.subscriptions and pubsub_server.streams_opened > 1)
    message = type(pubsub_server.published[-1])(data=b"behind the hole", message_id="1000", ordering_key="cs-00")
    message.publish_time.FromNanoseconds(time.time_ns())
    pubsub_server.subscriptions[second].add(message)
    await until(lambda: instance.count("pubsub_messages_received_total") > received)
    assert b"behind the hole" not in instance.heard
    gate.set()
    await until(lambda: b"behind the hole" in instance.heard)
    assert (covered[b"behind the hole"] or 0) > (covered[b"1"] or 0)


async def test_after_a_stop_it_says_how_far_it_has_heard_until_it_has_caught_up(
    pubsub_server: PubSubServer, instance: Instance
) -> None:
    await instance.hears(b"1")
    heard = instance.deliveries[-1].publish_time_ns
    assert instance.heard_through() is None
    gate = pubsub_server.faults.publish_gate = asyncio.Event()
    instance.listener._was_stopped(1.0)
    assert instance.heard_through() is None
    instance.listener._was_stopped(3.0)
    assert (instance.heard_through() or 0) >= (heard or 0) > 0
    gate.set()
    await until(lambda: instance.heard_through() is None)
    assert {message.ordering_key for message in pubsub_server.published[-len(all_backlogs()) :]} == set(all_backlogs())


async def test_a_stop_is_noticed_at_what_comes_first_after_it(
    pubsub_server: PubSubServer, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    await instance.hears(b"1")
    pubsub_server.faults.publish_gate = gate = asyncio.Event()
    with monkeypatch.context() as stopped:
        stopped.setattr(instance.listener._patience, "asleep_for", lambda _: 5.0)
        pubsub_server.deliver_again(pubsub_server.published[-1])
        await until(lambda: instance.heard_through() is not None, 5)
    gate.set()
    await until(lambda: instance.heard_through() is None)


async def test_a_deaf_stream_freezes_how_far_it_has_heard(pubsub_server: PubSubServer, instance: Instance) -> None:
    await instance.hears(b"1")
    pubsub_server.faults.refuse_next("StreamingPull", grpc.StatusCode.UNAVAILABLE, times=2)
    pubsub_server.end_streams()
    await until(lambda: instance.heard_through() is not None)
    await instance.is_hearing()
    await until(lambda: instance.heard_through() is None)


async def leaves_out_two_of_five(pubsub_server: PubSubServer, make: Callable[..., Instance]) -> None:
    """As the emulator does it with the next subscription."""
    pubsub_server.emulates = True
    pubsub_server.add_topic(TOPIC.path, retention=600)
    await earlier(pubsub_server, make, *range(5))
    pubsub_server.faults.hole = {b"2", b"3"}


async def test_what_the_emulator_leaves_out_of_a_new_subscription_comes_in_its_place(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    await leaves_out_two_of_five(pubsub_server, make)
    instance = make(emulated=True, history_ttl=300, times=PATIENT)
    await instance.start()
    assert [data for data in instance.heard if data.isdigit()] == [b"0", b"1", b"2", b"3", b"4"]
    assert list(pubsub_server.subscriptions) == [f"projects/demo/subscriptions/hub-{INSTANCE}"]
    assert all(data != b"{}" for data in instance.heard), "what instances tell each other is no message"


async def test_what_is_left_out_while_the_emulator_takes_long_comes_in_its_place_too(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    await leaves_out_two_of_five(pubsub_server, make)

    def now_ns() -> int:  # making the second subscription takes ten seconds
        is_made = any(name.endswith("-0") for name in pubsub_server.subscriptions)
        return time.time_ns() - (0 if is_made else 10 * 10**9)

    instance = make(emulated=True, history_ttl=300, times=PATIENT, now_ns=now_ns)
    await instance.start()
    assert [data for data in instance.heard if data.isdigit()] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_start_on_a_slow_pubsub_is_more_patient_each_time(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    """It would else make ever more subscriptions, each of which makes Pub/Sub slower."""
    pubsub_server.add_topic(TOPIC.path)
    pubsub_server.faults.all_deaf = True
    instance = make()
    times: list[float] = []

    def deafen() -> bool:
        if len(times) < len(pubsub_server.calls("CreateSubscription")):
            times.append(time.monotonic())
        return len(times) == 4

    starting = asyncio.create_task(instance.start())
    await until(deafen)
    first, second, third = (later - earlier for earlier, later in pairwise(times))
    assert first >= 0.5
    assert second >= 1
    assert third >= 2
    pubsub_server.faults.all_deaf = False
    for subscription in pubsub_server.subscriptions.values():
        subscription.wake.set()
    await starting


async def test_what_is_new_waits_for_what_the_second_look_found(
    pubsub_server: PubSubServer, make: Callable[..., Instance]
) -> None:
    """However long it takes to clear up behind it."""
    await leaves_out_two_of_five(pubsub_server, make)
    gate = pubsub_server.faults.delete_gate = asyncio.Event()
    instance = make(emulated=True, history_ttl=300, times=PATIENT)
    starting = asyncio.create_task(instance.start())
    deletions = pubsub_server.calls("DeleteSubscription")
    await until(lambda: len(pubsub_server.calls("DeleteSubscription")) > len(deletions))
    other = make(instance_id="b" * 12)
    await other.publish(b"5")
    await until(lambda: b"5" in instance.heard)
    gate.set()
    await soon(starting)
    assert [data for data in instance.heard if data.isdigit()] == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_what_is_left_out_comes_in_its_place_when_the_second_subscription_fails_at_first(
    pubsub_server: PubSubServer, make: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is there then, as an instance that stood still finds it, and its hole is as old as it is."""
    await leaves_out_two_of_five(pubsub_server, make)
    failed: list[str] = []
    instance = make(
        emulated=True,
        history_ttl=300,
        times=PATIENT,
        now_ns=lambda: time.time_ns() + (10 if failed else -10) * 10**9,
    )
    client = instance.listener._client
    create = client.create_subscription

    async def create_late(subscription: str, labels: Mapping[str, str]) -> float:
        if subscription.endswith("-0") and not failed:
            failed.append(subscription)
            raise PubSubError("create_subscription", grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return await create(subscription, labels)

    monkeypatch.setattr(client, "create_subscription", create_late)
    await instance.start()
    assert failed
    assert [data for data in instance.heard if data.isdigit()] == [b"0", b"1", b"2", b"3", b"4"]
