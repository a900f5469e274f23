"""Who publishes: over the topic, HTTP and sockets, acknowledged and plain; each message is numbered.

A publisher sends one message after the other. One that has an id which the service knows again may be sent again when
no answer came: by the topic and HTTP, which are one sender together. A socket that is opened anew is another sender, so
what was said on the old one is not said again.
"""

import asyncio
import contextlib
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.pubsub_v1 import PublisherAsyncClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from app.client import Client, ClosedError, RequestError
from app.fanout.pubsub.client import emulator_channel
from tests.chaos.clients import LONGEST_WAIT, OPTIONS, address
from tests.chaos.ledger import Ledger, Message, Source

TIMEOUT = 5.0
ATTEMPTS = 3
CATCH_UP = 5.0
"""Seconds that a publisher which had to wait may be behind its pace; then it publishes at once until it is not."""
REOPEN = (0.1, 1.0)
"""Seconds before a plain publisher opens another socket."""


def service_key(channel: str | None) -> str:
    """The name of the ordering key that the service itself gives a channel; its own for each is strict enough."""
    return f"service of {channel}"


class Topic:
    """The topic, as other services publish to it."""

    def __init__(self, emulator: str, path: str) -> None:
        self._path = path
        self._channel = emulator_channel(emulator)
        self._publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=self._channel))

    async def publish(
        self, data: bytes, *, ordering_key: str = "", attributes: Mapping[str, str] | None = None
    ) -> bool:
        """Publish; answers whether it was accepted."""
        message = types.PubsubMessage(data=data, ordering_key=ordering_key, attributes=attributes or {})
        request = types.PublishRequest(topic=self._path, messages=[message])
        try:
            await self._publisher.publish(request=request, timeout=TIMEOUT, retry=None)
        except (GoogleAPICallError, grpc.aio.AioRpcError):
            return False
        return True

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close(None)


class Publisher(ABC):
    """A source with a way to send."""

    attempts = 1
    """How often a message is sent until it is accepted."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._turn = asyncio.Lock()

    async def publish(self, *, padding: int = 0, copies: int = 1) -> None:
        """Publish the next message, with so many bytes of padding; more copies of it where those are known again."""
        async with self._turn:
            message = self.source.begin(time.monotonic())
            for _ in range(copies if self.knows_again else 1):
                await self._send(message, padding)

    async def repeat(self) -> None:
        """Publish the latest message once more, if it was accepted and is known again."""
        async with self._turn:
            if self.knows_again and self.source.messages and not self.source.messages[-1].in_doubt:
                await self._send(self.source.messages[-1], 0)

    @property
    def knows_again(self) -> bool:
        """Whether a message that is sent twice is delivered once."""
        return self.attempts > 1

    async def _send(self, message: Message, padding: int) -> None:
        for _ in range(self.attempts):
            if await self.send(message, padding):
                message.accept(time.monotonic())
                return

    @abstractmethod
    async def send(self, message: Message, padding: int) -> bool:
        """Send it once; answers whether it was accepted."""

    async def open(self) -> None:  # noqa: B027 - not all have something to open
        """Get ready."""

    async def close(self) -> None:  # noqa: B027 - nor to close
        """Leave."""


def _payload(message: Message, padding: int) -> dict[str, Any]:
    return {"source": message.source.name, "number": message.number, "padding": "x" * padding}


def _announce(message: Message, padding: int) -> dict[str, Any]:
    """As section 3 of the contract has it; what has no channel goes to everyone."""
    channel = message.source.channel
    where = {"type": "broadcast"} if channel is None else {"type": "announce", "channel": channel}
    return {**where, "id": str(message), "payload": _payload(message, padding)}


class OrderedTopicPublisher(Publisher):
    """A service that publishes whole messages to the topic, with an ordering key of its own for the channel."""

    attempts = ATTEMPTS

    def __init__(self, source: Source, topic: Topic) -> None:
        super().__init__(source)
        self._topic = topic

    async def send(self, message: Message, padding: int) -> bool:
        data = json.dumps(_announce(message, padding)).encode()
        return await self._topic.publish(data, ordering_key=f"chaos-{message.source.channel}")


class UnorderedTopicPublisher(Publisher):
    """A service that publishes payloads alone to the topic, without order and without ids, each once."""

    def __init__(self, source: Source, topic: Topic) -> None:
        super().__init__(source)
        self._topic = topic

    async def send(self, message: Message, padding: int) -> bool:
        assert message.source.channel is not None
        attributes = {"type": "announce", "channel": message.source.channel}
        return await self._topic.publish(json.dumps(_payload(message, padding)).encode(), attributes=attributes)


class HttpPublisher(Publisher):
    """A service that publishes over HTTP, with a connection for each message."""

    attempts = ATTEMPTS

    def __init__(self, source: Source, port: int) -> None:
        super().__init__(source)
        self._port = port

    async def send(self, message: Message, padding: int) -> bool:
        try:
            async with asyncio.timeout(TIMEOUT):
                return await _post(self._port, "/api/messages", _announce(message, padding)) == 202
        except (OSError, EOFError, ValueError, IndexError):
            return False


async def _post(port: int, path: str, message: object) -> int:
    """The status that a POST is answered with."""
    body = json.dumps(message).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return int((await reader.readuntil(b"\r\n")).split()[1])
    finally:
        writer.transport.abort()


class SocketPublisher(Publisher):
    """A client that announces and awaits the acknowledgement."""

    def __init__(self, source: Source, url: str) -> None:
        super().__init__(source)
        self._client = Client(
            address(url, source.name),
            on_message=lambda _: None,
            request_timeout=TIMEOUT,
            longest_wait=LONGEST_WAIT,
            compression=None,
            **OPTIONS,
        )

    async def open(self) -> None:
        await self._client.__aenter__()

    async def close(self) -> None:
        await self._client.close()

    async def send(self, message: Message, padding: int) -> bool:
        announce = _announce(message, padding)
        try:
            await self._client.publish(
                announce["type"], announce.get("channel"), payload=announce["payload"], id=announce["id"]
            )
        except (RequestError, ClosedError):
            return False
        return True


class PlainSocketPublisher(Publisher):
    """A socket that announces and asks for no acknowledgement: all it sends is in doubt."""

    def __init__(self, source: Source, url: str, chance: random.Random) -> None:
        super().__init__(source)
        self._url = address(url, source.name)
        self._chance = chance
        self._socket: ClientConnection | None = None
        self._running: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._running = asyncio.create_task(self._keep_open())

    async def _keep_open(self) -> None:
        """One socket after the other, each read to its end."""
        while True:
            with contextlib.suppress(OSError, WebSocketException):
                async with connect(self._url, compression=None, **OPTIONS) as socket:
                    self._socket = socket
                    async for _ in socket:
                        pass
            self._socket = None
            await asyncio.sleep(self._chance.uniform(*REOPEN))

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def send(self, message: Message, padding: int) -> bool:
        if self._socket is not None:
            with contextlib.suppress(WebSocketException):
                await self._socket.send(json.dumps(_announce(message, padding)))
        return False


class Crowd:
    """All publishers. They publish from `start` to `stop`, each at times of its own."""

    def __init__(
        self, url: str, port: int, topic: Topic, ledger: Ledger, channels: Sequence[str], chance: random.Random
    ) -> None:
        """Two for each channel, of all kinds in turn, and one that speaks to everyone."""
        self._chance = chance
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.to_all = HttpPublisher(ledger.source("to-all", None, service_key(None)), port)
        self.of_channels: list[Publisher] = []
        for number in range(2 * len(channels)):
            channel = channels[number // 2]
            key = service_key(channel)
            kind = number % 5
            name = f"{('topic', 'http', 'socket', 'unordered', 'plain')[kind]}-{number}"
            if kind == 0:
                publisher: Publisher = OrderedTopicPublisher(ledger.source(name, channel, f"topic of {channel}"), topic)
            elif kind == 1:
                publisher = HttpPublisher(ledger.source(name, channel, key), port)
            elif kind == 2:
                publisher = SocketPublisher(ledger.source(name, channel, key), url)
            elif kind == 3:
                publisher = UnorderedTopicPublisher(ledger.source(name, channel, None), topic)
            else:
                publisher = PlainSocketPublisher(ledger.source(name, channel, key), url, chance)
            self.of_channels.append(publisher)

    async def open(self) -> None:
        """Get ready, all of them. Raises ClosedError."""
        await asyncio.gather(*(publisher.open() for publisher in self.of_channels))

    def start(self, rate: float, rate_to_all: float) -> None:
        """Publish so many messages a second to channels, and to everyone."""
        loop = asyncio.get_running_loop()
        each = len(self.of_channels) / rate
        self._tasks = [loop.create_task(self._keep_publishing(publisher, each)) for publisher in self.of_channels]
        self._tasks.append(loop.create_task(self._keep_publishing(self.to_all, 1 / rate_to_all)))

    async def _keep_publishing(self, publisher: Publisher, interval: float) -> None:
        due = time.monotonic() + self._chance.uniform(0, interval)
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), max(0.0, due - time.monotonic()))
                return
            await publisher.publish()
            due = max(due, time.monotonic() - CATCH_UP) + interval * self._chance.uniform(0.5, 1.5)

    async def stop(self) -> None:
        """Publish no more; returns when all that was begun is accepted or given up."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def close_accounts(self) -> None:
        """A last message of each, behind which nothing of its own can come."""
        await asyncio.gather(*(publisher.publish() for publisher in (*self.of_channels, self.to_all)))

    def some_of(self, chance: random.Random, count: int) -> list[Publisher]:
        """So many whose messages are known again."""
        return chance.sample([publisher for publisher in self.of_channels if publisher.knows_again], count)

    def one_for(self, channel: str) -> Publisher:
        """One that can publish a burst to this channel."""
        return next(
            publisher
            for publisher in self.of_channels
            if publisher.source.channel == channel and not isinstance(publisher, PlainSocketPublisher)
        )

    async def close(self) -> None:
        """Leave, all of them, whatever they are at."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(publisher.close() for publisher in self.of_channels))
