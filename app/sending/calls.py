"""What both ways to send to many by one call have in common: system calls that Python does not know, memory that the
kernel reads, and how many sockets are sent to at once.
"""

import os
import platform
import socket
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from app.sending.one_by_one import Data, SendToEach, one_by_one
from app.sending.open_sockets import numbers_of
from app.sending.trial import Unfit

_COPIED = 16 * 1024
"""Bytes up to which messages are copied."""


class SystemCalls:
    """System calls by their number. Raises Unfit where they cannot be made, or are not those that are known."""

    def __init__(self) -> None:
        try:
            import ctypes  # noqa: PLC0415  # a Python may be built without it
        except (ImportError, MemoryError) as error:
            raise Unfit(f"this Python has no ctypes ({error})") from None
        self.machine = platform.machine()
        bits = 8 * ctypes.sizeof(ctypes.c_void_p)
        if platform.system() != "Linux" or self.machine not in ("x86_64", "aarch64") or bits != 64:
            raise Unfit(f"it is not known on {platform.system()} {self.machine} with {bits} bits")
        self._ctypes = ctypes
        self.call: Any = ctypes.CDLL(None, use_errno=True).syscall
        """(number, six arguments) -> what the kernel answers; -1 where it refuses, see `error`."""
        self.call.restype = ctypes.c_long
        self.call.argtypes = (ctypes.c_long,) * 7

    def error(self) -> OSError:
        """Why the kernel refused the last call."""
        number = self._ctypes.get_errno()
        return OSError(number, os.strerror(number))

    def memory(self, size: int) -> tuple[memoryview, int]:
        """Memory of its own, of so many bytes, and its address."""
        room = (self._ctypes.c_char * size)()
        return memoryview(room).cast("B"), self._ctypes.addressof(room)

    def address_of(self, data: bytes) -> int:
        """Where these bytes are, as long as they are there."""
        return self._ctypes.cast(self._ctypes.c_char_p(data), self._ctypes.c_void_p).value or 0


class WhatIsSent:
    """Which bytes are sent: two fields of each send. Of what is the same for all most messages change only one.

    What is short is copied to where the message before it was.
    """

    def __init__(self, calls: SystemCalls, addresses: memoryview, lengths: memoryview) -> None:
        self._calls = calls
        self._addresses, self._address = addresses, 0
        self._lengths, self._length = lengths, 0
        """Where all of them are the same, and how long; -1: they are not."""
        self._copy, self._copy_at = calls.memory(_COPIED)

    def set(self, data: Data) -> None:
        """Have all send these, or the first ones each its own; they have to stay for as long."""
        if isinstance(data, bytes):
            self._set_for_all(data)
        else:
            self._set_for_each(data)

    def _set_for_all(self, data: bytes) -> None:
        length = len(data)
        if length <= _COPIED:
            self._copy[:length] = data
            address = self._copy_at
        else:
            address = self._calls.address_of(data)
        if address != self._address:
            self._addresses[:] = array(self._addresses.format, (address,)) * len(self._addresses)
            self._address = address
        if length != self._length:
            self._lengths[:] = array(self._lengths.format, (length,)) * len(self._lengths)
            self._length = length

    def _set_for_each(self, each: list[bytes]) -> None:
        self._address = self._length = -1  # first: what is left of a failure is the same for nobody
        addresses = array(self._addresses.format)
        before, address, copied = b"", 0, 0
        for data in each:
            if data is not before or not address:
                before, end = data, copied + len(data)
                if end <= _COPIED:
                    self._copy[copied:end] = data
                    address, copied = self._copy_at + copied, end
                else:
                    address = self._calls.address_of(data)
            addresses.append(address)
        self._addresses[: len(each)] = addresses
        self._lengths[: len(each)] = array(self._lengths.format, map(len, each))


class InOneCall(ABC):
    """A way to send to up to `room` sockets by one call; more take another."""

    few: ClassVar[int]
    """Up to so many sockets a call for each costs less."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._is_fit = True
        """False while it is not known what was sent, and from then on if that is never known."""

    def send(self, sockets: Sequence[socket.socket], data: Data) -> list[int]:
        """Send to each; see `SendToEach`."""
        if len(sockets) <= self.few or not self._is_fit:
            return one_by_one(sockets, data)
        numbers = numbers_of(sockets)
        if len(sockets) <= self._room:
            return self._send_at_once(sockets, numbers, data)
        counts: list[int] = []
        for start in range(0, len(sockets), self._room):
            part = slice(start, start + self._room)
            counts += self._send_at_once(sockets[part], numbers[part], part_of(data, part))
        return counts

    @abstractmethod
    def _send_at_once(self, sockets: Sequence[socket.socket], numbers: "array[int]", data: Data) -> list[int]:
        """The same for no more than there is room for; `numbers` are the kernel's for these."""

    @abstractmethod
    def end(self) -> None:
        """Give it back."""


def part_of(data: Data, part: slice) -> Data:
    """What goes to a part of the sockets."""
    return data if isinstance(data, bytes) else data[part]


@contextmanager
def until_its_end(way: InOneCall) -> Iterator[SendToEach]:
    """How it sends, and its end."""
    try:
        yield way.send
    finally:
        way.end()
