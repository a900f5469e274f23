"""`make conformance`: all of Autobahn's cases, in each way in which the server serves."""

import argparse
import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path

from tests.conformance.echo import WAYS
from tests.conformance.report import DECLINED_MEANS, Result, problems, table
from tests.support.process import Server

HERE = Path(__file__).parent
TIMEOUT = 1800.0
"""Seconds that the cases may take in one way."""


class EchoServer(Server):
    """The echo in a process of its own."""

    forked = False
    module = "tests.conformance.echo"


async def run(python: str, way: str, messages: int, concurrency: int) -> tuple[list[str], list[Result]]:
    """Run all cases in one way; return which there are, and what became of them."""
    async with EchoServer(wait_for="/health/live", CONFORMANCE_WAY=way) as server:
        process = await create_subprocess_exec(
            python, str(HERE / "cases.py"), server.url, str(messages), str(concurrency), stdout=PIPE, stderr=PIPE
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                out, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise RuntimeError(f"the cases ended with status {process.returncode}:\n{errors.decode(errors='replace')}")
        if "Traceback" in server.log:
            raise RuntimeError(f"the server failed:\n{server.log}")
    first, *lines = out.splitlines()
    return json.loads(first)["cases"], [Result(**json.loads(line)) for line in lines]


async def main() -> int:
    """Run, print the table, and return the status of the process: 0 where every case passed in every way."""
    parser = argparse.ArgumentParser(prog="make conformance", description=__doc__)
    parser.add_argument("--python", required=True, help="an interpreter that has the package of the cases")
    parser.add_argument("--messages", type=int, default=100, help="how many each case of compression exchanges")
    parser.add_argument("--concurrency", type=int, default=4, help="how many cases run at once")
    parser.add_argument("--way", choices=WAYS, nargs="+", default=list(WAYS), help="in these ways only")
    options = parser.parse_args()
    results: dict[str, list[Result]] = {}
    cases: list[str] = []
    for way in options.way:
        began = time.monotonic()
        cases, results[way] = await run(options.python, way, options.messages, options.concurrency)
        print(f"{way}: {WAYS[way]}: {time.monotonic() - began:.0f} s", flush=True)
    found = problems(results, options.way, cases)
    print("", table(results), "", DECLINED_MEANS, *found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
