"""`make chaos SEED=1 MINUTES=3`: three trials, a table of each. The exit status is 1 when a promise was broken.

First all instances are replaced under load, then one is killed, then come the given minutes of faults by a seed.
"""

import argparse
import asyncio
import logging
import random
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from tests.chaos.report import Outcome
from tests.chaos.run import LOGS, LONG, LONG_RATE, RATE, chaos, killed_instance, rolling_replacement
from tests.support.emulator import NoEmulator


def main() -> int:
    """Run the trials; answers the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos", description="Break what can break, and count what is lost.")
    parser.add_argument("--seed", type=int, help="of the schedule; drawn where none is given")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument(
        "--rate",
        type=float,
        help="messages a second under chaos; the emulator forgets none, and gives all to each new subscription, in a "
        f"time that grows with their square: {RATE:.0f} is for {LONG / 60:.0f} minutes at most, and what is longer has "
        f"{LONG_RATE:.0f} where nothing is given",
    )
    parser.add_argument("--only", choices=("rolling", "kill", "chaos"))
    parser.add_argument(
        "--attackers",
        action="store_true",
        help="beside the clients one attacker of each kind: floods, hoarders, half requests, reconnects; "
        "nothing of the clients' may be lost all the same",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # all that was started ends with this process
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("tests.chaos").setLevel(logging.INFO)
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    seconds = 60 * arguments.minutes
    rate = arguments.rate or (LONG_RATE if seconds > LONG else RATE)
    attacked = arguments.attackers
    trials: dict[str, Callable[[], Coroutine[Any, Any, Outcome]]] = {
        "rolling": lambda: rolling_replacement(seed, attacked=attacked),
        "kill": lambda: killed_instance(seed, attacked=attacked),
        "chaos": lambda: chaos(seed, seconds, rate, attacked=attacked),
    }
    passed = True
    for name, trial in trials.items():
        if arguments.only in (None, name):
            try:
                outcome = asyncio.run(trial())
            except NoEmulator as reason:
                sys.exit(str(reason))
            except (TimeoutError, AssertionError, ExceptionGroup) as error:  # something never came to be
                errors = error.exceptions if isinstance(error, ExceptionGroup) else [error]
                print(*errors, "FAILED", sep="\n", flush=True)
                return 1
            print(outcome, flush=True)
            passed &= outcome.passed
            if not outcome.passed:
                print(f"the logs of the instances are in {LOGS}", flush=True)
                break
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
