"""What the bench makes of its numbers."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.goals import Goal, goals
from bench.peers import OURS, QUART, SOCKET_IO, WS, C, payloads
from bench.report import number, plot, render
from bench.results import Cell, Results
from bench.scenarios import BURSTS, FAN_OUT, FULL, MEMORY, SMALL, STORM


def fan_out(peer: str, *, deflate: bool = False) -> Cell:
    return Cell(FAN_OUT, peer, FULL.burst_subscribers, deflate, SMALL)


def measured() -> Results:
    results = Results(facts={"Processor": "a fast one"})
    for ours, ws, c in ((2.0, 4.0, 2.0), (3.0, 6.0, 3.0), (9.0, 6.0, 2.0)):
        results.add(fan_out(OURS.name), cpu_us=ours, p50_ms=1.0)
        results.add(fan_out(WS.name), cpu_us=ws)
        results.add(fan_out(C.name), cpu_us=c)
        results.add(fan_out(OURS.name, deflate=True), cpu_us=ours)
        results.add(fan_out(QUART.name, deflate=True), cpu_us=20 * ours)
        results.add(Cell(BURSTS, OURS.name, FULL.burst_subscribers, False, SMALL), cpu_us=0.5)
        results.add(Cell(BURSTS, WS.name, FULL.burst_subscribers, False, SMALL), cpu_us=4.0)
    results.add(Cell(MEMORY, OURS.name, FULL.idle, deflate=True), kb=41.0)
    results.add(Cell(STORM, OURS.name, FULL.storm), cpu_us=600.0)
    results.add(Cell(STORM, SOCKET_IO.name, FULL.storm), cpu_us=500.0)
    return results


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert measured().ratio(fan_out(OURS.name), fan_out(WS.name), "cpu_us") == 0.5
    assert measured().ratio(fan_out(OURS.name), fan_out("nobody"), "cpu_us") is None


def test_a_goal_is_reached_or_not_or_was_not_measured() -> None:
    assert Goal("less", 1, 1).reached
    assert not Goal("less", 1, 1.01).reached
    assert Goal("more", 15, 15, at_least=True).reached
    assert not Goal("more", 15, 14.9, at_least=True).reached
    assert Goal("unknown", 1, None).reached is None


def test_the_goals_are_told_by_what_was_measured() -> None:
    found = {goal.name: goal for goal in goals(measured())}
    assert found["CPU per delivery, against ws"].value == 0.5
    assert found["CPU per delivery, against ws"].reached
    assert found["the same: how much less than plain Quart on Hypercorn"].value == 20
    assert found["bursts of 64, against ws"].value == 0.125
    assert found["memory of an idle connection, deflate offered"].reached is False
    assert found["CPU of connect and subscribe, against Socket.IO"].value == 1.2
    assert found["CPU of connect and subscribe, deflate offered, against Socket.IO"].reached is None


def test_the_document_tells_what_was_not_reached_and_who_is_ahead() -> None:
    results = measured()
    results.failures["Starlette on uvicorn: prepare"] = "no pip"
    text = render(results)
    assert "| memory of an idle connection, deflate offered | ≤ 40 kB | 41.0 kB | **not reached** |" in text
    assert "- Socket.IO is ahead in connecting: 500 µs, ours 600." in text
    assert "- C, one send() is ahead in fan-out, 500 subscribers, 128 bytes: 2.00 µs, ours 3.00." in text
    assert "- Starlette on uvicorn: prepare: no pip" in text
    assert "| Processor | a fast one |" in text


def test_of_nothing_a_document_is_made_too() -> None:
    assert "not measured" in render(Results())
    ET.fromstring(plot(Results()))


def test_the_plot_is_well_formed_and_its_bars_are_as_long_as_the_numbers() -> None:
    root = ET.fromstring(plot(measured()))
    bars = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if rect.get("height") == "14"]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert len(widths) == 7
    assert max(widths) == pytest.approx(20 * min(widths[:2]), rel=0.01)


def test_what_was_kept_is_what_was_measured(tmp_path: Path) -> None:
    results = measured()
    results.save(tmp_path / "kept.json")
    assert Results.load(tmp_path / "kept.json") == results


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert [number(value) for value in (None, 0.567, 12.34, 123.4, 1234.5)] == ["-", "0.57", "12.3", "123", "1,234"]


@pytest.mark.parametrize("size", [128, 4096])
def test_payloads_are_as_long_as_they_say_and_differ(size: int) -> None:
    made = [text.replace("@SEQ@", "00000000") for text in payloads(size)]
    assert {len(text) + 2 for text in made} == {size}
    assert len(set(made)) > 200
