"""Memory that was freed goes back to the system."""

import asyncio
import platform
import subprocess
import sys

import pytest

from app import memory
from app.memory import give_back, trimmer
from tests.support.deadline import soon

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
    giving = asyncio.create_task(give_back(every=0.001))
    for _ in range(3):
        await soon(times.get())
    giving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving


async def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    assert trimmer() is None
    await soon(give_back())
