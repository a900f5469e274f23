"""Linux's AIO where the kernel is not as one knows it."""

import ctypes
import errno
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.sending.pairs import DATA, MANY, MakePairs, of_its_own, one_that_takes_nothing


def answering(aio: Any, answer: Callable[[Callable[..., int], tuple[int, ...]], int]) -> None:
    """Have `answer` do what asks the kernel for answers."""
    real = aio._calls.call

    def call(number: int, *arguments: int) -> int:
        return answer(real, arguments) if number == aio._get_events else int(real(number, *arguments))

    aio._calls.call = call


def test_answers_may_come_by_and_by(aio: Any, pairs: MakePairs) -> None:
    ours, expected = one_that_takes_nothing(pairs)

    def three_at_a_time(call: Callable[..., int], arguments: tuple[int, ...]) -> int:
        context, least, most, *rest = arguments
        return call(aio._get_events, context, min(least, 3), min(most, 3), *rest)

    answering(aio, three_at_a_time)
    assert aio.send(ours, DATA) == expected


def test_answers_may_come_in_any_order(aio: Any, pairs: MakePairs) -> None:
    ours, expected = one_that_takes_nothing(pairs)

    def backwards(call: Callable[..., int], arguments: tuple[int, ...]) -> int:
        got = call(aio._get_events, *arguments)
        for view in (aio._indices, aio._results):
            for at, value in enumerate(view[:got].tolist()[::-1]):
                view[at] = value
        return got

    answering(aio, backwards)
    assert aio.send(ours, DATA) == expected
    own = of_its_own(MANY)
    assert aio.send(ours, own) == [0 if at == 2 else len(data) for at, data in enumerate(own)]


def test_a_signal_while_it_waits_ends_nothing(aio: Any, pairs: MakePairs) -> None:
    ours, expected = one_that_takes_nothing(pairs)
    signals = iter(range(3))

    def interrupted(call: Callable[..., int], arguments: tuple[int, ...]) -> int:
        if next(signals, None) is not None:
            ctypes.set_errno(errno.EINTR)
            return -1
        return call(aio._get_events, *arguments)

    answering(aio, interrupted)
    assert aio.send(ours, DATA) == expected


def no_answer(_call: object, _arguments: object) -> int:
    return 0


def no_such_call(_call: object, _arguments: object) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


def no_memory(_call: object, _arguments: object) -> int:
    raise MemoryError


@pytest.mark.parametrize(
    ("answer", "error"), [(no_answer, TimeoutError), (no_such_call, OSError), (no_memory, MemoryError)]
)
def test_it_is_not_used_again_where_it_is_not_known_what_was_written(
    aio: Any, pairs: MakePairs, answer: Callable[..., int], error: type[Exception]
) -> None:
    ours, _ = one_that_takes_nothing(pairs)
    real = aio._calls.call
    answering(aio, answer)
    with pytest.raises(error):
        aio.send(ours, DATA)
    aio._calls.call = real
    for data in (b"short", b"and longer"):
        assert aio.send(ours, data) == [0 if at == 2 else len(data) for at in range(len(ours))]
