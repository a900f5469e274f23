"""Add up what an instance needs at the most: the sum behind docs/memory.md.

`python -m docs.memory` prints the table; `--write` puts it into memory.md (`make format`).
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from app.settings import Settings

DOCUMENT = Path(__file__).with_name("memory.md")
MIB = 2**20

BASE = 110 * MIB
"""Measured: the process with Google's libraries, after its first clients (60 MiB without Pub/Sub)."""
CONNECTION = 40 * 1024
"""Measured: 20 KiB of an idle connection that compresses. The rest is what it may have sent and is not counted yet."""
HTTP_ROOM = 1000
SMALL_WINDOW = 1024
"""Bytes that a client may refer back to and that are not counted, where it compresses."""
IDS = 64 * MIB
"""Measured: the three memories of ids, full."""
REPLAYS = 150_000 * 250
"""Places of messages that wait to be replayed; the messages themselves are the history's."""
COUNTED = 1.25
"""By how much the memory of Python's objects may exceed what is counted of them; tests hold it to that."""
TURN = 40 * MIB
"""Bytes that one turn of the loop has in hand: a message as it is read, inflated, decoded and written, and holes that
the allocator keeps."""


class Part(NamedTuple):
    """A line of the sum, in bytes."""

    what: str
    how: str
    size: float


def parts(settings: Settings) -> Iterator[Part]:
    """Yield the lines of the sum for these settings."""
    yield Part("the process", "measured", BASE)
    connections = settings.max_connections + HTTP_ROOM
    yield Part("connections", "(`MAX_CONNECTIONS` + 1,000 of HTTP) x 40 KiB", connections * CONNECTION)
    yield Part("on their way to clients", "`MAX_BUFFERED_TOTAL`", settings.max_buffered_total)
    yield Part("for who comes back", "`HISTORY_BYTES` x 1.25", settings.history_bytes * COUNTED)
    yield Part("waiting to be replayed", "150,000 x 250 bytes", REPLAYS)
    yield Part("waiting to be acknowledged", "`MAX_AWAITING_BYTES` x 1.25", settings.max_awaiting_bytes * COUNTED)
    yield Part("subscriptions", "`MAX_SUBSCRIPTION_BYTES` x 1.25", settings.max_subscription_bytes * COUNTED)
    yield Part("came in and not handled", "`MAX_UNFINISHED_BYTES` x 1.25", settings.max_unfinished_bytes * COUNTED)
    yield Part(
        "what clients that compress refer to",
        "`MAX_CONNECTIONS` x 1 KiB + `MAX_UNFINISHED_BYTES` / 2",
        settings.max_connections * SMALL_WINDOW + settings.max_unfinished_bytes / 2,
    )
    yield Part("in the hands of handlers", "`MAX_UNFINISHED_BYTES` / 2", settings.max_unfinished_bytes / 2)
    yield Part(
        "waiting for the fan-out", "`PUBLISH_BACKLOG` x 2: the message, and the request", settings.publish_backlog * 2
    )
    yield Part("ids of the last 10 minutes", "measured, full", IDS)
    yield Part("in hand, and between", "measured", TURN)


def needed(settings: Settings) -> int:
    """Return what an instance with these settings needs at the most, in bytes."""
    return round(sum(part.size for part in parts(settings)))


def table(settings: Settings) -> str:
    """Return the sum as a Markdown table, in MiB."""
    rows = ["| what | how it is counted | MiB |", "| --- | --- | ---: |"]
    rows += [f"| {part.what} | {part.how} | {part.size / MIB:,.0f} |" for part in parts(settings)]
    rows.append(f"| **all** | | **{needed(settings) / MIB:,.0f}** |")
    return "\n".join(rows)


def with_numbers(text: str) -> str:
    """Return the document with its numbers as the settings have them."""
    text = re.sub(
        r"(<!-- memory: [^>]*-->\n).*?(\n<!-- /memory -->)",
        lambda found: f"{found[1]}\n{table(Settings())}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    small = f"{needed(Settings(max_connections=950)) / MIB:,.0f}"
    return re.sub(r"(<!-- small -->).*?(<!-- /small -->)", rf"\g<1>{small}\g<2>", text)


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put it into {DOCUMENT.name}")
    if parser.parse_args().write:
        DOCUMENT.write_text(with_numbers(DOCUMENT.read_text()))
    else:
        print(table(Settings()))


if __name__ == "__main__":
    main()
