"""Who is behind a connection, and by which tags others reach them."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.protocol.messages import NAME_RULE, is_name

C = TypeVar("C", bound=Hashable)


class UserError(ValueError):
    """A user that cannot be taken; the text says why and goes to the log, not to the client."""


@dataclass(frozen=True, slots=True)
class User:
    """A user: the `name` that the service shows, and the keys by which messages find them (see UserMap.key_of)."""

    name: str
    keys: tuple[str, ...]


def identify(user: object, include_props: Sequence[str]) -> User:
    """Make a User of what a session holds: a string, or `include_props` of an object. Raises UserError."""
    if isinstance(user, str):
        if not is_name(user):
            raise UserError(f"the user must be {NAME_RULE}")
        return User(user, (_key(include_props[0], user) if include_props else user,))
    if not isinstance(user, Mapping):
        raise UserError(f"the user is of type {type(user).__name__}; it must be a string or an object")
    if not include_props:
        raise UserError(
            "the user is an object: CLOUD_SOCKETS_INCLUDE_USER_PROPS must say which of its properties identify it"
        )
    tags = {prop: _tag(user[prop], prop) for prop in include_props if user.get(prop) is not None}
    if include_props[0] not in tags:
        raise UserError(f"the user has no property {include_props[0]!r}, the first of CLOUD_SOCKETS_INCLUDE_USER_PROPS")
    return User(tags[include_props[0]], tuple(_key(prop, tag) for prop, tag in tags.items()))


def _tag(value: object, prop: str) -> str:
    tag = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(tag, str) or not is_name(tag):
        raise UserError(f"the user's property {prop!r} must be an integer or {NAME_RULE}")
    return tag


def _key(prop: str, tag: str) -> str:
    return f"{prop}:{tag}"


class UserMap(Generic[C]):
    """The connections of each user that is online."""

    def __init__(self, include_props: Sequence[str] = ()) -> None:
        self._include_props = tuple(include_props)
        self._connections: dict[str, dict[C, None]] = {}
        self._names: dict[str, int] = {}

    def key_of(self, user_tag: str) -> str:
        """What a tag means: `prop:value` of an included property, a value of the first one, or the user itself."""
        prop, colon, _ = user_tag.partition(":")
        if not self._include_props or (colon and prop in self._include_props):
            return user_tag
        return _key(self._include_props[0], user_tag)

    def add(self, connection: C, user: User) -> None:
        """Note a new connection of a user."""
        for key in user.keys:
            self._connections.setdefault(key, {})[connection] = None
        self._names[user.name] = self._names.get(user.name, 0) + 1

    def remove(self, connection: C, user: User) -> None:
        """Forget a connection that was added; a user without one is forgotten too."""
        for key in user.keys:
            connections = self._connections[key]
            del connections[connection]
            if not connections:
                del self._connections[key]
        self._names[user.name] -= 1
        if not self._names[user.name]:
            del self._names[user.name]

    def connections_of(self, user_tag: str) -> Collection[C]:
        """The connections of one user. Valid until the next change."""
        return self._connections.get(self.key_of(user_tag), {}).keys()

    @property
    def names(self) -> Collection[str]:
        """The names of the users that are online, each once."""
        return self._names.keys()
