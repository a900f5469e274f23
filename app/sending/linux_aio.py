"""Linux's AIO (since 2.6; writes to sockets, too): a list of writes in one call, and what became of them by another."""

import logging
import socket
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager

from app.sending.calls import InOneCall, SystemCalls, WhatIsSent, part_of, until_its_end
from app.sending.one_by_one import Data, SendToEach, one_by_one

logger = logging.getLogger(__name__)

FEW = 16

# From include/uapi/linux/aio_abi.h: struct iocb has 64 bytes, struct io_event 32.
_BLOCK, _EVENT = 64, 32
_PWRITE = 1
# io_setup, io_destroy, io_submit, io_getevents
_NUMBERS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
_LONGEST_WAIT = (1, 0)
"""Seconds and nanoseconds for the answers of writes that are done."""


def sender(room: int) -> AbstractContextManager[SendToEach]:
    """Linux's AIO with room for so many writes in a call. Raises Unfit, or OSError where the kernel gives none."""
    return until_its_end(_Context(SystemCalls(), room))


class _Context(InOneCall):
    """A context of the kernel's, and the memory through which writes are asked for and answered."""

    few = FEW

    def __init__(self, calls: SystemCalls, room: int) -> None:
        self._calls = calls
        self._setup, self._destroy, self._submit, self._get_events = _NUMBERS[calls.machine]
        super().__init__(room)
        self._context = array("Q", (0,))
        self._wait = array("Q", _LONGEST_WAIT)
        blocks, first = calls.memory(_BLOCK * room)
        events, self._events_at = calls.memory(_EVENT * room)
        self._list = array("Q", range(first, first + _BLOCK * room, _BLOCK))
        # What is the same for each write is written once; of the rest, one assignment fills a field of all.
        words = blocks.cast("Q")
        words[0::8] = array("Q", range(room))  # aio_data: comes back with the result
        blocks.cast("H")[8::32] = array("H", (_PWRITE,)) * room  # aio_lio_opcode
        self._files = blocks.cast("i")[5::16]  # aio_fildes
        self._data = WhatIsSent(calls, addresses=words[3::8], lengths=words[4::8])  # aio_buf, aio_nbytes
        answers = events.cast("q")
        self._indices = answers[0::4]  # data
        self._results = answers[2::4]  # res: bytes, or an error below 0
        self._in_order = list(range(room))
        if calls.call(self._setup, room, self._context.buffer_info()[0], 0, 0, 0, 0) < 0:
            raise calls.error()

    def end(self) -> None:
        """Give it back."""
        self._is_fit = False
        self._calls.call(self._destroy, self._context[0], 0, 0, 0, 0, 0)

    def _send_at_once(self, sockets: Sequence[socket.socket], numbers: "array[int]", data: Data) -> list[int]:
        count = len(sockets)
        if -1 in numbers:  # the kernel would stop at one that is closed
            if not isinstance(data, bytes):
                data = [its for its, number in zip(data, numbers, strict=True) if number != -1]
            still_open = iter(self.send([sock for sock in sockets if sock.fileno() != -1], data))
            return [0 if number == -1 else next(still_open) for number in numbers]
        self._files[:count] = numbers
        self._data.set(data)
        self._is_fit = False  # until all is answered: the next would take what is left for its own answers
        submitted = self._calls.call(self._submit, self._context[0], count, self._list.buffer_info()[0], 0, 0, 0)
        counts = self._answers(submitted) if submitted > 0 else []  # else nothing was done
        self._is_fit = True
        if len(counts) < count:  # the kernel refused the next
            counts += one_by_one(sockets[len(counts) :], part_of(data, slice(len(counts), None)))
        return counts

    def _answers(self, submitted: int) -> list[int]:
        """How much each of these writes wrote."""
        indices: list[int] = []
        results: list[int] = []
        while len(results) < submitted:
            left = submitted - len(results)
            wait = self._wait.buffer_info()[0]
            got = self._calls.call(self._get_events, self._context[0], left, left, self._events_at, wait, 0)
            if got <= 0:
                error = self._calls.error() if got < 0 else TimeoutError("no answer came")
                if isinstance(error, InterruptedError):
                    continue
                logger.error("Linux's AIO failed (%s): each socket is written to by a call of its own now", error)
                raise error
            indices += self._indices[:got].tolist()
            results += self._results[:got].tolist()
        if indices != self._in_order[:submitted]:
            results = [result for _, result in sorted(zip(indices, results, strict=True))]
        return results if min(results) >= 0 else [max(result, 0) for result in results]
