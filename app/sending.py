"""The same bytes to many sockets.

One system call for each is most of what a delivery costs, and what Python does around it most of the rest. Linux's AIO
takes a whole list of writes in one call, and a write to a socket that does not block is done when the call returns.
Where that cannot be had (another system, a sandbox that does not allow it, as Cloud Run's first generation) each socket
takes a call of its own.
"""

import ctypes
import errno
import logging
import os
import platform
import signal
import socket
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import repeat
from typing import Any, TypeAlias

logger = logging.getLogger(__name__)

SendToEach: TypeAlias = Callable[[Sequence[socket.socket], bytes], list[int]]
"""Sends the same to sockets that do not block; answers how many bytes each took, 0 where it took none."""

IN_ONE_CALL = 512
"""Sockets. More take another call."""
FEW = 16
"""Up to so many sockets a call for each costs less."""

_SEND: Any = socket.socket.send
_FILENO: Any = socket.socket.fileno


def one_by_one(sockets: Sequence[socket.socket], data: bytes) -> list[int]:
    """Send to each with a call of its own."""
    counts: list[int] = []
    # The loop is map's, in C: right after a system call Python's own steps take several times as long as elsewhere.
    sending: Iterator[int] = map(_SEND, sockets, repeat(data))
    while True:
        try:
            counts.extend(sending)
        except OSError:  # it takes nothing now, or is gone; the others are still to come
            counts.append(0)
        else:
            return counts


@contextmanager
def to_many() -> Iterator[SendToEach]:
    """The best way to send to many sockets that there is here, for as long as this lasts."""
    with ExitStack() as stack:
        try:
            calls = stack.enter_context(_SystemCalls.made(IN_ONE_CALL))
            _try_out(calls.send)
        except (OSError, Unfit) as error:
            logger.info("each socket is written to by a system call of its own: %s", error)
            yield one_by_one
        else:
            yield calls.send


class Unfit(Exception):
    """Linux's AIO is not here, or is not as it was checked."""


# From include/uapi/linux/aio_abi.h: struct iocb has 64 bytes, struct io_event 32.
_BLOCK, _EVENT = 64, 32
_PWRITE = 1
# io_setup, io_destroy, io_submit, io_getevents
_NUMBERS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}


class _SystemCalls:
    """A context of Linux's AIO, with room for so many writes, and the memory through which they are asked for."""

    def __init__(self, room: int) -> None:
        try:
            numbers = _NUMBERS[platform.machine()] if platform.system() == "Linux" else None
        except KeyError:
            numbers = None
        if numbers is None or ctypes.sizeof(ctypes.c_void_p) != 8:  # bytes, which the blocks reckon with
            raise Unfit(f"Linux's AIO is not known on {platform.system()} {platform.machine()}")
        self._setup, self._destroy, self._submit, self._get_events = numbers
        self._call: Any = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._call.argtypes = (ctypes.c_long,) * 6
        self._room = room
        self._context = 0
        blocks, events = (ctypes.c_char * (_BLOCK * room))(), (ctypes.c_char * (_EVENT * room))()
        self._blocks_at, self._events_at = ctypes.addressof(blocks), ctypes.addressof(events)
        # What is the same for each write is written once; of the rest, one assignment fills a field of all.
        raw = memoryview(blocks).cast("B")
        words = raw.cast("Q")
        words[0::8] = array("Q", range(room))  # aio_data: comes back with the result
        raw.cast("H")[8::32] = array("H", (_PWRITE,)) * room  # aio_lio_opcode
        self._files = raw.cast("i")[5::16]  # aio_fildes
        self._addresses = words[3::8]  # aio_buf
        self._lengths = words[4::8]  # aio_nbytes
        self._list = array("Q", range(self._blocks_at, self._blocks_at + _BLOCK * room, _BLOCK))
        answers = memoryview(events).cast("B").cast("q")
        self._numbers = answers[0::4]  # data
        self._results = answers[2::4]  # res: bytes, or an error below 0
        self._in_order = list(range(room))
        self._is_fit = True

    @classmethod
    @contextmanager
    def made(cls, room: int) -> Iterator["_SystemCalls"]:
        """With its context in the kernel. Raises Unfit, or OSError where the kernel has or gives none."""
        made = cls(room)
        context = ctypes.c_ulong(0)
        made._check(made._call(made._setup, room, ctypes.addressof(context), 0, 0, 0))
        made._context = context.value
        try:
            yield made
        finally:
            made._call(made._destroy, made._context, 0, 0, 0, 0)

    def _check(self, answer: int) -> int:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return answer

    def send(self, sockets: Sequence[socket.socket], data: bytes) -> list[int]:
        """Send to each; see `SendToEach`. Raises OSError where it cannot be known how much they took."""
        if len(sockets) <= FEW or not self._is_fit:
            return one_by_one(sockets, data)
        counts: list[int] = []
        for start in range(0, len(sockets), self._room):
            counts += self._send_at_once(sockets[start : start + self._room], data)
        return counts

    def _send_at_once(self, sockets: Sequence[socket.socket], data: bytes) -> list[int]:
        count = len(sockets)
        files = array("i", map(_FILENO, sockets))
        if -1 in files:  # one is closed; the kernel would stop there
            return one_by_one(sockets, data)
        self._files[:count] = files
        self._addresses[:count] = array("Q", (ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0,)) * count
        self._lengths[:count] = array("Q", (len(data),)) * count
        submitted = self._call(self._submit, self._context, count, self._list.buffer_info()[0], 0, 0)
        if submitted <= 0:  # nothing was done
            return one_by_one(sockets, data)
        counts = self._results_of(submitted)
        if submitted < count:  # the kernel refused the next
            counts += one_by_one(sockets[submitted:], data)
        return counts

    def _results_of(self, submitted: int) -> list[int]:
        """How much each of these writes wrote."""
        numbers: list[int] = []
        results: list[int] = []
        while len(results) < submitted:
            left = submitted - len(results)
            got = self._call(self._get_events, self._context, left, left, self._events_at, 0)
            if got < 0 and ctypes.get_errno() == errno.EINTR:
                continue
            self._is_fit = got > 0  # else answers are left, which the next would take for its own
            self._check(got)
            numbers += self._numbers[:got].tolist()
            results += self._results[:got].tolist()
        if numbers != self._in_order[:submitted]:
            results = [result for _, result in sorted(zip(numbers, results, strict=True))]
        return results if min(results) >= 0 else [max(result, 0) for result in results]


def _try_out(send: SendToEach) -> None:
    """See whether it does what it should with sockets that take all, nothing, and nothing any more. Raises Unfit."""
    if signal.getsignal(signal.SIGPIPE) != signal.SIG_IGN:  # as Python has it
        raise Unfit("SIGPIPE would end this process")
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(FEW + 3)]
        for end in (end for pair in pairs for end in pair):
            stack.enter_context(end)
            end.setblocking(False)
        first, full, gone, *others = pairs
        _fill(full[0])
        gone[1].close()
        data = b"as it was checked"
        expected = [len(data) if pair in (first, *others) else 0 for pair in pairs]
        for _ in range(2):
            if (counts := send([pair[0] for pair in pairs], data)) != expected:
                raise Unfit(f"Linux's AIO wrote {counts} bytes for {expected}")
        if any(pair[1].recv(100) != 2 * data for pair in (first, *others)):
            raise Unfit("Linux's AIO wrote something else")


def _fill(sock: socket.socket) -> None:
    while True:
        try:
            sock.send(bytes(65536))
        except BlockingIOError:
            return
