"""Who may come in, put together from what `app.auth` knows; made in bootstrap, asked by the routes."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from quart import Websocket

from app.core.users import User


class Guest(NamedTuple):
    """Who opens a socket: the user as the service knows it and as the session has it; both None if anonymous."""

    user: User | None
    session_user: Any


class Refused(Exception):
    """An upgrade that is refused because of who asks: the text is for the log."""


class KeyCheck(Protocol):
    """Judges an Authorization header: 200, 401 or 403."""

    def __call__(self, authorization: str | None) -> int: ...


class Door(NamedTuple):
    """What the routes ask before they serve."""

    origin_allowed: Callable[[str | None, str | None], bool]
    """(Origin header, Host header) -> whether a page may open a socket."""
    identify: Callable[[Websocket], Awaitable[Guest]] | None
    """Raises Refused for who may not connect; None where everybody may, and is nobody in particular."""
    check_key: KeyCheck
    metrics_open_to_loopback: bool
    """Whether what runs beside this process, as a collector does on Cloud Run, reads the metrics without a key."""
