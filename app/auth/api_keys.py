"""Who may publish over HTTP and read info and metrics. Pure."""

import hmac
from collections.abc import Sequence
from enum import Enum


class Access(Enum):
    GRANTED = 200
    NO_KEY = 401
    """A key is needed, and this was none."""
    CLOSED = 403
    """No keys are configured where they must be."""


class ApiKeys:
    """The keys that were configured; without any, `open_without` says whether everyone may come in."""

    def __init__(self, keys: Sequence[str], *, open_without: bool) -> None:
        self._keys = [key.encode() for key in keys]
        self._open_without = open_without

    def access(self, authorization: str | None) -> Access:
        """Judge an Authorization header. Takes the same time for each wrong key."""
        if not self._keys:
            return Access.GRANTED if self._open_without else Access.CLOSED
        scheme, _, key = (authorization or "").partition(" ")
        given = key.strip().encode()
        matches = [hmac.compare_digest(given, known) for known in self._keys]  # all of them, so that time tells nothing
        return Access.GRANTED if scheme.lower() == "bearer" and any(matches) else Access.NO_KEY
