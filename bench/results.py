"""What was measured: numbers in cells, and what becomes of several rounds."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, order=True)
class Cell:
    """What a number is of. What does not matter in a scenario keeps its default."""

    scenario: str
    peer: str
    subscribers: int = 0
    deflate: bool = False
    payload: int = 0


@dataclass
class Results:
    """Numbers by cell and name, one for each round or turn; and what could not be measured, with the reason."""

    numbers: dict[Cell, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Of what could not be measured: the reason."""
    facts: dict[str, str] = field(default_factory=dict)
    """Of the machine and the programs."""

    def add(self, cell: Cell, **numbers: float) -> None:
        """Note the numbers of one round, or of one turn where a round has several."""
        for name, value in numbers.items():
            self.numbers.setdefault(cell, {}).setdefault(name, []).append(value)

    def median(self, cell: Cell, name: str) -> float | None:
        """The median of all of them; None where there is none."""
        values = self.numbers.get(cell, {}).get(name)
        return median(values) if values else None

    def spread(self, cell: Cell, name: str) -> float | None:
        """How far the middle half of them is apart, as a part of the median; None for less than four."""
        values = sorted(self.numbers.get(cell, {}).get(name, ()))
        if len(values) < 4 or not median(values):
            return None
        quarter = len(values) // 4
        return (values[-1 - quarter] - values[quarter]) / median(values)

    def ratio(self, cell: Cell, other: Cell, name: str) -> float | None:
        """The median of the ratios, each of one turn or round: what disturbs that disturbs both."""
        ours, theirs = (self.numbers.get(one, {}).get(name, []) for one in (cell, other))
        pairs = list(zip(ours, theirs, strict=False)) if len(ours) == len(theirs) else []
        return median(mine / other_one for mine, other_one in pairs if other_one) if pairs else None

    def cells(self, scenario: str) -> Iterator[Cell]:
        """The cells of a scenario, as they were measured."""
        return (cell for cell in self.numbers if cell.scenario == scenario)

    def save(self, path: Path) -> None:
        """Keep them, to be written up again."""
        numbers = [{"cell": asdict(cell), "numbers": named} for cell, named in self.numbers.items()]
        path.write_text(json.dumps({"numbers": numbers, "failures": self.failures, "facts": self.facts}, indent=1))

    @classmethod
    def load(cls, path: Path) -> "Results":
        """What was kept."""
        kept: dict[str, Any] = json.loads(path.read_text())
        numbers = {Cell(**entry["cell"]): entry["numbers"] for entry in kept["numbers"]}
        return cls(numbers, kept["failures"], kept["facts"])
