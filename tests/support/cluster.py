"""Several instances of the service on one topic of the emulator."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

from app.fanout.pubsub.client import emulator_channel
from tests.support.client import Client
from tests.support.process import ROOT, Server

PROJECT = "demo"


class Topic:
    """A topic in an emulator, as a service that publishes to it sees it."""

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name
        self.path = f"projects/{PROJECT}/topics/{name}"
        self._channel = emulator_channel(address)
        self._publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=self._channel))
        self._subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=self._channel))

    async def publish(self, data: bytes, **attributes: str) -> str:
        """Publish one message; answers its id."""
        message = types.PubsubMessage(data=data, attributes=attributes)
        request = types.PublishRequest(topic=self.path, messages=[message])
        response = await self._publisher.publish(request=request, timeout=10)
        return str(response.message_ids[0])

    async def create(self) -> None:
        """Make it before an instance does, without retention."""
        await self._publisher.create_topic(request=types.Topic(name=self.path), timeout=10)

    async def subscriptions(self) -> list[str]:
        """The subscriptions of this topic."""
        request = types.ListSubscriptionsRequest(project=f"projects/{PROJECT}")
        pages = await self._subscriber.list_subscriptions(request=request)
        return [found.name.rpartition("/")[2] async for found in pages if found.topic == self.path]

    async def delete_subscription(self, name: str) -> None:
        """Take a subscription away from whoever uses it."""
        path = f"projects/{PROJECT}/subscriptions/{name}"
        await self._subscriber.delete_subscription(request=types.DeleteSubscriptionRequest(subscription=path))

    async def publish_from_another_process(self, channel: str, count: int) -> None:
        """As tests.support.publisher says."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PUBSUB_EMULATOR_HOST": self.address,
            "GOOGLE_CLOUD_PROJECT": PROJECT,
        }
        arguments = [sys.executable, "-m", "tests.support.publisher", self.name, channel, str(count)]
        process = await asyncio.create_subprocess_exec(*arguments, cwd=ROOT, env=environment)
        assert await process.wait() == 0

    def server(self, **variables: str) -> Server:
        """An instance of the service on this topic."""
        return Server(
            PUBSUB_EMULATOR_HOST=self.address,
            GOOGLE_CLOUD_PROJECT=PROJECT,
            CLOUD_SOCKETS_PUBSUB_TOPIC_NAME=self.name,
            **variables,
        )

    async def close(self) -> None:
        """End the connection to the emulator."""
        await self._channel.close(None)


@asynccontextmanager
async def cluster(
    address: str, topic_name: str, count: int, **variables: str
) -> AsyncIterator[tuple[Topic, list[Server]]]:
    """A topic with so many instances that are ready."""
    topic = Topic(address, topic_name)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(topic.close)
        servers = [topic.server(**variables) for _ in range(count)]
        await asyncio.gather(*(stack.enter_async_context(server) for server in servers))
        yield topic, servers


@asynccontextmanager
async def clients(servers: Iterable[Server], **options: object) -> AsyncIterator[list[Client]]:
    """A client on each of these."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client(server.url, **options)) for server in servers]
