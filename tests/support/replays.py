"""Replays without a history."""

from collections.abc import Iterable
from functools import partial

from app.connection import Connection
from app.core.position import Position
from app.protocol.frame import Frame
from app.replaying import Again, Order, Replaying, Run

BEGINNING = Position("", 0)


def _written(again: Again, _is_last: bool) -> Frame:
    frame: Frame = again.message()
    return frame


def _given(order: Order) -> Order:
    return order


def lanes(most_ahead: int) -> Replaying:
    """Lanes whose messages are frames."""
    return Replaying(_written, _given, lambda _channel: {}, most_ahead)


def again(frames: Iterable[Frame], lane: str | None = None, first: float = 0) -> tuple[Run, list[Again]]:
    """Frames that are to be sent again, numbered from `first` on."""
    run = Run((lane,), BEGINNING)
    return run, [
        Again(first + at, partial(_itself, frame), BEGINNING, run, own=True) for at, frame in enumerate(frames)
    ]


def _itself(frame: Frame) -> Frame:
    return frame


def replay(connection: Connection, frames: Iterable[Frame], lane: str | None = None, first: float = 0) -> None:
    """Send these again in a lane."""
    connection.replay(*again(frames, lane, first), lanes)


def ordered(frame: Frame, lane: str | None = None, number: float = 10**6) -> Frame:
    """Make a frame something new of a lane."""
    frame.order = Order((lane,), number)
    return frame
