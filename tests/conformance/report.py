"""Results of the cases in each way, as a table, and the verdict on them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CASES = 517
FAILED = "failed"
UNIMPLEMENTED = "UNIMPLEMENTED"
DECLINED = ("13.3.", "13.5.")
"""Cases of clients that want messages compressed with a window of 512 bytes. A message is compressed once for all who
get it, so this is declined, as RFC 7692 (7.1.2.1) has it, and the case ends there."""
DECLINED_MEANS = "declined: 13.3 and 13.5 want messages compressed in a window of 512 bytes, which a server may decline"
COLUMNS = ("ok", "non-strict", "informational", "declined", FAILED)


@dataclass(frozen=True)
class Result:
    """The outcome of one case."""

    case: str
    behavior: str
    """Autobahn's word for the exchange of messages."""
    close: str
    """Autobahn's word for the end of the connection."""
    passed: bool
    result: str

    @property
    def column(self) -> str:
        """Return the column in which the case is counted."""
        if self.behavior == UNIMPLEMENTED and self.close == "OK" and self.case.startswith(DECLINED):
            return "declined"
        column = self.behavior.lower()
        return column if self.passed and column in COLUMNS else FAILED


def problems(results: Mapping[str, Sequence[Result]], ways: Sequence[str], cases: Sequence[str]) -> list[str]:
    """Say what speaks against the server, or against the run; nothing does where each case passed in each way."""
    found = []
    if len(cases) != CASES:
        found.append(f"the package has {len(cases)} cases, not {CASES}")
    for way in ways:
        ran = [result.case for result in results.get(way, ())]
        if missing := sorted({*cases} - {*ran}):
            found.append(f"{way}: {len(missing)} cases did not run: {', '.join(missing[:10])}")
        found += [
            f"{way}: case {result.case}: {result.behavior}, {result.close}: {result.result}"
            for result in results.get(way, ())
            if result.column == FAILED
        ]
    return found


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """How many cases came to what, a line for each way."""
    lines = [f"{'way':<10}" + "".join(f"{column:>15}" for column in ("cases", *COLUMNS))]
    for way, of_way in results.items():
        counts = Counter(result.column for result in of_way)
        lines.append(f"{way:<10}{len(of_way):>15}" + "".join(f"{counts[column]:>15}" for column in COLUMNS))
    return "\n".join(lines)
