"""A bound on the windows of all clients that compress: what each one's next message may refer to.

Most clients let us choose a small one, which is part of what any connection may take. Of the others each may come to
32 KiB, and for as long as it is connected: where it is let go of, nothing more that the client sends can be read.
"""

from collections.abc import Callable

from app.server.deflate import ASKED_WINDOW
from app.server.unfinished import Holder


class Windows:
    """Budget of the bytes that windows take.

    From half of `limit` on no more clients are taken that would need a full one: they do without compression, which
    harms nobody. Above it whoever has the largest is ended, of several the one that grew last, so that nobody who has
    one loses it to those who come later. When a client that was ended comes back, it does without, too.
    """

    def __init__(self, limit: int, on_shed: Callable[[], object]) -> None:
        self._limit = limit
        self._on_shed = on_shed
        self._sizes: dict[Holder, int] = {}
        """Bytes of the windows that count; the one that grew last comes last."""
        self.bytes = 0
        """Bytes that the windows take which count."""

    @property
    def has_room(self) -> bool:
        """Return whether another client may have a full one."""
        return self.bytes < self._limit // 2

    def hold(self, holder: Holder, size: int) -> None:
        """Note that the window of a connection has so many bytes now."""
        if size <= ASKED_WINDOW:
            size = 0
        before = self._sizes.get(holder, 0)
        if size == before:
            return
        self._forget(holder)
        if size:
            self._sizes[holder] = size
            self.bytes += size
        while self.bytes > self._limit:
            # A look at all, which is seldom: each costs an attacker a connection that was opened while there was room.
            largest = max(reversed(self._sizes), key=self._sizes.__getitem__)
            self._forget(largest)
            self._on_shed()
            largest.shed()

    def _forget(self, holder: Holder) -> None:
        self.bytes -= self._sizes.pop(holder, 0)
