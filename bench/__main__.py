"""`python -m bench` (or `make bench`): measures, prints tables, and writes docs/performance.md and its plot.

`--short` only shows that the bench works: it takes less than two minutes and writes no document.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from bench import machine, tools
from bench.growth import GROWTH, growth
from bench.peers import BEFORE, OURS, PEERS, Peer, before
from bench.pubsub import PUBSUB, pubsub
from bench.report import print_ratios, print_report, write_report
from bench.results import Results
from bench.scenarios import CHANNELS, FAN_OUT, FULL, MEMORY, SHORT, SLOW, STORM, Bench

OPEN_FILES = 16_384
SCENARIOS = (FAN_OUT, CHANNELS, STORM, MEMORY, SLOW, GROWTH, PUBSUB)
KEPT = tools.CACHE / "results.json"


def main() -> int:
    """Measure; answers the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure the service and its peers side by side.")
    parser.add_argument("--short", action="store_true", help="show that it works, in less than two minutes")
    parser.add_argument("--only", metavar="PEER", nargs="+", help="only the peers whose names begin so")
    parser.add_argument(
        "--scenario", nargs="+", metavar="NAME", choices=SCENARIOS, help="only these: " + ", ".join(SCENARIOS)
    )
    parser.add_argument(
        "--before", metavar="COMMIT", help="measure the service as it was then, too; the ratios end the output"
    )
    parser.add_argument("--rounds", type=int, metavar="N", default=FULL.rounds, help="how often (%(default)s)")
    parser.add_argument("--write", action="store_true", help="measure nothing: write up what was measured last")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"argument --rounds: {arguments.rounds} is not 1 or more")
    if arguments.write:
        write_report(Results.load(KEPT))
        return 0
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # an end by exception ends what was started, too
    os.sched_setaffinity(0, {machine.LOAD_CORE})  # this process too keeps off the servers' core
    machine.raise_open_files(OPEN_FILES)
    results = Results(facts=machine.facts())
    wanted = [peer for peer in PEERS if not arguments.only or peer.name.startswith(tuple(arguments.only))]
    if arguments.before:
        wanted.append(before(arguments.before))
    peers = list(_ready(wanted, results))
    plan = SHORT if arguments.short else replace(FULL, rounds=arguments.rounds)
    is_whole = not arguments.short and not arguments.only and not arguments.scenario and not arguments.before
    results.facts["Load generator"] = f"`taskset --cpu-list {machine.LOAD_CORE} .cache/bench/load/load 8080 …`"
    results.facts["Rounds"] = f"{plan.rounds}; for fan-out and bursts each of {plan.turns} turns"
    bench = Bench(plan, peers, results)
    others: dict[str, Callable[[], None]] = {
        GROWTH: lambda: growth(results, short=arguments.short),
        PUBSUB: lambda: pubsub(results, short=arguments.short),
    }
    for name, measure in {**bench.scenarios(), **others}.items():
        if not arguments.scenario or name in arguments.scenario:
            measure()
            if is_whole:
                results.save(KEPT)  # an hour of it shall not be lost
    results.facts["Took"] = f"{(time.monotonic() - began) / 60:.0f} minutes"
    print_report(results)
    if arguments.before:
        print_ratios(results, OURS.name, BEFORE)
    if is_whole:
        results.save(KEPT)
        write_report(results)
    return 1 if results.failures and os.environ.get("CI") == "true" else 0


def _ready(wanted: list[Peer], results: Results) -> Iterator[Peer]:
    """The peers that can be measured here; in CI all of them must be."""
    for peer in wanted:
        try:
            peer.prepare()
        except tools.Missing as missing:
            print(f"{peer.name} is left out: {missing}", file=sys.stderr)
            results.failures[f"{peer.name}: prepare"] = str(missing)
        else:
            command = " ".join(peer.command(8080)).replace(sys.executable, "python").replace(f"{tools.ROOT}/", "")
            facts = [peer.versions(), f"`taskset --cpu-list {machine.SERVER_CORE} {command}`"]
            results.facts[peer.name] = "; ".join(filter(None, facts))
            yield peer


if __name__ == "__main__":
    sys.exit(main())
