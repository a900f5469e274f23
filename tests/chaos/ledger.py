"""The ledger: what was published, what each client got and was told, and whether that is what it should have got.

Pure: times come in as arguments, all from one clock. The promise that is checked (contract, section 5), for every
client and every channel it has joined:

- No message comes twice. Nothing excuses that.
- What was accepted comes, unless the client was told `recovered: false` on that channel, at a place and a time where
  the message may have been. What was published after it was told, or stands between two messages that came without a
  gap between them, is lost.
- Messages of one ordering key come in one order, the same for all clients, and never one before another that was
  accepted before the first was begun. A gap cuts the order: what comes behind it is a new stretch.
- Of two that were published at once clients may get each another first, seldom, for the emulator hands such messages to
  each subscription in an order of its own: 61 pairs of 16,000 messages at 200 a second, with nothing but three streams
  and twelve publishers. (Pub/Sub itself has one order for a key.) How many there are is counted, and bounded.

A message that was not accepted is in doubt: it may come, once.

A client enters and leaves channels; each stay is a track of its own. After it has left, nothing comes that was
published after the leave was answered. What is owed to a stay that is over is what was stored before something that
came: of the rest nobody knows whether it was under way when the client left.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, combinations, pairwise, product

IN_DOUBT = 60.0
"""Seconds in which a message that was not accepted may still be stored: who has it may stand still."""
DISAGREEMENTS = 0.01
"""For each message that was accepted, at most."""
UNORDERED = 60.0
"""Seconds by which a message without an ordering key may come later than one that was published after it: what is
delivered anew comes after its deadline, and an instance, or Pub/Sub, may stand still meanwhile."""


@dataclass(slots=True, eq=False)
class Source:
    """Who publishes to one channel (None: to everyone), one message after the other.

    `key` names the ordering key, the same for all sources that share it; None where there is no order.
    """

    name: str
    channel: str | None
    key: str | None
    messages: "list[Message]" = field(default_factory=list)

    def begin(self, now: float) -> "Message":
        """The next message, about to be published."""
        message = Message(self, len(self.messages), now)
        self.messages.append(message)
        return message


@dataclass(slots=True, eq=False)
class Message:
    """One numbered message. `began` and `accepted` enclose the moment at which it was stored."""

    source: Source
    number: int
    began: float
    accepted: float = math.inf

    def accept(self, now: float) -> None:
        """Its publisher was told that it is stored; what it is told again changes nothing."""
        self.accepted = min(self.accepted, now)

    @property
    def in_doubt(self) -> bool:
        return self.accepted == math.inf

    def precedes(self, other: "Message") -> bool:
        """Whether this was surely stored before the other."""
        return self.accepted < other.began

    def is_at_once_with(self, other: "Message") -> bool:
        """Whether either may have been stored first."""
        return self.began < other._stored_by and other.began < self._stored_by

    @property
    def _stored_by(self) -> float:
        return self.began + IN_DOUBT if self.in_doubt else self.accepted

    def __str__(self) -> str:
        return f"{self.source.name}#{self.number}"


@dataclass(slots=True, eq=False)
class _Stretch:
    """What came without a gap. `told`: when the client was told of the gap before it; the first has none."""

    told: float
    received: list[Message] = field(default_factory=list)


class Track:
    """One client on one channel, or (None) what goes to everyone: what came, in its order, and the gaps it knows of."""

    def __init__(self, client: str, channel: str | None, sources: list[Source]) -> None:
        self.client = client
        self.channel = channel
        self.sources = sources
        self.joined_at = math.inf
        self.left_at = math.inf
        self.is_passing = False
        """True: the stay is one of many."""
        self.recovered = 0
        """How often it went on with `recovered: true`."""
        self._stretches = [_Stretch(-math.inf)]

    def joined(self, now: float) -> None:
        """The subscription was answered: from now on everything has to come."""
        self.joined_at = min(self.joined_at, now)

    def left(self, now: float) -> None:
        """The leave was answered: nothing that is published from now on may come."""
        self.left_at = min(self.left_at, now)

    def stayed(self) -> Iterator[Message]:
        """Messages that came although the client had left before they were published."""
        return (message for message in self.received() if message.began > self.left_at)

    def receive(self, message: Message) -> None:
        """A message came."""
        self._stretches[-1].received.append(message)

    def resumed(self, *, recovered: bool, now: float) -> None:
        """It went on after a new socket, with a proof or without."""
        if recovered:
            self.recovered += 1
        else:
            self._stretches.append(_Stretch(now))

    @property
    def unproven(self) -> int:
        """How often it was told `recovered: false`."""
        return len(self._stretches) - 1

    def received(self) -> Iterator[Message]:
        """All that came."""
        for stretch in self._stretches:
            yield from stretch.received

    def _ordered_stretches(self) -> Iterator[dict[str, list[Message]]]:
        """For each stretch what came of each ordering key, without repeats."""
        seen: set[Message] = set()
        for stretch in self._stretches:
            by_key: defaultdict[str, list[Message]] = defaultdict(list)
            for message in stretch.received:
                if message.source.key is not None and message not in seen:
                    seen.add(message)
                    by_key[message.source.key].append(message)
            yield by_key

    def orders(self) -> Iterator[list[Message]]:
        """What came in one order: of one stretch and one ordering key, without repeats."""
        for by_key in self._ordered_stretches():
            yield from by_key.values()

    def missing(self) -> tuple[list[Message], list[Message]]:
        """What was accepted after it joined and did not come: what is lost, and what a gap excuses."""
        came = set(self.received())
        missing = [
            message
            for source in self.sources
            for message in source.messages
            if not message.in_doubt and message.began > self.joined_at and message not in came
        ]
        if self.left_at < math.inf:
            latest: defaultdict[str, float] = defaultdict(lambda: -math.inf)
            for message in came:
                if message.source.key is not None:
                    latest[message.source.key] = max(latest[message.source.key], message.began)
            missing = [
                message
                for message in missing
                if message.source.key is not None and message.accepted < latest[message.source.key]
            ]
        if not missing or not self.unproven:
            return missing, []
        gaps = list(self._gaps())
        lost: list[Message] = []
        excused: list[Message] = []
        for message in missing:
            (excused if any(gap.excuses(message) for gap in gaps) else lost).append(message)
        return lost, excused

    def _gaps(self) -> "Iterator[_Gap]":
        ordered = list(self._ordered_stretches())
        unordered: defaultdict[Source, float] = defaultdict(lambda: -math.inf)
        for place in range(1, len(ordered)):
            for message in self._stretches[place - 1].received:
                unordered[message.source] = max(unordered[message.source], message.began)
            before: defaultdict[str, float] = defaultdict(lambda: -math.inf)
            behind: defaultdict[str, float] = defaultdict(lambda: math.inf)
            for at, by_key in enumerate(ordered):
                for key, messages in by_key.items():
                    if at < place:
                        before[key] = max(before[key], *(message.began for message in messages))
                    else:
                        behind[key] = min(behind[key], *(message.accepted for message in messages))
            yield _Gap(self._stretches[place].told, before, behind, dict(unordered))


@dataclass(frozen=True, slots=True)
class _Gap:
    """Where a client was told that something may be missing.

    `latest_before`: for each ordering key the latest beginning of what came before it. `earliest_behind`: the earliest
    acceptance of what came behind it. `latest_of_source`: for each source the latest beginning of what came before it.
    """

    told: float
    latest_before: dict[str, float]
    earliest_behind: dict[str, float]
    latest_of_source: "dict[Source, float]"

    def excuses(self, message: Message) -> bool:
        """Whether a message that did not come may have had its place here."""
        if message.began > self.told:
            return False
        key = message.source.key
        if key is None:  # without an order it may have come later than others, but not by so much
            return message.accepted + UNORDERED >= self.latest_of_source.get(message.source, -math.inf)
        return message.accepted >= self.latest_before.get(key, -math.inf) and message.began <= self.earliest_behind.get(
            key, math.inf
        )


class Wrong(StrEnum):
    """The ways in which the promise can be broken."""

    LOST = "lost"
    DOUBLED = "doubled"
    REORDERED = "out of order"
    FOREIGN = "of nobody here"
    STAYED = "after it was left"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken to a client."""

    wrong: Wrong
    client: str
    channel: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.wrong}: {self.client} on {self.channel or 'the inbox'}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the ledger comes to. `missed` are the deliveries that did not come and that the client was told of,
    `disagreements` the pairs of messages, published at once, of which two clients got each another first."""

    accepted: int
    in_doubt: int
    delivered: int
    recovered: int
    unproven: int
    missed: int
    disagreements: int
    violations: list[Violation]
    stays: int = 0
    """How often channels were entered, of those that are left again."""

    def count(self, wrong: Wrong) -> int:
        """How often a promise was broken so."""
        return sum(violation.wrong is wrong for violation in self.violations)


class Ledger:
    """All sources and all clients."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self._sources: dict[str, Source] = {}
        self._by_channel: defaultdict[str | None, list[Source]] = defaultdict(list)
        self._foreign: list[Violation] = []

    def source(self, name: str, channel: str | None, key: str | None) -> Source:
        """A new source."""
        if name in self._sources:
            raise ValueError(f"there is a source {name} already")
        source = self._sources[name] = Source(name, channel, key)
        self._by_channel[channel].append(source)
        return source

    def track(self, client: str, channel: str | None, *, is_passing: bool = False) -> Track:
        """A client that is about to join a channel; `is_passing`: it will leave."""
        track = Track(client, channel, self._by_channel[channel])
        track.is_passing = is_passing
        self.tracks.append(track)
        return track

    def receive(self, track: Track, source_name: object, number: object) -> None:
        """Something came that says to be this message."""
        source = self._sources.get(source_name) if isinstance(source_name, str) else None
        if (
            source is None
            or source.channel != track.channel
            or not isinstance(number, int)
            or not 0 <= number < len(source.messages)
        ):
            self.foreign(track.client, track.channel, f"{source_name}#{number}")
        else:
            track.receive(source.messages[number])

    def foreign(self, client: str, channel: str | None, what: str) -> None:
        """Something came that nobody published, or not to there."""
        self._foreign.append(Violation(Wrong.FOREIGN, client, channel, what))

    @property
    def messages(self) -> Iterator[Message]:
        """All that was published, or tried."""
        for source in self._sources.values():
            yield from source.messages

    @property
    def accepted(self) -> int:
        """How many messages were accepted."""
        return sum(not message.in_doubt for message in self.messages)

    def verdict(self) -> Verdict:
        """Check everything; after this nothing should come any more."""
        missing = [(track, *track.missing()) for track in self.tracks]
        lost = [
            Violation(Wrong.LOST, track.client, track.channel, _described(message))
            for track, messages, _ in missing
            for message in messages
        ]
        disagreements, disorder = self._disagreed()
        return Verdict(
            accepted=self.accepted,
            in_doubt=sum(message.in_doubt for message in self.messages),
            delivered=sum(len(set(track.received())) for track in self.tracks),
            recovered=sum(track.recovered for track in self.tracks),
            unproven=sum(track.unproven for track in self.tracks),
            missed=sum(len(excused) for *_, excused in missing),
            disagreements=disagreements,
            violations=[*lost, *self._doubled(), *self._reordered(), *disorder, *self._foreign, *self._stayed()],
            stays=sum(track.is_passing for track in self.tracks),
        )

    def _doubled(self) -> Iterator[Violation]:
        stays: defaultdict[tuple[str, str | None], Counter[Message]] = defaultdict(Counter)
        for track in self.tracks:
            stays[track.client, track.channel].update(track.received())
        for (client, channel), received in stays.items():
            for message, times in received.items():
                for _ in range(times - 1):
                    yield Violation(Wrong.DOUBLED, client, channel, _described(message))

    def _stayed(self) -> Iterator[Violation]:
        for track in self.tracks:
            for message in track.stayed():
                what = f"{_described(message)}, left at {track.left_at:.3f}"
                yield Violation(Wrong.STAYED, track.client, track.channel, what)

    def _reordered(self) -> Iterator[Violation]:
        for track in self.tracks:
            for order in track.orders():
                for later, message in _inversions(order):
                    what = f"{_described(message)} came behind {_described(later)}"
                    yield Violation(Wrong.REORDERED, track.client, track.channel, what)

    def _disagreed(self) -> tuple[int, list[Violation]]:
        """How many pairs, published at once, came in two orders; and what else is wrong with the order of each key."""
        places: defaultdict[tuple[str | None, str | None], list[dict[Message, int]]] = defaultdict(list)
        passing: defaultdict[tuple[str | None, str | None], list[dict[Message, int]]] = defaultdict(list)
        for track in self.tracks:
            for order in track.orders():
                some = passing if track.is_passing else places
                some[track.channel, order[0].source.key].append({message: at for at, message in enumerate(order)})
        # Stays are many, and short: each is held against those who stay for good, who have everything.
        pairs = {
            pair
            for key, orders in places.items()
            for one, other in chain(combinations(orders, 2), product(orders, passing[key]))
            for pair in _in_two_orders(one, other)
        }
        wrong = [
            Violation(
                Wrong.REORDERED, "all", one.source.channel, f"clients disagree: {_described(one)}, {_described(other)}"
            )
            for one, other in map(tuple, pairs)
            if not one.is_at_once_with(other)
        ]
        excused = len(pairs) - len(wrong)
        if excused > DISAGREEMENTS * self.accepted:
            wrong.append(Violation(Wrong.REORDERED, "all", None, f"clients disagree about {excused} pairs"))
        return excused, wrong


def _in_two_orders(one: dict[Message, int], other: dict[Message, int]) -> Iterator[frozenset[Message]]:
    """The pairs of messages of which the first came first in one of these, and the second in the other.

    Each has the place of a message for each, in order.
    """
    common = [message for message in other if message in one]
    if all(one[earlier] < one[later] for earlier, later in pairwise(common)):
        return
    for earlier, later in combinations(common, 2):
        if one[earlier] > one[later]:
            yield frozenset((earlier, later))


def _inversions(order: Iterable[Message]) -> Iterator[tuple[Message, Message]]:
    """Each message that came behind one that was begun after it was accepted, and that one."""
    latest: Message | None = None
    for message in order:
        if latest is not None and message.precedes(latest):
            yield latest, message
        elif latest is None or message.began > latest.began:
            latest = message


def _described(message: Message) -> str:
    until = "in doubt" if message.in_doubt else f"{message.accepted:.3f}"
    return f"{message} ({message.began:.3f} to {until})"
