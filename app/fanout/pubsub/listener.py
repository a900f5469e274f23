"""Listening: the instance's own subscription, and a stream on it that is never left unwatched.

A stream counts as hearing only when it has carried messages that this instance sent itself (canaries), one for each
ordering key: behind it nothing older of that key can come. Without that an instance can be deaf in silence: its
subscription may hang on a topic that was deleted, or a stream that nobody reads may swallow its messages.
"""

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from app.backoff import Backoff
from app.fanout import PROCESS, PROCESS_LENGTH, Deliver, Delivery, FanoutStartError
from app.fanout.pubsub.canaries import Canaries
from app.fanout.pubsub.catching_up import CatchingUp, HeldBack, hand_over
from app.fanout.pubsub.client import (
    PERMISSIONS,
    SUBSCRIPTION_RETENTION,
    PubSubClient,
    PubSubError,
    PubsubMessage,
    Stream,
)
from app.fanout.pubsub.names import all_backlogs, all_ordering_keys, instance_subscription_id
from app.fanout.pubsub.patience import Patience
from app.fanout.pubsub.peers import Peers
from app.fanout.pubsub.second_look import SecondLook
from app.metrics import Metrics
from app.protocol.messages import OWN_PREFIX

logger = logging.getLogger(__name__)

LOOPBACK = OWN_PREFIX + "loopback"
HEARTBEAT = OWN_PREFIX + "heartbeat"
ROLL_CALL = OWN_PREFIX + "roll-call"
OWN_SIGNALS = {LOOPBACK, HEARTBEAT, ROLL_CALL}
SECOND = 10**9
"""Nanoseconds."""
RETRY_DELAY = (0.1, 10.0)
"""Seconds: the first and the longest wait before another try."""
NOT_FOUND_TRIES = 5
"""How often NotFound is taken for Pub/Sub's own delay after something was created."""
CLOCK_MARGIN = 2.0
"""Seconds by which this machine's clock and Pub/Sub's may differ."""
LEAST_LOOK_BACK = 5.0
"""Seconds that a rebuilt subscription looks back beyond what was heard last: other keys may come later."""
LONGEST_STOP = 0.9 * SUBSCRIPTION_RETENTION
"""Seconds without reading after which a subscription may have dropped messages."""
STOP = 2.0
"""Seconds without CPU after which what comes may be older than the delivery skew allows."""
MOST_PATIENCE = 8
"""By how much longer a stream may carry nothing when those before it did not hear either: twice as long each time. Only
twice in all where clients wait to be sent elsewhere."""
LONG_STOP = 30.0
"""Seconds without CPU after which this instance may no longer say who else was silent meanwhile."""
LEAST_BETWEEN_ANSWERS = 5.0
"""Seconds between two answers to roll calls: whoever may publish can call, and all instances hear all answers."""
DELETE_TIMEOUT = 1.5
FINISH_TIMEOUT = 0.5


@dataclass(frozen=True, slots=True)
class Times:
    """How long things may take, in seconds. Together they keep: who does not hear itself for 30 s is not ready."""

    loopback: float = 5.0
    """For a canary to be heard while its stream carries nothing at all."""
    proof: float = 18.0
    """The same while the stream carries other messages."""
    warm_up: float = 100.0
    """The same on a new subscription, which hands out its backlog first. Cloud Run's start-up probe waits longer."""
    overdue: float = 10.0
    """After this an own message that was stored and not heard is asked after."""
    quiet: tuple[float, float] = (15.0, 25.0)
    """Without any message for so long, a canary asks whether there is really nothing to hear. Each instance draws its
    own: the first one's is heard by all, so a quiet topic carries few, however many instances there are."""
    heartbeat: tuple[float, float] = (200.0, 300.0)
    """An instance that has said nothing for so long says that it lives."""
    deaf: float = 30.0
    """Without hearing itself for so long, and after a rebuilt stream that does not hear either, it is deaf for good."""
    tick: float = 1.0

    @classmethod
    def for_grace(cls, grace: float) -> "Times":
        """With heartbeats so often that six or more of them are missing when `grace` seconds are over (0: any)."""
        first, last = cls().heartbeat
        return cls(heartbeat=(min(first, grace / 9), min(last, grace / 6))) if grace else cls()


@dataclass(slots=True)
class _Backlog:
    """What a new subscription hands out first."""

    begin_ns: int = 0
    """What was published before is not for this instance."""
    looks_back: bool = False
    is_whole: bool = False
    """Whether the topic retains messages for so long: then what the backlog lacks was never published there."""
    oldest_ns: int | None = None

    def includes(self, time_ns: int) -> bool:
        """Whether a message of this time is for this instance."""
        if self.oldest_ns is None or time_ns < self.oldest_ns:
            self.oldest_ns = time_ns
        return time_ns >= self.begin_ns


class _SubscriptionLost(Exception):
    """The subscription is of no more use. `keys`: those that hear nothing while others do; none: all."""

    def __init__(self, text: str, keys: list[str] | None = None) -> None:
        super().__init__(text)
        self.keys = keys or []


class Listener:
    """Hands what the topic carries to `deliver`, from `listen` until that is cancelled.

    `history_ttl` and `skew` are in seconds: how far a new instance looks back, and how late Pub/Sub may deliver.
    `process` tells what this process published from all else; None: it draws one.
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
        skew: float = LEAST_LOOK_BACK,
        revision: str | None = None,
        process: str | None = None,
        times: Times | None = None,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._prefix = prefix
        self._instance_id = instance_id
        self._labels = labels
        self._now_ns = now_ns
        self._chance = chance
        self._history_ttl = history_ttl
        self._skew = max(skew, LEAST_LOOK_BACK)
        self._process = process or f"{chance.getrandbits(4 * PROCESS_LENGTH):0{PROCESS_LENGTH}x}"
        self._signature = _signature(instance_id, self._process, revision)
        self._times = times or Times()

        self._subscription: str | None = None
        self._generation = 0
        self._begun_ns: int | None = None  # when this generation was tried first: what failed may have been made then
        self._proven = self._ever_heard = False  # this subscription, and any, has carried all canaries
        self._failures = 0  # streams in a row that ended without hearing
        self._not_found = 0
        self._made: set[str] = set()
        self._lost = asyncio.Event()
        self._tokens = itertools.count(1)
        self._probe_keys = itertools.cycle(all_ordering_keys())
        self._heard_all = asyncio.Event()
        self._roll_called = False
        self._patience = Patience(self._times.tick, self._was_stopped)
        self._held_back = HeldBack()
        self._catching_up = CatchingUp()

        # What was heard, in publish times (Unix ns), and when, in the loop's time
        self._backlog = _Backlog()
        self._second_look: SecondLook | None = None  # while it may have what is missing
        self._live_from_ns = now_ns() - int(CLOCK_MARGIN * SECOND)
        self._last_ns = 0
        self._last_of_key = dict.fromkeys(all_ordering_keys(), 0)
        self._resume_ns = 0  # up to here all was heard, when it was last heard well
        self._last_read, self._last_read_ns = 0.0, 0
        self._reads = 0
        self._last_own, self._last_well = 0.0, 0.0  # when it heard itself last, and when on all keys

        self.canaries = Canaries()
        self.peers = Peers()
        self.hearing = asyncio.Event()
        self.deaf = asyncio.Event()
        """Set while it is better for clients to be elsewhere."""
        self.reason = "the Pub/Sub subscription is not made yet"
        """Why it is not hearing, in plain words."""
        self.notes: list[str] = []
        self.covers_from_ns: int | None = None
        self.begins_there = False
        self.own_heard_ns = 0
        """The publish time of the latest own message that was heard: "now", as Pub/Sub has it."""
        self.watching_from_ns: int | None = None
        """Since then nothing was missed of who speaks; None: begins with the next own message."""

    async def listen(self, deliver: Deliver) -> None:
        """Listen until cancelled. Raises FanoutStartError while nothing was ever heard and trying again is no use."""
        backoff = Backoff(*RETRY_DELAY, self._chance)
        self._last_own = self._last_well = asyncio.get_running_loop().time()
        while True:
            try:
                if self._subscription is None:
                    self._subscription = await self._make_subscription()
                await self._hear(self._subscription, deliver, backoff)
                self._fail("the Pub/Sub stream ended")
            except _SubscriptionLost as lost:
                self._fail(str(lost), lost.keys)
                await self.delete_subscriptions(DELETE_TIMEOUT)
            except PubSubError as error:
                self._fail(explain(error, self._client))
                await self._judge(error)
            except Exception:
                self._fail("the Pub/Sub listener failed; see the log")
                logger.exception("listening failed")
            await asyncio.sleep(backoff.wait())

    @property
    def heard_through_ns(self) -> int | None:
        """While it catches up: what was published up to here was heard, and later things may come out of turn."""
        return self._catching_up.through_ns

    async def topic_missing(self) -> None:
        """Publishing met no topic: then this subscription hears nothing either, even when the topic is made anew."""
        if self._client.emulated:
            with contextlib.suppress(PubSubError):
                await self._client.create_topic(self._look_back)
        self._lost.set()

    async def delete_subscriptions(self, timeout: float) -> None:
        """Delete what this instance made, which else expires a day later. `timeout` is in seconds, for each."""
        self._subscription = None
        self._proven = False
        self._held_back.drop()  # the next one brings it again, in its place
        for subscription in tuple(self._made):
            try:
                await self._client.delete_subscription(subscription, timeout)
                self._made.discard(subscription)
            except PubSubError as error:
                logger.warning("the subscription %s could not be deleted: %s", subscription, error)

    async def call_roll(self) -> None:
        """Ask all instances to answer with a heartbeat at once. Raises PubSubError."""
        await self._send_signal(ROLL_CALL, next(self._probe_keys), retry=False)

    async def echo(self) -> None:
        """Return when everything was heard that was published with the service's own keys before now."""
        try:
            await self._prove(all_ordering_keys(), self._times.proof)
        except _SubscriptionLost as lost:
            raise PubSubError("consume", grpc.StatusCode.UNAVAILABLE, str(lost)) from None

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

    # The subscription, and from when on it hears

    @property
    def _look_back(self) -> float:
        return self._history_ttl + self._skew + CLOCK_MARGIN if self._history_ttl else 0.0

    async def _make_subscription(self) -> str:
        name = self._client.topic.subscription(
            instance_subscription_id(self._prefix, self._instance_id, self._generation + 1)
        )
        self._lost.clear()
        self._made.add(name)
        if self._begun_ns is None:
            self._begun_ns = self._now_ns()
        try:
            retention = await self._client.create_subscription(name, self._labels)
        except PubSubError as error:
            if not self._client.emulated or error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            await self._client.create_topic(self._look_back)
            retention = await self._client.create_subscription(name, self._labels)
        self._last_of_key = dict.fromkeys(all_ordering_keys(), 0)
        self._backlog = await self._begin(name, retention)
        self._second_look = None
        if self._client.emulated and self._backlog.looks_back:
            await self._look_twice(name, self._begun_ns)
        self._begun_ns = None
        self._generation += 1
        self._metrics.pubsub_subscriptions_made.inc()
        logger.info("made the subscription %s", name)
        return name

    async def _look_twice(self, name: str, begun_ns: int) -> None:
        second = f"{name}-0"
        self._made.add(second)
        await self._client.create_subscription(second, self._labels)
        # However long that took: an emulator that stood still meanwhile was still making the first.
        self._second_look = SecondLook(self._client, second, self._instance_id, begun_ns, self._now_ns())

    async def _begin(self, subscription: str, retention: float) -> "_Backlog":
        """Have a new subscription begin where it should. The hub drops repeats."""
        now_ns = self._now_ns()
        if self._ever_heard:
            begin_ns = self._resume_ns - int(self._skew * SECOND)
        else:
            self._note_retention(retention)
            begin_ns = now_ns - int(self._look_back * SECOND)
            if not self._client.emulated and (not retention or not self._look_back):
                return _Backlog()
        is_whole = retention * SECOND >= now_ns - begin_ns
        if self._client.emulated:
            # The emulator hands all that the topic retains to a new subscription, and cannot seek one that keeps
            # order. Its clock is ours, in milliseconds.
            looks_back = retention > 0 and (self._ever_heard or self._look_back > 0)
            return _Backlog(begin_ns // 10**6 * 10**6, looks_back, is_whole)
        try:
            await self._client.seek(subscription, begin_ns)
        except PubSubError as error:
            logger.warning("seeking %s back failed: %s", subscription, error)
            return _Backlog()
        return _Backlog(0, looks_back=retention > 0, is_whole=is_whole)  # what comes from before does no harm

    def _note_retention(self, retention: float) -> None:
        """Say once what a topic that retains too little means."""
        if not self._look_back or retention >= self._look_back or self.notes:
            return
        topic = self._client.topic
        kept = f"only {retention:.0f} s of messages" if retention else "no messages"
        note = (
            f"the topic {topic.path} retains {kept}, so an instance that starts cannot give clients what they missed "
            f"before: gcloud pubsub topics update {topic.topic} --project={topic.project} "
            f"--message-retention-duration={max(600, int(self._look_back) + 1)}s"
        )
        self.notes.append(note)
        logger.warning(note)

    def _cover(self, proof_ns: int) -> None:
        """A new subscription is proven: work out since when this instance has heard everything.

        The evidence is what the backlog really held: a topic that was made anew, or that retains less than was asked
        for, holds nothing from before. `proof_ns` is the publish time of the canaries, which were sent after it was
        made.
        """
        backlog = self._backlog
        oldest_ns = proof_ns if backlog.oldest_ns is None else backlog.oldest_ns
        if self._ever_heard and oldest_ns <= self._resume_ns:
            return  # what was heard last before the hole came again: there is no hole
        if self._ever_heard:
            seconds = (oldest_ns - self._resume_ns) / SECOND
            self._gap(f"the topic does not retain messages of {seconds:.1f} s")
        from_ns = max(backlog.begin_ns, oldest_ns) if backlog.looks_back else proof_ns
        if from_ns > (self.covers_from_ns or 0):
            self.covers_from_ns = from_ns
            self.begins_there = backlog.looks_back and backlog.is_whole

    def _gap(self, why: str) -> None:
        self._metrics.pubsub_gaps.inc()
        logger.error("a gap: messages may never reach this instance: %s", why)

    # A stream

    async def _hear(self, subscription: str, deliver: Deliver, backoff: Backoff) -> None:
        """One stream, from its opening to its end, whatever ends it."""
        stream = self._client.open_stream(subscription, self._instance_id)
        self._metrics.pubsub_streams.inc()
        reader = asyncio.create_task(self._read(stream, deliver))
        watcher = asyncio.create_task(self._watch(backoff, deliver))
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
        loop = asyncio.get_running_loop()
        await stream.open()
        while (received := await stream.read()) is not None:
            now_ns = self._now_ns()
            if self._proven and now_ns - self._last_read_ns > LONGEST_STOP * SECOND:
                raise _SubscriptionLost("this instance was stopped for longer than its subscription keeps messages")
            if self._patience.asleep_for(loop.time()) > STOP:
                self._falls_behind(self._last_ns)  # the watcher has yet to wake
            self._last_read, self._last_read_ns = loop.time(), now_ns
            self._reads += 1
            self._metrics.pubsub_received.inc(len(received))
            for item in received:
                self._take(item.message, deliver)
            if received:
                await stream.acknowledge([item.ack_id for item in received])

    def _take(self, message: Any, deliver: Deliver) -> None:
        time = message.publish_time
        time_ns = time.seconds * SECOND + time.nanos
        if not self._backlog.includes(time_ns):
            return
        self._last_ns = max(self._last_ns, time_ns)
        key = message.ordering_key
        if key in self._last_of_key:  # publishers may use any keys; only ours are asked after
            self._last_of_key[key] = time_ns
        attributes = message.attributes  # as it is: a copy costs more than all the rest
        origin = attributes.get("origin")
        if origin is not None:
            self.peers.spoke(origin, time_ns)
            if self._is_own(attributes):
                self._hear_own(key, attributes.get("token") or attributes.get("seq"), time_ns)
            if attributes.get("type") in OWN_SIGNALS:
                self._heed(origin, attributes, time_ns)
                return
        delivery = self._delivery_of(message)
        if not self._proven and (
            self._ever_heard or (self._second_look is not None and time_ns >= self._second_look.begin_ns)
        ):
            self._hold_back(delivery, deliver)
        else:
            hand_over(delivery, deliver)

    def _delivery_of(self, message: Any) -> Delivery:
        time_ns = message.publish_time.seconds * SECOND + message.publish_time.nanos
        live = self._proven or time_ns >= self._live_from_ns
        key = message.ordering_key or None
        return Delivery(message.data, message.attributes, message.message_id, time_ns, key, live)

    def _hold_back(self, delivery: Delivery, deliver: Deliver) -> None:
        if not self._held_back.add(delivery):
            self._gap("more came than can be held back until it is known what is missing")
            self.covers_from_ns, self.begins_there = max(self._last_ns, self.covers_from_ns or 0), False
            self._held_back.let_go(deliver)

    def _hear_own(self, key: str, token: str | None, time_ns: int) -> None:
        now = asyncio.get_running_loop().time()
        self._last_own = now
        self.own_heard_ns = max(self.own_heard_ns, time_ns)
        lag = self.canaries.heard(key, token, now)
        if lag is not None:
            self._metrics.pubsub_lag.set(lag)
            self._heard_all.set()

    def _is_own(self, attributes: Mapping[str, str]) -> bool:
        """Return whether this process published it: clients see its origin, and whoever may publish can write that."""
        return attributes.get(PROCESS) == self._process

    def _heed(self, origin: str, attributes: Mapping[str, str], time_ns: int) -> None:
        revision = attributes.get("revision")
        if revision is not None:
            self.peers.told(origin, revision)
        if attributes.get("type") == ROLL_CALL and time_ns >= self._live_from_ns and not self._is_own(attributes):
            self._roll_called = True

    # Watching it

    async def _watch(self, backoff: Backoff, deliver: Deliver) -> None:
        """See that the stream hears, now and from then on. Raises when it does not."""
        # A dead stream may go on swallowing the messages of some ordering keys: each stream is tried with all of them.
        stops = self._catching_up.stops
        if self._proven:
            await self._prove(all_backlogs(), self._times.proof)
        else:
            await self._prove_new(deliver)
        self._proven = self._ever_heard = True
        self._catching_up.end(stops)
        self._failures = self._not_found = 0
        backoff.reset()
        self._hears_well()
        logger.info("listening to %s", self._client.topic.path)
        loop = asyncio.get_running_loop()
        answers_from = 0.0
        quiet, beat = self._chance.uniform(*self._times.quiet), self._chance.uniform(*self._times.heartbeat)
        while True:
            if await self._patience.wait(self._lost):
                raise _SubscriptionLost("the Pub/Sub topic had vanished")
            while self._catching_up.through_ns is not None:
                stops = self._catching_up.stops
                await self._prove(all_backlogs(), self._times.proof)
                self._catching_up.end(stops)
            now = loop.time()
            if now - self._last_read >= quiet:
                await self._prove([next(self._probe_keys)], self._times.proof)
                quiet = self._chance.uniform(*self._times.quiet)
            elif keys := self.canaries.overdue(now, self._times.overdue):
                await self._prove(keys, self._times.proof)
            elif (self._roll_called and now >= answers_from) or now - self._last_own >= beat:
                self._roll_called = False
                answers_from = now + LEAST_BETWEEN_ANSWERS
                beat = self._chance.uniform(*self._times.heartbeat)
                await self._send_signal(HEARTBEAT, next(self._probe_keys))
            self._hears_well()

    async def _prove_new(self, deliver: Deliver) -> None:
        """The same for a subscription that has not carried all yet; then hand over what it was held back for."""
        second = self._second_look
        if second is None:
            await self._prove(all_backlogs(), self._times.warm_up)
            found: list[Delivery] = []
        else:
            found = await self._prove_with(second)
        self._cover(self.own_heard_ns)
        # Until here what comes is held back, and from here on nothing is in front of it: no await between these.
        self._held_back.let_go(deliver, found)
        self._second_look = None
        self._proven = self._ever_heard = True
        if second is not None:
            with contextlib.suppress(PubSubError):
                await self._client.delete_subscription(second.subscription, DELETE_TIMEOUT)
                self._made.discard(second.subscription)

    async def _prove_with(self, second: SecondLook) -> list[Delivery]:
        def is_canary(message: Any) -> bool:
            token = message.attributes.get("token")
            return self._is_own(message.attributes) and token is not None and token.startswith(f"{self._generation}-")

        found: list[Delivery] | None = None
        reading = asyncio.create_task(second.read(all_backlogs(), is_canary, self._delivery_of))
        try:
            await self._prove(all_backlogs(), self._times.warm_up)
            found = await asyncio.wait_for(reading, self._times.warm_up)
        except (TimeoutError, PubSubError) as error:
            raise _SubscriptionLost(f"the second look at {self._subscription} failed: {error}") from None
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            if found is None:
                self._subscription = None  # without a second look it is of no use
        return [delivery for delivery in found if delivery.attributes.get("type") not in OWN_SIGNALS]

    def _was_stopped(self, seconds: float) -> None:
        """This process had no CPU for so long: what came meanwhile is still unread."""
        if seconds > LONG_STOP:
            self.watching_from_ns = None
        if seconds > STOP:
            self._falls_behind(self._last_ns)

    def _falls_behind(self, through_ns: int) -> None:
        if self._ever_heard:
            self._catching_up.begin(through_ns)

    def _hears_well(self) -> None:
        self._last_well = asyncio.get_running_loop().time()
        if self.watching_from_ns is None:
            self.watching_from_ns = self.own_heard_ns
        self.deaf.clear()
        if not self.hearing.is_set():
            self.hearing.set()
            self._metrics.pubsub_hearing.set(1)

    async def _prove(self, keys: list[str], limit: float) -> None:
        """Publish a canary for each key and wait until all are heard, for `limit` seconds at most."""
        self.reason = f"waiting to hear this instance's own message on {self._subscription}"
        sending = [asyncio.create_task(self._send_signal(LOOPBACK, key)) for key in keys]
        try:
            await asyncio.gather(*sending)
        finally:
            for task in sending:
                task.cancel()
        waited = silence = 0.0
        reads = self._reads
        # A Pub/Sub that is slow with new subscriptions is not helped by ever more of them.
        patience = min(2**self._failures, 2 if self._ever_heard else MOST_PATIENCE)
        while self.canaries.any_of(keys):
            self._heard_all.clear()
            if await self._patience.wait(self._heard_all):
                continue
            waited += self._times.tick
            silence = silence + self._times.tick if reads == self._reads else 0.0
            reads = self._reads
            if silence >= self._times.loopback * patience or waited >= limit:
                deaf_keys = [key for key in keys if self.canaries.any_of([key])]
                raise _SubscriptionLost(
                    f"this instance did not hear its own message on {self._subscription} in {waited:.0f} s",
                    deaf_keys if silence < self._times.loopback * patience else [],
                )

    async def _send_signal(self, kind: str, key: str, *, retry: bool = True) -> None:
        """Publish what only instances hear; it is a canary too. Raises PubSubError where trying again is no use."""
        loop = asyncio.get_running_loop()
        token = f"{self._generation}-{next(self._tokens)}"
        attributes = {"type": kind, "token": token, **self._signature}
        message = PubsubMessage(data=b"{}", attributes=attributes, ordering_key=key)
        backoff = Backoff(*RETRY_DELAY, self._chance)
        self.canaries.replace(key, token, loop.time())
        while True:
            try:
                await self._client.publish([message], timeout=5)
                self.canaries.stored(key, token, loop.time())
                return
            except PubSubError as error:
                if error.code is grpc.StatusCode.NOT_FOUND and self._client.emulated:
                    await self.topic_missing()
                    raise _SubscriptionLost("the Pub/Sub topic had vanished") from None
                if not error.transient or not retry:
                    self.canaries.failed(key, token)
                    raise
                self._notice_outage(explain(error, self._client))
            await asyncio.sleep(backoff.wait())

    def _notice_outage(self, reason: str) -> None:
        """Publishing fails, so nothing can be heard; the stream may be well, and is left alone."""
        silence = asyncio.get_running_loop().time() - self._last_own
        if not self.hearing.is_set():
            self.reason = reason
        elif silence >= self._times.deaf:
            self._deafen(reason)
        if self._ever_heard and silence >= self._times.deaf + self._times.loopback:
            self.deaf.set()

    def _fail(self, reason: str, keys: list[str] | None = None) -> None:
        """A stream, or the making of one, has ended."""
        self._failures += 1
        self._deafen(reason, keys)
        # Who hears itself on some ordering keys and never on another is deaf too.
        silence = asyncio.get_running_loop().time() - min(self._last_own, self._last_well)
        if self._ever_heard and self._failures > 1 and silence >= self._times.deaf:
            self.deaf.set()

    def _deafen(self, reason: str, keys: list[str] | None = None) -> None:
        self.reason = reason
        if self.hearing.is_set():
            # With some keys deaf and others not, what those missed began after what they heard last.
            heard_ns = min(
                (self._last_of_key[key] for key in keys or [] if key in self._last_of_key), default=self._last_ns
            )
            self._resume_ns = max(heard_ns, self._last_ns - int((self._look_back or self._skew) * SECOND))
            self._falls_behind(self._resume_ns)
        if self.hearing.is_set() or not self._ever_heard:
            logger.warning("not listening: %s", reason)
        self.hearing.clear()
        self.watching_from_ns = None
        self._metrics.pubsub_hearing.set(0)


def _signature(instance_id: str, process: str, revision: str | None) -> dict[str, str]:
    """Return the attributes in which each message of an instance to the others describes itself."""
    return {"origin": instance_id, PROCESS: process, **({} if revision is None else {"revision": revision})}


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
