"""Autobahn's cases, as the package kosoku has them, against a server: one line of JSON for each case.

Runs in an environment of its own, and needs nothing of the project's: `python cases.py URL MESSAGES CONCURRENCY`.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from kosoku import FailureError, cases, run_fuzzingclient

COMPRESSION = ("12.", "13.")
"""Cases that exchange many messages; the file that has them was translated from Python 2, and not quite."""


def as_bytes(message: str | bytes, *, binary: bool) -> bytes:
    """Return a message as it was sent. What was not compressed comes as a text, a binary message too: a character for
    each byte."""
    if isinstance(message, bytes):
        return message
    return message.encode("latin-1" if binary else "utf-8")


def repair(case: Any, messages: int) -> None:
    """Have a case of these exchange so many messages, and hash bytes, whatever it is given."""
    on_message: Callable[[Any, Any, bool], None] = case.onMessage

    def on_any_message(self: Any, message: str | bytes, binary: bool) -> None:
        on_message(self, as_bytes(message, binary=binary), binary)

    case.COUNT = messages
    case.onMessage = on_any_message


async def main(url: str, messages: int, concurrency: int) -> None:
    """Run all cases, and print what became of each."""
    for number, case in cases.CASES.items():
        if number.startswith(COMPRESSION):
            repair(case, messages)
    print(json.dumps({"cases": sorted(cases.CASES)}), flush=True)
    try:
        results = await run_fuzzingclient(url, concurrency=concurrency)
    except FailureError as failure:  # it has them all
        results = failure.results
    for each in results:
        print(
            json.dumps(
                {
                    "case": each.case_id,
                    "behavior": each.behavior.value,
                    "close": each.behavior_close.value,
                    "passed": each.passed,
                    "result": f"{each.result} {each.result_close}",
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    os._exit(0)  # all is said; the package's own threads may abort an interpreter that ends in its own time
