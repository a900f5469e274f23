"""Replays of one connection, and what has to come behind them.

Each channel that is replayed has a lane, and the inbox (None) has one. A lane is in the order of arrival: what several
subscriptions of a channel ask for is merged in it, and what is new of the channel follows, so that each position that
its client is told has nothing missing before it. Lanes share the connection by bytes. What is of no lane, such as an
answer, goes ahead.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.core.position import Position
from app.protocol.frame import Frame

QUANTUM = 16 * 1024
"""Bytes that a lane is sent before another has its turn."""
LEAST_AHEAD = 32 * 1024
"""Bytes that may wait in the kernel whatever the client's speed."""
AHEAD = 0.25
"""Seconds that sending these may take: an answer waits behind them."""
MEASURED_OVER = 0.05
"""Seconds over which a client's speed is measured, at the least."""


class ReplayLost(Exception):
    """Raised by what is replayed where a message of it is gone: nothing may go out behind the hole."""


@dataclass(slots=True, eq=False)
class Join:
    """A subscription of a connection: when it began, and from where it was given the time before."""

    number: int
    resumed_from: Position | None = None
    left: bool = False
    """True: it has been given up since."""

    def resumes(self, position: Position) -> None:
        """Note that messages since this position are given too."""
        if self.resumed_from is None or position.time < self.resumed_from.time:
            self.resumed_from = position


class Order(NamedTuple):
    """The lanes that a new message must not overtake. `number` counts arrivals; what is not kept is between two."""

    lanes: tuple[str | None, ...]
    """The channel, the inbox (None), or both, for what comes by the inbox and names a channel."""
    number: float
    address: tuple[str, str | None] | None = None
    """The channel and subId by whose subscriptions it comes; None: whatever the client is subscribed to."""
    position: Position | None = None
    """Position of the channel, where the message bears it and is of both lanes."""


class Waiting:
    """Something in a lane; a new frame, if it is not `Again`."""

    __slots__ = ("address", "frame", "lanes", "number")

    def __init__(
        self,
        number: float,
        lanes: tuple[str | None, ...],
        address: tuple[str, str | None] | None,
        frame: Frame | None = None,
    ) -> None:
        self.number = number
        self.lanes = lanes
        self.address = address
        """The channel and subId by whose subscriptions it comes; None: it is wanted in any case."""
        self.frame = frame


class Again(Waiting):
    """A message that waits to be sent again. It is read, and written, when the client has room for it."""

    __slots__ = ("message", "own", "position", "run")

    def __init__(
        self,
        number: float,
        message: Callable[[], Any],
        position: Position,
        run: "Run",
        *,
        own: bool,
        sub_id: str | None = None,
    ) -> None:
        channel = run.lanes[0]
        super().__init__(number, run.lanes, (channel, sub_id) if channel is not None and run.joins else None)
        self.message = message
        """Answers the message, or None once the history has let go of it."""
        self.position = position
        """The position that it bears; where it is the one that it bore when it was new (`own`), only the message has
        it."""
        self.own = own
        self.run = run


@dataclass(slots=True, eq=False)
class Run:
    """One answer to a client that came with a position."""

    lanes: tuple[str | None]
    position: Position
    """The client's."""
    joins: tuple[Join, ...] = ()
    """The subscription that it is for; none: the inbox."""
    sub_id: str | None = None
    end: Position | None = None
    """The position of the lane's last message, where nothing of what came behind that is for the subscription."""


class Pace:
    """How many bytes that are written and not sent may wait: about what goes out in a quarter of a second."""

    __slots__ = ("_at", "_most", "_unsent", "ahead")

    def __init__(self, most: int) -> None:
        self._most = most
        self.ahead = min(most, LEAST_AHEAD)
        self._unsent = 0
        self._at: float | None = None

    def room(self, unsent: int, now: float) -> int:
        """Return how many more bytes there is room for. `now` is in seconds."""
        if self._at is not None and now - self._at >= MEASURED_OVER:
            if unsent <= self.ahead // 8:  # it may be faster than that
                self.ahead = min(self._most, 2 * self.ahead)
            else:
                speed = max(0, self._unsent - unsent) / (now - self._at)
                self.ahead = min(self._most, max(LEAST_AHEAD, int(speed * AHEAD)))
            self._at = None
        room = self.ahead - unsent
        if room <= 0 and self._at is None:
            self._unsent, self._at = unsent, now
        return room


class _Want(NamedTuple):
    """A subscription that is replayed to, and the number of the first message that it was promised."""

    join: Join
    start: float


class _Lane:
    __slots__ = ("asked", "credit", "frontier", "items", "wants")

    def __init__(self, frontier: Position | None) -> None:
        self.items: deque[Waiting] = deque()
        self.frontier = frontier
        """The position that its client has come to."""
        self.asked: dict[str | None, Run] = {}
        """The last of each subId."""
        self.wants: dict[str | None, _Want] = {}
        """By subId."""
        self.credit = 0

    def promise(self, run: Run, items: Sequence[Again]) -> None:
        """Note that a subscription was promised these, and what waits behind the first of them."""
        for join in run.joins:
            start = min(item.number for item in items)
            before = self.wants.get(run.sub_id)
            if before is not None and before.join is join:
                start = min(start, before.start)
            self.wants[run.sub_id] = _Want(join, start)

    def drop_unwanted(self, joins: Mapping[str, Join]) -> list[Waiting]:
        """Let go of what none of these subscriptions of its channel, and none that is replayed to, is to get.

        The subscriptions are looked at once, and each thing that waits is: none of them is a factor of the other.
        """
        self.asked = {name: run for name, run in self.asked.items() if not all(join.left for join in run.joins)}
        self.wants = {name: want for name, want in self.wants.items() if not want.join.left}
        first_again = min((want.start for want in self.wants.values()), default=math.inf)
        first_new = min((join.number for join in joins.values()), default=math.inf)

        def is_wanted(item: Waiting) -> bool:
            if item.address is None:
                return True
            _, sub_id = item.address
            if isinstance(item, Again):
                want = self.wants.get(sub_id)
                return item.number >= (first_again if sub_id is None else math.inf if want is None else want.start)
            join = None if sub_id is None else joins.get(sub_id)
            return item.number > (first_new if sub_id is None else math.inf if join is None else join.number)

        dropped = [item for item in self.items if not is_wanted(item)]
        if dropped:
            self.items = deque(item for item in self.items if is_wanted(item))
        return dropped


class Replaying:
    """The lanes of one connection.

    `written` writes a message that is sent again (None: it goes to nobody), `order_of` reads the `order` of a frame,
    and `joins_of` answers the connection's subscriptions of a channel, by subId.
    """

    __slots__ = ("_joins_of", "_lanes", "_order_of", "_written", "bytes", "pace")

    def __init__(
        self,
        written: Callable[[Again, bool], Frame | None],
        order_of: Callable[[Any], Order],
        joins_of: Callable[[str], Mapping[str, Join]],
        most_ahead: int,
    ) -> None:
        self.bytes = 0
        """Of the new frames that wait."""
        self.pace = Pace(most_ahead)
        self._written = written
        self._order_of = order_of
        self._joins_of = joins_of
        self._lanes: OrderedDict[str | None, _Lane] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lanes)

    # What waits

    def replay(self, run: Run, items: Sequence[Again]) -> int:
        """Have these sent again; return how many of them did not wait already."""
        (name,) = run.lanes
        lane = self._lanes.get(name)
        if lane is None:
            if not items:
                return 0
            lane = self._lanes[name] = _Lane(run.position)
        elif items and (lane.frontier is None or run.position.time < lane.frontier.time):
            lane.frontier = run.position
        lane.asked[run.sub_id] = run
        if items:
            lane.promise(run, items)
        there = {item.number for item in lane.items}
        new: list[Waiting] = [item for item in items if item.number not in there]
        if new:
            # On a tie there is none of the new ones: what is not counted is between two that are.
            lane.items = deque(sorted((*lane.items, *new), key=_by_number))
        return len(new)

    def holds(self, frame: Frame) -> bool:
        """Have a new frame wait behind its lanes; False where it need not."""
        if frame.order is None:
            return False
        order = self._order_of(frame.order)
        if not any(name in self._lanes for name in order.lanes):
            return False
        item = Waiting(order.number, order.lanes, order.address, frame)
        for name in order.lanes:
            lane = self._lanes.get(name)
            if lane is None:  # what follows there bears a position behind this one
                lane = self._lanes[name] = _Lane(order.position)
            lane.items.append(item)
        self.bytes += frame.size
        return True

    def leave(self, channel: str) -> int:
        """Drop what no subscription wants any more; return how many messages are not sent again."""
        lane = self._lanes.get(channel)
        if lane is None:
            return 0
        dropped = lane.drop_unwanted(self._joins_of(channel))
        self.bytes -= sum(item.frame.size for item in dropped if item.frame is not None)
        if not lane.items:
            del self._lanes[channel]
        return sum(item.frame is None for item in dropped)

    # What is asked

    def is_replaying(self, channel: str) -> bool:
        """Return whether new messages of a channel have to wait."""
        return channel in self._lanes

    def frontier(self, channel: str) -> Position | None:
        """Return how far the client is in a channel that is replayed to it."""
        lane = self._lanes.get(channel)
        return None if lane is None else lane.frontier

    def numbers(self, channel: str) -> set[float]:
        """Return the numbers of what waits in a channel's lane."""
        lane = self._lanes.get(channel)
        return set() if lane is None else {item.number for item in lane.items}

    def brings(self, channel: str, sub_id: str, position: Position) -> bool:
        """Return whether another subscription was asked for again from here, which brings what is for both."""
        lane = self._lanes.get(channel)
        if lane is None:
            return False
        own = lane.asked.get(sub_id)
        if (
            own is not None and own.position == position
        ):  # it is asked for once more: whatever was brought before does not count
            lane.asked.clear()
        return any(run.position == position for name, run in lane.asked.items() if name != sub_id)

    # What is next

    def next(self) -> Frame | None:
        """Return the next frame; None where nothing is left. Raises ReplayLost."""
        lanes = self._lanes
        while lanes:
            name, lane = next(iter(lanes.items()))
            if lane.credit <= 0 and len(lanes) > 1:
                lane.credit += QUANTUM
                lanes.move_to_end(name)
                continue
            item = lane.items[0]
            if any(lanes[other].items[0] is not item for other in item.lanes):
                lanes.move_to_end(name)  # it is another lane's turn: this one goes on when that has come to the same
                continue
            frame = self._taken(item, lane)
            if frame is not None:
                lane.credit -= frame.size
                return frame
        return None

    def _taken(self, item: Waiting, lane: _Lane) -> Frame | None:
        for name in item.lanes:
            its = self._lanes[name]
            its.items.popleft()
            if not its.items:
                del self._lanes[name]
        if isinstance(item, Again):
            frame = self._written(item, not lane.items)
            lane.frontier = item.position
            return frame
        assert item.frame is not None  # noqa: S101
        self.bytes -= item.frame.size
        return item.frame


def _by_number(item: Waiting) -> float:
    return item.number
