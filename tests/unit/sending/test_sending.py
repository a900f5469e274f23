"""Bytes to many sockets, all ways."""

import logging
import os
import platform
import signal
import socket
from array import array
from pathlib import Path
from typing import Any

import pytest

from app.sending import OpenSockets, SendToEach, calls, io_uring, linux_aio, one_by_one, to_many
from app.sending.open_sockets import numbers_of
from tests.unit.sending.pairs import DATA, MANY, ROOM, MakePairs, fill, of_its_own, received


@pytest.fixture(params=["one by one", "io_uring", "Linux's AIO"])
def send(request: pytest.FixtureRequest) -> SendToEach:
    """Each way."""
    if request.param == "one by one":
        return one_by_one
    owner: Any = request.getfixturevalue("ring" if request.param == "io_uring" else "aio")
    return owner.send  # type: ignore[no-any-return]


def send_on(ours: socket.socket) -> None:
    while True:
        ours.send(DATA)


@pytest.mark.parametrize(
    "count", [1, io_uring.FEW, io_uring.FEW + 1, linux_aio.FEW, linux_aio.FEW + 1, ROOM, ROOM + 1, 3 * ROOM]
)
def test_each_gets_all_in_the_order_of_the_sends(send: SendToEach, pairs: MakePairs, count: int) -> None:
    made = pairs(count)
    ours = [pair[0] for pair in made]
    for data in (DATA, b"and more", DATA[::-1]):
        assert send(ours, data) == [len(data)] * count
    assert all(received(theirs, 2 * len(DATA) + 8) == DATA + b"and more" + DATA[::-1] for _, theirs in made)


@pytest.mark.parametrize("count", [io_uring.FEW, MANY, 3 * ROOM + 1])
def test_sockets_that_stay_open_are_sent_to_like_all_others(send: SendToEach, pairs: MakePairs, count: int) -> None:
    made = pairs(count)
    ours = OpenSockets(pair[0] for pair in made)
    for data in (DATA, b"and more", DATA[::-1]):
        assert send(ours, data) == [len(data)] * count
    assert all(received(theirs, 2 * len(DATA) + 8) == DATA + b"and more" + DATA[::-1] for _, theirs in made)


def test_their_numbers_are_asked_for_once(pairs: MakePairs) -> None:
    made = pairs(3)
    ours = [pair[0] for pair in made]
    staying = OpenSockets(ours)
    numbers = [sock.fileno() for sock in ours]
    assert list(numbers_of(staying)) == list(numbers_of(ours)) == numbers
    ours[1].close()
    assert list(numbers_of(staying)) == numbers
    assert list(numbers_of(ours)) == [numbers[0], -1, numbers[2]]
    assert list(numbers_of(staying[1:])) == [-1, numbers[2]]
    for places in ([], [2, 0], [1]):  # of those without some, as little as of all
        rest = staying.without(places)
        kept = [place for place in range(3) if place not in places]
        assert list(rest) == [ours[place] for place in kept]
        assert list(numbers_of(rest)) == [numbers[place] for place in kept]
    assert list(numbers_of(staying)) == numbers


def test_short_and_long_take_turns(send: SendToEach, pairs: MakePairs) -> None:
    made = pairs(MANY)
    for number in range(4):
        for length in (1, 500, 16 * 1024, 16 * 1024 + 1, 20_000, 20_000, 2):
            data = bytes((number,)) * length
            assert send([pair[0] for pair in made], data) == [length] * MANY
            assert all(received(theirs, length) == data for _, theirs in made)


def test_who_takes_nothing_is_answered_with_0_and_keeps_nobody_waiting(send: SendToEach, pairs: MakePairs) -> None:
    made = pairs(MANY)
    fill(made[0][0])
    fill(made[20][0])
    fill(made[-1][0])
    expected = [0 if pair in (made[0], made[20], made[-1]) else len(DATA) for pair in made]
    assert send([pair[0] for pair in made], DATA) == expected
    assert all(received(theirs, len(DATA)) == DATA for (_, theirs), count in zip(made, expected, strict=True) if count)


def test_who_takes_a_part_is_answered_with_how_much(send: SendToEach, pairs: MakePairs) -> None:
    made = pairs(MANY)
    made[3][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = bytes(1 << 16) * 256
    counts = send([pair[0] for pair in made], data)
    assert 0 < counts[3] < len(data)


def test_who_has_closed_is_answered_with_0(send: SendToEach, pairs: MakePairs) -> None:
    made = pairs(MANY)
    for ours, theirs in made[2:4]:
        theirs.close()  # which is heard of when something comes
        with pytest.raises(ConnectionError):
            send_on(ours)
    counts = send([pair[0] for pair in made], DATA)
    assert counts == [0 if index in (2, 3) else len(DATA) for index in range(len(made))]


@pytest.mark.parametrize("closed", [{0}, {1, 2, MANY - 1}, set(range(MANY - 20)), set(range(MANY))])
def test_who_is_closed_here_is_answered_with_0(send: SendToEach, pairs: MakePairs, closed: set[int]) -> None:
    made = pairs(MANY)
    for index in closed:
        made[index][0].close()
    assert send([pair[0] for pair in made], DATA) == [0 if at in closed else len(DATA) for at in range(len(made))]
    assert all(received(theirs, len(DATA)) == DATA for at, (_, theirs) in enumerate(made) if at not in closed)


@pytest.mark.parametrize("at", [0, 5, MANY - 1])
def test_what_the_kernel_refuses_ends_nothing(send: SendToEach, pairs: MakePairs, at: int) -> None:
    made = pairs(MANY)
    number = os.dup(made[at][0].fileno())
    refused = socket.socket(fileno=number)
    os.close(number)  # the kernel knows it no more, and Python does not know that
    ours = [pair[0] for pair in made]
    ours[at] = refused
    try:
        assert send(ours, DATA) == [0 if index == at else len(DATA) for index in range(len(ours))]
        own = of_its_own(MANY)
        assert send(ours, own) == [0 if index == at else len(data) for index, data in enumerate(own)]
    finally:
        refused.detach()
    for index, (_, theirs) in enumerate(made):
        if index != at:
            assert received(theirs, len(DATA) + len(own[index])) == DATA + own[index]


# Each its own


@pytest.mark.parametrize("longest", [300, 2000, 40_000])
@pytest.mark.parametrize("count", [1, MANY, ROOM, 3 * ROOM + 1])
def test_each_gets_its_own(send: SendToEach, pairs: MakePairs, count: int, longest: int) -> None:
    made = pairs(count)
    ours = [pair[0] for pair in made]
    own = of_its_own(count, longest)
    for each in (own, own[::-1]):
        assert send(ours, each) == [len(data) for data in each]
        assert [received(theirs, len(data)) for (_, theirs), data in zip(made, each, strict=True)] == each


def test_the_same_for_all_and_each_its_own_take_turns(send: SendToEach, pairs: MakePairs) -> None:
    made = pairs(MANY)
    ours = [pair[0] for pair in made]
    own = of_its_own(MANY)
    for data in (DATA, own, DATA, own[:20], own[20:40], DATA[::-1], DATA[:-1], own):
        count = MANY if isinstance(data, bytes) else len(data)
        each = [data] * MANY if isinstance(data, bytes) else data
        assert send(ours[:count], data) == [len(its) for its in each]
        assert [received(theirs, len(its)) for (_, theirs), its in zip(made, each, strict=False)] == each


@pytest.mark.parametrize("others", [set(), {0, 7}, {MANY - 1}])
def test_who_takes_none_of_its_own_keeps_nobody_waiting(send: SendToEach, pairs: MakePairs, others: set[int]) -> None:
    made = pairs(MANY)
    own = of_its_own(MANY)
    fill(made[3][0])
    for at in others:
        made[at][0].close()
    expected = [0 if at == 3 or at in others else len(data) for at, data in enumerate(own)]
    assert send([pair[0] for pair in made], own) == expected
    got = [received(theirs, size) for (_, theirs), size in zip(made, expected, strict=True) if size]
    assert got == [data for data, size in zip(own, expected, strict=True) if size]


@pytest.mark.parametrize("at", [1, 2])
def test_what_fails_in_the_middle_leaves_nothing_to_the_next(
    send: SendToEach, pairs: MakePairs, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    made = pairs(MANY)
    ours = [pair[0] for pair in made]
    assert send(ours, DATA) == [len(DATA)] * MANY
    left = iter(range(at - 1))

    def no_memory(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise MemoryError
        return array(*arguments)

    own = [b"theirs alone %d" % number for number in range(MANY)]
    if send is not one_by_one:
        monkeypatch.setattr(calls, "array", no_memory)
        with pytest.raises(MemoryError):
            send(ours, own)
        monkeypatch.undo()
    assert send(ours, DATA) == [len(DATA)] * MANY
    assert all(received(theirs, 2 * len(DATA)) == 2 * DATA for _, theirs in made)


# Which is taken

UNKNOWN = 100_000
"""A system call that no kernel has."""


@pytest.fixture
def without_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without io_uring, or that does not allow it."""
    monkeypatch.setattr(io_uring, "_SETUP", UNKNOWN)


@pytest.fixture
def without_aio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without AIO."""
    monkeypatch.setattr(linux_aio, "_NUMBERS", {platform.machine(): (UNKNOWN,) * 4})


def best_way() -> SendToEach:
    with to_many() as best:
        return best


def owner(send: SendToEach) -> type:
    return type(getattr(send, "__self__", None))


def test_io_uring_is_the_first(ring: Any) -> None:
    assert owner(best_way()) is type(ring)


@pytest.mark.usefixtures("without_ring")
def test_a_kernel_without_io_uring_takes_aio_and_says_so(aio: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert owner(best_way()) is type(aio)
    assert "io_uring is not used" in caplog.text
    assert "of its own" not in caplog.text


@pytest.mark.usefixtures("without_ring", "without_aio")
def test_a_kernel_without_both_takes_a_call_for_each_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert best_way() is one_by_one
    assert "Linux's AIO is not used" in caplog.text
    assert "a system call of its own" in caplog.text


def test_another_machine_takes_a_call_for_each_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with caplog.at_level(logging.INFO):
        assert best_way() is one_by_one
    assert "a system call of its own" in caplog.text
    assert "s390x" in caplog.text


@pytest.mark.parametrize("way", ["ring", "aio"])
def test_a_kernel_that_does_it_otherwise_is_not_trusted_and_what_it_gave_is_given_back(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    kind = type(request.getfixturevalue(way))
    if way == "aio":
        request.getfixturevalue("without_ring")
    end = kind.end
    ended = []

    def note_end(owner: Any) -> None:
        ended.append(owner)
        end(owner)

    monkeypatch.setattr(kind, "end", note_end)
    monkeypatch.setattr(kind, "send", lambda _self, sockets, _data: [0] * len(sockets))
    with caplog.at_level(logging.INFO), to_many() as send:
        assert owner(send) is not kind
        assert len(ended) == 1
    assert "wrote [0, 0" in caplog.text


def test_what_is_used_is_given_back(ring: Any) -> None:
    def held() -> int:
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]  # one was the listing itself
        return sum("io_uring" in str(link.readlink()) for link in links)

    before = held()
    with to_many() as send:
        assert owner(send) is type(ring)
        assert held() > before
    del send
    assert held() == before


def test_it_is_not_tried_where_it_could_end_the_process(caplog: pytest.LogCaptureFixture) -> None:
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with caplog.at_level(logging.INFO):
            assert best_way() is one_by_one
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert "SIGPIPE" in caplog.text


def test_what_goes_wrong_where_it_does_not_fit_has_nothing_to_do_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(ValueError, match="theirs") as raised, to_many():
        raise ValueError("theirs")
    assert raised.value.__context__ is None


def test_what_goes_wrong_while_it_is_used_is_the_users_own() -> None:
    with pytest.raises(OSError, match="theirs"), to_many():
        raise OSError("theirs")
