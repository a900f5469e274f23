"""Who may come in, put together from what `app.auth` knows; made in bootstrap, asked by the routes."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from quart import Websocket

from app.core.users import User


class Guest(NamedTuple):
    """Who opens a socket: the user as the service knows it and as the session has it; both None if anonymous."""

    user: User | None
    session_user: Any
    session_ends: float | None = None
    """Unix seconds; None: never."""


OTHER_HOST = (
    "this hub serves the machine it runs on: it takes the hosts localhost, *.localhost, 127.0.0.0/8 and [::1] alone; "
    "to serve others set CLOUD_SOCKETS_HOST to the address to listen on (0.0.0.0: all)"
)


class Refused(Exception):
    """An upgrade that is refused because of who asks: the text is for the log."""


class Undecided(Refused):
    """An upgrade that is refused because it could not be found out who asks, which is no fault of theirs."""


class KeyCheck(Protocol):
    """Judges an Authorization header: 200, 401 or 403."""

    def __call__(self, authorization: str | None) -> int: ...


class Origins(Protocol):
    """Judges pages by their Origin header, the request's Host header, and the scheme that the request came by."""

    def allows(self, origin: str | None, host: str | None, scheme: str | None) -> bool:
        """Return whether a page may open a socket."""
        ...

    def refusal(self, origin: str, host: str | None, scheme: str | None) -> str:
        """Say what was compared, and what would let the page in."""
        ...


class Door(NamedTuple):
    """What the routes ask before they serve."""

    origins: Origins
    takes_host: Callable[[str], bool] | None
    """Judges a Host header; None: any is taken."""
    identify: Callable[[Websocket], Awaitable[Guest]] | None
    """Raises Refused for who may not connect; None where everybody may, and is nobody in particular."""
    check_key: KeyCheck
    has_keys: bool
    """True: keys are configured."""
    metrics_open_to_loopback: bool
    """Whether what runs beside this process, as a collector does on Cloud Run, reads the metrics without a key."""
