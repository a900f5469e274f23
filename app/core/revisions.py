"""Which of two revisions of a Cloud Run service is the newer, by their names. Pure."""

import re
from collections.abc import Iterable

_NAME = re.compile(r"(?P<service>.+)-(?P<number>\d{5,})-[a-z0-9]{3}|(?P<bare_service>.+)-(?P<bare_number>\d{5})")
"""Cloud Run counts a service's revisions with five digits, and puts three characters of chance behind them."""


def is_newer(other: str, own: str) -> bool:
    """Whether `other` came after `own`: both are named as Cloud Run names them, of one service, by a greater number.

    Where either has a name that somebody chose (`--revision-suffix`) nothing is known, and neither is newer.
    """
    theirs, ours = _NAME.fullmatch(other), _NAME.fullmatch(own)
    if theirs is None or ours is None or _service(theirs) != _service(ours):
        return False
    return _number(theirs) > _number(ours)


def newest_after(own: str | None, heard: Iterable[str | None]) -> str | None:
    """The newest of the revisions that came after our own; None: no such was heard, or our own is not known."""
    found: str | None = None
    for other in heard:
        if own is not None and other is not None and is_newer(other, found or own):
            found = other
    return found


def _service(name: re.Match[str]) -> tuple[str | None, str | None]:
    return name["service"], name["bare_service"]  # a name with a suffix and one without are not of one kind


def _number(name: re.Match[str]) -> int:
    return int(name["number"] or name["bare_number"])
