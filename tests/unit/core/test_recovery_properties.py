"""Clients that wander between instances miss nothing and get nothing ordered twice, whatever arrives when.

A world in whole ticks: messages are published to streams under ordering keys, each instance hears them in an order of
its own (the same within a key, at most the skew late), and one client connects, is cut off and comes back elsewhere.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.deduplication import RecentKeys
from app.core.history import EVERYONE, History, Stream
from app.core.position import Mark, Position
from app.core.recovery import Behind, Unproven, heard_through, recover

SKEW = 8
INSTANCES = 3
CHANNEL = (Stream.channel("a"),)
INBOX = Stream.inbox("ann")
WELCOME = (INBOX, EVERYONE)
NOISE = Stream.channel("noise")
KEYS = ("k", "j", None)


class Message(NamedTuple):
    """A message as it was published: `number` is its place among all."""

    number: int
    mark: Mark
    stream: Stream


class Published(NamedTuple):
    """What is drawn of a message."""

    pause: int
    key: int
    stream: int
    noise: bool
    delays: tuple[int, ...]
    repeat: int


class Start(NamedTuple):
    """When an instance starts (as a message's number), and how many older messages it hears nevertheless."""

    message: int
    extra: int


class Move(NamedTuple):
    """The client comes back after a pause; cut off after `reads` messages of its replay, or (None) it stays."""

    pause: int
    instance: int
    reads: int | None


class Bounds(NamedTuple):
    """Of a history."""

    size: int = 1000
    ttl: int = 10_000
    max_bytes: int = 10**9


@dataclass
class Client:
    """What a client knows, and what the test knows of it."""

    position: Position | None = None
    had: list[Message] = field(default_factory=list)
    owed: dict[int, Message] = field(default_factory=dict)
    """What it must have had in the end, by number."""

    def receive(self, message: Message, position: Position) -> None:
        self.had.append(message)
        self.position = Position.decode(position.encode())


class Instance:
    """What the hub will do with history and recovery."""

    def __init__(self, bounds: Bounds, covers_from: int) -> None:
        self.history: History[Message] = History(size=bounds.size, ttl=bounds.ttl, max_bytes=bounds.max_bytes)
        self.covers_from = covers_from
        self.heard = 0
        self.known = RecentKeys(600, 100_000)
        self.client: Client | None = None
        self.streams: tuple[Stream, ...] = ()
        self.behind = Behind()

    def hear(self, message: Message, now: int) -> Position | None:
        if not self.known.note(message.mark.id, now):
            return None
        self.heard = max(self.heard, message.mark.time)
        own = self.history.add(message.stream, message.mark, message, 100, now)
        if self.client is not None and message.stream in self.streams and self.behind.passes(message.mark):
            position = self.history.widened(own, self.streams, SKEW)
            self.client.receive(message, self.behind.position(position))
        return own

    def connect(self, client: Client, streams: tuple[Stream, ...], reads: int | None, coming: list[Message]) -> str:
        """Take a client in; answers how that went."""
        fresh = self.history.position(streams, heard_through(self.heard, self.covers_from, SKEW))
        before = client.position or Position("none", 0)
        logs = self.history.logs(streams)
        answer = recover(logs, before, epoch="", covers_from=self.covers_from, skew=SKEW)
        self.client = None if reads is not None else client  # cut off, perhaps in mid-replay, until it comes again
        self.streams, self.behind = streams, Behind()
        if isinstance(answer, Unproven):
            client.had.clear()
            client.position = fresh
            client.owed = {each.number: each for each in coming if each.mark.time > self.covers_from}
            return answer.reason
        client.position = Position.decode(answer.acknowledged(fresh).encode())
        self.behind = answer.behind
        for message, position, _ in answer.replay[:reads]:
            client.receive(message, position)
        if reads is not None and 0 < reads < len(answer.replay):
            return "cut off"
        return "behind" if self.behind else "replayed" if answer.replay else "level"


class World:
    """All that happens, in its order."""

    def __init__(
        self,
        published: list[Published],
        starts: list[Start],
        moves: list[Move],
        bounds: Bounds,
        streams: tuple[Stream, ...],
        keys: tuple[str | None, ...],
    ) -> None:
        self.streams = streams
        self.outcomes: Counter[str] = Counter()
        self.positions: dict[int, set[str]] = {}
        self.client = Client()
        self._moves = moves
        self._last_arrival = 0
        self._messages = list(_messages(published, streams, keys))
        self._started: list[int] = []
        self._instances: list[Instance] = []
        self._arrivals: list[tuple[int, int, int, Message]] = []
        for number, start in enumerate(starts):
            first = self._messages[start.message % len(self._messages)] if start.message else None
            begun = first.mark.time if first else 0
            self._started.append(begun)
            self._instances.append(Instance(bounds, begun))
            from_number = first.number + 1 - start.extra if first else 0
            self._arrivals += self._heard_by(number, begun, from_number, published)
        self._arrivals.sort(key=lambda each: each[:3])

    def _heard_by(
        self, instance: int, begun: int, from_number: int, published: list[Published]
    ) -> Iterator[tuple[int, int, int, Message]]:
        latest: dict[str, int] = {}
        for message, drawn in zip(self._messages, published, strict=True):
            if message.number < from_number or message.mark.time <= begun - SKEW:
                continue
            arrival = max(begun, message.mark.time + drawn.delays[instance])
            if message.mark.key is not None:
                arrival = latest[message.mark.key] = max(arrival, latest.get(message.mark.key, 0))
            yield arrival, instance, message.number, message
            if drawn.repeat:
                yield arrival + drawn.repeat, instance, message.number, message

    def run(self) -> None:
        """Let it all happen; in the end the client comes once more, when all has arrived."""
        now = self._messages[0].mark.time
        for move in self._moves:
            now += move.pause
            self._arrive_until(now)
            self._connect(move, now)
        self._arrive_until(self._arrivals[-1][0] if self._arrivals else now)
        self._connect(Move(0, self._moves[-1].instance + 1, None), max(now, self._last_arrival))

    def _arrive_until(self, now: int) -> None:
        while self._arrivals and self._arrivals[0][0] <= now:
            at, instance, _, message = self._arrivals.pop(0)
            self._last_arrival = at
            position = self._instances[instance].hear(message, at)
            if position is not None:
                self.positions.setdefault(message.number, set()).add(position.encode())

    def _connect(self, move: Move, now: int) -> None:
        for each in self._instances:
            each.client = None
        running = [number for number, begun in enumerate(self._started) if begun <= now]
        if not running:
            return
        number = running[move.instance % len(running)]
        instance = self._instances[number]
        instance.history.expire(now)
        coming = [
            message
            for _, where, _, message in self._arrivals
            if where == number and message.stream in self.streams and message.mark.id not in instance.known._noted
        ]
        self.outcomes[instance.connect(self.client, self.streams, move.reads, coming)] += 1


def _messages(
    published: list[Published], streams: tuple[Stream, ...], keys: tuple[str | None, ...]
) -> Iterator[Message]:
    now = 100
    for number, drawn in enumerate(published):
        now += drawn.pause
        key = keys[drawn.key % len(keys)]
        yield Message(
            number, Mark(now, f"m{number}", key), NOISE if drawn.noise else streams[drawn.stream % len(streams)]
        )


def unpack(number: int, *sizes: int) -> list[int]:
    """The digits of a number, each of a base of its own: one draw costs less than many."""
    digits = []
    for size in sizes:
        number, digit = divmod(number, size)
        digits.append(digit)
    return digits


def draws(*sizes: int) -> st.SearchStrategy[list[int]]:
    """Whole numbers from 0, each below a size."""
    return st.integers(0, prod(sizes) - 1).map(lambda number: unpack(number, *sizes))


published = st.lists(
    draws(8, 3, 2, 4, 5, *[SKEW] * INSTANCES).map(
        lambda drawn: Published(
            pause=max(0, drawn[0] - 4),  # often none: a batch shares its time
            key=drawn[1],
            stream=drawn[2],
            noise=drawn[3] == 3,
            repeat=(0, 0, 0, 5, 100)[drawn[4]],
            delays=tuple(drawn[5:]),
        )
    ),
    min_size=12,
    max_size=30,
)
starts = st.lists(
    draws(7, 4).map(lambda drawn: Start((0, 0, 1, 2, 4, 7, 10)[drawn[0]], drawn[1])), min_size=2, max_size=2
).map(lambda others: [Start(0, 0), *others])
moves = st.lists(
    draws(7, INSTANCES, 5).map(lambda drawn: Move(drawn[0], drawn[1], (None, None, 0, 1, 2)[drawn[2]])),
    min_size=5,
    max_size=10,
)
ample = Bounds()
bounds = st.one_of(
    st.just(ample),
    st.integers(1, 6).map(lambda size: ample._replace(size=size)),
    st.integers(1, 30).map(lambda ttl: ample._replace(ttl=ttl)),
)
tight = st.builds(Bounds, st.sampled_from([2, 5, 1000]), st.just(ample.ttl), st.integers(1_000, 9_000))


def check(world: World, *, exactly: bool) -> None:
    world.run()
    had = Counter(message.number for message in world.client.had)
    missed = [message for number, message in world.client.owed.items() if not had[number]]
    assert not missed, "nothing is lost"
    ordered = [message for message in world.client.had if message.mark.key is not None]
    if exactly:
        assert all(had[message.number] == 1 for message in ordered), "nothing ordered comes twice"
        for key in KEYS[:2]:
            numbers = [message.number for message in ordered if message.mark.key == key]
            assert numbers == sorted(numbers), "each key comes in its order"


@pytest.mark.parametrize("streams", [CHANNEL, WELCOME], ids=["channel", "welcome"])
@settings(max_examples=300, deadline=None)
@given(published, starts, moves, bounds)
def test_any_keys_come_whole_and_the_ordered_once(
    streams: tuple[Stream, ...], published: list[Published], starts: list[Start], moves: list[Move], bounds: Bounds
) -> None:
    check(World(published, starts, moves, bounds, streams, KEYS), exactly=True)


@settings(max_examples=300, deadline=None)
@given(published, starts, moves, bounds | tight)
def test_one_key_comes_once_even_when_streams_are_forgotten_and_bears_equal_positions(
    published: list[Published], starts: list[Start], moves: list[Move], bounds: Bounds
) -> None:
    world = World(published, starts, moves, bounds, CHANNEL, ("k",))
    check(world, exactly=True)
    assert all(len(positions) == 1 for positions in world.positions.values())


@pytest.mark.parametrize("streams", [CHANNEL, WELCOME], ids=["channel", "welcome"])
@settings(max_examples=150, deadline=None)
@given(published, starts, moves, tight)
def test_any_keys_come_whole_when_streams_are_forgotten(
    streams: tuple[Stream, ...], published: list[Published], starts: list[Start], moves: list[Move], bounds: Bounds
) -> None:
    check(World(published, starts, moves, bounds, streams, KEYS), exactly=False)
