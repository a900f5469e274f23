"""The fan-out over Google Cloud Pub/Sub: one topic, one subscription for each running instance.

This package is the only importer of Google's libraries.
"""

import asyncio
import random
from collections.abc import Callable, Mapping

import google.auth
from google.auth.exceptions import DefaultCredentialsError

from app.fanout import Deliver, Fanout, FanoutStartError, Publication
from app.fanout.pubsub.client import PubSubClient, emulator_channel, google_channel
from app.fanout.pubsub.listener import Listener
from app.fanout.pubsub.names import TopicName, label
from app.fanout.pubsub.publisher import Publisher
from app.metrics import Metrics
from app.tasks import TaskOwner

__all__ = ["PubSubFanout", "TopicName", "connect", "default_project"]

FLUSH_TIMEOUT = 2.5
DELETE_TIMEOUT = 1.5
"""Seconds at the end: for what was accepted for publishing, and for the subscription. Cloud Run gives 10 in all."""


class PubSubFanout(Fanout):
    """Publishes to the topic, and hears it on a subscription of its own."""

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
        self._tasks = TaskOwner(FanoutStartError)
        self._listener = Listener(
            client,
            metrics,
            prefix=prefix,
            instance_id=instance_id,
            labels={key: label(value) for key, value in labels.items()},
            now_ns=now_ns,
            chance=chance,
        )
        self._publisher = Publisher(client, metrics, on_topic_missing=self._listener.topic_missing, chance=chance)
        self._closed = False

    async def start(self, deliver: Deliver) -> None:
        listening = self._tasks.start(self._listener.listen(deliver))
        hearing = self._tasks.start(self._listener.hearing.wait())
        await asyncio.wait({listening, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done() and not listening.cancelled():
            hearing.cancel()
            listening.result()

    async def publish(self, publication: Publication) -> str:
        return await self._publisher.publish(publication)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._publisher.close(FLUSH_TIMEOUT)
        await self._tasks.finish(0)
        await self._listener.delete_subscriptions(DELETE_TIMEOUT)
        await self._client.close()

    def unready_reasons(self) -> list[str]:
        return [] if self._listener.hearing.is_set() else [self._listener.reason]


def connect(topic: TopicName, *, emulator: str | None, endpoint: str | None) -> PubSubClient:
    """A client for the emulator at this address, or the real service. Raises FanoutStartError without credentials."""
    if emulator is not None:
        return PubSubClient(topic, emulator_channel(emulator), emulated=True)
    try:
        return PubSubClient(topic, google_channel(endpoint), emulated=False)
    except DefaultCredentialsError as error:
        raise FanoutStartError(f"no Google credentials: gcloud auth application-default login ({error})") from None


def default_project() -> str | None:
    """The project that google-auth knows, from the environment, gcloud's configuration or the metadata server."""
    try:
        project: str | None = google.auth.default()[1]
    except DefaultCredentialsError:
        return None
    return project
