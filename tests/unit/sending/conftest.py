"""Sockets to send to, and the ways to do it."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from app.sending import io_uring, linux_aio
from app.sending.trial import Unfit
from tests.unit.sending.pairs import ROOM, MakePairs, Pair


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


@pytest.fixture
def ring() -> Iterator[Any]:
    """io_uring's."""
    yield from _owner_of(io_uring)


@pytest.fixture
def aio() -> Iterator[Any]:
    """Linux's AIO's."""
    yield from _owner_of(linux_aio)


def _owner_of(way: Any) -> Iterator[Any]:
    with ExitStack() as stack:
        try:
            send = stack.enter_context(way.sender(ROOM))
        except (OSError, Unfit) as error:
            assert not os.environ.get("CI"), f"{way.__name__} is not to be had here"
            pytest.skip(f"{way.__name__} is not to be had here: {error}")
        yield send.__self__
