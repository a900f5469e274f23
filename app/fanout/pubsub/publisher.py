"""Publishing: one lane for each ordering key, one request in flight in each lane.

What arrives while a request is under way goes out together in the next: batches grow with the load and nobody waits for
a timer. All messages of a request have the same key, because Pub/Sub refuses a mix.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc

from app.backoff import Backoff
from app.fanout import Publication
from app.fanout.pubsub.canaries import Canaries
from app.fanout.pubsub.client import PubSubClient, PubSubError, PubsubMessage
from app.fanout.pubsub.names import ordering_key
from app.metrics import Metrics
from app.protocol.errors import ErrorCode, MessageError
from app.tasks import TaskOwner

logger = logging.getLogger(__name__)

MAX_BATCH_MESSAGES = 1_000
MAX_BATCH_BYTES = 9_500_000
"""Pub/Sub takes 1,000 messages and 10 MB (10^7 bytes) a request; what is left is for the request's own fields."""
MAX_ATTRIBUTE_BYTES = 1_024
ATTEMPT_TIMEOUT = 5.0
GIVE_UP_AFTER = 10.0
"""Seconds for one request, tries included; then its senders get a temporary error."""
RETRY_DELAY = (0.1, 2.0)
"""Seconds: the first and the longest wait before another try."""


class _Waiting(NamedTuple):
    message: Any
    size: int
    accepted: "asyncio.Future[str]"


class Publisher:
    """Sends publications to the topic. `on_topic_missing` is awaited when there is no such topic."""

    def __init__(
        self,
        client: PubSubClient,
        metrics: Metrics,
        *,
        on_topic_missing: Callable[[], Awaitable[None]],
        chance: random.Random,
        canaries: Canaries | None = None,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._on_topic_missing = on_topic_missing
        self._chance = chance
        self._canaries = canaries or Canaries()
        self._lanes: dict[str, deque[_Waiting]] = {}
        self._tasks = TaskOwner()
        self._closing = False

    async def publish(self, publication: Publication) -> str:
        """Queue it behind the others of its key; answers Pub/Sub's id once it is stored. Raises MessageError."""
        if self._closing:
            raise MessageError(ErrorCode.UNAVAILABLE, "the service is shutting down")
        key = ordering_key(publication.order)
        message = PubsubMessage(data=publication.data, attributes=dict(publication.attributes), ordering_key=key)
        size = message.ByteSize()
        if size > MAX_BATCH_BYTES:
            raise MessageError(
                ErrorCode.TOO_LARGE, f"Pub/Sub takes messages of at most {MAX_BATCH_BYTES} bytes, this has {size}"
            )
        for name, value in publication.attributes.items():
            if len(value.encode()) > MAX_ATTRIBUTE_BYTES:
                raise MessageError(
                    ErrorCode.TOO_LARGE, f"{name} may have at most {MAX_ATTRIBUTE_BYTES} bytes in Pub/Sub"
                )
        waiting = _Waiting(message, size, asyncio.get_running_loop().create_future())
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = deque()
            self._tasks.start(self._drive(key, lane))
        lane.append(waiting)
        return await waiting.accepted

    async def close(self, timeout: float) -> None:
        """Send what was accepted, for `timeout` seconds at most; the senders of the rest get a temporary error."""
        self._closing = True
        await self._tasks.finish(timeout)

    async def _drive(self, key: str, lane: deque[_Waiting]) -> None:
        """Send a lane until it is empty."""
        batch: list[_Waiting] = []
        try:
            while lane:
                batch = _take_batch(lane)
                await self._send(key, batch)
        finally:
            del self._lanes[key]
            for waiting in (*batch, *lane):  # only where this was cancelled
                if not waiting.accepted.done():
                    waiting.accepted.set_exception(MessageError(ErrorCode.UNAVAILABLE, "the service is shutting down"))

    async def _send(self, key: str, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        token = batch[-1].message.attributes.get("seq", "")  # what an instance publishes for itself is a canary too
        if token:
            self._canaries.send(key, token, loop.time())
        try:
            ids = await self._request([waiting.message for waiting in batch])
        except PubSubError as error:
            self._canaries.failed(key, token)
            if error.code is grpc.StatusCode.INVALID_ARGUMENT and len(batch) > 1:
                for waiting in batch:  # one of them is refused: the others shall not suffer for it
                    await self._send(key, [waiting])
                return
            self._metrics.publish_requests.labels("failed").inc()
            logger.warning("publishing %d messages failed: %s", len(batch), error)
            for waiting in batch:
                if not waiting.accepted.done():
                    waiting.accepted.set_exception(_told(error))
            return
        self._canaries.stored(key, token, loop.time())
        self._metrics.publish_requests.labels("stored").inc()
        for waiting, message_id in zip(batch, ids, strict=True):
            if not waiting.accepted.done():
                waiting.accepted.set_result(message_id)

    async def _request(self, messages: list[Any]) -> Any:
        """One request, tried again with the same messages: what had been stored nevertheless, the receivers drop."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GIVE_UP_AFTER
        backoff = Backoff(*RETRY_DELAY, self._chance)
        while True:
            try:
                return await self._client.publish(messages, min(ATTEMPT_TIMEOUT, max(0.1, deadline - loop.time())))
            except PubSubError as error:
                if error.code is grpc.StatusCode.NOT_FOUND:
                    await self._on_topic_missing()
                elif not error.transient:
                    raise
                wait = backoff.wait()
                if loop.time() + wait >= deadline:
                    raise
                self._metrics.publish_requests.labels("retried").inc()
                await asyncio.sleep(wait)


def _take_batch(lane: deque[_Waiting]) -> list[_Waiting]:
    batch: list[_Waiting] = []
    size = 0
    while lane and len(batch) < MAX_BATCH_MESSAGES and size + lane[0].size <= MAX_BATCH_BYTES:
        size += lane[0].size
        batch.append(lane.popleft())
    return batch


def _told(error: PubSubError) -> MessageError:
    if error.code is grpc.StatusCode.INVALID_ARGUMENT:
        return MessageError(ErrorCode.INVALID_FIELD, "Pub/Sub refuses this message")
    return MessageError(ErrorCode.UNAVAILABLE, f"Pub/Sub cannot be reached ({error.code.name.lower()}); try again")
