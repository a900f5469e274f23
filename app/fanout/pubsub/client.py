"""The few calls to Pub/Sub that the service makes, on the asyncio client inside google-cloud-pubsub.

Each call names the IAM permission that it needs, so that an error can, and so that Terraform can grant exactly these.
"""

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import grpc
import grpc.aio
from google.api_core.exceptions import GoogleAPICallError
from google.protobuf import duration_pb2, timestamp_pb2
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

from app.fanout.pubsub.names import TopicName


class Found(NamedTuple):
    """What is known of a subscription: its labels, and how many seconds its topic retains messages (0: none)."""

    labels: Mapping[str, str]
    retention: float


class Permission(NamedTuple):
    """An IAM permission, on what it is asked for, and a predefined role that has it."""

    name: str
    on: Literal["the topic", "the project"]
    role: str

    def __str__(self) -> str:
        return f"{self.name} on {self.on}"


PERMISSIONS = {
    "publish": [Permission("pubsub.topics.publish", "the topic", "roles/pubsub.publisher")],
    "create_subscription": [
        Permission("pubsub.subscriptions.create", "the project", "roles/pubsub.editor"),
        Permission("pubsub.topics.attachSubscription", "the topic", "roles/pubsub.subscriber"),
    ],
    "consume": [Permission("pubsub.subscriptions.consume", "the project", "roles/pubsub.subscriber")],
    "delete_subscription": [Permission("pubsub.subscriptions.delete", "the project", "roles/pubsub.editor")],
    "list_subscriptions": [Permission("pubsub.topics.get", "the topic", "roles/pubsub.viewer")],
    "get_subscription": [Permission("pubsub.subscriptions.get", "the project", "roles/pubsub.viewer")],
}
"""Call -> what it needs. terraform/iam.tf grants exactly these."""

GLOBAL_ENDPOINT = "pubsub.googleapis.com"
SUBSCRIPTION_RETENTION = 600
SUBSCRIPTION_EXPIRATION = 24 * 3600
EMULATOR_TOPIC_RETENTION = 600
"""Seconds: the shortest Pub/Sub takes. The emulator's topics get it, so that rebuilt subscriptions can look back."""
ACK_DEADLINE = 60
MAX_OUTSTANDING_MESSAGES = 10_000
MAX_OUTSTANDING_BYTES = 64 * 1024 * 1024

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

PublishRequest = types.PublishRequest.pb()
PubsubMessage = types.PubsubMessage.pb()


class PubSubError(Exception):
    """A call that failed: the service's status and words."""

    def __init__(self, call: str, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.call = call
        self.code = code

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed later, with nothing changed by anybody."""
        return self.code not in _PERMANENT


_PERMANENT = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
}


def emulator_channel(address: str) -> grpc.aio.Channel:
    """A connection to an emulator: no encryption, no credentials."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


def google_channel(endpoint: str | None) -> grpc.aio.Channel:
    """A connection to the real service with the credentials that google-auth finds; DefaultCredentialsError if none."""
    host = endpoint or GLOBAL_ENDPOINT
    channel: grpc.aio.Channel = PublisherGrpcAsyncIOTransport.create_channel(host, options=CHANNEL_OPTIONS)
    return channel


class PubSubClient:
    """One topic, seen from one instance. All timeouts are in seconds."""

    def __init__(self, topic: TopicName, channel: grpc.aio.Channel, *, emulated: bool) -> None:
        self.topic = topic
        self.emulated = emulated
        self._channel = channel
        self._publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
        self._subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))

    async def create_topic(self, retention: float = EMULATOR_TOPIC_RETENTION) -> None:
        """Create the topic; for the emulator only. That it exists already is no error. `retention` is in seconds."""
        seconds = max(EMULATOR_TOPIC_RETENTION, math.ceil(retention))
        request = types.Topic(name=self.topic.path, message_retention_duration=duration_pb2.Duration(seconds=seconds))
        try:
            await self._call("create_topic", self._publisher.create_topic, request, timeout=5)
        except PubSubError as error:
            if error.code is not grpc.StatusCode.ALREADY_EXISTS:
                raise

    async def create_subscription(self, subscription: str, labels: Mapping[str, str]) -> float:
        """Create our subscription, or find it there; answers how many seconds its topic retains messages (0: none)."""
        request = types.Subscription(
            name=subscription,
            topic=self.topic.path,
            ack_deadline_seconds=ACK_DEADLINE,
            labels=dict(labels),
            enable_message_ordering=True,
            message_retention_duration=duration_pb2.Duration(seconds=SUBSCRIPTION_RETENTION),
            expiration_policy=types.ExpirationPolicy(ttl=duration_pb2.Duration(seconds=SUBSCRIPTION_EXPIRATION)),
        )
        try:
            created = await self._call("create_subscription", self._subscriber.create_subscription, request, timeout=10)
            if self.emulated:
                return await self._topic_retention()
        except PubSubError as error:
            if error.code is not grpc.StatusCode.ALREADY_EXISTS:  # an earlier try whose answer was lost
                raise
            return (await self.get_subscription(subscription)).retention
        return float(types.Subscription.pb(created).topic_message_retention_duration.ToSeconds())

    async def delete_subscription(self, subscription: str, timeout: float) -> None:
        """Delete a subscription of ours; that it is gone already is no error."""
        request = types.DeleteSubscriptionRequest(subscription=subscription)
        try:
            await self._call("delete_subscription", self._subscriber.delete_subscription, request, timeout=timeout)
        except PubSubError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise

    async def get_subscription(self, subscription: str) -> Found:
        """What is known of a subscription."""
        request = types.GetSubscriptionRequest(subscription=subscription)
        found = await self._call("get_subscription", self._subscriber.get_subscription, request, timeout=10)
        raw = types.Subscription.pb(found)
        retention = raw.topic_message_retention_duration.ToSeconds()
        return Found(dict(raw.labels), await self._topic_retention() if self.emulated else float(retention))

    async def _topic_retention(self) -> float:
        """What the emulator leaves out of its subscriptions; the real service need not be asked."""
        request = types.GetTopicRequest(topic=self.topic.path)
        topic = await self._call("get_topic", self._publisher.get_topic, request, timeout=5)
        return float(types.Topic.pb(topic).message_retention_duration.ToSeconds())

    async def list_subscriptions(self) -> list[str]:
        """The full names of all subscriptions of the topic, whosever they are."""
        names: list[str] = []
        page_token = ""
        while True:
            request = types.ListTopicSubscriptionsRequest(topic=self.topic.path, page_size=1000, page_token=page_token)
            pager = await self._call(
                "list_subscriptions", self._publisher.list_topic_subscriptions, request, timeout=10
            )
            names += pager.subscriptions
            page_token = pager.next_page_token
            if not page_token:
                return names

    async def seek(self, subscription: str, time_ns: int) -> None:
        """Have the subscription begin with what was published at this time (Unix time) or later."""
        time = timestamp_pb2.Timestamp()
        time.FromNanoseconds(time_ns)
        request = types.SeekRequest(subscription=subscription, time=time)
        await self._call("consume", self._subscriber.seek, request, timeout=10)

    async def publish(self, messages: Sequence[Any], timeout: float) -> Sequence[str]:
        """Publish raw PubsubMessages, all of one ordering key, in one request; answers their ids."""
        request = types.PublishRequest.wrap(PublishRequest(topic=self.topic.path, messages=messages))
        response = await self._call("publish", self._publisher.publish, request, timeout=timeout)
        return list(types.PublishResponse.pb(response).message_ids)

    def open_stream(self, subscription: str, client_id: str) -> "Stream":
        """Begin a streaming pull."""
        return Stream(self._subscriber, subscription, client_id)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close(None)

    @staticmethod
    async def _call(name: str, method: Any, request: Any, *, timeout: float) -> Any:
        try:
            # No retry of the client's own: it would go on for a minute, whatever the timeout says.
            return await method(request=request, retry=None, timeout=timeout)
        except GoogleAPICallError as error:
            raise PubSubError(name, error.grpc_status_code or grpc.StatusCode.UNKNOWN, error.message) from None
        except grpc.aio.AioRpcError as error:
            raise PubSubError(name, error.code(), error.details() or "") from None


class Stream:
    """One streaming pull, read by one task to its end: None for an orderly one, else PubSubError."""

    def __init__(self, subscriber: SubscriberAsyncClient, subscription: str, client_id: str) -> None:
        metadata = (("x-goog-request-params", f"subscription={subscription}"),)
        self._call: Any = subscriber.transport.streaming_pull(metadata=metadata)
        self._first = types.StreamingPullRequest(
            subscription=subscription,
            stream_ack_deadline_seconds=ACK_DEADLINE,
            client_id=client_id,
            max_outstanding_messages=MAX_OUTSTANDING_MESSAGES,
            max_outstanding_bytes=MAX_OUTSTANDING_BYTES,
        )

    async def open(self) -> None:
        """Say what to stream."""
        await self._guard(self._call.write(self._first))

    async def read(self) -> Sequence[Any] | None:
        """The next raw ReceivedMessages; None at an orderly end."""
        response = await self._guard(self._call.read())
        if response is grpc.aio.EOF:  # type: ignore[attr-defined]
            return None
        received: Sequence[Any] = types.StreamingPullResponse.pb(response).received_messages
        return received

    async def acknowledge(self, ack_ids: Sequence[str]) -> None:
        """Tell Pub/Sub that these need not come again."""
        await self._guard(self._call.write(types.StreamingPullRequest(ack_ids=ack_ids)))

    async def half_close(self) -> None:
        """Say that no more will be asked; the stream then ends in order, when what is under way has been read.

        The emulator goes on feeding a stream that is only cancelled.
        """
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    def cancel(self) -> None:
        """End the stream at once, if it has not ended."""
        self._call.cancel()

    @staticmethod
    async def _guard(operation: Any) -> Any:
        try:
            return await operation
        except grpc.aio.AioRpcError as error:
            raise PubSubError("consume", error.code(), error.details() or "") from None
        except asyncio.InvalidStateError:  # written to after its end; the next read would tell why
            raise PubSubError("consume", grpc.StatusCode.UNAVAILABLE, "the stream has ended") from None
