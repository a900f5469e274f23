"""What an operator does by hand: `python -m app subscriptions list`, and `... sweep`."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.bootstrap import make_census
from app.settings import LEAST_GRACE, Settings

if TYPE_CHECKING:
    from app.fanout.pubsub.census import Census, Found

DONE, FAILED, REFUSED = 0, 1, 2

SWEEP_TEXT = f"""\
Deletes the subscriptions of instances that died. An instance counts as dead when it has said nothing for the time of
--grace, all of which was listened to (as far as the topic retains messages, that time may lie in the past), and did
not answer when the roll was called. Subscriptions that no instance made are left alone, whatever they are called.

An instance whose CPU Cloud Run throttles cannot answer. It may sleep for {LEAST_GRACE} s; the default waits for
longer. Where CPU is always allocated, as Terraform has it, --grace 60 is safe. A living instance whose subscription is
deleted all the same makes itself a new one as soon as it runs.

Exit status: 0 all was done, or there was nothing to do; 1 something could not be found out or deleted; 2 wrong usage
or configuration."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; argparse ends the process with status 2 where it is wrong, 0 after --help."""
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Without a command: serve. The configuration is in the environment, as for the service itself.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    actions = commands.add_parser("subscriptions", help="look after the instances' Pub/Sub subscriptions")
    action = actions.add_subparsers(dest="action", required=True, metavar="action")
    action.add_parser("list", help="show the topic's subscriptions and whose they are")
    sweep = action.add_parser(
        "sweep",
        help="delete those of instances that died",
        description=SWEEP_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sweep.add_argument(
        "--grace",
        type=_seconds,
        metavar="SECONDS",
        help="how long an instance must have been silent (default: CLOUD_SOCKETS_ORPHAN_GRACE, or 1800)",
    )
    sweep.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    sweep.add_argument("--yes", action="store_true", help="do not ask before deleting")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 31 * 24 * 3600:
        raise ValueError
    return seconds


def run(arguments: list[str]) -> int:
    """Do what the command line says; answers the exit status. Raises SettingsError."""
    options = parse(arguments)
    logging.getLogger("app").setLevel(logging.CRITICAL)  # what matters is printed, in a sentence
    settings = Settings.from_environment(os.environ)
    try:
        return asyncio.run(_run(options, settings))
    except KeyboardInterrupt:
        print("stopped")
        return FAILED


async def _run(options: argparse.Namespace, settings: Settings) -> int:
    from app.fanout.pubsub.census import CensusError  # noqa: PLC0415  # as in bootstrap

    census = make_census(settings)
    try:
        if options.action == "list":
            return await _list(census)
        return await _sweep(
            census,
            grace=options.grace or settings.orphan_grace or 1800,
            dry_run=options.dry_run,
            agreed=_always if options.yes else _ask if sys.stdin.isatty() else None,
        )
    except CensusError as error:
        print(f"{error}", file=sys.stderr)
        return FAILED
    finally:
        await census.close()


async def _list(census: "Census") -> int:
    found = await census.subscriptions()
    print(f"{'SUBSCRIPTION':40} {'INSTANCE':14} {'SERVICE':20} REVISION")
    for one in found:
        print(f"{_short(one):40} {one.instance_id or '-':14} {one.service or '-':20} {one.revision or '-'}")
    return DONE


async def _sweep(census: "Census", *, grace: float, dry_run: bool, agreed: Callable[[int], bool] | None) -> int:
    from app.fanout.pubsub.census import CensusError  # noqa: PLC0415  # as in bootstrap

    if agreed is None and not dry_run:
        print("nobody can be asked here: say --yes, or --dry-run to see what would be deleted", file=sys.stderr)
        return REFUSED
    verdicts = await census.judge(grace, print)
    for verdict in verdicts:
        if not verdict.orphan:
            print(f"kept {_short(verdict.found)}: {verdict.why}")
    orphans = [verdict for verdict in verdicts if verdict.orphan]
    if not orphans:
        print("nothing to delete")
        return DONE
    if grace < LEAST_GRACE:
        print(f"an instance whose CPU is throttled may be silent for {LEAST_GRACE} s and live: you said {grace:.0f} s")
    if dry_run or agreed is None:
        for verdict in orphans:
            print(f"would delete {_short(verdict.found)}: {verdict.why}")
        return DONE
    for verdict in orphans:
        print(f"to delete: {_short(verdict.found)}: {verdict.why}")
    if not agreed(len(orphans)):
        print("nothing was deleted")
        return DONE
    status = DONE
    for verdict in orphans:
        try:
            await census.delete(verdict.found.name)
            print(f"deleted {_short(verdict.found)}: {verdict.why}")
        except CensusError as error:
            print(f"could not delete {_short(verdict.found)}: {error}", file=sys.stderr)
            status = FAILED
    return status


def _always(_: int) -> bool:
    return True


def _ask(count: int) -> bool:
    try:
        return input(f"delete {count}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to say yes
        print()
        return False


def _short(found: "Found") -> str:
    return found.name.rpartition("/")[2]
