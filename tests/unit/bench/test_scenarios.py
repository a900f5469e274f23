"""What becomes of a peer that fails while it is measured: the others go on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load import Load, LoadFailed, Script
from bench.peers import OURS, WS
from bench.results import Cell, Results
from bench.scenarios import FAN_OUT, SHORT, SMALL, Bench

ANSWERS = {"forget": "forgotten", "message": "message", "run": "ran 1000 1 0 330 5 5 5 5", "drop": "dropped"}


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    """One that answers as the real one does, but ends at its third run where its port is 1."""
    program = tmp_path / "load"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nanswers = {ANSWERS}\nruns = 0\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    word = line.split()[0]\n    runs += word == 'run'\n"
        "    if sys.argv[1] == '1' and runs == 3:\n        break\n"
        "    print(answers[word], flush=True)\n"
    )
    program.chmod(0o755)
    return program


@pytest.fixture
def loads(generator: Path) -> Iterator[tuple[Load, Load]]:
    nothing = Script((), 0)
    with (
        Load(generator, 1, "/ws", nothing, nothing, deflate=False) as failing,
        Load(generator, 2, "/ws", nothing, nothing, deflate=False) as other,
    ):
        failing.deflating = other.deflating = 0
        yield failing, other


def test_who_fails_has_no_more_turns_and_the_others_have_all(loads: tuple[Load, Load]) -> None:
    results = Results()
    bench = Bench(SHORT, [OURS, WS], results)
    both = {OURS: loads[0], WS: loads[1]}
    bench._fan_out_of({OURS: Server(), WS: Server()}, both, 1, deflate=False)  # type: ignore[dict-item]
    assert both == {WS: loads[1]}
    assert list(results.failures) == [f"{OURS.name}: {FAN_OUT}"]
    assert len(results.numbers[Cell(FAN_OUT, WS.name, 1, False, SMALL)]["cpu_us"]) == SHORT.turns
    assert Cell(FAN_OUT, OURS.name, 1, False, SMALL) not in results.numbers


def test_a_generator_that_has_ended_fails_like_one_that_says_so(loads: tuple[Load, Load]) -> None:
    failing, _ = loads
    for _ in range(2):
        failing.run(1)
    for _ in range(3):
        with pytest.raises(LoadFailed):
            failing.run(1)


class Server:
    """One that takes no time."""

    def cpu_ns(self) -> int:
        return 0
