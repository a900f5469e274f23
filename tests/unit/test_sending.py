"""The same bytes to many sockets, both ways."""

import ctypes
import errno
import logging
import os
import platform
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app import sending
from app.sending import AT_ONCE, FEW, SendToEach, one_by_one, to_many

DATA = b"to all of you" * 20

Pair = tuple[socket.socket, socket.socket]
MakePairs = Callable[[int], list[Pair]]


@pytest.fixture(params=["one by one", "in one call"])
def send(request: pytest.FixtureRequest) -> Iterator[SendToEach]:
    """Both ways."""
    if request.param == "one by one":
        yield one_by_one
        return
    with to_many() as best:
        if best is one_by_one:
            assert not os.environ.get("CI"), "Linux's AIO is not to be had here"
            pytest.skip("Linux's AIO is not to be had here")
        yield best


@pytest.fixture
def pairs() -> Iterator[MakePairs]:
    """TCP connections over loopback: the end that sends does not block."""
    made: list[Pair] = []

    def make(count: int) -> list[Pair]:
        with socket.create_server(("127.0.0.1", 0), backlog=count) as server:
            for _ in range(count):
                theirs = socket.create_connection(server.getsockname(), timeout=5)
                ours, _ = server.accept()
                ours.setblocking(False)
                made.append((ours, theirs))
        return made[-count:]

    yield make
    for ours, theirs in made:
        ours.close()
        theirs.close()


def received(theirs: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = theirs.recv(size - len(data))
        assert part
        data += part
    return data


def fill(ours: socket.socket) -> None:
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    while True:
        try:
            ours.send(bytes(1 << 20))
        except BlockingIOError:
            return


def send_on(ours: socket.socket) -> None:
    while True:
        ours.send(DATA)


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, AT_ONCE, AT_ONCE + 1])
def test_each_gets_all_in_the_order_of_the_sends(send: SendToEach, pairs: MakePairs, count: int) -> None:
    made = pairs(count)
    ours = [pair[0] for pair in made]
    for data in (DATA, b"and more", DATA[::-1]):
        assert send(ours, data) == [len(data)] * count
    assert all(received(theirs, 2 * len(DATA) + 8) == DATA + b"and more" + DATA[::-1] for _, theirs in made)


def test_who_takes_nothing_is_answered_with_0_and_keeps_nobody_waiting(send: SendToEach, pairs: MakePairs) -> None:
    made = pairs(3 * FEW)
    fill(made[0][0])
    fill(made[FEW][0])
    fill(made[-1][0])
    expected = [0 if pair in (made[0], made[FEW], made[-1]) else len(DATA) for pair in made]
    assert send([pair[0] for pair in made], DATA) == expected
    assert all(received(theirs, len(DATA)) == DATA for (_, theirs), count in zip(made, expected, strict=True) if count)


def test_who_takes_a_part_is_answered_with_how_much(send: SendToEach, pairs: MakePairs) -> None:
    made = pairs(2 * FEW)
    made[3][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = bytes(1 << 16) * 256
    counts = send([pair[0] for pair in made], data)
    assert 0 < counts[3] < len(data)


def test_who_has_closed_is_answered_with_0(send: SendToEach, pairs: MakePairs) -> None:
    made = pairs(3 * FEW)
    for ours, theirs in made[2:4]:
        theirs.close()  # which is heard of when something comes
        with pytest.raises(ConnectionError):
            send_on(ours)
    counts = send([pair[0] for pair in made], DATA)
    assert counts == [0 if index in (2, 3) else len(DATA) for index in range(len(made))]


@pytest.mark.parametrize("closed", [{0}, {1, 2, 3 * FEW - 1}, set(range(2 * FEW)), set(range(3 * FEW))])
def test_who_is_closed_here_is_answered_with_0(send: SendToEach, pairs: MakePairs, closed: set[int]) -> None:
    made = pairs(3 * FEW)
    for index in closed:
        made[index][0].close()
    assert send([pair[0] for pair in made], DATA) == [0 if at in closed else len(DATA) for at in range(len(made))]
    assert all(received(theirs, len(DATA)) == DATA for at, (_, theirs) in enumerate(made) if at not in closed)


@pytest.mark.parametrize("at", [0, 5, 3 * FEW - 1])
def test_what_the_kernel_refuses_ends_nothing(send: SendToEach, pairs: MakePairs, at: int) -> None:
    made = pairs(3 * FEW)
    number = os.dup(made[at][0].fileno())
    refused = socket.socket(fileno=number)
    os.close(number)  # the kernel knows it no more, and Python does not know that
    ours = [pair[0] for pair in made]
    ours[at] = refused
    try:
        assert send(ours, DATA) == [0 if index == at else len(DATA) for index in range(len(ours))]
    finally:
        refused.detach()
    assert all(received(theirs, len(DATA)) == DATA for index, (_, theirs) in enumerate(made) if index != at)


# Where it cannot be had


def best_way() -> SendToEach:
    with to_many() as best:
        return best


def test_another_machine_takes_a_call_for_each_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with caplog.at_level(logging.INFO):
        assert best_way() is one_by_one
    assert "a system call of its own" in caplog.text
    assert "s390x" in caplog.text


def test_a_kernel_without_it_takes_a_call_for_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = (100_000,) * 4
    monkeypatch.setattr(sending, "_SYSTEM_CALLS", {platform.machine(): unknown})
    with caplog.at_level(logging.INFO):
        assert best_way() is one_by_one
    assert "a system call of its own" in caplog.text


def test_a_kernel_that_does_it_otherwise_takes_a_call_for_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(_self: object, sockets: list[socket.socket], _data: bytes) -> list[int]:
        return [0] * len(sockets)

    monkeypatch.setattr("app.sending._LinuxAIO.send", nothing)
    with caplog.at_level(logging.INFO):
        assert best_way() is one_by_one
    assert "wrote [0, 0" in caplog.text


def test_it_is_not_tried_where_it_could_end_the_process(caplog: pytest.LogCaptureFixture) -> None:
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with caplog.at_level(logging.INFO):
            assert best_way() is one_by_one
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert "SIGPIPE" in caplog.text


# Where the kernel is not as one knows it


@pytest.fixture
def aio() -> Iterator[Any]:
    """What there is to send with, if it is Linux's AIO."""
    with to_many() as send:
        if send is one_by_one:
            assert not os.environ.get("CI"), "Linux's AIO is not to be had here"
            pytest.skip("Linux's AIO is not to be had here")
        yield send.__self__  # type: ignore[attr-defined]


def answering(aio: Any, answer: Callable[[Callable[..., int], tuple[int, ...]], int]) -> None:
    """Have `answer` do what asks the kernel for answers."""
    real = aio._call

    def call(number: int, *arguments: int) -> int:
        return answer(real, arguments) if number == aio._get_events else int(real(number, *arguments))

    aio._call = call


def nothing_to_take(aio: Any, pairs: MakePairs) -> tuple[list[socket.socket], list[int]]:
    """Sockets of which the third takes nothing, and what sending DATA should answer."""
    made = pairs(2 * FEW)
    fill(made[2][0])
    return [pair[0] for pair in made], [0 if at == 2 else len(DATA) for at in range(2 * FEW)]


def test_answers_may_come_by_and_by(aio: Any, pairs: MakePairs) -> None:
    ours, expected = nothing_to_take(aio, pairs)

    def three_at_a_time(call: Callable[..., int], arguments: tuple[int, ...]) -> int:
        context, least, most, *rest = arguments
        return call(aio._get_events, context, min(least, 3), min(most, 3), *rest)

    answering(aio, three_at_a_time)
    assert aio.send(ours, DATA) == expected


def test_answers_may_come_in_any_order(aio: Any, pairs: MakePairs) -> None:
    ours, expected = nothing_to_take(aio, pairs)

    def backwards(call: Callable[..., int], arguments: tuple[int, ...]) -> int:
        got = call(aio._get_events, *arguments)
        for view in (aio._indices, aio._results):
            for at, value in enumerate(view[:got].tolist()[::-1]):
                view[at] = value
        return got

    answering(aio, backwards)
    assert aio.send(ours, DATA) == expected


def test_a_signal_while_it_waits_ends_nothing(aio: Any, pairs: MakePairs) -> None:
    ours, expected = nothing_to_take(aio, pairs)
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
    ours, _ = nothing_to_take(aio, pairs)
    real = aio._call
    answering(aio, answer)
    with pytest.raises(error):
        aio.send(ours, DATA)
    aio._call = real
    for data in (b"short", b"and longer"):
        assert aio.send(ours, data) == [0 if at == 2 else len(data) for at in range(len(ours))]


def test_nothing_is_kept_of_what_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def end(aio: object) -> None:
        ended.append(aio)

    monkeypatch.setattr("app.sending._LinuxAIO.end", end)
    monkeypatch.setattr("app.sending._LinuxAIO.send", lambda _self, sockets, _data: [0] * len(sockets))
    with to_many() as send:
        assert send is one_by_one
        assert len(ended) == 1


def test_what_goes_wrong_where_it_does_not_fit_has_nothing_to_do_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(ValueError, match="theirs") as raised, to_many():
        raise ValueError("theirs")
    assert raised.value.__context__ is None


def test_what_goes_wrong_while_it_is_used_is_the_users_own() -> None:
    with pytest.raises(OSError, match="theirs"), to_many():
        raise OSError("theirs")
