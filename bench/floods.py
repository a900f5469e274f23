"""`python -m bench.floods`: how long innocents wait beside each flood of tests/security, as a ratio to without it.

Twenty attackers flood an instance with default settings while two innocents exchange 20 messages a second. It fails
where 99 of 100 messages take more than five times as long as without the flood (15 times where the attackers send what
any client may, at full rate), in each of three attempts: whatever else the machine does delays the hundredth, too.
"""

import asyncio
import sys

from tests.security.programs import KEPT, attack_beside, innocents
from tests.security.test_floods import FLOODS
from tests.support.process import Server

FACTOR = 5.0
ALLOWED = {"messages": 15.0}
"""Floods within the rates that every client has: twenty clients make work of 20,000 messages a second."""
ATTEMPTS = 3
SECONDS = 10.0
"""For how long a flood lasts: 200 messages, so that a single delay is not the hundredth."""


async def _ratio(flood: str) -> float:
    async with Server(**KEPT) as server, innocents(server, quiet=200) as (innocent, quiet):
        outcome = await attack_beside(innocent, quiet, flood, server, seconds=SECONDS)
    attacked = outcome.attacked
    ratio = attacked.p99 / quiet.p99
    print(
        f"{flood:<16} p99 {1e3 * quiet.p99:5.1f} ms quiet, {1e3 * attacked.p99:5.1f} ms beside it: {ratio:4.1f} x; "
        f"the worst {1e3 * attacked.worst:5.1f} ms",
        flush=True,
    )
    return ratio


async def main() -> int:
    """Measure all floods; return the exit status."""
    failed = [flood for flood in FLOODS if not await _is_harmless(flood)]
    if failed:
        print(f"waits too long beside {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


async def _is_harmless(flood: str) -> bool:
    for _ in range(ATTEMPTS):
        if await _ratio(flood) <= ALLOWED.get(flood, FACTOR):
            return True
    return False


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
