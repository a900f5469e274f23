"""Whether an instance can give a returning client exactly what it has not had, and what that is. Pure.

The argument. Let a client come back with a position of time T, and `since` be T less the skew.

1. What it has not had arrived at its old instance after the position was there, so after T. Delivery takes at most the
   skew, so it was published after `since`. This holds for every message, whatever its key.
2. Within an ordering key all instances see one order, and times never go back (they may be equal: a batch shares one).
   What it has not had of a key that the position names is what comes behind the message (t, id) that it names.

Hence this instance must have heard all after `since` (`covers_from`). Or the carrier itself began there, with nothing
from before, and the position is from after that: then nothing that is missing can be older. And then:

- A key that the position does not name, and what has no order: replay what is newer than `since`; nothing that new may
  be gone. Only here may something repeat: the unordered, which the old instance may have delivered before; and of an
  ordered key only what the position could not name, because the client was served by an instance that had forgotten
  the stream, began after the message (and could not prove a recovery), or has met more than eight keys in it.
- A key whose (t, id) is known here, kept or the last that is gone: replay what is kept behind it; nothing behind it
  may be gone.
- A key whose (t, id) is not known here, t after `since`: nothing from t on may be gone, or it might be that message and
  others behind it. Then it is on its way (`covers_from` is before t), and with it all that the client has not had, so
  nothing is replayed; `Behind` stops what the client had. Something kept that is newer than t would contradict that.
- The same, t up to `since`: by 1 all that it has not had is newer than `since`: replay that; nothing that new may be
  gone. Something kept from t to `since` would contradict 1 (the old instance was late, or this batch began before this
  instance did): unproven. Something newer, with (t, id) neither gone nor from before this instance: contradicts 2.

All streams that a position spans are merged: the client has had one frontier of each key over all of them.

A client may be cut off in mid-replay, or leave an instance that is behind. So what it is sent must not bear the
position of the instance where that falls short of the client's: replayed messages bear the client's own frontier as it
moves, and a time that does not go back (`Replay`); later ones and the reply that of the instance with what `Behind`
adds. A key may go unnamed once its last message is twice the skew older than the position: all that arrives anywhere
after that bears a time less than the skew below it, so no `since` will reach back so far. With one ordering key each
message bears its own position, so its frame can be shared. In the embedded mode the skew is 0 and time is a sequence,
so that `since` is T: the same argument, with no overlap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import merge
from typing import Generic, NamedTuple, TypeVar

from app.core.history import NOTHING, Entry, Log
from app.core.position import Last, Mark, Position

T = TypeVar("T")


class Reason(StrEnum):
    """Why a recovery cannot be proven."""

    OFF = "off"
    """Nothing is kept."""
    EPOCH = "epoch"
    """The position is from another process of an embedded fan-out, or from another kind of fan-out."""
    UNCOVERED = "uncovered"
    """This instance began too late."""
    EVICTED = "evicted"
    """Something that the client may not have had is gone."""
    UNKNOWN = "unknown"
    """The position and what is kept contradict each other."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """There is no replay."""

    reason: Reason


class Replay(NamedTuple, Generic[T]):
    """A message to send again, and the position that it bears; `own` if that is the one it bore when it was new."""

    message: T
    position: Position
    own: bool


class Behind:
    """What a client has had of some ordering keys and this instance has not: not yet, or it never will.

    It belongs to one connection and the streams of one position. While it is true, ask it about every message of these
    streams that would go to this connection.
    """

    def __init__(self, awaited: Iterable[Last] = (), missed: Iterable[Last] = (), skew: int = 0) -> None:
        """`awaited` is on its way, `missed` is from before this instance."""
        self._skew = skew
        self._missed = {last.key: last for last in missed}
        self._last = {**self._missed, **{last.key: last for last in awaited}}

    def __bool__(self) -> bool:
        return bool(self._last)

    def passes(self, mark: Mark) -> bool:
        """Whether to deliver a message that arrived now: not if the client has had it."""
        new = mark.last
        had = None if new is None else self._last.get(new.key)
        if new is None or had is None:
            return True
        if new.time > had.time or new == had:
            del self._last[had.key]
        return new.time > had.time

    def position(self, borne: Position) -> Position:
        """What a message or reply that bears `borne` must bear to this client; `borne` itself where that will do."""
        own = {last.key: last for last in borne.last}
        for key, had in tuple(self._last.items()):
            here = own.get(key)
            if here is not None and here.time > had.time:  # it went by, for others
                del self._last[key]
            elif here is not None or had.time + 2 * self._skew > borne.time:
                own[key] = had
            elif key in self._missed:
                del self._last[key]  # so old that it needs no mention, now or later
        last = own.values()
        return borne if set(last) == set(borne.last) else Position.at(borne.epoch, borne.time, last)


@dataclass(frozen=True, slots=True)
class Recovered(Generic[T]):
    """What to send at once, in order, and what to hold back of what arrives later."""

    position: Position
    """The client's own."""
    replay: list[Replay[T]]
    behind: Behind

    def acknowledged(self, fresh: Position) -> Position:
        """The position of the reply, where `fresh` is what a new subscriber would get: one that loses nothing."""
        if self.replay:
            return self.position
        return self.behind.position(fresh.not_before(self.position.time))


def heard_through(heard: int, covers_from: int | None, skew: int) -> int:
    """The time of a position that a reply or a welcome bears, where `heard` is the highest that this instance heard.

    What a client can miss from here on is newer than `covers_from`, or this instance owes it nothing: so a position of
    the instance's first moments can be recovered, also here. `covers_from` is the one that recover() takes.
    """
    return heard if covers_from is None else max(heard, covers_from + skew)


def recover(
    logs: Sequence[Log[T]],
    position: Position,
    *,
    epoch: str,
    covers_from: int | None,
    skew: int,
    begins_there: bool = False,
) -> Recovered[T] | Unproven:
    """What a client at `position` has not had of the streams of `logs`, or why that cannot be proven.

    `covers_from`: this instance hears all messages with a higher time (None: it may have gaps); `begins_there`: and
    there are none before. `skew` is how much later than its time a message may arrive, in the unit of times. Costs what
    the logs keep.
    """
    since = position.time - skew
    if not logs:
        return Unproven(Reason.OFF)
    if position.epoch != epoch:
        return Unproven(Reason.EPOCH)
    if covers_from is None or covers_from > (position.time if begins_there else since):
        return Unproven(Reason.UNCOVERED)
    had = {last.key: last for last in position.last}
    if any(log.floor > since for log in logs) or any(
        seen.last.time > since for log in logs for key, seen in log.evicted.items() if key not in had
    ):
        return Unproven(Reason.EVICTED)
    frontiers: dict[int, int] = {}
    unseen: list[Last] = []
    entries = _in_order(logs)
    kept = _by_key(entries)
    for last in position.last:
        frontier = _frontier(logs, kept.get(last.key, []), last, since=since, covers_from=covers_from)
        if isinstance(frontier, Reason):
            return Unproven(frontier)
        if frontier is not None:
            frontiers[last.key] = frontier
            continue
        unseen.append(last)
        if last.time > since:
            frontiers[last.key] = kept[last.key][-1].arrival if last.key in kept else NOTHING  # the client had them all
    behind = Behind(
        (last for last in unseen if last.time > covers_from),
        (last for last in unseen if last.time <= covers_from),
        skew,
    )
    return Recovered(position, _replay(entries, position, frontiers, since), behind)


def _in_order(logs: Sequence[Log[T]]) -> Sequence[Entry[T]]:
    if len(logs) == 1:
        return logs[0].entries
    return list(merge(*(log.entries for log in logs), key=lambda entry: entry.arrival))


def _by_key(entries: Iterable[Entry[T]]) -> dict[int, list[Entry[T]]]:
    kept: dict[int, list[Entry[T]]] = {}
    for entry in entries:
        if entry.last is not None:
            kept.setdefault(entry.last.key, []).append(entry)
    return kept


def _frontier(
    logs: Sequence[Log[T]], kept: Sequence[Entry[T]], last: Last, *, since: int, covers_from: int
) -> int | Reason | None:
    """The arrival of the message that the position names; None if it is not known here and need not be."""
    gone = [log.evicted[last.key] for log in logs if last.key in log.evicted]
    found = next(
        (arrival for arrival, each in (*((entry.arrival, entry.last) for entry in kept), *gone) if each == last),
        None,
    )
    if found is not None:
        return Reason.EVICTED if any(seen.arrival > found for seen in gone) else found
    gone_through = max([NOTHING, *(seen.last.time for seen in gone), *(log.floor for log in logs)])
    if gone_through >= max(last.time, since + 1):
        return Reason.EVICTED
    if any(last.time <= entry.time <= since for entry in kept):
        return Reason.UNKNOWN
    expected = last.time > max(covers_from, gone_through)
    if expected and any(entry.time > last.time for entry in kept):
        return Reason.UNKNOWN
    return None


def _replay(entries: Iterable[Entry[T]], position: Position, frontiers: dict[int, int], since: int) -> list[Replay[T]]:
    frontier = {last.key: last for last in position.last}  # the client's, as it will be when it has had so much
    replay: list[Replay[T]] = []
    for entry in entries:
        last = entry.last
        known = None if last is None else frontiers.get(last.key)
        if entry.arrival <= known if known is not None else entry.time <= since:
            continue
        if last is not None:
            frontier[last.key] = last
        borne = entry.position.not_before(position.time)
        if not set(borne.last).issuperset(frontier.values()):
            here = {each.key: each for each in borne.last}
            borne = Position.at(borne.epoch, borne.time, {**here, **frontier}.values())
        replay.append(Replay(entry.message, borne, borne is entry.position))
    return replay
