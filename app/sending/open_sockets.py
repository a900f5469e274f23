"""Sockets that are sent to together, again and again."""

import socket
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_FILENO: Any = socket.socket.fileno


class OpenSockets(list[socket.socket]):
    """Sockets that are open for as long as this is sent to, so that their numbers are asked for once.

    Whoever closes one has to see first that this is sent to no more: the kernel gives its number to the next that is
    opened, who would be sent what is not meant for it.
    """

    __slots__ = ("_find", "_numbers")

    def __init__(self, sockets: Iterable[socket.socket], find: "Callable[[], array[int]] | None" = None) -> None:
        super().__init__(sockets)
        self._find = find
        self._numbers: array[int] | None = None

    @property
    def numbers(self) -> "array[int]":
        """By which the kernel knows them."""
        if self._numbers is None:
            self._numbers = _ask(self) if self._find is None else self._find()
        return self._numbers

    def without(self, places: Sequence[int]) -> "OpenSockets":
        """These but for some: `places`, the last first."""

        def find() -> "array[int]":
            numbers = self.numbers[:]
            for place in places:
                del numbers[place]
            return numbers

        rest = OpenSockets(self, find)
        for place in places:
            del rest[place]
        return rest


def numbers_of(sockets: Sequence[socket.socket]) -> "array[int]":
    """The numbers by which the kernel knows these; -1 where one is closed."""
    return sockets.numbers if isinstance(sockets, OpenSockets) else _ask(sockets)


def _ask(sockets: Sequence[socket.socket]) -> "array[int]":
    return array("i", map(_FILENO, sockets))
