"""io_uring where the kernel is not as one knows it."""

import ctypes
import errno
import logging
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.sending import io_uring
from app.sending.trial import Unfit
from tests.unit.sending.pairs import (
    DATA,
    MANY,
    ROOM,
    MakePairs,
    of_its_own,
    one_that_takes_nothing,
    received,
)


def entering(ring: Any, enter: Callable[[Callable[..., int], tuple[int, ...]], int]) -> None:
    """Have `enter` hand over what is asked for."""
    real = ring._calls.call

    def call(number: int, *arguments: int) -> int:
        return enter(real, arguments) if number == io_uring._ENTER else int(real(number, *arguments))

    ring._calls.call = call


def test_it_goes_round_and_round(ring: Any, pairs: MakePairs) -> None:
    """The rings are of 64 and 128 places: sends begin, end and turn everywhere in both."""
    made = pairs(ROOM)
    for number in range(3 * ROOM):
        count = io_uring.FEW + 1 + number % (ROOM - io_uring.FEW)
        data = b"%d " % number + DATA
        assert ring.send([pair[0] for pair in made[:count]], data) == [len(data)] * count
        assert all(received(theirs, len(data)) == data for _, theirs in made[:count])


def test_answers_that_turn_are_of_the_right_ones(ring: Any, pairs: MakePairs) -> None:
    ours, expected = one_that_takes_nothing(pairs)
    for _ in range(3 * ROOM // MANY + 2):
        assert ring.send(ours, DATA) == expected
        assert ring.send(ours[::-1], DATA) == expected[::-1]


def test_what_it_takes_only_a_part_of_is_sent_one_by_one_and_said_once(
    ring: Any, pairs: MakePairs, caplog: pytest.LogCaptureFixture
) -> None:
    ours, expected = one_that_takes_nothing(pairs)

    def seven(call: Callable[..., int], arguments: tuple[int, ...]) -> int:
        number, _, *rest = arguments
        return call(io_uring._ENTER, number, 7, *rest)

    entering(ring, seven)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert ring.send(ours, DATA) == expected
    assert caplog.text.count("took 7 of 48") == 1
    own = of_its_own(MANY)
    assert ring.send(ours, own) == [0 if at == 2 else len(data) for at, data in enumerate(own)]


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN, errno.ENOSYS])
def test_what_it_takes_nothing_of_is_sent_one_by_one(ring: Any, pairs: MakePairs, error: int) -> None:
    ours, expected = one_that_takes_nothing(pairs)
    refused = iter(range(1))

    def refuse(call: Callable[..., int], arguments: tuple[int, ...]) -> int:
        if next(refused, None) is None:
            return call(io_uring._ENTER, *arguments)
        ctypes.set_errno(error)
        return -1

    entering(ring, refuse)
    for _ in range(2):
        assert ring.send(ours, DATA) == expected


def test_answers_may_come_in_any_order(ring: Any, pairs: MakePairs) -> None:
    ours, expected = one_that_takes_nothing(pairs)

    def backwards(call: Callable[..., int], arguments: tuple[int, ...]) -> int:
        start = ring._answers_tail[0]
        got = call(io_uring._ENTER, *arguments)
        for view in (ring._indices, ring._results):
            for at, value in enumerate(view[start : start + got].tolist()[::-1], start):
                view[at] = value
        return got

    entering(ring, backwards)
    assert ring.send(ours, DATA) == expected
    own = of_its_own(MANY)
    assert ring.send(ours, own) == [0 if at == 2 else len(data) for at, data in enumerate(own)]
    sizes = range(1, MANY + 1)  # none takes less than all: what was sent to whom is found all the same
    others = [pair[0] for pair in pairs(MANY)]
    assert ring.send(others, [DATA[:size] for size in sizes]) == list(sizes)


def all_later(_call: object, arguments: tuple[int, ...]) -> int:
    return arguments[1]  # as if it did it some time


def no_memory(_call: object, _arguments: object) -> int:
    raise MemoryError


@pytest.mark.parametrize(("enter", "error"), [(all_later, OSError), (no_memory, MemoryError)])
def test_it_is_not_used_again_where_it_is_not_known_what_was_written(
    ring: Any, pairs: MakePairs, enter: Callable[..., int], error: type[Exception]
) -> None:
    ours, expected = one_that_takes_nothing(pairs)
    entering(ring, enter)
    with pytest.raises(error):
        ring.send(ours, DATA)
    assert ring.send(ours, DATA) == expected


def test_the_counts_of_a_ring_begin_anew_after_4_billions(ring: Any, pairs: MakePairs) -> None:
    made = pairs(MANY)
    start = (1 << 32) - 70
    asked, answered = array("I", [start] * 2), array("I", [start] * 2)
    order, files = array("I", [0] * ROOM), array("i", [0] * ROOM)
    indices, results = array("Q", [0] * 2 * ROOM), array("i", [0] * 2 * ROOM)
    ring._head, ring._tail = memoryview(asked)[:1], memoryview(asked)[1:]
    ring._answers_head, ring._answers_tail = memoryview(answered)[:1], memoryview(answered)[1:]
    ring._order, ring._files = memoryview(order), memoryview(files)
    ring._indices, ring._results = memoryview(indices), memoryview(results)
    sent: list[int] = []

    def kernel(_call: object, arguments: tuple[int, ...]) -> int:
        for _ in range(arguments[1]):
            index, place = order[asked[0] % ROOM], answered[1] % (2 * ROOM)
            indices[place], results[place] = index, -errno.EAGAIN if index == 2 else len(DATA)
            sent.append(files[index])
            asked[0], answered[1] = ((each + 1) % (1 << 32) for each in (asked[0], answered[1]))
        assert asked[0] == asked[1]
        return arguments[1]

    entering(ring, kernel)
    for count in (MANY, MANY, MANY - 3, MANY):
        sent.clear()
        ours = [pair[0] for pair in made[:count]]
        assert ring.send(ours, DATA) == [0 if at == 2 else len(DATA) for at in range(count)]
        assert sent == [sock.fileno() for sock in ours]


def test_when_it_is_given_back_each_is_sent_to_by_a_call_of_its_own(pairs: MakePairs) -> None:
    with io_uring.sender(ROOM) as send:
        pass
    owner: Any = getattr(send, "__self__")  # noqa: B009
    entering(owner, no_memory)
    ours, expected = one_that_takes_nothing(pairs)
    assert send(ours, DATA) == expected


def test_a_kernel_that_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch, ring: Any) -> None:
    monkeypatch.setattr(io_uring, "_ONE_MEMORY", 1 << 31)  # no kernel has this
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(Unfit), io_uring.sender(ring._room):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
