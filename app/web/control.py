"""What `app.server` offers beside ASGI; other servers do not have it."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from app.connection import Outlet

CONTROL = "cloud_sockets.control"


class Control(Outlet, Protocol):
    """One socket's: ready frames, pings, its end, and not reading it faster than it is served."""

    on_unanswered: Callable[[], object] | None
    on_silence: Callable[[], None] | None
    on_text: Callable[[str], bool] | None
    on_gone: Callable[[], object] | None
    on_flood: Callable[[], object] | None
    on_crowded: Callable[[], object] | None

    @property
    def takes_frames(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    async def receive(self) -> str | bytes: ...
    def unread(self) -> Iterator[str | bytes]: ...
    def limit(self) -> None: ...
    def taken(self) -> None: ...
    def release(self) -> None: ...


def control_of(scope: Any) -> Control | None:
    """The control in an ASGI scope, if there is one."""
    control: Control | None = (scope.get("extensions") or {}).get(CONTROL)
    return control
