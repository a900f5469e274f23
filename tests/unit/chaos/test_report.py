"""The table says whether every promise was kept, and fails for each that was not."""

from collections import Counter

import pytest

from tests.chaos.ledger import Verdict, Violation, Wrong
from tests.chaos.report import Memory, Outcome
from tests.chaos.schedule import Kind


def verdict(*violations: Violation) -> Verdict:
    return Verdict(
        accepted=1000,
        in_doubt=10,
        delivered=5000,
        recovered=30,
        unproven=2,
        missed=3,
        disagreements=4,
        violations=list(violations),
    )


def test_a_run_that_kept_its_promises_has_passed() -> None:
    outcome = Outcome("a run", verdict(), Counter({Kind.KILL: 2}), seconds=10, drain_times=[0.1, 0.2, 3.0])
    lines = str(outcome).splitlines()
    assert outcome.passed
    assert lines[-1] == "PASSED"
    assert any("kill -9" in line and line.split()[-1] == "2" for line in lines)
    assert any("published a second" in line and line.endswith("101") for line in lines)
    assert "  drain time: median 0.2 s, longest 3.0 s" in lines


@pytest.mark.parametrize("wrong", list(Wrong))
def test_one_violation_of_any_kind_fails_and_is_shown(wrong: Wrong) -> None:
    outcome = Outcome("a run", verdict(Violation(wrong, "client-1", "news", "ann#1")))
    assert not outcome.passed
    assert f"VIOLATION {wrong}: client-1 on news: ann#1" in str(outcome)
    assert str(outcome).endswith("FAILED")


def test_many_violations_are_counted() -> None:
    outcome = Outcome("a run", verdict(*[Violation(Wrong.LOST, "client-1", None, "ann#1")] * 25))
    assert "\nand 5 more\n" in str(outcome)


def test_orphans_failures_and_growth_fail() -> None:
    assert not Outcome("a run", verdict(), orphans=1).passed
    assert not Outcome("a run", verdict(), failures=["instance-1 ended with 1"]).passed
    assert not Outcome("a run", verdict(), memory=[grown(1.0)]).passed


def grown(by: float) -> Memory:
    """An instance that grows to 100 MB in ten minutes, and by so much of that in the next ten."""
    sizes = [(age, int(100e6 * min(1, age / 600) * (1 + by * max(0, age - 600) / 600))) for age in range(0, 1200, 5)]
    return Memory("instance-0", [(float(age), size) for age, size in sizes])


@pytest.mark.parametrize(("by", "told"), [(0.0, False), (0.05, False), (0.3, True)])
def test_growth_is_what_comes_after_everything_is_full(by: float, told: bool) -> None:
    assert grown(by).grew is told


def test_a_young_instance_tells_nothing_of_growth() -> None:
    memory = Memory("instance-0", [(float(age), 10**6 * age) for age in range(0, 600, 5)])
    assert memory.grew is None
    assert Outcome("a run", verdict(), memory=[memory]).passed


def test_attacks_are_shown_where_there_were_any() -> None:
    """The table names each attack with the connections that it had."""
    assert "attackers" not in str(Outcome("a run", verdict()))
    lines = str(Outcome("a run", verdict(), attacks=Counter({"pongs": 12}))).splitlines()
    assert "connections of attackers" in lines
    assert any(line.split() == ["pongs", "12"] for line in lines)
