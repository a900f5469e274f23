"""Garbage is found, seldom; and memory that was freed goes back to the system."""

import asyncio
import gc
import platform
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app import memory
from app.memory import COLLECT_AFTER, collecting_seldom, tidy_up, trimmer
from tests.support.deadline import soon, until

FREE_WITH_HOLES = """
from pathlib import Path
from app.memory import trimmer

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

trim = trimmer()
before = resident()
pieces = [bytes(5000) for _ in range(10_000)]
kept = pieces[::50]
del pieces
full = resident()
trim()
print(full - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_what_lies_between_two_pieces_in_use_is_given_back() -> None:
    ended = subprocess.run([sys.executable, "-c", FREE_WITH_HOLES], capture_output=True, text=True, check=True)
    full, after = map(int, ended.stdout.split())
    assert full > 10_000
    assert after < full / 4


async def test_it_is_given_back_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    times: asyncio.Queue[None] = asyncio.Queue()
    monkeypatch.setattr(memory, "trimmer", lambda: lambda: times.put_nowait(None))
    async with tidying():
        for _ in range(3):
            await soon(times.get())


async def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    assert trimmer() is None
    looks = 0

    def blocks() -> int:
        nonlocal looks
        looks += 1
        return 1

    monkeypatch.setattr("sys.getallocatedblocks", blocks)
    async with tidying():
        await until(lambda: looks > 5)


@asynccontextmanager
async def tidying() -> AsyncIterator[None]:
    task = asyncio.create_task(tidy_up(every=0.001))
    await asyncio.sleep(0)  # it has begun
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class Circle:
    """What refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def garbage_that_was_kept() -> weakref.ref[Circle]:
    """What was in use when Python looked at it, and is not found now."""
    circle = Circle()
    gone = weakref.ref(circle)
    gc.collect()
    del circle
    gc.collect()
    assert gone() is not None
    return gone


def test_what_is_new_and_garbage_is_found_by_itself() -> None:
    with collecting_seldom():
        gone = weakref.ref(Circle())
        assert gone() is not None
        new: list[list[int]] = [[] for _ in range(2 * COLLECT_AFTER)]
        assert gone() is None
        assert len(new) > COLLECT_AFTER


async def test_now_and_then_all_is_looked_at_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.getallocatedblocks", lambda: 1000)
    with collecting_seldom():
        gone = garbage_that_was_kept()
        async with tidying():
            await until(lambda: gone() is None)


async def test_what_was_in_use_when_it_was_new_is_looked_at_again_when_there_is_twice_as_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_use = [1000]
    monkeypatch.setattr(memory, "LOOK_AT_ALL_AFTER", 10**6)
    monkeypatch.setattr("sys.getallocatedblocks", lambda: in_use[0])
    with collecting_seldom():
        gone = garbage_that_was_kept()
        async with tidying():
            in_use[0] = 600
            await asyncio.sleep(0.01)  # there is nothing to wait for
            in_use[0] = 1200
            await asyncio.sleep(0.01)
            assert gone() is not None
            in_use[0] = 1201
            await until(lambda: gone() is None)
        garbage_that_was_kept()  # as before


def test_afterwards_python_collects_as_it_did() -> None:
    before = gc.get_threshold(), len(gc.callbacks)
    with collecting_seldom():
        gc.collect()
        assert gc.get_freeze_count() > 0
    assert (gc.get_threshold(), len(gc.callbacks)) == before
    assert gc.get_freeze_count() == 0
