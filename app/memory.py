"""Looking for garbage seldom, and giving back to the system what was freed.

Garbage is what refers to itself in a circle, and Python looks for it among all that is in use, again and again while
that grows: a fifth of what a thousand clients cost that come at once, and half a second in which nothing else is done
with ten thousand. Of connections nothing is left that way, unless their paths are unknown.

The C library keeps what is freed between two pieces that are in use, and what waits for slow clients, or comes all at
once after a stop, leaves many such holes: in half an hour of chaos an instance of 95 MB came to 130 MB, of which its
data were never more.
"""

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

COLLECT_AFTER = 10_000
"""New objects, those that are gone again not counted: then they are looked at. More at a time do not fit into the
processor's cache, so that looking at each takes longer."""
GROWTH = 2
"""All is looked at when this times as much is in use as there was at least since the last time."""
TIDY_EVERY = 60.0
"""Seconds. It takes milliseconds; where all is looked at, as long as that always takes."""
M_MMAP_THRESHOLD = -3
"""Of malloc.h."""
LARGE = 128 * 1024
"""Bytes: glibc's own threshold, before it learns."""
LOOK_AT_ALL_AFTER = 60
"""Times that it was tidied up: then all is looked at in any case, since not all that garbage may hold is counted."""


@contextlib.contextmanager
def collecting_seldom() -> Iterator[None]:
    """Python looks for garbage among what is new, once: what is in use then is taken to stay. See `tidy_up`."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    gc.callbacks.append(_keep)
    gc.freeze()
    try:
        yield
    finally:
        gc.callbacks.remove(_keep)
        gc.unfreeze()
        gc.set_threshold(*before)


def _keep(phase: str, _info: object) -> None:
    if phase == "stop":
        gc.freeze()


def trimmer() -> Callable[[], object] | None:
    """What gives back whole pages, wherever they are; None where the C library is not glibc."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415  # a Python may be built without it

        trim: Any = ctypes.CDLL(None).malloc_trim
        trim.argtypes = (ctypes.c_size_t,)
        return lambda: trim(0)
    return None


def keep_large_pieces_apart() -> None:
    """Have the C library give back to the system at once what is as large as messages can be.

    By itself it learns from the first that is freed to keep those, too; then a flood of them leaves holes that are
    several times what was ever in use.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415  # as above

        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


async def tidy_up(every: float = TIDY_EVERY) -> None:
    """Look at all where that may be worth it, and give back what is free, from time to time, until cancelled."""
    trim = trimmer()
    least, times = sys.getallocatedblocks(), 0
    while True:
        await asyncio.sleep(every)
        in_use = sys.getallocatedblocks()
        least, times = min(least, in_use), times + 1
        if in_use > GROWTH * least or times == LOOK_AT_ALL_AFTER:
            gc.unfreeze()
            gc.collect()
            least, times = sys.getallocatedblocks(), 0
        if trim is not None:
            trim()
