"""The verdict on Autobahn's cases lets nothing through: neither a failed case nor one that did not run."""

import pytest

from tests.conformance.report import CASES, Result, problems, table

NAMES = [f"1.{number}" for number in range(CASES - 2)] + ["13.3.1", "13.5.18"]
WAYS = ("fast", "h11")


def good(case: str) -> Result:
    if case.startswith("13."):
        return Result(case, "UNIMPLEMENTED", "OK", False, "")
    behavior = {"1.1": "NON-STRICT", "1.2": "INFORMATIONAL"}.get(case, "OK")
    return Result(case, behavior, "OK", True, "")


def run() -> dict[str, list[Result]]:
    return {way: [good(case) for case in NAMES] for way in WAYS}


def test_all_cases_that_passed_are_no_problem() -> None:
    assert problems(run(), WAYS, NAMES) == []
    lines = table(run()).splitlines()
    assert lines[0].split() == ["way", "cases", "ok", "non-strict", "informational", "declined", "failed"]
    assert [line.split() for line in lines[1:]] == [
        [way, str(CASES), str(CASES - 4), "1", "1", "2", "0"] for way in WAYS
    ]


@pytest.mark.parametrize(
    "bad",
    [
        Result("1.5", "FAILED", "OK", False, "it differs"),
        Result("1.5", "OK", "WRONG CODE", False, "it differs"),
        Result("1.5", "ERROR", "FAILED", False, "it differs"),
        Result("1.5", "UNIMPLEMENTED", "OK", False, "it differs"),  # which only 13.3 and 13.5 may be
        Result("1.5", "UNHEARD OF", "OK", True, "it differs"),
        Result("13.3.1", "UNIMPLEMENTED", "UNCLEAN", False, "it differs"),
        Result("13.3.1", "FAILED", "OK", False, "it differs"),
    ],
)
def test_case_that_failed_is_one(bad: Result) -> None:
    results = run()
    results["h11"] = [bad if result.case == bad.case else result for result in results["h11"]]
    assert problems(results, WAYS, NAMES) == [f"h11: case {bad.case}: {bad.behavior}, {bad.close}: it differs"]
    assert table(results).splitlines()[2].split()[-1] == "1"


def test_case_that_did_not_run_is_one() -> None:
    results = run()
    del results["fast"][7]
    assert problems(results, WAYS, NAMES) == ["fast: 1 cases did not run: 1.7"]


def test_way_that_did_not_run_is_one() -> None:
    results = run()
    del results["fast"]
    (problem,) = problems(results, WAYS, NAMES)
    assert problem.startswith(f"fast: {CASES} cases did not run: 1.0, ")


def test_package_with_fewer_cases_is_one() -> None:
    assert problems({way: [good(case) for case in NAMES[1:]] for way in WAYS}, WAYS, NAMES[1:]) == [
        f"the package has {CASES - 1} cases, not {CASES}"
    ]
