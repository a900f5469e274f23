"""Linux's io_uring (since 5.6): what is asked for and what was done stand in memory that the kernel sees, too."""

import logging
import os
import socket
import struct
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager

from app.sending.calls import InOneCall, SystemCalls, WhatIsSent, part_of, until_its_end
from app.sending.one_by_one import Data, SendToEach, one_by_one
from app.sending.trial import Unfit

logger = logging.getLogger(__name__)

FEW = 8

# From include/uapi/linux/io_uring.h; the calls have the same numbers everywhere.
_SETUP, _ENTER = 425, 426
_PARAMETERS = struct.Struct("=10I8IQ8IQ")
_ENTRIES_ASKED, _ENTRIES_ANSWERED, _FEATURES = 0, 1, 5
_ASKED, _ANSWERED = slice(10, 18), slice(19, 27)
"""Where in a ring's memory what is: head, tail, mask, entries, ..."""
_ONE_MEMORY = 1
"""Of the features: both rings are in one piece."""
_RINGS_AT, _SENDS_AT = 0, 0x10000000
_SEND_BYTES, _ANSWER_BYTES = 64, 16
_SEND = 26
_AT_ONCE_OR_NOT = 0x40 | 0x4000  # MSG_DONTWAIT, MSG_NOSIGNAL
_WRAP = 1 << 32


def sender(room: int) -> AbstractContextManager[SendToEach]:
    """io_uring with room for so many sends in a call, a power of two. Raises Unfit, or OSError where it may not be."""
    return until_its_end(_Ring(SystemCalls(), room))


class _Ring(InOneCall):
    """Two rings of the kernel's: of what is asked for, and of what was done."""

    few = FEW

    def __init__(self, calls: SystemCalls, room: int) -> None:
        self._calls = calls
        super().__init__(room)
        memory, at = calls.memory(_PARAMETERS.size)
        self._number = calls.call(_SETUP, room, at, 0, 0, 0, 0)
        if self._number < 0:
            raise calls.error()
        self._has_said = False
        try:
            self._look_into(_PARAMETERS.unpack(memory))
        except BaseException:
            self.end()
            raise

    def _look_into(self, parameters: tuple[int, ...]) -> None:
        import mmap  # noqa: PLC0415  # as ctypes

        if parameters[_ENTRIES_ASKED] != self._room or not parameters[_FEATURES] & _ONE_MEMORY:
            raise Unfit("it is not as it was checked")
        asked, answered = parameters[_ASKED], parameters[_ANSWERED]
        entries = parameters[_ENTRIES_ANSWERED]
        order_at, answers_at = asked[6], answered[5]
        size = max(order_at + 4 * self._room, answers_at + _ANSWER_BYTES * entries)
        rings = memoryview(mmap.mmap(self._number, size, offset=_RINGS_AT))
        words = rings[: size - size % 4].cast("I")
        self._head, self._tail = (words[at // 4 : at // 4 + 1] for at in asked[:2])
        self._answers_head, self._answers_tail = (words[at // 4 : at // 4 + 1] for at in answered[:2])
        self._answers_room = entries
        self._order = words[order_at // 4 : order_at // 4 + self._room]
        self._orders = array("I", [*range(self._room)] * 2)
        answers = rings[answers_at : answers_at + _ANSWER_BYTES * entries]
        self._indices = answers.cast("Q")[0::2]  # user_data
        self._results = answers.cast("i")[2::4]  # res: bytes, or an error below 0
        sends = memoryview(mmap.mmap(self._number, _SEND_BYTES * self._room, offset=_SENDS_AT))
        # What is the same for each send is written once; of the rest, one assignment fills a field of all.
        sends[0::_SEND_BYTES] = bytes((_SEND,)) * self._room
        sends.cast("I")[7::16] = array("I", (_AT_ONCE_OR_NOT,)) * self._room  # msg_flags
        sends.cast("Q")[4::8] = array("Q", range(self._room))  # user_data: comes back with the result
        self._files = sends.cast("i")[1::16]
        self._data = WhatIsSent(self._calls, addresses=sends.cast("Q")[2::8], lengths=sends.cast("I")[6::16])
        self._in_order = list(range(self._room))

    def end(self) -> None:
        """Give it back; its memory goes with this object."""
        self._is_fit = False
        os.close(self._number)

    def _send_at_once(self, sockets: Sequence[socket.socket], numbers: "array[int]", data: Data) -> list[int]:
        count = len(sockets)
        self._files[:count] = numbers
        self._data.set(data)
        before = self._tail[0]
        turned = self._room - before % self._room
        self._order[:] = memoryview(self._orders)[turned : turned + self._room]  # the first is next
        self._is_fit = False  # until all is answered: the next would take what is left for its own answers
        self._tail[0] = (before + count) % _WRAP
        submitted = self._calls.call(_ENTER, self._number, count, 0, 0, 0, 0)
        if submitted < count:  # the kernel refused the next
            self._tail[0] = self._head[0]
            self._say_once(f"io_uring took {submitted} of {count} ({self._calls.error()})")
        counts = self._answers(max(submitted, 0), len(data) if isinstance(data, bytes) else None)
        self._is_fit = True
        if len(counts) < count:
            counts += one_by_one(sockets[len(counts) :], part_of(data, slice(len(counts), None)))
        return counts

    def _say_once(self, sentence: str) -> None:
        if not self._has_said:
            self._has_said = True
            logger.warning("%s: the others are sent to one by one; this is said once", sentence)

    def _answers(self, submitted: int, size: int | None) -> list[int]:
        """How much each of these sends sent, of `size` where that is the same for all."""
        head, tail = self._answers_head[0], self._answers_tail[0]
        if (tail - head) % _WRAP != submitted:
            logger.error("io_uring failed: each socket is written to by a call of its own now")
            raise OSError("not all that was asked for is answered")
        self._answers_head[0] = tail
        start = head % self._answers_room
        end = start + submitted
        results = self._results[start:end].tolist()
        if end > self._answers_room:
            results += self._results[: end - self._answers_room].tolist()
        if size is not None and results.count(size) == submitted:
            return results  # whose they are does not matter
        indices = self._indices[start:end].tolist()
        if end > self._answers_room:
            indices += self._indices[: end - self._answers_room].tolist()
        if indices != self._in_order[:submitted]:
            results = [result for _, result in sorted(zip(indices, results, strict=True))]
        return [max(result, 0) for result in results]
