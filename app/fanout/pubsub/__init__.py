"""The fan-out over Google Cloud Pub/Sub: one topic, one subscription for each running instance.

This package is the only importer of Google's libraries.
"""

import asyncio
import random
from collections.abc import Callable, Mapping

import google.auth
from google.auth.exceptions import DefaultCredentialsError

from app.fanout import Deliver, Fanout, FanoutStartError, Peer, Publication
from app.fanout.pubsub.client import PubSubClient, emulator_channel, google_channel
from app.fanout.pubsub.listener import Listener, Times
from app.fanout.pubsub.names import TopicName, label
from app.fanout.pubsub.publisher import Publisher
from app.fanout.pubsub.sweeper import Sweeper
from app.metrics import Metrics
from app.tasks import TaskOwner

__all__ = ["PubSubFanout", "TopicName", "connect", "default_project"]

PEER_SILENCE = 900 * 10**9
"""Nanoseconds: three heartbeats of the rarest kind. Who was silent for longer is no longer named among the peers."""
FLUSH_TIMEOUT = 2.5
DELETE_TIMEOUT = 1.5
"""Seconds at the end: for what was accepted for publishing, and for the subscription. Cloud Run gives 10 in all."""


class PubSubFanout(Fanout):
    """Publishes to the topic, and hears it on a subscription of its own.

    `history_ttl`, `skew` and `orphan_grace` are seconds: how far a new instance looks back (0: not at all), how late
    Pub/Sub may deliver, and how long another instance may be silent before its subscription is deleted (0: for ever).
    """

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
        history_ttl: float = 0,
        skew: float = 5,
        revision: str | None = None,
        orphan_grace: float = 0,
        process: str | None = None,
        times: Times | None = None,
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
            history_ttl=history_ttl,
            skew=skew,
            revision=revision,
            process=process,
            times=times or Times.for_grace(orphan_grace),
        )
        self._publisher = Publisher(
            client,
            metrics,
            on_topic_missing=self._listener.topic_missing,
            chance=chance,
            canaries=self._listener.canaries,
        )
        self._sweeper = (
            Sweeper(
                client,
                self._listener,
                metrics,
                prefix=prefix,
                instance_id=instance_id,
                grace=orphan_grace,
                chance=chance,
            )
            if orphan_grace
            else None
        )
        self._instance_id = instance_id
        self._closed = False

    async def start(self, deliver: Deliver) -> None:
        listening = self._tasks.start(self._listener.listen(deliver))
        hearing = self._tasks.start(self._listener.hearing.wait())
        await asyncio.wait({listening, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done() and not listening.cancelled():
            hearing.cancel()
            listening.result()
        if self._sweeper is not None and not self._closed:
            self._tasks.start(self._sweeper.run())

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

    def notes(self) -> list[str]:
        return list(self._listener.notes)

    @property
    def covers_from(self) -> int | None:
        return self._listener.covers_from_ns

    @property
    def begins_there(self) -> bool:
        return self._listener.begins_there

    @property
    def heard_through(self) -> int | None:
        return self._listener.heard_through_ns

    @property
    def deaf(self) -> bool:
        return self._listener.deaf.is_set()

    @property
    def peers(self) -> Mapping[str, Peer]:
        heard = self._listener.peers.since(self._listener.own_heard_ns - PEER_SILENCE)
        heard.pop(self._instance_id, None)
        return heard


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
