"""Looking after subscriptions by hand, with what the emulator cannot be made to do."""

from collections.abc import AsyncIterator

import grpc
import pytest

from app.fanout.pubsub.census import Census, CensusError
from app.fanout.pubsub.client import PubSubClient, emulator_channel
from app.fanout.pubsub.names import TopicName
from tests.support.deadline import soon
from tests.support.pubsub_server import PubSubServer

TOPIC = TopicName("demo", "news")
DEAD = "d" * 12


@pytest.fixture
async def census(pubsub_server: PubSubServer) -> AsyncIterator[Census]:
    client = PubSubClient(TOPIC, emulator_channel(pubsub_server.address), emulated=False)
    made = Census(client, prefix="hub", answer_time=0.1)
    yield made
    await made.close()


async def left(pubsub_server: PubSubServer, subscription_id: str, **labels: str) -> str:
    """A subscription that somebody left behind; answers its full name."""
    client = PubSubClient(TOPIC, emulator_channel(pubsub_server.address), emulated=False)
    name = TOPIC.subscription(subscription_id)
    await client.create_subscription(name, labels)
    await client.close()
    return name


async def test_only_what_an_instance_made_is_judged(pubsub_server: PubSubServer, census: Census) -> None:
    pubsub_server.add_topic(TOPIC.path, retention=600)
    orphan = await left(pubsub_server, f"hub-{DEAD}", instance=DEAD, service="hub", revision="hub-1")
    await left(pubsub_server, f"hub-{'e' * 12}", instance="another")
    await left(pubsub_server, "reports", service="hub")
    said: list[str] = []
    verdicts = await soon(census.judge(1, said.append))
    assert [verdict.found.name for verdict in verdicts if verdict.orphan] == [orphan]
    assert {verdict.why for verdict in verdicts if not verdict.orphan} == {"no instance made it"}
    assert said[-1].startswith("calling the roll")
    assert len(pubsub_server.subscriptions) == 3, "its own is gone"
    await census.delete(orphan)
    await census.delete(orphan)
    assert len(pubsub_server.subscriptions) == 2


async def test_where_no_instance_made_any_nobody_is_listened_to(pubsub_server: PubSubServer, census: Census) -> None:
    pubsub_server.add_topic(TOPIC.path)
    await left(pubsub_server, "reports")
    assert [verdict.orphan for verdict in await census.judge(1800, print)] == [False]
    assert pubsub_server.streams_opened == 0


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("ListTopicSubscriptions", "pubsub.topics.get"),
        ("GetSubscription", "pubsub.subscriptions.get"),
        ("CreateSubscription", "pubsub.subscriptions.create"),
        ("Publish", "pubsub.topics.publish"),
    ],
)
async def test_a_missing_permission_is_named(
    pubsub_server: PubSubServer, census: Census, method: str, words: str
) -> None:
    pubsub_server.add_topic(TOPIC.path)
    await left(pubsub_server, f"hub-{DEAD}", instance=DEAD)
    pubsub_server.faults.refuse_next(method, grpc.StatusCode.PERMISSION_DENIED, times=100)
    with pytest.raises(CensusError, match=words):
        await soon(census.judge(1, print))
    assert list(pubsub_server.subscriptions) == [TOPIC.subscription(f"hub-{DEAD}")]


async def test_a_topic_that_is_not_there_is_told_with_the_command_that_makes_it(census: Census) -> None:
    with pytest.raises(CensusError, match="gcloud pubsub topics create news --project=demo"):
        await census.subscriptions()
