"""The same bytes to many sockets, both ways."""

import logging
import os
import platform
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from app import sending
from app.sending import FEW, IN_ONE_CALL, SendToEach, one_by_one, to_many

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


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, IN_ONE_CALL, IN_ONE_CALL + 1])
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


def test_who_is_gone_is_answered_with_0(send: SendToEach, pairs: MakePairs) -> None:
    made = pairs(3 * FEW)
    made[1][0].close()  # closed here
    made[2][1].close()  # closed there, and said so when something came
    with pytest.raises(ConnectionError):
        send_on(made[2][0])
    counts = send([pair[0] for pair in made], DATA)
    assert counts == [0 if index in (1, 2) else len(DATA) for index in range(len(made))]


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
    monkeypatch.setattr(sending, "_NUMBERS", {platform.machine(): unknown})
    with caplog.at_level(logging.INFO):
        assert best_way() is one_by_one
    assert os.strerror(38) in caplog.text  # ENOSYS


def test_a_kernel_that_does_it_otherwise_takes_a_call_for_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(_self: object, sockets: list[socket.socket], _data: bytes) -> list[int]:
        return [0] * len(sockets)

    monkeypatch.setattr("app.sending._SystemCalls.send", nothing)
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


def test_it_is_not_used_again_where_the_kernel_did_not_say_what_was_written(pairs: MakePairs) -> None:
    made = pairs(2 * FEW)
    ours = [pair[0] for pair in made]
    with to_many() as send:
        if send is one_by_one:
            pytest.skip("Linux's AIO is not to be had here")
        calls = send.__self__  # type: ignore[attr-defined]
        known, calls._get_events = calls._get_events, 100_000
        with pytest.raises(OSError, match=os.strerror(38)):
            send(ours, DATA)
        calls._get_events = known
        assert send(ours, b"short") == [5] * len(ours)


def test_what_goes_wrong_while_it_is_used_is_the_users_own() -> None:
    with pytest.raises(OSError, match="theirs"), to_many():
        raise OSError("theirs")
