"""What is printed, and what is written to docs/performance.md with its plot."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from html import escape

from bench.goals import Goal, goals
from bench.growth import CHANNEL_COUNTS, GROWTH, OPERATIONS
from bench.peers import OURS, PEERS
from bench.pubsub import ALONE, LATENCY, PUBSUB, THROUGH_US
from bench.results import Cell, Results
from bench.scenarios import BURST, BURSTS, CHANNELS, FAN_OUT, FULL, LARGE, MEMORY, SLOW, SMALL, STORM
from bench.tools import ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"

Row = Sequence[str]

HOW = """\
One run of `make bench`: every server in turn, round after round, so that what disturbs the machine disturbs all; medians of the rounds, and of
their turns where a round has several. Each server has one core to itself and the load generator (a C program) another. The figure is the CPU time of
the server's process, user and system, for each delivery. All send frames of the same size to the same clients by the same logic: read JSON, find the
channel, add an id and a time, send to each subscriber. [bench/README.md](../bench/README.md) says more, and what is not equal.
"""


def number(value: float | None, unit: str = "") -> str:
    """As it stands in a table: three digits that mean something."""
    if value is None:
        return "-"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}{unit}"


def _table(head: Row, rows: Iterable[Row]) -> list[str]:
    aligned = "| --- |" + " ---: |" * (len(head) - 1)
    return ["| " + " | ".join(head) + " |", aligned, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _by_peer(
    results: Results, cells: Callable[[str], list[tuple[Cell, str]]], *, most_is_best: bool = False
) -> list[Row]:
    """A row for each peer that has anything; what is best in its column is bold."""
    values = {peer.name: [results.median(cell, name) for cell, name in cells(peer.name)] for peer in PEERS}
    values = {peer: row for peer, row in values.items() if any(value is not None for value in row)}
    choose = max if most_is_best else min
    best = [
        choose((value for value in column if value is not None), default=None)
        for column in zip(*values.values(), strict=True)
    ]
    return [
        [
            peer,
            *(
                f"**{number(value)}**" if value is not None and value == found else number(value)
                for value, found in zip(row, best, strict=True)
            ),
        ]
        for peer, row in values.items()
    ]


def _latencies(results: Results, cells: Callable[[str], list[Cell]]) -> list[Row]:
    """p50 and p99 of each peer."""
    rows: list[Row] = []
    for peer in PEERS:
        pairs = [[results.median(cell, name) for name in ("p50_ms", "p99_ms")] for cell in cells(peer.name)]
        if any(value is not None for pair in pairs for value in pair):
            rows.append([peer.name, *(" / ".join(map(number, pair)) for pair in pairs)])
    return rows


def _measured(results: Results, scenario: str) -> list[int]:
    return sorted({cell.subscribers for cell in results.cells(scenario)})


def _fan_out(results: Results) -> list[str]:
    lines = ["## One message to many", "", "By the number of subscribers.", ""]
    sizes = _measured(results, FAN_OUT)
    head = ["", *(f"{size:,}" for size in sizes)]
    for payload in (SMALL, LARGE):
        for deflate in (False, True):

            def cells(peer: str, payload: int = payload, deflate: bool = deflate) -> list[Cell]:
                return [Cell(FAN_OUT, peer, size, deflate, payload) for size in sizes]

            def named(name: str, cells: Callable[[str], list[Cell]] = cells) -> Callable[[str], list[tuple[Cell, str]]]:
                return lambda peer: [(cell, name) for cell in cells(peer)]

            offered = f"Payloads of {payload:,} bytes, {'deflate offered' if deflate else 'no deflate offered'}"
            lines += [f"{offered}: CPU per delivery in µs", ""]
            lines += _table(head, _by_peer(results, named("cpu_us")))
            lines += [f"{offered}: deliveries a second, two messages under way", ""]
            lines += _table(head, _by_peer(results, named("per_second"), most_is_best=True))
            lines += [
                f"{offered}: p50 / p99 in ms from publishing to each delivery, one message under way",
                "",
                *_table(head, _latencies(results, cells)),
            ]
    size = FULL.burst_subscribers if FULL.burst_subscribers in sizes else sizes[-1] if sizes else 0
    ways = [(payload, deflate) for payload in (SMALL, LARGE) for deflate in (False, True)]
    rows = _by_peer(
        results, lambda peer: [(Cell(FAN_OUT, peer, size, deflate, payload), "wire_bytes") for payload, deflate in ways]
    )
    return [
        *lines,
        "Bytes of a frame on the wire, by the payload; equal where nothing is compressed:",
        "",
        *_table(["", *(f"{payload:,}{', deflate' if deflate else ''}" for payload, deflate in ways)], rows),
    ]


def _one_size(results: Results, scenario: str) -> list[str]:
    """CPU, deliveries a second and latencies of a scenario that has one number of connections."""
    size = next(iter(_measured(results, scenario)), 0)

    def cells(peer: str) -> list[Cell]:
        return [Cell(scenario, peer, size, deflate, SMALL) for deflate in (False, True)]

    cpu = _by_peer(results, lambda peer: [(cell, "cpu_us") for cell in cells(peer)])
    rates = _by_peer(results, lambda peer: [(cell, "per_second") for cell in cells(peer)], most_is_best=True)
    rows = [
        [*first, *second[1:], *third[1:]]
        for first, second, third in zip(cpu, rates, _latencies(results, cells), strict=False)
    ]
    head = ["", "CPU µs", "deflate offered", "deliveries/s", "deflate offered", "p50 / p99 ms", "deflate offered"]
    return _table(head, rows)


def _bursts(results: Results) -> list[str]:
    sizes = ", ".join(f"{size:,}" for size in _measured(results, BURSTS))
    return [
        f"## Bursts of {BURST}",
        "",
        f"{BURST} messages in one write to {sizes} subscribers, the next when all have them; CPU is per delivery.",
        "",
        *_one_size(results, BURSTS),
    ]


def _channels(results: Results) -> list[str]:
    connections, channels = FULL.channels
    return [
        "## Many small channels",
        "",
        f"{connections:,} connections in {channels:,} channels, a message to each in turn, 16 under way; CPU is per delivery.",
        "",
        *_one_size(results, CHANNELS),
    ]


def _storm(results: Results) -> list[str]:
    sizes = _measured(results, STORM)
    rows = _by_peer(
        results,
        lambda peer: [
            (Cell(STORM, peer, size, deflate), name)
            for size in sizes
            for name in ("cpu_us", "took_s")
            for deflate in (False, True)
        ],
    )
    return [
        "## Connecting",
        "",
        f"{', '.join(f'{size:,}' for size in sizes)} clients at once: CPU of handshake and subscribe in µs for each, and seconds until all are subscribed:",
        "",
        *_table(["", "CPU µs", "deflate offered", "all after s", "deflate offered"], rows),
    ]


def _memory(results: Results) -> list[str]:
    sizes = _measured(results, MEMORY)
    rows = _by_peer(
        results,
        lambda peer: [
            (Cell(MEMORY, peer, size, deflate), name)
            for size in sizes
            for deflate in (False, True)
            for name in ("kb", "later_kb")
        ],
    )
    head = ["", "no deflate offered", "10 minutes later", "deflate offered", "10 minutes later"]
    return [
        "## Memory",
        "",
        "Of an idle connection, in kB (PSS of the process, over what it takes without):",
        "",
        *_table(head, rows),
    ]


def _slow(results: Results) -> list[str]:
    rows = [
        [
            cell.peer,
            *(number(results.median(cell, name)) for name in ("without_p99_ms", "with_p99_ms")),
            f"{1 - (results.median(cell, 'missing') or 0):.0%}",
        ]
        for cell in results.cells(SLOW)
    ]
    return [
        "## A slow consumer",
        "",
        "p99 in ms of all others while one client does not read, and how many of their messages came within a minute:",
        "",
        *_table(["", "without it", "beside it", "came"], rows),
    ]


def _growth(results: Results) -> list[str]:
    counts = [count for count in CHANNEL_COUNTS if count in _measured(results, GROWTH)]
    rows = [
        [operation, *(number(results.median(Cell(GROWTH, operation, count), "cpu_us")) for count in counts)]
        for operation in OPERATIONS
    ]
    return [
        "## Growth",
        "",
        "CPU of an operation on the hub in µs (in process, with connections that go nowhere), by the number of channels:",
        "",
        *_table(["", *(f"{count:,}" for count in counts)], rows),
    ]


def _pubsub(results: Results) -> list[str]:
    cpu = [number(results.median(Cell(PUBSUB, OURS.name, count), "cpu_us")) for count in (0, 1)]
    rows = [[name, *(number(_percentile(results, name, part)) for part in (0.5, 0.99))] for name in (ALONE, THROUGH_US)]
    return [
        "## Pub/Sub",
        "",
        f"CPU of a received message: {cpu[0]} µs where nobody on the instance subscribes to its channel, {cpu[1]} µs with one subscriber (batches of 100).",
        "",
        "From publishing to delivery in ms. The emulator delivers on a tick of 50 ms, each subscription on its own: a difference of less than that is the emulator's.",
        "",
        *_table(["", "p50", "p99"], rows),
    ]


def _percentile(results: Results, name: str, part: float) -> float | None:
    values = sorted(results.numbers.get(Cell(LATENCY, name), {}).get("ms", ()))
    return values[min(len(values) - 1, int(part * len(values)))] if values else None


def _goals(results: Results) -> list[str]:
    def row(goal: Goal) -> Row:
        unit = " kB" if goal.unit == "kB" else ""
        verdict = {True: "reached", False: "**not reached**", None: "not measured"}[goal.reached]
        return [goal.name, f"{'≥' if goal.at_least else '≤'} {goal.limit:g}{unit}", number(goal.value, unit), verdict]

    return [
        "## Goals",
        "",
        "Ratios in this run, unless a unit says otherwise:",
        "",
        *_table(["", "goal", "measured", ""], map(row, goals(results))),
    ]


def _ahead(results: Results) -> list[str]:
    """Where a peer beats us, in so many words."""
    lines = []
    for cell in results.numbers:
        ours = results.median(Cell(cell.scenario, OURS.name, cell.subscribers, cell.deflate, cell.payload), "cpu_us")
        theirs = results.median(cell, "cpu_us")
        if (
            cell.scenario in (FAN_OUT, BURSTS, CHANNELS, STORM)
            and ours
            and theirs
            and theirs < 0.98 * ours
            and cell.peer != OURS.name
        ):
            what = f"{cell.scenario}, {cell.subscribers:,} subscribers" if cell.scenario != STORM else "connecting"
            payload = f", {cell.payload:,} bytes" if cell.payload else ""
            deflate = ", deflate offered" if cell.deflate else ""
            lines.append(
                f"- {cell.peer} is ahead in {what}{payload}{deflate}: {number(theirs)} µs, ours {number(ours)}."
            )
    return ["## Where others are ahead", "", *(lines or ["Nowhere in this run."]), ""]


SECTIONS = (_goals, _fan_out, _bursts, _channels, _storm, _memory, _slow, _growth, _pubsub, _ahead)


def render(results: Results) -> str:
    """The whole document."""
    lines = ["# Performance", "", "Written by `make bench`. ![CPU per delivery](performance.svg)", "", HOW]
    lines += ["| | |", "| --- | --- |", *(f"| {what} | {fact} |" for what, fact in results.facts.items()), ""]
    for section in SECTIONS:
        lines += section(results)
    if results.failures:
        lines += [
            "## What could not be measured",
            "",
            *(f"- {what}: {why}" for what, why in results.failures.items()),
            "",
        ]
    notes = [f"- {peer.name}: {note}" for peer in PEERS for note in peer.notes]
    if notes:
        lines += ["## What is not equal", "", *notes, ""]
    return "\n".join(lines).rstrip() + "\n"


def print_ratios(results: Results, name: str, other: str) -> None:
    """Print how much CPU one peer takes in each scenario against another: the median of each turn's ratio."""
    print(f"\nCPU of {name}, against {other}:")
    for cell in list(results.numbers):
        if cell.peer == name:
            ratio = results.ratio(cell, replace(cell, peer=other), "cpu_us")
            if ratio is not None:
                deflate = ", deflate" if cell.deflate else ""
                print(f"  {cell.scenario}, {cell.subscribers}, {cell.payload} B{deflate}: {ratio:.3f}")


def print_report(results: Results) -> None:
    """To the terminal."""
    print(render(results))


def write_report(results: Results) -> None:
    """To docs/."""
    DOCUMENT.write_text(render(results))
    PLOT.write_text(plot(results))
    print(f"wrote {DOCUMENT.relative_to(ROOT)} and {PLOT.relative_to(ROOT)}")


# The plot

_BAR, _GAP, _LEFT, _WIDTH, _RIGHT = 16, 4, 190, 420, 70
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
  .plain { fill: #0969da } .deflate { fill: #8250df } .ours { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #8d96a0 } .plain { fill: #4493f8 } .deflate { fill: #ab7df8 }
  }
"""


def plot(results: Results) -> str:
    """CPU per delivery of each peer as bars, lone messages and bursts, without and with deflate."""
    size = FULL.burst_subscribers
    parts: list[str] = []
    y = 24
    for title, scenario in (
        (f"One message to {size} subscribers", FAN_OUT),
        (f"Bursts of {BURST} to {size} subscribers", BURSTS),
    ):
        parts.append(f'<text class="title" x="8" y="{y}">{title}: CPU per delivery, µs</text>')
        y += 14
        rows = [
            (
                peer.name,
                [
                    results.median(Cell(scenario, peer.name, size, deflate, SMALL), "cpu_us")
                    for deflate in (False, True)
                ],
            )
            for peer in PEERS
        ]
        longest = max((value for _, values in rows for value in values if value), default=1.0)
        for name, values in rows:
            if not any(values):
                continue
            ours = ' class="ours"' if name == OURS.name else ""
            parts.append(f'<text{ours} x="{_LEFT - 8}" y="{y + _BAR + 4}" text-anchor="end">{escape(name)}</text>')
            for value, kind in zip(values, ("plain", "deflate"), strict=True):
                if value:
                    width = max(1.0, value / longest * _WIDTH)
                    parts.append(
                        f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" rx="2"/>'
                    )
                    parts.append(
                        f'<text class="small" x="{_LEFT + width + 5:.1f}" y="{y + _BAR - 5}">{number(value)}</text>'
                    )
                y += _BAR
            y += _GAP
        y += 26
    parts.append(
        f'<rect class="plain" x="{_LEFT}" y="{y - 24}" width="12" height="12" rx="2"/><text class="small" x="{_LEFT + 18}" y="{y - 14}">no deflate offered</text>'
    )
    parts.append(
        f'<rect class="deflate" x="{_LEFT + 140}" y="{y - 24}" width="12" height="12" rx="2"/><text class="small" x="{_LEFT + 158}" y="{y - 14}">deflate offered, as every browser does</text>'
    )
    width = _LEFT + _WIDTH + _RIGHT
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img" aria-label="CPU per delivery">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>"]) + "\n"
