"""Lines that clients can cause: one a second of each kind."""

import logging

from app.logs import OncePerSecond


def line(name: str, text: str, created: float, *arguments: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord(name, logging.WARNING, "", 0, text, arguments, None)
    record.created = created
    record.__dict__.update(extra)
    return record


def test_one_line_a_second_of_each_kind_that_a_client_can_cause() -> None:
    lines = OncePerSecond()
    assert lines.filter(line("app.web.sockets", "refused %s", 100.0, "a"))
    assert not lines.filter(line("app.web.sockets", "refused %s", 100.5, "b"))
    assert lines.filter(line("app.web.sockets", "another kind", 100.5))
    assert not lines.filter(line("app.web.sockets", "refused %s", 100.9, "c"))
    later = line("app.web.sockets", "refused %s", 101.1, "d")
    assert lines.filter(later)
    assert later.getMessage() == "refused d (and 2 more like the one before)"
    assert lines.held_back == 2


def test_other_projects_lines_are_one_kind_each() -> None:
    lines = OncePerSecond()
    assert lines.filter(line("asyncio", "socket.send() raised exception.", 1.0))
    assert not lines.filter(line("asyncio", "something with 127.0.0.1", 1.0))


def test_what_no_client_can_cause_is_always_written() -> None:
    lines = OncePerSecond()
    assert all(lines.filter(line("app.hub", "dropped the malformed message %s", 1.0, number)) for number in range(10))
    assert lines.filter(line("asyncios.neighbour", "text", 1.0))
    assert lines.filter(line("asyncios.neighbour", "text", 1.0))


def test_line_that_names_a_connection_is_a_clients() -> None:
    lines = OncePerSecond()
    assert lines.filter(line("app.hub", "a message could not be handled", 1.0, connection="x"))
    assert not lines.filter(line("app.hub", "a message could not be handled", 1.0, connection="y"))
