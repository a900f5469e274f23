"""Lines that clients can cause: one a second in all."""

import logging

from app.logs import AT_ONCE, MAX_KINDS, ClientLines


def line(name: str, text: str, created: float, *arguments: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord(name, logging.WARNING, "", 0, text, arguments, None)
    record.created = created
    record.__dict__.update(extra)
    return record


def written(lines: ClientLines, *arguments: object, **extra: object) -> list[str]:
    return [each.getMessage() for each in lines.due(line(*arguments, **extra))]  # type: ignore[arg-type]


def test_a_kind_has_one_line_a_second() -> None:
    lines = ClientLines()
    assert written(lines, "app.web.sockets", "refused %s", 100.0, "a") == ["refused a"]
    assert written(lines, "app.web.sockets", "refused %s", 100.5, "b") == []
    assert written(lines, "app.web.sockets", "another kind", 100.6) == ["another kind"]
    assert written(lines, "app.web.sockets", "refused %s", 100.9, "c") == []
    assert lines.held_back == 2
    assert written(lines, "app.web.sockets", "refused %s", 101.1, "d") == ["refused b (and 2 more like it)"]
    assert lines.held_back == 2, "b is written, of c and d there is a number"


def test_all_kinds_together_have_one_line_a_second() -> None:
    lines = ClientLines()
    count = 0
    for tenth in range(1000):
        for kind in ("one", "two", "three", "four", "five"):
            count += len(written(lines, "app.web.sockets", kind, 100 + tenth / 10))
    assert count <= 100 + AT_ONCE


def test_no_kind_hides_another() -> None:
    lines = ClientLines()
    seen: list[str] = []
    for tenth in range(200):
        for kind in ("often", "and", "again", "and again"):
            seen += written(lines, "app.web.sockets", kind, 100 + tenth / 10)
        if tenth == 50:
            seen += written(lines, "app.handlers", "the handler of %r failed", 105.0, "ping")
    assert "the handler of 'ping' failed" in seen


def test_what_waits_comes_with_the_next_line_of_anyone() -> None:
    lines = ClientLines()
    for _ in range(3):
        written(lines, "app.web.sockets", "refused", 1.0)
    assert written(lines, "app", "stopped", 1.5) == ["stopped"]
    assert written(lines, "app", "stopped", 2.5) == ["refused (and 1 more like it)", "stopped"]


def test_kinds_that_wait_are_bounded() -> None:
    lines = ClientLines()
    for number in range(10 * MAX_KINDS):
        written(lines, "app.web.sockets", f"kind {number}", 1.0)
    assert lines.held_back == 10 * MAX_KINDS - AT_ONCE
    late = [each for second in range(10 * MAX_KINDS) for each in written(lines, "app", "x", 10.0 + second)]
    assert len(set(late)) <= MAX_KINDS + 1


def test_other_projects_lines_are_one_kind_each() -> None:
    lines = ClientLines()
    assert written(lines, "asyncio", "socket.send() raised exception.", 1.0)
    assert not written(lines, "asyncio", "something with 127.0.0.1", 1.0)


def test_what_no_client_can_cause_is_always_written() -> None:
    lines = ClientLines()
    assert all(written(lines, "app.hub", "dropped the malformed message %s", 1.0, number) for number in range(10))
    assert written(lines, "asyncios.neighbour", "text", 1.0)
    assert written(lines, "asyncios.neighbour", "text", 1.0)


def test_line_that_names_a_connection_is_a_clients() -> None:
    lines = ClientLines()
    assert written(lines, "app.hub", "a message could not be handled", 1.0, connection="x")
    assert not written(lines, "app.hub", "a message could not be handled", 1.0, connection="y")
