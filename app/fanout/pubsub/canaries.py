"""Own messages on their way around: what was published and must be heard back. Pure; times are monotonic seconds."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class _Canary:
    token: str
    sent: float
    stored: float | None = None


class Canaries:
    """One message for each ordering key, at most. Within a key there is order: what is behind it can wait no longer."""

    def __init__(self) -> None:
        self._flying: dict[str, _Canary] = {}

    def send(self, key: str, token: str, now: float) -> None:
        """This own message is being published; if one of its key flies already, that one will do."""
        if key not in self._flying:
            self._flying[key] = _Canary(token, now)

    def replace(self, key: str, token: str, now: float) -> None:
        """This one and none before it."""
        self._flying[key] = _Canary(token, now)

    def stored(self, key: str, token: str, now: float) -> None:
        """Pub/Sub has accepted it: from now on it can be waited for. (It may have been heard already.)"""
        if (canary := self._flying.get(key)) is not None and canary.token == token:
            canary.stored = now

    def failed(self, key: str, token: str) -> None:
        """It was not accepted, so nobody need hear it."""
        if (canary := self._flying.get(key)) is not None and canary.token == token:
            del self._flying[key]

    def heard(self, key: str, token: str | None, now: float) -> float | None:
        """An own message came back: answers how many seconds it took, if it is one that was waited for."""
        canary = self._flying.get(key)
        if canary is None or canary.token != token:
            return None
        del self._flying[key]
        return now - canary.sent

    def any_of(self, keys: Iterable[str]) -> bool:
        """Whether one of these keys is still waited for."""
        return any(key in self._flying for key in keys)

    def overdue(self, now: float, after: float) -> list[str]:
        """The keys whose message was stored so many seconds ago and has not been heard."""
        return [key for key, one in self._flying.items() if one.stored is not None and now - one.stored >= after]
