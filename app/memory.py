"""What was freed goes back to the system.

The C library keeps what is freed between two pieces that are in use, and what waits for slow clients, or comes all at
once after a stop, leaves many such holes: in half an hour of chaos an instance of 95 MB came to 130 MB, of which its
data were never more.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

GIVE_BACK_EVERY = 60.0
"""Seconds. It takes milliseconds."""


def trimmer() -> Callable[[], object] | None:
    """What gives back whole pages, wherever they are; None where the C library is not glibc."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415  # a Python may be built without it

        trim: Any = ctypes.CDLL(None).malloc_trim
        trim.argtypes = (ctypes.c_size_t,)
        return lambda: trim(0)
    return None


async def give_back(every: float = GIVE_BACK_EVERY) -> None:
    """Give back from time to time, until cancelled."""
    trim = trimmer()
    while trim is not None:
        await asyncio.sleep(every)
        trim()
