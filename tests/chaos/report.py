"""What a run came to, as a table."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.chaos.ledger import Verdict, Wrong
from tests.chaos.schedule import Kind

MEGABYTE = 2**20
SHOWN = 20
"""Violations that are shown; the others are counted."""
SETTLED_AT = 600.0
"""Seconds after which an instance has all the history and the memory of repeats that it will ever have."""
GROWTH = 1.10
"""By how much an instance may still grow after that."""


@dataclass(frozen=True)
class Memory:
    """An instance's resident memory over its life: its age in seconds, and bytes."""

    name: str
    samples: Sequence[tuple[float, int]]

    @property
    def grew(self) -> bool | None:
        """Whether it still grew when it should have stopped; None if it did not live long enough to tell."""
        late = [size for age, size in self.samples if age >= SETTLED_AT]
        part = len(late) // 3
        if part < 10:
            return None
        return median(late[-part:]) > GROWTH * median(late[:part])

    def __str__(self) -> str:
        parts = [self.samples[at * (len(self.samples) - 1) // 4] for at in range(5)]
        shown = ", ".join(f"{size / MEGABYTE:.0f} MB at {age:.0f} s" for age, size in dict.fromkeys(parts))
        told = {None: "too young to tell", False: "does not grow", True: "GROWS"}[self.grew]
        return f"{self.name}: {shown} ({told})"


@dataclass(frozen=True)
class Outcome:
    """All that is known at the end of a run."""

    title: str
    verdict: Verdict
    injected: Counter[Kind] = field(default_factory=Counter)
    seconds: float = 0.0
    """For how long was published."""
    drain_times: Sequence[float] = ()
    closed: Counter[str] = field(default_factory=Counter)
    orphans: int = 0
    memory: Sequence[Memory] = ()
    attacks: Counter[str] = field(default_factory=Counter)
    """Connections that attackers of each kind had."""
    failures: Sequence[str] = ()
    """What else went wrong, in plain words."""

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return not (self.verdict.violations or self.orphans or self.failures or any(each.grew for each in self.memory))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        verdict = self.verdict
        yield f"== {self.title}"
        yield "faults injected"
        for kind in Kind:
            if self.injected[kind]:
                yield _row(kind, self.injected[kind])
        yield _row("all", self.injected.total())
        yield from self._attack_lines()
        yield "messages"
        yield _row("accepted", verdict.accepted)
        yield _row("in doubt (no answer; may come or not)", verdict.in_doubt)
        if self.seconds:
            yield _row("published a second", round((verdict.accepted + verdict.in_doubt) / self.seconds))
        yield _row("delivered, over all clients", verdict.delivered)
        yield _row("rooms entered, and left but for the last", verdict.stays)
        yield _row("recovered (subscriptions that went on whole)", verdict.recovered)
        yield _row("unproven (subscriptions told recovered: false)", verdict.unproven)
        yield _row("deliveries missed there", verdict.missed)
        yield _row("pairs published at once, in two orders", verdict.disagreements)
        for wrong in Wrong:
            yield _row(wrong, verdict.count(wrong), must="must be 0")
        yield "instances"
        if self.drain_times:
            yield _row("drained", len(self.drain_times))
            yield f"  drain time: median {median(self.drain_times):.1f} s, longest {max(self.drain_times):.1f} s"
        for reason, count in self.closed.items():
            yield _row(f"connections {reason}", count)
        yield _row("orphans left", self.orphans, must="must be 0")
        for memory in self.memory:
            yield f"  {memory}"
        for violation in verdict.violations[:SHOWN]:
            yield f"VIOLATION {violation}"
        if len(verdict.violations) > SHOWN:
            yield f"and {len(verdict.violations) - SHOWN} more"
        for failure in self.failures:
            yield f"FAILURE {failure}"
        yield "PASSED" if self.passed else "FAILED"

    def _attack_lines(self) -> Iterator[str]:
        if self.attacks:
            yield "connections of attackers"
        for attack, count in self.attacks.items():
            yield _row(attack, count)


def _row(name: str, count: int, must: str = "") -> str:
    return f"  {name:<50}{count:>10,}  {must}".rstrip()
