"""A connection and what waits for all of them, without sockets."""

import asyncio

import pytest

from app.connection import Connection
from app.outgoing import Outgoing
from app.protocol.close_codes import CloseCode
from app.protocol.frame import Frame
from tests.support.deadline import until
from tests.support.outlet import FakeOutlet
from tests.support.replays import again, lanes, ordered, replay

HELLO = Frame(b'"hello"')
KILOBYTE = Frame(b"x" * 1000)


def make(
    outgoing: Outgoing | None = None, *, max_buffered: int = 3000, opened: bool = True
) -> tuple[Connection, FakeOutlet]:
    outlet = FakeOutlet()
    outgoing = outgoing or Outgoing(10**6)
    connection = Connection("id", None, None, outgoing=outgoing, max_buffered=max_buffered, outlet=outlet)
    if opened:
        connection.open()
    return connection, outlet


async def a_turn() -> None:
    """Let what was put off to the end of this turn happen."""
    await asyncio.sleep(0)


async def test_what_is_sent_in_one_turn_leaves_in_one_write_in_order() -> None:
    connection, outlet = make()
    frames = [Frame(str(number).encode()) for number in range(64)]
    assert all(connection.send(frame) for frame in frames)
    assert outlet.writes == []
    await a_turn()
    assert outlet.writes == [frames]
    connection.send(HELLO)
    await a_turn()
    assert outlet.writes == [frames, [HELLO]]


async def test_many_connections_share_one_turn() -> None:
    outgoing = Outgoing(10**6)
    made = [make(outgoing) for _ in range(100)]
    for connection, _ in made:
        connection.send(HELLO)
    await a_turn()
    assert all(outlet.writes == [[HELLO]] for _, outlet in made)


async def test_what_is_sent_before_the_handshake_is_done_waits_for_it() -> None:
    connection, outlet = make(opened=False)
    connection.send(HELLO)
    await a_turn()
    assert outlet.writes == []
    connection.open()
    assert outlet.writes == [[HELLO]]


async def test_a_close_before_the_handshake_is_done_comes_after_what_was_sent() -> None:
    connection, outlet = make(opened=False)
    connection.send(HELLO)
    connection.close(CloseCode.SHUTDOWN, "away", farewell=Frame(b'"bye"'))
    assert outlet.writes == []
    connection.open()
    assert outlet.texts == ['"hello"', '"bye"']
    assert outlet.closed == (3001, "away")
    connection.ended()


async def test_a_close_comes_behind_all_and_nothing_after_it() -> None:
    connection, outlet = make()
    connection.send(HELLO)
    connection.close(CloseCode.SHUTDOWN, "away", farewell=Frame(b'"bye"'))
    assert outlet.texts == ['"hello"', '"bye"']
    assert outlet.closed == (3001, "away")
    assert not connection.send(HELLO)
    connection.close(CloseCode.LOGGED_OUT, "again")
    assert connection.close_code == 3001
    await a_turn()
    assert len(outlet.texts) == 2
    connection.ended()


async def test_who_does_not_answer_a_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.connection.CLOSE_TIMEOUT", 0.01)
    connection, outlet = make()
    connection.close(CloseCode.SHUTDOWN, "away")
    await until(lambda: outlet.aborted)


async def test_a_client_that_does_not_take_its_messages_is_ended_with_3008_and_no_farewell() -> None:
    outgoing = Outgoing(10**6)
    connection, outlet = make(outgoing)
    for waiting in (1000, 2000, 3000):
        outlet.untaken = waiting
        assert connection.send(KILOBYTE)
        await a_turn()
        assert (connection.buffered, outgoing.bytes) == (waiting, waiting)
    outlet.untaken = 4000
    assert not connection.send(KILOBYTE)
    assert connection.close_code == CloseCode.SLOW_CONSUMER
    assert outlet.closed == (3008, "slow consumer")
    assert outgoing.bytes == 4000
    connection.ended()


async def test_what_waits_for_a_connection_that_is_ending_counts_until_it_is_gone() -> None:
    outgoing = Outgoing(10**6)
    connection, outlet = make(outgoing)
    outlet.untaken = 4000
    connection.send(KILOBYTE)
    await a_turn()
    assert connection.close_code == CloseCode.SLOW_CONSUMER
    assert outgoing.bytes == 4000
    outlet.untaken = 2500
    await until(lambda: outgoing.bytes == 2500)
    connection.ended()
    assert outgoing.bytes == 2500
    outlet.untaken = 0
    await until(lambda: outgoing.bytes == 0)


async def test_who_is_cut_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.connection.CLOSE_TIMEOUT", 0.01)
    outgoing = Outgoing(10**6)
    (closing, closing_outlet), (gone, gone_outlet) = make(outgoing), make(outgoing)
    for connection, outlet in ((closing, closing_outlet), (gone, gone_outlet)):
        outlet.untaken = 2000
        connection.send(KILOBYTE)
    await a_turn()
    closing.close(CloseCode.SHUTDOWN, "away")
    gone.ended()
    assert outgoing.bytes == 4000
    await until(lambda: closing_outlet.aborted and gone_outlet.aborted)
    assert outgoing.bytes == 0


async def test_over_the_budget_of_all_those_that_are_ending_are_cut_before_any_other() -> None:
    outgoing = Outgoing(5000)
    (ending, _), (slow, slow_outlet) = made = make(outgoing), make(outgoing)
    for (connection, outlet), untaken in zip(made, (2000, 3000), strict=True):
        outlet.untaken = untaken
        connection.send(KILOBYTE)
    await a_turn()
    ending.close(CloseCode.LOGGED_OUT, "logged out")
    assert [outlet.aborted for _, outlet in made] == [False, False]
    slow_outlet.untaken = 3001
    slow.measure()
    assert [outlet.aborted for _, outlet in made] == [True, False]
    assert slow.close_code is None
    assert outgoing.bytes == 3001


async def test_a_burst_beyond_the_bound_is_no_fault_of_a_client_that_takes_it() -> None:
    connection, outlet = make()
    assert all(connection.send(KILOBYTE) for _ in range(64))
    await a_turn()
    assert connection.close_code is None
    assert len(outlet.texts) == 64
    assert len(outlet.writes) > 1


async def test_a_burst_beyond_the_bound_ends_a_client_that_takes_nothing() -> None:
    connection, outlet = make()
    outlet.untaken = 3001
    assert [connection.send(KILOBYTE) for _ in range(5)] == [True, True, True, False, False]


async def test_before_the_handshake_is_done_the_bound_holds_too() -> None:
    connection, outlet = make(opened=False)
    assert [connection.send(KILOBYTE) for _ in range(4)] == [True, True, True, False]
    connection.open()
    assert outlet.closed == (3008, "slow consumer")
    connection.ended()


async def test_over_the_budget_of_all_the_slowest_go_first() -> None:
    outgoing = Outgoing(5000)
    made = [make(outgoing) for _ in range(4)]
    for (connection, outlet), untaken in zip(made, (2500, 1000, 1500, 0), strict=True):
        outlet.untaken = untaken
        connection.send(KILOBYTE)
    await a_turn()
    assert outgoing.bytes == 5000
    assert [connection.close_code for connection, _ in made] == [None] * 4
    made[3][1].untaken = 1
    made[3][0].send(HELLO)
    await a_turn()
    assert [connection.close_code for connection, _ in made] == [3008, None, None, None]
    assert made[0][1].aborted
    assert outgoing.bytes == 2501
    for connection, outlet in made:
        outlet.untaken = 0
        connection.ended()
    assert outgoing.bytes == 0


async def test_a_client_that_catches_up_is_noticed_without_another_message() -> None:
    outgoing = Outgoing(10**6)
    connection, outlet = make(outgoing)
    outlet.untaken = 2500
    connection.send(KILOBYTE)
    await a_turn()
    assert outgoing.bytes == 2500
    outlet.untaken = 0
    await until(lambda: outgoing.bytes == 0)
    assert connection.buffered == 0


async def test_a_socket_that_is_gone_gets_nothing_more() -> None:
    outgoing = Outgoing(10**6)
    connection, outlet = make(outgoing)
    connection.send(HELLO)
    connection.ended()
    await a_turn()
    assert outlet.writes == []
    assert connection.close_code == 0
    assert not connection.send(HELLO)


async def test_who_closes_without_taking_what_was_written_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.connection.CLOSE_TIMEOUT", 0.01)
    connection, outlet = make()
    outlet.untaken = 1000
    connection.ended()
    await until(lambda: outlet.aborted)


async def test_a_connection_that_cannot_be_written_to_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    outgoing = Outgoing(10**6)
    (broken, broken_outlet), (other, other_outlet) = make(outgoing), make(outgoing)

    def fail(_frames: list[Frame]) -> int:
        raise RuntimeError("no way out")

    monkeypatch.setattr(broken_outlet, "write", fail)
    broken.send(HELLO)
    other.send(HELLO)
    await a_turn()
    assert broken_outlet.aborted
    assert other_outlet.writes == [[HELLO]]


async def test_what_is_sent_again_never_overtakes_what_was_sent_before() -> None:
    """Not even when its client is looked at before the turn's end."""
    connection, outlet = make(max_buffered=100_000)
    outlet.untaken = 100
    connection.send(HELLO)
    await a_turn()
    outlet.untaken = 0
    connection.send(Frame(b'"reply"'))
    replay(connection, [Frame(b'"again"')])
    connection.send(ordered(Frame(b'"new"')))
    connection.measure()
    await a_turn()
    assert outlet.texts == ['"hello"', '"reply"', '"again"', '"new"']
    connection.ended()


async def test_a_close_whose_last_messages_are_too_much_is_one_close() -> None:
    connection, outlet = make(max_buffered=100)
    outlet.untaken = 101  # with the frames' headers it is
    connection.send(Frame(b"x" * 95))
    connection.close(CloseCode.ROTATION, "rotation")
    assert connection.close_code == CloseCode.SLOW_CONSUMER
    assert outlet.closed == (3008, "slow consumer")
    connection.ended()


async def test_a_replay_that_fails_ends_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Frame:
        raise RuntimeError("no more")

    connection, outlet = make(max_buffered=1000)
    outlet.untaken = 600  # no room
    connection.send(HELLO)
    await a_turn()
    run, (first, second) = again([HELLO, HELLO])
    second.message = fail
    connection.replay(run, [first, second], lanes)
    await a_turn()
    outlet.untaken = 0
    await until(lambda: outlet.aborted)
    assert "could not be written to" in caplog.text
