"""A small Pub/Sub on the real wire, in the test's own process.

It refuses what the real service refuses and the emulator lets pass, answers in a millisecond, and can be told to fail:
see `Faults`. `python -m tests.support.pubsub_server` runs one by itself: it prints its address, and ends with its
parent.
"""

import asyncio
import itertools
import random
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

Context = Any
DAY = 24 * 3600
DELETED_TOPIC = "_deleted-topic_"
_NAME = re.compile(r"projects/[^/]+/(topics|subscriptions)/(?!goog)[A-Za-z][\w.~+%-]{2,254}")
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")


def _pb(name: str) -> Any:
    return getattr(types, name).pb()


class Refusal(Exception):
    """A call that is answered with a status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def _not_found(text: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, text)


def _invalid(text: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, text)


@dataclass
class Faults:
    """What goes wrong. All of it may be changed at any time."""

    refuse: dict[str, deque[grpc.StatusCode]] = field(default_factory=dict)
    """Method -> statuses for its next calls."""
    stored_but_failed: deque[grpc.StatusCode] = field(default_factory=deque)
    """Statuses for the next publishes, whose messages are stored nevertheless."""
    publish_gate: asyncio.Event | None = None
    """Publishes wait for it."""
    delete_gate: asyncio.Event | None = None
    """Deletions of subscriptions wait for it."""
    deliver_twice: bool = False
    deaf: set[str] = field(default_factory=set)
    """Subscriptions whose streams stay open and carry nothing, as the emulator's do after a stream was cancelled."""
    all_deaf: bool = False
    """The same for every subscription, those that are made later too."""
    deaf_keys: set[tuple[str, str]] = field(default_factory=set)
    """(subscription, ordering key): these messages alone are swallowed."""
    shuffle: random.Random | None = None
    """Messages without an ordering key, out of order."""

    hole: set[bytes] = field(default_factory=set)
    """Data that the next subscription lacks, as the emulator's does of what is published while it is made."""

    def refuse_next(self, method: str, code: grpc.StatusCode, times: int = 1) -> None:
        """Answer the next calls of a method with this status."""
        self.refuse.setdefault(method, deque()).extend([code] * times)


class Subscription:
    """A subscription and what waits in it."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.backlog: deque[Any] = deque()
        self.unacked: dict[str, Any] = {}
        self.wake = asyncio.Event()
        self.ends: set[asyncio.Future[Refusal | None]] = set()
        """One for each open stream: set, the stream ends so."""

    def add(self, message: Any) -> None:
        self.backlog.append(message)
        self.wake.set()


class PubSubServer:
    """Pub/Sub with one tenant. An async context manager; `address` is where it listens."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.emulates = False
        """Whether it does as the emulator does: a new subscription gets all that the topic retains, none can seek."""
        self.address = ""
        self.topics: dict[str, Any] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.published: list[Any] = []
        self.requests: list[tuple[str, Any]] = []
        self.streams_opened = 0
        self._ids = itertools.count(1)
        self._made_ns: dict[str, int] = {}
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((self._publisher_service(), self._subscriber_service()))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._server = server
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        await self._server.stop(0)

    # What a test says and asks

    def add_topic(self, name: str, retention: int = 0) -> None:
        """A topic that is there already; `retention` in seconds."""
        topic = _pb("Topic")(name=name)
        topic.message_retention_duration.FromSeconds(retention)
        self.topics[name] = topic
        self._made_ns[name] = time.time_ns()

    def delete_topic(self, name: str) -> None:
        """As the real service does it: its subscriptions stay, and hear nothing any more."""
        del self.topics[name]
        for subscription in self.subscriptions.values():
            if subscription.request.topic == name:
                subscription.request.topic = DELETED_TOPIC

    def delete_subscription(self, name: str) -> None:
        """Take a subscription away; its streams end with NotFound."""
        for end in self.subscriptions.pop(name).ends:
            end.set_result(_not_found(f"Resource not found (resource={name.rpartition('/')[2]})."))

    def end_streams(self, code: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE) -> None:
        """End all streams, with a status or (None) in order."""
        for subscription in self.subscriptions.values():
            for end in tuple(subscription.ends):
                end.set_result(
                    None if code is None else Refusal(code, "The service was unable to fulfill your request.")
                )

    def deliver_again(self, message: Any) -> None:
        """Have a message come to all subscriptions once more, however late."""
        for subscription in self.subscriptions.values():
            subscription.add(message)

    def let_pass(self, seconds: float) -> None:
        """Have all that was published, and made, be so much older."""
        step = int(seconds * 1e9)
        for message in self.published:
            message.publish_time.FromNanoseconds(message.publish_time.ToNanoseconds() - step)
        self._made_ns = {name: made - step for name, made in self._made_ns.items()}

    def calls(self, method: str) -> list[Any]:
        """All requests of a method."""
        return [request for name, request in self.requests if name == method]

    # Calls

    def _create_topic(self, request: Any) -> Any:
        if request.name in self.topics:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, "Resource already exists in the project.")
        self.topics[request.name] = request
        self._made_ns[request.name] = time.time_ns()
        return request

    def _get_topic(self, request: Any) -> Any:
        if request.topic not in self.topics:
            raise _not_found("Resource not found (resource=topic).")
        return self.topics[request.topic]

    async def _publish(self, request: Any) -> Any:
        if self.faults.publish_gate is not None:
            await self.faults.publish_gate.wait()
        if request.topic not in self.topics:
            raise _not_found("Resource not found (resource=topic).")
        _check_publish(request)
        response = _pb("PublishResponse")()
        now = time.time_ns()
        for message in request.messages:
            message.message_id = str(next(self._ids))
            message.publish_time.FromNanoseconds(now)  # a batch shares its time
            response.message_ids.append(message.message_id)
            self.published.append(message)
        for subscription in self.subscriptions.values():
            if subscription.request.topic == request.topic:
                messages = list(request.messages) * (2 if self.faults.deliver_twice else 1)
                if self.faults.shuffle is not None and not messages[0].ordering_key:
                    self.faults.shuffle.shuffle(messages)
                for message in messages:
                    subscription.add(message)
        if self.faults.stored_but_failed:
            raise Refusal(self.faults.stored_but_failed.popleft(), "stored, but you shall not know")
        return response

    def _create_subscription(self, request: Any) -> Any:
        if request.topic not in self.topics:
            raise _not_found("Resource not found (resource=topic).")
        if request.name in self.subscriptions:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, "Resource already exists in the project.")
        if not _NAME.fullmatch(request.name):
            raise _invalid(f"Invalid resource name given (name={request.name}).")
        if not all(_LABEL.fullmatch(value) for value in request.labels.values()):
            raise _invalid("Invalid label.")
        if 0 < request.expiration_policy.ttl.ToSeconds() < DAY:
            raise _invalid("The expiration policy's ttl must be at least 1 day.")
        if not 600 <= request.message_retention_duration.ToSeconds() <= 31 * DAY:
            raise _invalid("The retention must be between 10 minutes and 31 days.")
        request.topic_message_retention_duration.CopyFrom(self.topics[request.topic].message_retention_duration)
        self.subscriptions[request.name] = Subscription(request)
        if self.emulates:
            made = self.subscriptions[request.name]
            self._replay(made, 0)
            made.backlog = deque(message for message in made.backlog if message.data not in self.faults.hole)
            self.faults.hole.clear()
        return request

    async def _delete_subscription(self, request: Any) -> Any:
        if self.faults.delete_gate is not None:
            await self.faults.delete_gate.wait()
        self._find(request.subscription)
        self.delete_subscription(request.subscription)
        return empty_pb2.Empty()

    def _get_subscription(self, request: Any) -> Any:
        return self._find(request.subscription).request

    def _list_topic_subscriptions(self, request: Any) -> Any:
        """Two a page, so that pages are asked for."""
        self._get_topic(request)
        names = [name for name, one in self.subscriptions.items() if one.request.topic == request.topic]
        start = int(request.page_token or 0)
        more = str(start + 2) if start + 2 < len(names) else ""
        return _pb("ListTopicSubscriptionsResponse")(subscriptions=names[start : start + 2], next_page_token=more)

    def _seek(self, request: Any) -> Any:
        if self.emulates:
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "not with ordering")
        self._replay(self._find(request.subscription), request.time.ToNanoseconds())
        return _pb("SeekResponse")()

    def _replay(self, subscription: Subscription, time_ns: int) -> None:
        """Have a subscription begin at this time, as far as its topic retains messages."""
        topic = self.topics.get(subscription.request.topic)
        retained_ns = 0 if topic is None else topic.message_retention_duration.ToNanoseconds()
        oldest_ns = time.time_ns() - retained_ns
        subscription.backlog.clear()
        subscription.unacked.clear()
        for message in self.published:
            published_ns = message.publish_time.ToNanoseconds()
            # A topic that was made anew holds nothing of its predecessor.
            if published_ns >= max(time_ns, oldest_ns, self._made_ns.get(subscription.request.topic, 0)):
                subscription.add(message)

    def _acknowledge(self, request: Any) -> Any:
        subscription = self._find(request.subscription)
        for ack_id in request.ack_ids:
            subscription.unacked.pop(ack_id, None)
        return empty_pb2.Empty()

    def _find(self, name: str) -> Subscription:
        if name not in self.subscriptions:
            raise _not_found(f"Resource not found (resource={name.rpartition('/')[2]}).")
        return self.subscriptions[name]

    async def _streaming_pull(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        first = await anext(requests)
        self.requests.append(("StreamingPull", first))
        try:
            self._refuse_if_told("StreamingPull")
            subscription = self._find(first.subscription)
        except Refusal as refused:
            await context.abort(refused.code, str(refused))
        self.streams_opened += 1
        end: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        subscription.ends.add(end)
        # What was not acknowledged comes again.
        subscription.backlog.extendleft(reversed(subscription.unacked.values()))
        subscription.unacked.clear()

        async def take_acks() -> None:
            async for request in requests:
                for ack_id in request.ack_ids:
                    subscription.unacked.pop(ack_id, None)
            if not end.done():
                end.set_result(None)  # half-closed by the client

        acks = asyncio.create_task(take_acks())
        try:
            while not end.done():
                deaf = self.faults.all_deaf or first.subscription in self.faults.deaf
                if not subscription.backlog or deaf:
                    subscription.wake.clear()
                    waking: asyncio.Future[Any] = asyncio.create_task(subscription.wake.wait())
                    await asyncio.wait({waking, end}, return_when=asyncio.FIRST_COMPLETED)
                    waking.cancel()
                    continue
                response = _pb("StreamingPullResponse")()
                while subscription.backlog and len(response.received_messages) < 100:
                    message = subscription.backlog.popleft()
                    if (first.subscription, message.ordering_key) in self.faults.deaf_keys:
                        continue
                    ack_id = f"{message.message_id}-{next(self._ids)}"
                    response.received_messages.add(ack_id=ack_id, message=message)
                    subscription.unacked[ack_id] = message
                if response.received_messages:
                    yield response
            if (refusal := end.result()) is not None:
                await context.abort(refusal.code, str(refusal))
        finally:
            subscription.ends.discard(end)
            acks.cancel()

    # The wire

    def _refuse_if_told(self, method: str) -> None:
        if told := self.faults.refuse.get(method):
            raise Refusal(told.popleft(), f"{method} was refused")

    def _unary(self, method: str, call: Callable[[Any], Any], request_type: str) -> "grpc.RpcMethodHandler[Any, Any]":
        async def handle(request: Any, context: Context) -> Any:
            self.requests.append((method, request))
            try:
                self._refuse_if_told(method)
                answer = call(request)
                return await answer if isinstance(answer, Awaitable) else answer
            except Refusal as refused:
                await context.abort(refused.code, str(refused))

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=_pb(request_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _publisher_service(self) -> "grpc.GenericRpcHandler[Any, Any]":
        methods = {
            "CreateTopic": self._unary("CreateTopic", self._create_topic, "Topic"),
            "GetTopic": self._unary("GetTopic", self._get_topic, "GetTopicRequest"),
            "Publish": self._unary("Publish", self._publish, "PublishRequest"),
            "ListTopicSubscriptions": self._unary(
                "ListTopicSubscriptions", self._list_topic_subscriptions, "ListTopicSubscriptionsRequest"
            ),
        }
        return grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", methods)

    def _subscriber_service(self) -> "grpc.GenericRpcHandler[Any, Any]":
        delete = self._unary("DeleteSubscription", self._delete_subscription, "DeleteSubscriptionRequest")
        methods = {
            "CreateSubscription": self._unary("CreateSubscription", self._create_subscription, "Subscription"),
            "DeleteSubscription": delete,
            "GetSubscription": self._unary("GetSubscription", self._get_subscription, "GetSubscriptionRequest"),
            "Seek": self._unary("Seek", self._seek, "SeekRequest"),
            "Acknowledge": self._unary("Acknowledge", self._acknowledge, "AcknowledgeRequest"),
            "StreamingPull": grpc.stream_stream_rpc_method_handler(
                self._streaming_pull,
                request_deserializer=_pb("StreamingPullRequest").FromString,
                response_serializer=lambda message: message.SerializeToString(),
            ),
        }
        return grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", methods)


def _check_publish(request: Any) -> None:
    """What the real service refuses and the emulator does not."""
    if not 1 <= len(request.messages) <= 1000:
        raise _invalid("The value for message_count is out of range (1 to 1000).")
    if request.ByteSize() > 10_000_000:
        raise _invalid("The value for request_size is too large (10000000 bytes at most).")
    if len({message.ordering_key for message in request.messages}) > 1:
        raise _invalid("In a publish request all messages must have the same ordering key, or none.")
    for message in request.messages:
        if not message.data and not message.attributes:
            raise _invalid("A message must have data or attributes.")
        if len(message.ordering_key.encode()) > 1024:
            raise _invalid("The ordering key is too long.")
        for key, value in message.attributes.items():
            if len(key.encode()) > 256 or len(value.encode()) > 1024 or key.startswith("goog"):
                raise _invalid(f"The attribute {key} is not allowed.")


async def main() -> None:
    """Serve until standard input ends."""
    async with PubSubServer() as server:
        print(server.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
