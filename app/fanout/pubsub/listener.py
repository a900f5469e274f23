"""Listening: the instance's own subscription, and a stream on it that is never left unwatched.

A stream counts as hearing only when it has carried a message that this instance sent itself (a loopback). Without that
an instance can be deaf in silence: its subscription may hang on a topic that was deleted, or a stream that nobody reads
may swallow its messages.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from app.backoff import Backoff
from app.fanout import Deliver, Delivery, FanoutStartError
from app.fanout.pubsub.client import PERMISSIONS, PubSubClient, PubSubError, PubsubMessage, Stream
from app.fanout.pubsub.names import all_ordering_keys, instance_subscription_id, ordering_key
from app.metrics import Metrics
from app.protocol.messages import OWN_PREFIX

logger = logging.getLogger(__name__)

LOOPBACK = OWN_PREFIX + "loopback"
LOOPBACK_TIMEOUT = 5.0
"""Seconds for a loopback that was published to be heard."""
QUIET = (15.0, 25.0)
"""Seconds without any message after which a loopback asks whether there is really nothing to hear. Each instance draws
its own: the first one's loopback is heard by all, so a quiet topic carries few, however many instances there are."""
RETRY_DELAY = (0.1, 10.0)
"""Seconds: the first and the longest wait before another try."""
NOT_FOUND_TRIES = 5
"""How often NotFound is taken for Pub/Sub's own delay after something was created."""
SEEK_MARGIN_NS = 5 * 10**9
"""A message of another ordering key may come this much later than a newer one."""
DELETE_TIMEOUT = 1.5
FINISH_TIMEOUT = 0.5


class _SubscriptionLost(Exception):
    """The subscription is of no more use."""


class Listener:
    """Hands what the topic carries to `deliver`, from `listen` until that is cancelled."""

    def __init__(
        self,
        client: PubSubClient,
        metrics: Metrics,
        *,
        prefix: str,
        instance_id: str,
        labels: Mapping[str, str],
        now_ns: Callable[[], int],
        chance: random.Random,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._prefix = prefix
        self._instance_id = instance_id
        self._labels = labels
        self._now_ns = now_ns
        self._chance = chance
        self._subscription: str | None = None
        self._generation = 0
        self._streams = 0
        self._proven = False  # this subscription has carried a loopback
        self._ever_heard = False
        self._not_found = 0
        self._last_publish_ns: int | None = None
        self._last_read = 0.0
        self._begin_ns = 0
        """What was published before is not for this instance."""
        self._made: set[str] = set()
        self._awaited: set[str] = set()
        self._heard_all = asyncio.Event()
        self._lost = asyncio.Event()
        self.hearing = asyncio.Event()
        self.reason = "the Pub/Sub subscription is not made yet"
        """Why it is not hearing, in plain words."""

    async def listen(self, deliver: Deliver) -> None:
        """Listen until cancelled. Raises FanoutStartError while nothing was ever heard and trying again is no use."""
        backoff = Backoff(*RETRY_DELAY, self._chance)
        while True:
            try:
                if self._subscription is None:
                    self._subscription = await self._make_subscription()
                await self._hear(self._subscription, deliver, backoff)
                self._deaf("the Pub/Sub stream ended")
            except _SubscriptionLost as lost:
                self._deaf(str(lost))
                await self.delete_subscriptions(DELETE_TIMEOUT)
            except PubSubError as error:
                self._deaf(explain(error, self._client))
                await self._judge(error)
            except Exception:
                self._deaf("the Pub/Sub listener failed; see the log")
                logger.exception("listening failed")
            await asyncio.sleep(backoff.wait())

    async def topic_missing(self) -> None:
        """Publishing met no topic: then this subscription hears nothing either, even when the topic is made anew."""
        if self._client.emulated:
            with contextlib.suppress(PubSubError):
                await self._client.create_topic()
        self._lost.set()

    async def delete_subscriptions(self, timeout: float) -> None:
        """Delete what this instance made, which else expires a day later. `timeout` is in seconds, for each."""
        self._subscription = None
        self._proven = False
        for subscription in tuple(self._made):
            try:
                await self._client.delete_subscription(subscription, timeout)
                self._made.discard(subscription)
            except PubSubError as error:
                logger.warning("the subscription %s could not be deleted: %s", subscription, error)

    async def _judge(self, error: PubSubError) -> None:
        """Decide what a failed call means for the subscription and the start."""
        if error.code is grpc.StatusCode.NOT_FOUND:
            self._not_found += 1
            if error.call == "consume":
                if self._proven or self._not_found >= NOT_FOUND_TRIES:
                    await self.delete_subscriptions(DELETE_TIMEOUT)
                return
            if self._not_found < NOT_FOUND_TRIES:
                return
        if not error.transient and not self._ever_heard:
            raise FanoutStartError(explain(error, self._client))

    async def _make_subscription(self) -> str:
        name = self._client.topic.subscription(
            instance_subscription_id(self._prefix, self._instance_id, self._generation + 1)
        )
        self._lost.clear()
        topic_is_new = False
        self._made.add(name)
        try:
            retention = await self._client.create_subscription(name, self._labels)
        except PubSubError as error:
            if not self._client.emulated or error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            await self._client.create_topic()
            topic_is_new = True
            retention = await self._client.create_subscription(name, self._labels)
        if self._last_publish_ns is not None:
            covered = await self._begin_at(name, self._last_publish_ns - SEEK_MARGIN_NS)
            silence = (self._now_ns() - self._last_publish_ns) / 1e9
            if topic_is_new or not covered or silence >= retention:
                self._gap(silence)
        elif self._client.emulated:
            await self._begin_at(name, self._now_ns())
        self._generation += 1
        self._metrics.pubsub_subscriptions_made.inc()
        logger.info("made the subscription %s", name)
        return name

    async def _begin_at(self, subscription: str, time_ns: int) -> bool:
        """Have the subscription begin at this publish time; answers whether it can. The hub drops what comes twice."""
        if self._client.emulated:
            # The emulator hands all that the topic retains to a new subscription, and cannot seek one that keeps
            # order. Its clock is ours.
            self._begin_ns = time_ns // 10**6 * 10**6
            return True
        try:
            await self._client.seek(subscription, time_ns)
        except PubSubError as error:
            logger.warning("seeking %s back failed: %s", subscription, error)
            return False
        return True

    def _gap(self, seconds: float) -> None:
        self._metrics.pubsub_gaps.inc()
        logger.error("a gap: messages of %.1f s may never reach this instance, the topic does not retain them", seconds)

    async def _hear(self, subscription: str, deliver: Deliver, backoff: Backoff) -> None:
        """One stream, from its opening to its end, whatever ends it."""
        stream = self._client.open_stream(subscription, self._instance_id)
        self._streams += 1
        self._metrics.pubsub_streams.inc()
        reader = asyncio.create_task(self._read(stream, deliver))
        watcher = asyncio.create_task(self._watch(backoff))
        try:
            ended, _ = await asyncio.wait({reader, watcher}, return_when=asyncio.FIRST_COMPLETED)
            (watcher if watcher in ended else reader).result()
        finally:
            watcher.cancel()
            await stream.half_close()
            await asyncio.wait({reader, watcher}, timeout=FINISH_TIMEOUT)
            stream.cancel()
            reader.cancel()
            await asyncio.gather(reader, watcher, return_exceptions=True)

    async def _read(self, stream: Stream, deliver: Deliver) -> None:
        await stream.open()
        while (received := await stream.read()) is not None:
            self._last_read = asyncio.get_running_loop().time()
            for item in received:
                self._take(item.message, deliver)
            if received:
                await stream.acknowledge([item.ack_id for item in received])

    def _take(self, message: Any, deliver: Deliver) -> None:
        attributes = dict(message.attributes)
        publish_time_ns = message.publish_time.ToNanoseconds()
        if publish_time_ns < self._begin_ns:
            return
        self._last_publish_ns = max(self._last_publish_ns or 0, publish_time_ns)
        self._metrics.pubsub_received.inc()
        if attributes.get("type") == LOOPBACK:
            if attributes.get("origin") == self._instance_id:
                self._awaited.discard(attributes.get("token", ""))
                if not self._awaited:
                    self._heard_all.set()
            return
        try:
            deliver(Delivery(message.data, attributes, message.message_id, publish_time_ns))
        except Exception:  # one message must not end the stream for all others
            logger.exception("the message %s could not be delivered", message.message_id)

    async def _watch(self, backoff: Backoff) -> None:
        """See that the stream hears, now and whenever it has been quiet for long. Raises when it does not."""
        # A dead stream may go on swallowing the messages of some ordering keys: a subscription that had one is tried
        # with all of them.
        await self._prove(all_ordering_keys() if self._proven else [ordering_key("")])
        self._proven = self._ever_heard = True
        self._not_found = 0
        backoff.reset()
        self.hearing.set()
        self._metrics.pubsub_hearing.set(1)
        logger.info("listening to %s", self._client.topic.path)
        loop = asyncio.get_running_loop()
        quiet = self._chance.uniform(*QUIET)
        while True:
            try:
                async with asyncio.timeout_at(max(self._last_read + quiet, loop.time() + 1)):
                    await self._lost.wait()
                raise _SubscriptionLost("the Pub/Sub topic had vanished")
            except TimeoutError:
                if loop.time() - self._last_read >= quiet:
                    await self._prove([ordering_key("")])
                    quiet = self._chance.uniform(*QUIET)

    async def _prove(self, keys: list[str]) -> None:
        """Publish a loopback for each key and wait until all are heard."""
        self.reason = f"waiting to hear this instance's own message on {self._subscription}"
        tokens = {f"{self._streams}-{key}-{self._now_ns()}": key for key in keys}
        self._awaited = set(tokens)
        self._heard_all.clear()
        await asyncio.gather(*(self._publish_loopback(token, key) for token, key in tokens.items()))
        try:
            async with asyncio.timeout(LOOPBACK_TIMEOUT):
                await self._heard_all.wait()
        except TimeoutError:
            raise _SubscriptionLost(
                f"this instance did not hear its own message on {self._subscription} in {LOOPBACK_TIMEOUT:.0f} s"
            ) from None

    async def _publish_loopback(self, token: str, key: str) -> None:
        attributes = {"type": LOOPBACK, "origin": self._instance_id, "token": token}
        backoff = Backoff(*RETRY_DELAY, self._chance)
        while True:
            try:
                message = PubsubMessage(data=b"{}", attributes=attributes, ordering_key=key)
                await self._client.publish([message], timeout=5)
                return
            except PubSubError as error:
                if error.code is grpc.StatusCode.NOT_FOUND and self._client.emulated:
                    await self.topic_missing()
                    raise _SubscriptionLost("the Pub/Sub topic had vanished") from None
                if not error.transient:
                    raise
                if not self.hearing.is_set():
                    self.reason = explain(error, self._client)
            await asyncio.sleep(backoff.wait())

    def _deaf(self, reason: str) -> None:
        self.reason = reason
        if self.hearing.is_set() or not self._ever_heard:
            logger.warning("not listening: %s", reason)
        self.hearing.clear()
        self._metrics.pubsub_hearing.set(0)


def explain(error: PubSubError, client: PubSubClient) -> str:
    """What is wrong and what mends it, for the log and /health/ready."""
    topic = client.topic
    match error.code:
        case grpc.StatusCode.NOT_FOUND if error.call != "consume" and "project" in str(error).lower().replace(
            topic.path, ""
        ):
            return (
                f"the project {topic.project!r} does not exist or may not be seen ({error}): "
                "set GOOGLE_CLOUD_PROJECT or CLOUD_SOCKETS_PUBSUB_TOPIC_NAME=projects/PROJECT/topics/TOPIC"
            )
        case grpc.StatusCode.NOT_FOUND if error.call != "consume":
            return (
                f"the Pub/Sub topic {topic.path} does not exist: "
                f"gcloud pubsub topics create {topic.topic} --project={topic.project}"
            )
        case grpc.StatusCode.PERMISSION_DENIED if "has not been used" in str(error) or "disabled" in str(error):
            return f"Pub/Sub is not enabled: gcloud services enable pubsub.googleapis.com --project={topic.project}"
        case grpc.StatusCode.PERMISSION_DENIED:
            needed = PERMISSIONS[error.call]
            names = " and ".join(str(permission) for permission in needed)
            roles = " and ".join(f"{permission.role} on {permission.on}" for permission in needed)
            return f"missing permission for {topic.path}: {names}; grant {roles}, or a role of your own ({error})"
        case grpc.StatusCode.UNAUTHENTICATED:
            return f"Google does not know who this is ({error}): gcloud auth application-default login"
        case _:
            return f"Pub/Sub cannot be used now ({error})"
