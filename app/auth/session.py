"""Finding the user of an upgrade in a session."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app.core.users import User, UserError, identify


class Identified(NamedTuple):
    """A user as the service knows it, and as the session has it."""

    user: User
    session_user: Any


def user_of(session: object, property_name: str, include_props: Sequence[str]) -> Identified:
    """The user in a session. Raises UserError where there is none, or none that can be taken."""
    if not isinstance(session, Mapping):
        raise UserError("there is no session")
    session_user = session.get(property_name)
    if session_user is None:
        raise UserError(f"the session has no {property_name!r}")
    return Identified(identify(session_user, include_props), session_user)
