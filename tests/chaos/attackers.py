"""Attackers beside the clients: one of each kind, restarted at another instance when it ends.

They go to the instances themselves, past the proxy, whose process all clients share; and they rest between two batches,
since all of this runs on one machine. Whole messages are of types that stay on their instance: the emulator keeps what
is published, and would be what is attacked. Their channels and ids are none of the clients'.
"""

import asyncio
import json
import os
import random
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Callable, Sequence

from tests.support.process import ROOT

KINDS: dict[str, tuple[str, ...]] = {
    "pongs": (),
    "pings": (),
    "fragments": (),
    "empty_fragments": (),
    "errors": (),
    "details": (),
    "messages": ("--type", "getInfo"),
    "bombs": ("--type", "getInfo"),
    "reconnects": (),
    "subscriptions": (),
    "forgetful": (),
    "replays": ("--messages", "50"),
    "unfinished": (),
    "unfinished_deflated": (),
    "half_posts": (),
    "half_heads": (),
    "resets": (),
}
"""Attacks of `tests.security.attackers`, and what they are told besides."""
CONNECTIONS = 3
REST = 0.2
"""Seconds that a flood rests after each batch."""
LASTS = (10.0, 30.0)
"""Seconds that an attack lasts, at the least and at the most."""
PAUSE = 0.5
"""Seconds between two attacks of a kind."""
ENOUGH = 3
"""Attacks of a kind of which one must have reached an instance."""


class Attackers:
    """All kinds at once, from `start` to `stop`; `ports` tells where the instances are."""

    def __init__(self, ports: Callable[[], Sequence[int]], chance: random.Random) -> None:
        self.ended: Counter[str] = Counter()
        """How many attacks of each kind came to their end."""
        self.reached: Counter[str] = Counter()
        """Connections that these had."""
        self._ports = ports
        self._chance = chance
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin one attack of each kind."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._attack_again(kind)) for kind in KINDS]

    async def _attack_again(self, kind: str) -> None:
        while True:
            await self._attack(kind)
            await asyncio.sleep(PAUSE)

    async def _attack(self, kind: str) -> None:
        port, seconds = self._chance.choice(self._ports()), self._chance.uniform(*LASTS)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.security.attackers", kind, str(port), f"{seconds:.1f}",
            "--connections", str(CONNECTIONS), "--rest", str(REST), *KINDS[kind],
            cwd=ROOT, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, stdout=PIPE,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        counts = Counter(json.loads(output.splitlines()[-1]))
        self.ended[kind] += 1
        self.reached[kind] += counts["opened"] + counts["held"]

    @property
    def failures(self) -> list[str]:
        """Kinds of which no attack reached an instance, in plain words."""
        # One alone may have met an instance that stood still.
        return [
            f"{self.ended[kind]} attacks of {kind} reached no instance"
            for kind in KINDS
            if self.ended[kind] >= ENOUGH and not self.reached[kind]
        ]

    async def stop(self) -> None:
        """End all attacks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
