"""Clearing up behind instances that died: any live instance does it, and no two by turns."""

import asyncio
import logging
import random

import grpc

from app.fanout.pubsub.client import PubSubClient, PubSubError
from app.fanout.pubsub.listener import Listener, explain
from app.fanout.pubsub.peers import chosen, instance_of, silent
from app.metrics import Metrics

logger = logging.getLogger(__name__)

DELETE_TIMEOUT = 10.0


class Sweeper:
    """Deletes subscriptions whose instance has been silent for `grace` seconds, in which everything was heard here.

    Silence is measured in publish times: what the clock of a stopped instance says does not matter.
    """

    def __init__(
        self,
        client: PubSubClient,
        listener: Listener,
        metrics: Metrics,
        *,
        prefix: str,
        instance_id: str,
        grace: float,
        chance: random.Random,
    ) -> None:
        self._client = client
        self._listener = listener
        self._metrics = metrics
        self._prefix = prefix
        self._instance_id = instance_id
        self._grace = grace
        self._chance = chance
        self._first_seen: dict[str, int] = {}

    async def run(self) -> None:
        """Look from time to time, until cancelled."""
        while True:
            await asyncio.sleep(self._grace * self._chance.uniform(0.15, 0.25))
            try:
                await self.sweep()
            except PubSubError as error:
                logger.warning("looking for subscriptions of dead instances failed: %s", explain(error, self._client))

    async def sweep(self) -> list[str]:
        """Delete the orphans that fall to this instance; answers their full names. Raises PubSubError."""
        listener = self._listener
        names = await self._client.list_subscriptions()
        now_ns, since_ns = listener.own_heard_ns, listener.watching_from_ns
        self._first_seen = {
            name: self._first_seen.get(name, now_ns) for name in names if instance_of(name, self._prefix) is not None
        }
        if listener.peers.overflowed:
            listener.peers.forget_before(now_ns - int(self._grace * 10**9))
            listener.watching_from_ns = None  # somebody's words were not noted: begin anew
            return []
        if since_ns is None:
            return []
        orphans = silent(
            self._first_seen, listener.peers, prefix=self._prefix, since_ns=since_ns, now_ns=now_ns, grace=self._grace
        )
        alive = {self._instance_id, *listener.peers.since(now_ns - int(self._grace / 2 * 10**9))}
        deleted = [
            name
            for name in orphans
            if instance_of(name, self._prefix) != self._instance_id
            and chosen(name, alive) == self._instance_id
            and await self._delete(name)
        ]
        listener.peers.forget_before(now_ns - int(2 * self._grace * 10**9))
        return deleted

    async def _delete(self, name: str) -> bool:
        instance_id = instance_of(name, self._prefix)
        try:
            found = await self._client.get_subscription(name)
        except PubSubError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return False  # another was quicker
            raise
        if found.labels.get("instance") != instance_id:
            return False  # its name looks like one of ours, but no instance made it
        await self._client.delete_subscription(name, DELETE_TIMEOUT)
        self._metrics.pubsub_orphans_deleted.inc()
        logger.warning("deleted %s: its instance %s has said nothing for %.0f s", name, instance_id, self._grace)
        return True
