"""Which instance subscriptions there are, and whose instance lives: asked from outside, by hand."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

import grpc

from app.fanout import FanoutStartError
from app.fanout.pubsub.client import PubSubClient, PubSubError
from app.fanout.pubsub.listener import SECOND, Listener, Times, explain
from app.fanout.pubsub.peers import instance_of
from app.metrics import Metrics

ANSWER_TIME = 10.0
"""Seconds for living instances to answer a roll call: they do it within one or two, unless they have no CPU."""
START_TIMEOUT = 120.0
DELETE_TIMEOUT = 10.0
END_TIMEOUT = 2.0


class CensusError(Exception):
    """It cannot be found out, or done; the text says why in plain words."""


class Found(NamedTuple):
    """A subscription of the topic. `instance_id`: None where no instance of this service made it."""

    name: str
    instance_id: str | None
    service: str
    revision: str


class Verdict(NamedTuple):
    """What a subscription was found to be, and why."""

    found: Found
    orphan: bool
    why: str


class Census:
    """Looks at one topic's subscriptions, and deletes those of dead instances. Raises CensusError."""

    def __init__(self, client: PubSubClient, *, prefix: str, answer_time: float = ANSWER_TIME) -> None:
        self._client = client
        self._prefix = prefix
        self._answer_time = answer_time

    async def subscriptions(self) -> list[Found]:
        """All subscriptions of the topic, by name."""
        with self._explained():
            names = sorted(await self._client.list_subscriptions())
        return [found for name in names if (found := await self._look_at(name)) is not None]

    async def judge(self, grace: float, tell: Callable[[str], None]) -> list[Verdict]:
        """Listen until it is known who has been silent for `grace` seconds, and say so of each subscription.

        `tell` is given a sentence about what is being waited for.
        """
        found = await self.subscriptions()
        if not any(one.instance_id for one in found):
            return [Verdict(one, False, "no instance made it") for one in found]
        with self._explained():
            async with self._listening(grace) as listener:
                covered_ns = listener.covers_from_ns or listener.own_heard_ns
                rest = max(0.0, grace - (listener.own_heard_ns - covered_ns) / SECOND - self._answer_time)
                if rest:
                    tell(f"listening for {rest + self._answer_time:.0f} s; Ctrl-C ends it, and deletes nothing")
                await asyncio.sleep(rest)
                asked_ns = listener.own_heard_ns
                tell("calling the roll: every instance that has CPU answers")
                await listener.call_roll()
                await asyncio.sleep(self._answer_time)
                await listener.echo()
                covered_ns = listener.covers_from_ns or listener.own_heard_ns
                if listener.own_heard_ns - covered_ns < grace * SECOND:
                    raise CensusError(f"the last {grace:.0f} s could not all be listened to; nothing is judged")
                # Who answered lives, however short the grace.
                silent_ns = min(asked_ns, listener.own_heard_ns - int(grace * SECOND))
                return [self._verdict(one, listener, grace, silent_ns) for one in found]

    @staticmethod
    def _verdict(found: Found, listener: Listener, grace: float, silent_ns: int) -> Verdict:
        if found.instance_id is None:
            return Verdict(found, False, "no instance made it")
        spoke_ns = listener.peers.last_of(found.instance_id)
        silence = (listener.own_heard_ns - spoke_ns) / SECOND
        if spoke_ns >= silent_ns:
            return Verdict(found, False, f"its instance spoke {max(0.0, silence):.0f} s ago")
        if listener.peers.overflowed:
            return Verdict(found, False, "more instances spoke than can be told apart")
        return Verdict(found, True, f"its instance has said nothing for {grace:.0f} s, and did not answer")

    async def delete(self, name: str) -> None:
        """Delete a subscription; that it is gone already is no error."""
        with self._explained():
            await self._client.delete_subscription(name, DELETE_TIMEOUT)

    async def close(self) -> None:
        """End the connection."""
        await self._client.close()

    async def _look_at(self, name: str) -> Found | None:
        try:
            labels = (await self._client.get_subscription(name)).labels
        except PubSubError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return None  # it has gone meanwhile
            raise CensusError(explain(error, self._client)) from None
        instance_id = instance_of(name, self._prefix)
        ours = instance_id is not None and labels.get("instance") == instance_id
        return Found(name, instance_id if ours else None, labels.get("service", ""), labels.get("revision", ""))

    @asynccontextmanager
    async def _listening(self, grace: float) -> AsyncIterator[Listener]:
        """A listener of one's own: should it be left behind, it is swept as any other."""
        chance = random.SystemRandom()
        instance_id = f"{chance.getrandbits(48):012x}"
        listener = Listener(
            self._client,
            Metrics(),
            prefix=self._prefix,
            instance_id=instance_id,
            labels={"service": "by-hand", "revision": "by-hand", "instance": instance_id},
            now_ns=time.time_ns,
            chance=chance,
            history_ttl=grace,
            times=Times.for_grace(grace),
        )
        listening = asyncio.create_task(listener.listen(lambda _: None))
        hearing = asyncio.create_task(listener.hearing.wait())
        try:
            await asyncio.wait({listening, hearing}, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                listening.result()
            if not listener.hearing.is_set():
                raise CensusError(listener.reason)
            yield listener
        finally:
            listening.cancel()
            hearing.cancel()
            await asyncio.wait({listening, hearing}, timeout=END_TIMEOUT)
            await listener.delete_subscriptions(END_TIMEOUT)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PubSubError as error:
            raise CensusError(explain(error, self._client)) from None
        except FanoutStartError as error:
            raise CensusError(str(error)) from None
