"""A client that is not there."""

import socket
from collections.abc import Callable, Sized

from app.protocol.frame import Frame


class FakeOutlet:
    """Notes what is written. `untaken` is how many bytes its client has yet to take, from then on."""

    sock: socket.socket | None = None
    backlog: Sized = ()
    deflates = False
    on_end: Callable[[], object] | None = None

    def __init__(self) -> None:
        self.writes: list[list[Frame]] = []
        self.untaken = 0
        self.closed: tuple[int, str] | None = None
        self.aborted = False

    def rest(self, _data: bytes, _taken: int) -> int:
        raise AssertionError("nothing was sent")

    def write(self, frames: list[Frame]) -> int:
        self.writes.append(frames)
        return self.untaken

    def waiting(self) -> int:
        return self.untaken

    def unacknowledged(self) -> int:
        return self.untaken

    def unsent(self) -> int:
        return self.untaken

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def abort(self) -> None:
        self.aborted = True

    @property
    def texts(self) -> list[str]:
        """All that was written."""
        return [frame.text for frames in self.writes for frame in frames]
