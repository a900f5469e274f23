"""Words between the test and an adapter, on its standard input and output: one a line, and what belongs to it.

In: `text MESSAGE` sends a message, `close` closes with 1000. Out: `open`, `text MESSAGE`, `close CODE REASON`, as the
library shows them, and `error WHAT`. Each adapter is begun with the address, and `plain` or `deflate`.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

URL = sys.argv[1]
DEFLATE = sys.argv[2] == "deflate"
LONGEST = 2**21
"""Bytes of a line."""


def say(word: str, *rest: object) -> None:
    """Write a line."""
    sys.stdout.write(" ".join(str(part) for part in (word, *rest)) + "\n")
    sys.stdout.flush()


def split(line: str) -> tuple[str, str]:
    """Return an order's word, and what belongs to it."""
    word, _, rest = line.rstrip("\n").partition(" ")
    return word, rest


async def obey(text: Callable[[str], Any], close: Callable[[], Any]) -> None:
    """Do what comes on standard input, in asyncio; ends the process where that ends."""
    reader = asyncio.StreamReader(LONGEST)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        word, rest = split(line.decode())
        try:
            done = text(rest) if word == "text" else close()
            if isinstance(done, Awaitable):
                await done
        except Exception as error:
            say("error", repr(error))
    os._exit(0)


def obey_in_thread(text: Callable[[str], Any], close: Callable[[], Any]) -> None:
    """Do the same for a library that waits in a thread."""

    def orders() -> None:
        for line in sys.stdin:
            word, rest = split(line)
            try:
                if word == "text":
                    text(rest)
                else:
                    close()
            except Exception as error:
                say("error", repr(error))
        os._exit(0)

    threading.Thread(target=orders, daemon=True).start()
