"""Frames past the transport: over real sockets, without a server."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from app.connection import Connection
from app.core.channels import Members
from app.outgoing import Outgoing
from app.protocol.close_codes import CloseCode
from app.protocol.frame import Frame
from app.sending import to_many
from app.server.control import MAX_WAITING, Control
from app.server.turns import Turns
from tests.support.deadline import soon, until
from tests.support.replays import ordered, replay

HELLO = Frame(b'"hello"')
BIG = [Frame(b"%d" % digit * 50_000) for digit in range(1, 9)]


class End:
    """Both ends of one client's socket."""

    def __init__(
        self,
        outgoing: Outgoing,
        server: asyncio.StreamWriter,
        client: socket.socket,
        *,
        deflates: bool,
        max_buffered: int,
    ) -> None:
        self.client = client
        self.transport = server.transport
        self._writer = server
        self.control = Control(None, lambda _code, _reason: None)
        self.control._transport = self.transport
        self.control.accepted(deflates=deflates)
        self.connection = Connection(
            "id", None, None, outgoing=outgoing, max_buffered=max_buffered, outlet=self.control
        )
        self.connection.open()

    async def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = await soon(asyncio.get_running_loop().sock_recv(self.client, count - len(data)))
            assert part, "the connection has ended"
            data += part
        return data

    async def has_read(self, *frames: Frame) -> bool:
        """Whether these are the next, and nothing is between them."""
        wanted = b"".join(frame.deflated() if self.control.deflates else frame.plain() for frame in frames)
        return await self.read(len(wanted)) == wanted


class Ends:
    """Sockets whose connections share one turn."""

    def __init__(self) -> None:
        self.outgoing = Outgoing(10**7)
        self.made: list[End] = []

    async def __call__(self, *, deflates: bool = False, max_buffered: int = 10**6) -> End:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        _, writer = await asyncio.open_connection(sock=ours)
        end = End(self.outgoing, writer, theirs, deflates=deflates, max_buffered=max_buffered)
        self.made.append(end)
        return end

    async def crowd(self, count: int) -> tuple[list[End], Members[Connection, None]]:
        """So many that belong together."""
        made = [await self() for _ in range(count)]
        members: Members[Connection, None] = Members()
        for end in made:
            members.join(end.connection, None)
        return made, members

    def send(self, *frames: Frame) -> None:
        for frame in frames:
            self.outgoing.send(frame, [end.connection for end in self.made])


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    for end in made.made:
        end.transport.abort()
        end.client.close()
    await asyncio.sleep(0)


async def test_asyncios_own_transport_is_passed_by(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    end = await ends()
    assert end.control.sock is not None
    monkeypatch.setattr(type(end.transport), "write", None)
    ends.send(HELLO)
    assert await end.has_read(HELLO)
    ends.send(HELLO, *BIG[:1], HELLO)
    assert await end.has_read(HELLO, *BIG[:1], HELLO)


async def test_any_other_transport_is_written_to(ends: Ends) -> None:
    for other in (None, object(), asyncio.Transport()):
        control = Control(None, lambda _code, _reason: None)
        control._transport = other
        control.accepted(deflates=False)
        assert control.sock is None
    end = await ends()
    end.control.sock, end.control.backlog = None, ()
    ends.send(HELLO)
    assert await end.has_read(HELLO)


async def test_what_is_left_of_the_handshake_leaves_with_the_first_frames(ends: Ends) -> None:
    end = await ends()
    end.control.accepted(deflates=False, head=b"head")
    assert end.control.write([HELLO, HELLO]) == 0
    assert await end.read(4 + 2 * len(HELLO.plain())) == b"head" + 2 * HELLO.plain()
    ends.send(HELLO)
    assert await end.has_read(HELLO)


async def test_who_only_listens_gets_the_handshake_done(ends: Ends) -> None:
    end = await ends()
    end.control.accepted(deflates=False, head=b"head")
    listening = asyncio.create_task(end.control.receive())
    assert await end.read(4) == b"head"
    await end.control.inbox.put({"type": "websocket.receive", "text": "hello", "bytes": None})
    assert await soon(listening) == "hello"


def said(control: Control) -> list[str | bytes]:
    """What waits for the app."""
    return list(control.unread())


async def test_what_is_said_is_handled_at_once_where_that_goes(ends: Ends) -> None:
    control = (await ends()).control
    handled: list[str] = []

    def handle(text: str) -> bool:
        if text != "slow":
            handled.append(text)
        return text != "slow"

    assert not control.pass_on(["nobody says when it has handled a message"])
    control.limit()
    assert control.pass_on(["nobody handles at once"])
    assert said(control) == ["nobody handles at once"]
    control.taken()
    control.on_text = handle
    assert control.pass_on(["one"])
    assert handled == ["one"]
    for text in ("slow", "two", "three"):  # what comes behind one that waits does, too
        assert control.pass_on([text])
    assert handled == ["one"]
    assert said(control) == ["slow", "two", "three"]
    for _ in range(3):
        assert control.pass_on(["four"])
        control.taken()
    assert handled == ["one"]
    assert said(control) == ["four"] * 3
    for _ in range(3):
        control.taken()
    assert control.pass_on(["five", "six", "slow", "seven"])
    assert handled == ["one", "five", "six"]
    assert said(control) == ["slow", "seven"]
    control.release()
    assert not control.pass_on(["the app has gone"])


async def test_no_more_is_passed_on_than_may_wait(ends: Ends) -> None:
    control = (await ends()).control
    control.limit()
    assert not control.pass_on(["message"] * MAX_WAITING)
    assert said(control) == []
    assert control.pass_on(["message"] * (MAX_WAITING - 2))
    assert not control.pass_on(["message"] * 2)
    assert control.pass_on(["message"])
    assert not control.pass_on(["message"])
    assert not control.holds_back  # it is read like all else, and that is what holds back
    passing = asyncio.create_task(control.passed_on())
    await until(lambda: control.holds_back)
    control.taken()
    await soon(passing)
    control.taken()
    assert control.pass_on(["message"])


async def test_who_is_closed_by_its_transport_leaves_its_crowd_before_its_number_is_anothers(ends: Ends) -> None:
    with to_many() as send:
        ends.outgoing = Outgoing(10**7, send)
        made, members = await ends.crowd(40)
        ends.outgoing.send(HELLO, members)
        for end in made:
            assert await end.has_read(HELLO)
        gone = made.pop(3)
        assert gone.control.sock is not None
        number = gone.control.sock.fileno()
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:
            client = socket.create_connection(listening.getsockname())
            accepted, _ = listening.accept()
        with client, accepted:
            gone.transport.abort()
            # The kernel gives the lowest number that is free, so this is what comes with the next that is accepted.
            asyncio.get_running_loop().call_soon(os.dup2, accepted.fileno(), number)
            for _ in range(2):
                ends.outgoing.send(HELLO, members)
                await asyncio.sleep(0)
            for end in made:
                assert await end.has_read(HELLO, HELLO)
            os.close(number)
            accepted.close()
            assert client.recv(100) == b""


async def test_each_gets_the_form_it_takes_and_all_of_a_turn(ends: Ends) -> None:
    made = [await ends(deflates=deflates) for deflates in (False, True, False, True)]
    ends.send(*BIG)
    made[0].connection.send(HELLO)
    assert await made[0].has_read(*BIG, HELLO)
    for end in made[1:]:
        assert await end.has_read(*BIG)


async def test_whose_end_is_written_gets_nothing_behind_it_and_the_others_of_a_crowd_do(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.outgoing.CROWD", 8)
    made, members = await ends.crowd(8)
    assert ends.outgoing.send(HELLO, members) == 8
    made[3].control.end()
    assert made[3].control.on_end is None
    made[3].transport.write(b"<close>")
    for _ in range(2):
        await asyncio.sleep(0)
        assert ends.outgoing.send(HELLO, members) == 8
    await asyncio.sleep(0)
    for end in made[:3] + made[4:]:
        assert await end.has_read(HELLO, HELLO, HELLO)
    made[3].transport.close()
    assert await made[3].read(7) == b"<close>"
    assert await soon(asyncio.get_running_loop().sock_recv(made[3].client, 100)) == b""


async def test_who_is_cut_takes_nothing_more_although_its_socket_is_open_for_a_moment(ends: Ends) -> None:
    end = await ends()
    ends.send(HELLO)
    assert await end.has_read(HELLO)
    asyncio.get_running_loop().call_soon(ends.send, HELLO)
    ends.send(HELLO)
    end.connection.cut()
    assert ends.outgoing.send(HELLO, [end.connection]) == 0
    assert await soon(asyncio.get_running_loop().sock_recv(end.client, 100)) == b""


async def test_who_is_cut_out_of_a_crowd_takes_nothing_more_either(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.outgoing.CROWD", 8)
    made, members = await ends.crowd(8)
    assert ends.outgoing.send(HELLO, members) == 8
    for end in made:
        assert await end.has_read(HELLO)
    made[3].connection.cut()
    assert ends.outgoing.send(HELLO, members) == 7
    ends.outgoing._flush()  # as a turn's end may come before its socket is closed
    assert await soon(asyncio.get_running_loop().sock_recv(made[3].client, 100)) == b""
    for end in made[:3] + made[4:]:
        assert await end.has_read(HELLO)


async def test_a_client_that_is_behind_gets_all_in_order_once_it_reads(ends: Ends) -> None:
    slow, fast = await ends(), await ends()
    for frame in BIG:
        ends.send(frame)
        assert await fast.has_read(frame)
    assert slow.connection.buffered > 0
    assert ends.outgoing.bytes == slow.connection.buffered == slow.control.waiting()
    assert await slow.has_read(*BIG)
    await until(lambda: ends.outgoing.bytes == 0)
    ends.send(HELLO)
    for end in (slow, fast):
        assert await end.has_read(HELLO)


async def test_who_is_gone_harms_nobody_in_the_same_turn(ends: Ends) -> None:
    made = [await ends() for _ in range(5)]
    for gone in (made[1], made[3]):
        gone.client.close()
    made[4].transport.abort()
    for _ in range(3):
        ends.send(HELLO)
        await asyncio.sleep(0)
    for end in (made[0], made[2]):
        assert await end.has_read(HELLO, HELLO, HELLO)
    assert made[1].transport.is_closing()
    assert ends.outgoing.bytes == 0


async def test_nothing_follows_the_end(ends: Ends) -> None:
    end = await ends()
    ends.send(HELLO)
    end.control.end()
    ends.send(HELLO)
    await asyncio.sleep(0)
    with pytest.raises(BlockingIOError):
        end.client.recv(1)
    assert end.connection.buffered == 0


async def test_a_client_that_takes_too_little_is_ended_at_the_end_of_the_turn(ends: Ends) -> None:
    end, other = await ends(), await ends()
    for _ in range(4):
        ends.send(*BIG)
        assert await other.has_read(*BIG)
    assert end.connection.close_code == CloseCode.SLOW_CONSUMER
    assert other.connection.close_code is None
    end.connection.ended()


async def test_what_is_written_in_mid_turn_is_written_once(ends: Ends) -> None:
    """A burst beyond the bound is written at once, and the connection has its turn all the same."""
    end = await ends(max_buffered=20_000)
    burst = [Frame(b"%d" % number * 1000) for number in range(30)]
    for frame in burst:
        end.connection.send(frame)
    assert await end.has_read(*burst)
    ends.outgoing.send(HELLO, [end.connection])
    assert await end.has_read(HELLO)


async def test_what_is_new_comes_behind_what_is_sent_again(ends: Ends) -> None:
    end, other = await ends(), await ends()
    first, new = Frame(b'"first"'), Frame(b'"new"')
    end.connection.send(first)
    replay(end.connection, BIG)
    ends.outgoing.send(ordered(new), [end.connection, other.connection])
    assert await other.has_read(new)
    assert await end.has_read(first, *BIG, new)
    await until(lambda: end.connection.later is None)
    ends.outgoing.send(new, [end.connection, other.connection])
    assert await end.has_read(new)


async def test_what_was_said_and_not_received_can_be_taken(ends: Ends) -> None:
    control = (await ends()).control
    for event in (
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "one", "bytes": None},
        {"type": "websocket.receive", "text": None, "bytes": b"two"},
        {"type": "websocket.disconnect", "code": 1000},
    ):
        await control.inbox.put(event)
    assert list(control.unread()) == ["one", b"two"]
    assert list(control.unread()) == []


async def test_who_has_taken_all_counts_no_more_for_the_budget_of_all(ends: Ends) -> None:
    """What is known of a connection that was behind is brought up to date when it is sent something."""
    end = await ends()
    for frame in BIG:
        end.connection.send(frame)
    await until(lambda: ends.outgoing.bytes > 0)
    assert await end.has_read(*BIG)
    await until(lambda: not end.control.backlog)
    end.connection.send(HELLO)
    await asyncio.sleep(0)
    assert ends.outgoing.bytes == 0
    assert await end.has_read(HELLO)


async def test_what_cannot_be_written_ends_whom_it_was_for(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Frame):
        def plain(self) -> bytes:
            raise MemoryError

    first, *broken, last = [await ends() for _ in range(4)]
    first.connection.send(HELLO)
    ends.outgoing.send(Broken(b"1"), [end.connection for end in broken])
    last.connection.send(HELLO)
    for end in broken:
        await until(end.transport.is_closing)
    assert caplog.text.count("1 connections could not be written to") == 2
    assert await first.has_read(HELLO)
    assert await last.has_read(HELLO)


async def test_who_receives_from_a_client_that_is_gone_ends(ends: Ends) -> None:
    control = (await ends()).control
    await control.inbox.put({"type": "websocket.disconnect", "code": 1006})
    with pytest.raises(asyncio.CancelledError):
        await soon(control.receive())


async def test_who_has_closed_by_itself_can_be_cut(ends: Ends) -> None:
    """A transport that is closed while something waits goes when that is written, and knows no loop then."""
    end = await ends()
    for frame in BIG:
        end.connection.send(frame)
    await until(lambda: bool(end.control.backlog))
    end.transport.close()
    assert await end.has_read(*BIG)
    await until(lambda: end.transport._loop is None)  # type: ignore[attr-defined]
    end.connection.cut()


async def test_message_whose_reader_is_cancelled_while_it_waits_for_a_turn_is_still_heard() -> None:
    """A client that says much and goes is heard to its end, in order."""
    turns = Turns()
    control = Control(None, lambda _code, _reason: None, turns)
    control.limit()
    heard: list[str] = []
    ends = iter([0.0, *[100.0] * 100])
    turns.time = lambda: next(ends)  # the first text takes the whole turn

    def hear(text: str) -> bool:
        heard.append(text)
        return True

    control.on_text = hear
    reading = asyncio.create_task(control.receive())
    await asyncio.sleep(0)
    assert control.pass_on(["1", "2", "3", "4"])
    waiting = [asyncio.create_task(turns.next()) for _ in range(10)]
    await asyncio.sleep(0)  # it is woken, and asks for its turn
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, *waiting, return_exceptions=True)
    heard += [str(text) for text in control.unread()]
    assert heard == ["1", "2", "3", "4"]
