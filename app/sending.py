"""The same bytes to many sockets.

One system call for each is most of what a delivery costs, and what Python does around it most of the rest. Linux's AIO
takes a whole list of writes in one call, and a write to a socket that does not block is done when that call returns;
another one fetches how much each wrote. Where this cannot be had (another system, a sandbox that does not allow it, as
Cloud Run's first generation) each socket takes a call of its own.
"""

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
"""Sends the same to sockets that do not block; answers how many bytes each took, 0 where it took none. For one thread.
Raises OSError where it cannot be known how much they took."""

AT_ONCE = 512
"""Sockets that are written to by one call; more take another."""
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
        send: SendToEach = one_by_one
        try:
            calls = stack.enter_context(_linux_aio(AT_ONCE))
            _try_out(calls.send)
            send = calls.send
        except (OSError, Unfit) as error:
            stack.close()
            logger.info("each socket is written to by a system call of its own: %s", error)
        yield send


class Unfit(Exception):
    """Linux's AIO is not here, or is not as it was checked."""


# From include/uapi/linux/aio_abi.h: struct iocb has 64 bytes, struct io_event 32.
_BLOCK, _EVENT = 64, 32
_PWRITE = 1
# io_setup, io_destroy, io_submit, io_getevents
_SYSTEM_CALLS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
_LONGEST_WAIT = (1, 0)
"""Seconds and nanoseconds for the answers of writes that are done."""


@contextmanager
def _linux_aio(room: int) -> "Iterator[_LinuxAIO]":
    """Linux's AIO with room for so many writes in a call. Raises Unfit, or OSError where the kernel gives none."""
    aio = _LinuxAIO(room)
    aio.begin()
    try:
        yield aio
    finally:
        aio.end()


class _LinuxAIO:
    """A context of the kernel's, and the memory through which writes are asked for and answered."""

    def __init__(self, room: int) -> None:
        try:
            import ctypes  # noqa: PLC0415  # a Python may be built without it
        except (ImportError, MemoryError) as error:
            raise Unfit(f"this Python has no ctypes ({error})") from None
        machine, bits = platform.machine(), 8 * ctypes.sizeof(ctypes.c_void_p)
        if platform.system() != "Linux" or machine not in _SYSTEM_CALLS or bits != 64:
            raise Unfit(f"Linux's AIO is not known on {platform.system()} {machine} with {bits} bits")
        self._setup, self._destroy, self._submit, self._get_events = _SYSTEM_CALLS[machine]
        self._ctypes = ctypes
        self._call: Any = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._call.argtypes = (ctypes.c_long,) * 6
        self._room = room
        self._context = array("Q", (0,))
        self._wait = array("Q", _LONGEST_WAIT)
        blocks, events = (ctypes.c_char * (_BLOCK * room))(), (ctypes.c_char * (_EVENT * room))()
        self._events_at, first = ctypes.addressof(events), ctypes.addressof(blocks)
        self._list = array("Q", range(first, first + _BLOCK * room, _BLOCK))
        # What is the same for each write is written once; of the rest, one assignment fills a field of all.
        raw = memoryview(blocks).cast("B")
        words = raw.cast("Q")
        words[0::8] = array("Q", range(room))  # aio_data: comes back with the result
        raw.cast("H")[8::32] = array("H", (_PWRITE,)) * room  # aio_lio_opcode
        self._files = raw.cast("i")[5::16]  # aio_fildes
        self._addresses = words[3::8]  # aio_buf
        self._lengths = words[4::8]  # aio_nbytes
        answers = memoryview(events).cast("B").cast("q")
        self._indices = answers[0::4]  # data
        self._results = answers[2::4]  # res: bytes, or an error below 0
        self._in_order = list(range(room))
        self._is_fit = True

    def begin(self) -> None:
        """Have the kernel make its part. Raises OSError."""
        if self._call(self._setup, self._room, self._context.buffer_info()[0], 0, 0, 0) < 0:
            raise self._error()

    def end(self) -> None:
        """Give it back."""
        self._is_fit = False
        self._call(self._destroy, self._context[0], 0, 0, 0, 0)

    def _error(self) -> OSError:
        number = self._ctypes.get_errno()
        return OSError(number, os.strerror(number))

    def send(self, sockets: Sequence[socket.socket], data: bytes) -> list[int]:
        """Send to each; see `SendToEach`."""
        if len(sockets) <= FEW or not self._is_fit:
            return one_by_one(sockets, data)
        counts: list[int] = []
        for start in range(0, len(sockets), self._room):
            counts += self._send_at_once(sockets[start : start + self._room], data)
        return counts

    def _send_at_once(self, sockets: Sequence[socket.socket], data: bytes) -> list[int]:
        count = len(sockets)
        files = array("i", map(_FILENO, sockets))
        if -1 in files:  # the kernel would stop at one that is closed
            still_open = iter(self.send([sock for sock in sockets if sock.fileno() != -1], data))
            return [0 if file == -1 else next(still_open) for file in files]
        address = self._ctypes.cast(self._ctypes.c_char_p(data), self._ctypes.c_void_p).value or 0
        self._files[:count] = files
        self._addresses[:count] = array("Q", (address,)) * count
        self._lengths[:count] = array("Q", (len(data),)) * count
        self._is_fit = False  # until all is answered: the next would take what is left for its own answers
        submitted = self._call(self._submit, self._context[0], count, self._list.buffer_info()[0], 0, 0)
        counts = self._answers(submitted) if submitted > 0 else []  # else nothing was done
        self._is_fit = True
        if len(counts) < count:  # the kernel refused the next
            counts += one_by_one(sockets[len(counts) :], data)
        return counts

    def _answers(self, submitted: int) -> list[int]:
        """How much each of these writes wrote."""
        indices: list[int] = []
        results: list[int] = []
        while len(results) < submitted:
            left = submitted - len(results)
            got = self._call(
                self._get_events, self._context[0], left, left, self._events_at, self._wait.buffer_info()[0]
            )
            if got <= 0:
                error = self._error() if got < 0 else TimeoutError("no answer came")
                if isinstance(error, InterruptedError):
                    continue
                logger.error("Linux's AIO failed (%s): each socket is written to by a call of its own now", error)
                raise error
            indices += self._indices[:got].tolist()
            results += self._results[:got].tolist()
        if indices != self._in_order[:submitted]:
            results = [result for _, result in sorted(zip(indices, results, strict=True))]
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
