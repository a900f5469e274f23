"""Publishing over the real wire, with what the emulator cannot be made to do."""

import asyncio
import random
from collections.abc import AsyncIterator

import grpc
import pytest

from app.fanout import Publication
from app.fanout.pubsub import publisher as module
from app.fanout.pubsub.client import PubSubClient, emulator_channel
from app.fanout.pubsub.names import TopicName
from app.fanout.pubsub.publisher import Publisher
from app.metrics import Metrics
from app.protocol.errors import ErrorCode, MessageError
from tests.support.deadline import soon, until
from tests.support.pubsub_server import PubSubServer

TOPIC = TopicName("demo", "news")


@pytest.fixture
async def publisher(pubsub_server: PubSubServer) -> AsyncIterator[Publisher]:
    pubsub_server.add_topic(TOPIC.path)
    client = PubSubClient(TOPIC, emulator_channel(pubsub_server.address), emulated=False)

    async def ignore() -> None: ...

    publisher = Publisher(client, Metrics(), on_topic_missing=ignore, chance=random.Random(1))
    yield publisher
    await publisher.close(1)
    await client.close()


def publication(number: int, channel: str = "news", size: int = 1) -> Publication:
    return Publication(str(number).encode().rjust(size), {"channel": channel})


async def test_what_comes_while_a_request_is_under_way_goes_out_together(
    pubsub_server: PubSubServer, publisher: Publisher
) -> None:
    gate = pubsub_server.faults.publish_gate = asyncio.Event()
    first = asyncio.create_task(publisher.publish(publication(0)))
    await until(lambda: len(pubsub_server.calls("Publish")) == 1)
    rest = [asyncio.create_task(publisher.publish(publication(number))) for number in range(1, 2500)]
    await asyncio.sleep(0)
    gate.set()
    ids = await soon(asyncio.gather(first, *rest))
    assert [len(request.messages) for request in pubsub_server.calls("Publish")] == [1, 1000, 1000, 499]
    assert [message.data for message in pubsub_server.published] == [str(number).encode() for number in range(2500)]
    assert ids == [message.message_id for message in pubsub_server.published]


async def test_all_messages_of_a_request_have_one_key_and_keys_go_in_parallel(
    pubsub_server: PubSubServer, publisher: Publisher
) -> None:
    gate = pubsub_server.faults.publish_gate = asyncio.Event()
    tasks = [asyncio.create_task(publisher.publish(publication(0, f"c{number}"))) for number in range(200)]
    await until(lambda: len(pubsub_server.calls("Publish")) == 16)  # one in flight for each key
    gate.set()
    await soon(asyncio.gather(*tasks))
    for request in pubsub_server.calls("Publish"):
        assert len({message.ordering_key for message in request.messages}) == 1


async def test_a_batch_stays_under_pubsubs_ten_megabytes(pubsub_server: PubSubServer, publisher: Publisher) -> None:
    tasks = [asyncio.create_task(publisher.publish(publication(number, size=2_000_000))) for number in range(12)]
    await soon(asyncio.gather(*tasks))
    assert len(pubsub_server.published) == 12
    assert max(request.ByteSize() for request in pubsub_server.calls("Publish")) < 10_000_000


async def test_a_message_that_can_never_fit_is_refused_to_its_sender_alone(
    pubsub_server: PubSubServer, publisher: Publisher
) -> None:
    results = await soon(
        asyncio.gather(
            publisher.publish(publication(1)),
            publisher.publish(publication(2, size=10_000_000)),
            publisher.publish(Publication(b"3", {"channel": "news", "other": "x" * 1025})),
            publisher.publish(publication(4)),
            return_exceptions=True,
        )
    )
    codes = [result.code if isinstance(result, MessageError) else result for result in results]
    assert codes == ["1", ErrorCode.TOO_LARGE, ErrorCode.TOO_LARGE, "2"]


async def test_a_failed_request_is_tried_again_with_the_same_messages(
    pubsub_server: PubSubServer, publisher: Publisher
) -> None:
    pubsub_server.faults.refuse_next("Publish", grpc.StatusCode.UNAVAILABLE, times=2)
    await soon(publisher.publish(publication(1)))
    first, second, third = pubsub_server.calls("Publish")
    assert first.messages == second.messages
    assert [message.data for message in third.messages] == [b"1"]
    assert len(pubsub_server.published) == 1


async def test_what_was_stored_but_answered_with_an_error_is_sent_again(
    pubsub_server: PubSubServer, publisher: Publisher
) -> None:
    pubsub_server.faults.stored_but_failed.append(grpc.StatusCode.DEADLINE_EXCEEDED)
    await soon(publisher.publish(publication(1)))
    assert [message.data for message in pubsub_server.published] == [b"1", b"1"]


async def test_when_it_cannot_be_done_the_senders_get_a_temporary_error_and_the_key_goes_on(
    pubsub_server: PubSubServer, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GIVE_UP_AFTER", 0.5)
    pubsub_server.faults.refuse_next("Publish", grpc.StatusCode.UNAVAILABLE, times=100)
    with pytest.raises(MessageError) as refused:
        await soon(publisher.publish(publication(1)))
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert refused.value.code.temporary
    pubsub_server.faults.refuse.clear()
    await soon(publisher.publish(publication(2)))
    assert [message.data for message in pubsub_server.published] == [b"2"]


async def test_a_message_that_pubsub_refuses_does_not_spoil_its_batch(
    pubsub_server: PubSubServer, publisher: Publisher
) -> None:
    gate = pubsub_server.faults.publish_gate = asyncio.Event()
    tasks = [asyncio.create_task(publisher.publish(publication(0)))]
    await until(lambda: len(pubsub_server.calls("Publish")) == 1)
    tasks += [
        asyncio.create_task(publisher.publish(publication(1))),
        asyncio.create_task(publisher.publish(Publication(b"2", {"channel": "news", "goog-x": "not allowed"}))),
        asyncio.create_task(publisher.publish(publication(3))),
    ]
    await asyncio.sleep(0)
    gate.set()
    results = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert [type(result) for result in results] == [str, str, MessageError, str]
    assert [message.data for message in pubsub_server.published] == [b"0", b"1", b"3"]


async def test_closing_sends_what_was_accepted(pubsub_server: PubSubServer, publisher: Publisher) -> None:
    gate = pubsub_server.faults.publish_gate = asyncio.Event()
    tasks = [asyncio.create_task(publisher.publish(publication(number))) for number in range(10)]
    await until(lambda: len(pubsub_server.calls("Publish")) == 1)
    closing = asyncio.create_task(publisher.close(5))
    gate.set()
    await soon(closing)
    assert len(await soon(asyncio.gather(*tasks))) == 10
    with pytest.raises(MessageError, match="shutting down"):
        await publisher.publish(publication(11))


async def test_what_cannot_be_sent_before_the_end_is_told_so(pubsub_server: PubSubServer, publisher: Publisher) -> None:
    pubsub_server.faults.publish_gate = asyncio.Event()
    tasks = [asyncio.create_task(publisher.publish(publication(number))) for number in range(3)]
    await until(lambda: len(pubsub_server.calls("Publish")) == 1)
    await soon(publisher.close(0.1))
    results = await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert all(isinstance(result, MessageError) and result.code is ErrorCode.UNAVAILABLE for result in results)
