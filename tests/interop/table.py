"""Tables of what became of each client and proxy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """One of them: its cells, by column. What is not noted was not come to."""

    kind: str = ""
    cells: dict[str, str] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    """Faults that were expected and came, each a sentence."""
    failed: bool = False
    missing: str = ""
    """Name of what is not there, and how it comes."""

    def note(self, column: str, cell: object = "ok") -> None:
        """Fill a cell."""
        self.cells[column] = str(cell)


COLUMNS = {
    "client": ("client", "version", "mode", "connect", "10 B to 200 kB", "hub compressed", "client compressed",
               "ping", "too big", "close", "shutdown"),
    "proxy": ("proxy", "version", "connect", "10 B to 200 kB", "idle", "cut", "codes", "hub gone", "headers"),
}  # fmt: skip


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Both tables, the faults that were expected, and what is missing."""
    for kind, columns in COLUMNS.items():
        merged: dict[str, Row] = {}
        for row in rows:
            if row.kind == kind and not row.missing:
                one = merged.setdefault(" ".join(row.cells.get(column, "") for column in (kind, "mode")), Row())
                one.cells.update(row.cells)
                one.failed = one.failed or row.failed
        if not merged:
            continue
        table = [(*columns, "")]
        table += [
            (*(row.cells.get(column, "-") for column in columns), "FAILED" if row.failed else "")
            for row in merged.values()
        ]
        widths = [max(len(cells[at]) for cells in table) for at in range(len(columns) + 1)]
        yield ""
        for cells in table:
            yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
    known = sorted({sentence for row in rows for sentence in row.known})
    missing = sorted({row.missing for row in rows if row.missing})
    for title, sentences in (("Known faults, which came as expected:", known), ("Not run here:", missing)):
        if sentences:
            yield from ("", title, *(f"  {sentence}" for sentence in sentences))
