"""What leaves for all connections: sent to a crowd or to each of them, every client gets the same bytes."""

import asyncio
import socket
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import outgoing as module
from app.connection import Connection
from app.core.channels import Members
from app.outgoing import Outgoing
from app.protocol.close_codes import CloseCode
from app.protocol.frame import Frame, wire_form
from app.sending import Data
from tests.support.replays import ordered, replay

MAX_BUFFERED = 1000
CLOSE = b"<close>"


class Client:
    """An outlet over a transport as asyncio's: what the kernel does not take at once waits in `backlog`."""

    def __init__(self, *, deflates: bool = False, has_sock: bool = True) -> None:
        self.got = b""
        self.backlog: Any = bytearray()
        self.sock: Any = None
        self.deflates = deflates
        self.on_end: Callable[[], object] | None = None
        self.room = 10**9
        self.ended = False
        self._has_sock = has_sock

    def accept(self) -> None:
        self.sock = self if self._has_sock and not self.ended else None

    def send(self, data: bytes) -> int:
        assert not self.backlog, "it overtook what waits"
        return self._take(data)

    def _take(self, data: bytes) -> int:
        taken = min(self.room, len(data))
        self.room -= taken
        self.got += data[:taken]
        return taken

    def put(self, data: bytes) -> None:
        if self.backlog:
            self.backlog += data
        else:
            self.backlog += data[self._take(data) :]

    def drain(self, size: int) -> None:
        self.room = size
        waiting = bytes(self.backlog)
        del self.backlog[: self._take(waiting)]

    def rest(self, data: bytes, taken: int) -> int:
        if not self.ended:
            self.put(data[taken:])
        return len(self.backlog)

    def write(self, frames: list[Frame]) -> int:
        return self.rest(wire_form(frames, deflates=self.deflates), 0)

    def waiting(self) -> int:
        return len(self.backlog)

    def unacknowledged(self) -> int:
        return self.waiting()

    def unsent(self) -> int:
        return self.waiting()

    def close(self, _code: int, _reason: str) -> None:
        asyncio.get_running_loop().call_soon(self.end)

    def end(self) -> None:
        """A close frame: nothing may follow it."""
        if not self.ended:
            if self.on_end is not None:
                self.on_end()
            self.put(CLOSE)
            self.ended = True
            self.sock = None

    def abort(self) -> None:
        if not self.ended:
            if self.on_end is not None:
                self.on_end()
            self.ended = True
            self.sock = None
        self.backlog.clear()


def send_to_each(sockets: Sequence[socket.socket], data: Data) -> list[int]:
    each = [data] * len(sockets) if isinstance(data, bytes) else data
    return [sock.send(its) for sock, its in zip(sockets, each, strict=True)]


CLIENTS = 7
NEVER_DIRECT = 5
OPENED_LATE = 6


class World:
    """Some clients, two channels that they are in, and what happens to them."""

    def __init__(self) -> None:
        self.outgoing = Outgoing(10**9, send_to_each, MAX_BUFFERED)
        self.clients = [Client(deflates=at % 2 == 1, has_sock=at != NEVER_DIRECT) for at in range(CLIENTS)]
        self.connections = [
            Connection(str(at), None, None, outgoing=self.outgoing, max_buffered=MAX_BUFFERED, outlet=client)
            for at, client in enumerate(self.clients)
        ]
        self.channels: list[Members[Connection, None]] = [Members(), Members()]
        self.counted: list[object] = []
        self._frames = count()
        self._gone: set[int] = set()
        for at in range(CLIENTS):
            if at != OPENED_LATE:
                self.open(at)
            self.join(at, 0)
        for at in range(4):
            self.join(at, 1)

    def frame(self, size: int) -> Frame:
        number = next(self._frames)
        return ordered(Frame(f"<{number}>".encode() + b"x" * size), number=number)

    def is_gone(self, at: int) -> bool:
        return at in self._gone

    def to_channel(self, channel: int, left_out: int | None, size: int) -> None:
        skipped = None if left_out is None else self.connections[left_out]
        self.counted.append(self.outgoing.send(self.frame(size), self.channels[channel], skipped))

    def to_some(self, some: tuple[int, ...], size: int) -> None:
        connections = [self.connections[at] for at in some if not self.is_gone(at)]
        self.counted.append(self.outgoing.send(self.frame(size), connections))

    def to_one(self, at: int, size: int) -> None:
        self.counted.append(self.connections[at].send(self.frame(size)))

    def replay(self, at: int, number: int, size: int) -> None:
        frames = [self.frame(size) for _ in range(number)]
        replay(self.connections[at], frames, first=frames[0].order.number)

    def pong(self, at: int) -> None:
        if not self.clients[at].ended:
            self.clients[at].put(b"<pong>")

    def drain(self, at: int, size: int) -> None:
        self.clients[at].drain(size)

    def open(self, at: int) -> None:
        if not self.is_gone(at) and not self.connections[at]._is_open:
            self.clients[at].accept()
            self.connections[at].open()

    def close(self, at: int, *, farewell: bool) -> None:
        self.connections[at].close(CloseCode.ROTATION, "elsewhere", self.frame(3) if farewell else None)

    def client_closes(self, at: int) -> None:
        self.clients[at].end()

    def cut(self, at: int) -> None:
        self.connections[at].cut()

    def goes(self, at: int) -> None:
        if not self.is_gone(at):
            self._gone.add(at)
            self.connections[at].ended()
            for channel in (0, 1):
                self.leave(at, channel)

    def join(self, at: int, channel: int) -> None:
        if self.connections[at] not in self.channels[channel]:  # also who is gone, and should not
            self.channels[channel].join(self.connections[at], None)

    def leave(self, at: int, channel: int) -> None:
        if self.connections[at] in self.channels[channel]:
            self.channels[channel].leave(self.connections[at])

    def look(self) -> None:
        if (handle := self.outgoing._look_again) is not None:
            handle.cancel()
            self.outgoing._look()

    def apart(self) -> Iterator[int]:
        """Who has a reason to be apart."""
        for at, (client, connection) in enumerate(zip(self.clients, self.connections, strict=True)):
            reason = not connection._is_open or client.sock is None or connection.close_code is not None
            if reason and not self.is_gone(at):
                yield at

    async def turn(self) -> None:
        await asyncio.sleep(0)

    def seen(self) -> object:
        """What a client sees at any time."""
        return [(client.got, bytes(client.backlog)) for client in self.clients]

    def known(self) -> object:
        """What is known at the end of a turn."""
        connections = [(connection.close_code, connection.buffered) for connection in self.connections]
        return connections, [*self.counted], self.outgoing.bytes


@dataclass(frozen=True)
class Step:
    """A method of a world's, and with what it is called."""

    name: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(*arguments).map(lambda drawn: Step(name, drawn))


who = st.integers(0, CLIENTS - 1)
channel = st.integers(0, 1)
size = st.sampled_from([1, 10, 100, 400])
STEPS = st.one_of(
    step("to_channel", channel, st.none() | who, size),
    step("to_channel", channel, st.none() | who, size),
    step("to_channel", channel, st.none(), size),
    step("turn"),
    step("turn"),
    step("to_some", st.lists(who, unique=True).map(tuple), size),
    step("to_one", who, size),
    step("replay", who, st.integers(1, 9), size),
    step("pong", who),
    step("drain", who, st.sampled_from([0, 0, 3, 150, 10**9])),
    step("open", st.just(OPENED_LATE)),
    step("close", who).map(lambda each: Step("close", each.arguments, {"farewell": True})),
    step("close", who).map(lambda each: Step("close", each.arguments, {"farewell": False})),
    step("client_closes", who),
    step("cut", who),
    step("goes", who),
    step("join", who, channel),
    step("leave", who, channel),
    step("look"),
)


async def run(steps: list[Step]) -> tuple[object, World]:
    world = World()
    seen: list[object] = []
    for each in [*steps, Step("turn"), Step("turn")]:
        done = getattr(world, each.name)(*each.arguments, **each.options)
        if done is not None:
            await done
            seen.append(world.known())
        seen.append(world.seen())
    for connection in world.connections:
        if connection._cut is not None:
            connection._cut.cancel()
    if world.outgoing._look_again is not None:
        world.outgoing._look_again.cancel()
    return seen, world


@given(st.lists(STEPS, min_size=10, max_size=50))
@settings(max_examples=400, deadline=None)
def test_to_a_crowd_is_the_same_as_to_each(steps: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOOK_AGAIN", 1000)
        patch.setattr(module, "MOST_APART", 1)
        patch.setattr(module, "CROWD", 1)
        together, world = asyncio.run(run(steps))
        patch.setattr(module, "CROWD", 10**9)
        each, _ = asyncio.run(run(steps))
        assert together == each
        assert {int(connection.id) for connection in world.outgoing._apart} == set(world.apart())


# What makes it fast: nothing is noted for each


class Kernel:
    """Notes to how many each call sent, and how many bytes it was handed."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.bytes: list[int] = []

    def send(self, sockets: Sequence[socket.socket], data: Data) -> list[int]:
        self.calls.append(len(sockets))
        self.bytes.append(len(data) if isinstance(data, bytes) else sum(len(its) for its in set(data)))
        return send_to_each(sockets, data)


class Crowd:
    """So many clients that belong together."""

    def __init__(self, kernel: Kernel, size: int = module.CROWD, crowd_bytes: int = 1000) -> None:
        self.outgoing = Outgoing(10**9, kernel.send, crowd_bytes)
        self.members: Members[Connection, None] = Members()
        self.clients: list[Client] = []
        self.connections: list[Connection] = []
        for _ in range(size):
            connection = self.come()
            self.clients[-1].accept()
            connection.open()

    def come(self, max_buffered: int = 10**6) -> Connection:
        """One more, that is not open yet."""
        client = Client()
        connection = Connection("id", None, None, outgoing=self.outgoing, max_buffered=max_buffered, outlet=client)
        self.members.join(connection, None)
        self.clients.append(client)
        self.connections.append(connection)
        return connection

    def send(self, text: str, left_out: Connection | None = None) -> int:
        return self.outgoing.send(ordered(Frame(text.encode())), self.members, left_out)

    def got(self) -> list[list[str]]:
        """What came to each, of texts of one letter."""
        return [[chr(letter) for letter in client.got[2::3]] for client in self.clients]

    def all_but(self, at: int, theirs: str, its: str) -> list[list[str]]:
        return [list(its if number == at else theirs) for number in range(len(self.clients))]


async def test_what_is_different_for_each_is_one_call_up_to_some_bytes() -> None:
    crowd = Crowd(kernel := Kernel())
    for number, connection in enumerate(crowd.connections):
        crowd.outgoing.send(Frame(b"%d" % number), [connection])
    await asyncio.sleep(0)
    assert kernel.calls == [module.CROWD]
    shared = Frame(b"x" * 60_000)
    for number, connection in enumerate(crowd.connections):
        connection.send(Frame(b"%d" % number))
        connection.send(shared)  # it is one, but each gets it together with its own, in one piece
    await asyncio.sleep(0)
    assert sum(kernel.calls) == 2 * module.CROWD
    assert max(kernel.bytes) < module.WRITTEN_TOGETHER + 61_000
    assert [client.got for client in crowd.clients] == [
        wire_form([Frame(b"%d" % number), Frame(b"%d" % number), shared], deflates=False)
        for number in range(module.CROWD)
    ]


async def test_of_a_crowd_whose_frame_cannot_be_compressed_only_those_are_cut_who_would_get_it_so() -> None:
    class Broken(Frame):
        def deflated(self) -> bytes:
            raise MemoryError

    crowd = Crowd(Kernel())
    for client in crowd.clients[::2]:
        client.deflates = True
    other = crowd.come()
    crowd.members.leave(other)
    crowd.clients[-1].accept()
    other.open()
    crowd.outgoing.send(Broken(b"a"), crowd.members)
    other.send(Frame(b"a"))
    await asyncio.sleep(0)
    assert [client.ended for client in crowd.clients] == [at % 2 == 0 for at in range(module.CROWD)] + [False]
    assert [client.got[2:] for client in crowd.clients] == [b"", b"a"] * (module.CROWD // 2) + [b"a"]


async def test_a_burst_to_a_crowd_is_one_call_and_notes_nothing_for_each() -> None:
    crowd = Crowd(kernel := Kernel())
    assert [crowd.send("a"), crowd.send("b"), crowd.send("c")] == [module.CROWD] * 3
    assert all(connection.pending is None for connection in crowd.connections)
    assert kernel.calls == []
    await asyncio.sleep(0)
    assert kernel.calls == [module.CROWD]
    assert crowd.got() == [list("abc")] * module.CROWD
    crowd.send("d")
    await asyncio.sleep(0)
    assert crowd.got() == [list("abcd")] * module.CROWD


async def test_too_few_are_no_crowd() -> None:
    crowd = Crowd(Kernel(), module.CROWD - 1)
    crowd.send("a")
    assert all(connection.pending is not None for connection in crowd.connections)


@pytest.mark.parametrize("count", [1, module.FEW_APART, module.FEW_APART + 1])
async def test_whoever_is_left_out_the_others_stay_a_crowd(count: int) -> None:
    crowd = Crowd(kernel := Kernel(), 4 * (module.FEW_APART + 1))
    one = Frame(b"1")
    for connection in crowd.connections[5 : 5 + count]:
        connection.send(one)
    crowd.send("a")
    await asyncio.sleep(0)
    assert kernel.calls == [len(crowd.clients) - count, count]
    told = [list("a"), list("1a")]
    assert crowd.got() == [told[5 <= at < 5 + count] for at in range(len(crowd.clients))]


async def test_who_sent_it_is_left_out_and_the_others_stay_a_crowd() -> None:
    crowd = Crowd(kernel := Kernel())
    assert crowd.send("a", crowd.connections[3]) == module.CROWD - 1
    assert crowd.send("b", crowd.connections[4]) == module.CROWD - 1
    assert crowd.send("c", Crowd(Kernel(), 1).connections[0]) == module.CROWD
    await asyncio.sleep(0)
    expected = crowd.all_but(3, "abc", "bc")
    expected[4] = list("ac")
    assert crowd.got() == expected
    assert max(kernel.calls) == module.CROWD - 2


async def test_who_is_told_something_else_in_the_same_turn_has_it_in_order_and_the_others_stay_a_crowd() -> None:
    crowd = Crowd(kernel := Kernel())
    crowd.connections[0].send(Frame(b"1"))
    crowd.send("a")
    crowd.connections[5].send(Frame(b"2"))
    crowd.send("b")
    await asyncio.sleep(0)
    expected = crowd.all_but(0, "ab", "1ab")
    expected[5] = list("a2b")
    assert crowd.got() == expected
    assert kernel.calls[0] == module.CROWD - 2


async def test_who_leaves_or_comes_in_the_same_turn_has_what_was_sent_while_it_was_there() -> None:
    crowd = Crowd(Kernel())
    last = crowd.connections[-1]
    crowd.send("a")
    crowd.members.leave(last)
    last.send(Frame(b"x"))
    crowd.send("b")
    crowd.members.join(last, None)
    last.send(Frame(b"y"))
    crowd.send("c")
    await asyncio.sleep(0)
    assert crowd.got() == crowd.all_but(module.CROWD - 1, "abc", "axyc")


async def test_what_waits_in_the_transport_of_one_is_not_overtaken_and_the_others_stay_a_crowd() -> None:
    crowd = Crowd(kernel := Kernel())
    crowd.send("a")
    await asyncio.sleep(0)
    slow = crowd.clients[7]
    slow.room = 2
    slow.put(b"..p")  # as a pong, of which nobody tells
    crowd.send("b")
    await asyncio.sleep(0)
    assert kernel.calls == [module.CROWD, module.CROWD - 1]
    slow.drain(100)
    assert crowd.got() == crowd.all_but(7, "ab", "apb")


async def test_who_was_apart_is_of_the_crowd_again_when_all_is_as_usual() -> None:
    crowd = Crowd(kernel := Kernel())
    replay(crowd.connections[2], [Frame(b"r")])
    for letter in "abc":
        crowd.send(letter)
        await asyncio.sleep(0)
    assert crowd.got() == crowd.all_but(2, "abc", "rabc")
    assert kernel.calls[-1] == module.CROWD


async def test_who_opens_while_it_is_sent_much_again_has_that_first() -> None:
    crowd = Crowd(Kernel())
    late = crowd.come(max_buffered=8)
    replay(late, [Frame(b"r"), Frame(b"s"), Frame(b"t"), Frame(b"u"), Frame(b"v")])
    crowd.clients[-1].accept()
    late.open()
    assert crowd.got()[-1] != list("rstuv")
    crowd.send("a")
    await asyncio.sleep(0)
    assert crowd.got() == [list("a")] * module.CROWD + [list("rstuva")]


async def test_who_is_closed_before_it_opens_gets_nothing_behind_that() -> None:
    crowd = Crowd(Kernel())
    late = crowd.come()
    late.close(CloseCode.ROTATION, "elsewhere")
    crowd.clients[-1].accept()
    late.open()
    assert crowd.send("a") == module.CROWD
    await asyncio.sleep(0)
    assert crowd.clients[-1].got == CLOSE


async def test_who_has_caught_up_counts_no_more() -> None:
    crowd = Crowd(Kernel())
    crowd.clients[1].room = 0
    crowd.send("a")
    await asyncio.sleep(0)
    assert crowd.outgoing.bytes == 3
    crowd.clients[1].drain(100)
    crowd.send("b")
    await asyncio.sleep(0)
    assert crowd.outgoing.bytes == 0
    assert crowd.got() == [list("ab")] * module.CROWD


async def test_what_was_sent_to_the_crowd_counts_towards_the_bound_of_one() -> None:
    crowd = Crowd(Kernel())
    one = crowd.come(max_buffered=4)
    crowd.clients[-1].accept()
    one.open()
    for letter in "abc":
        crowd.send(letter)
    one.send(Frame(b"1"))
    assert crowd.got()[-1] == []
    one.send(Frame(b"2"))
    assert crowd.got()[-1] == list("abc12"), "it takes what is too much for one turn, and was not asked"


async def test_a_crowd_of_whom_many_are_apart_is_looked_at_one_by_one() -> None:
    crowd = Crowd(Kernel())
    for connection in crowd.connections[: module.CROWD // 2]:
        replay(connection, [Frame(b"r")])
    crowd.send("a")
    assert all(connection.pending is not None for connection in crowd.connections[module.CROWD // 2 :])
    await asyncio.sleep(0)
    half = module.CROWD // 2
    assert crowd.got() == [list("ra")] * half + [list("a")] * half


async def test_more_than_a_crowd_may_be_sent_in_one_turn_is_noted_for_each() -> None:
    crowd = Crowd(Kernel(), crowd_bytes=2)
    crowd.send("a")
    crowd.send("b")
    assert all(connection.pending is None for connection in crowd.connections)
    crowd.send("c")
    assert all(connection.pending is not None for connection in crowd.connections)
    crowd.send("d")
    await asyncio.sleep(0)
    assert crowd.got() == [list("abcd")] * module.CROWD


async def test_whose_bytes_nobody_knows_where_they_are_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    def failing(_sockets: Sequence[socket.socket], _data: Data) -> list[int]:
        raise OSError("not all that was asked for is answered")

    crowd = Crowd(Kernel())
    crowd.outgoing._send_to_each = failing
    crowd.send("a")
    await asyncio.sleep(0)
    assert all(client.ended for client in crowd.clients)
    assert "could not be written to" in caplog.text


@pytest.mark.parametrize("where", ["without", "connections"])
async def test_where_a_turn_fails_in_the_middle_nobody_goes_on_with_a_hole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    def no_memory(*_arguments: object) -> None:
        raise MemoryError

    crowd = Crowd(Kernel())
    alone, also = crowd.connections[0], crowd.clients[0]
    if where == "without":
        monkeypatch.setattr(module._Kind, "without", no_memory)
    else:
        monkeypatch.setattr(module, "wire_form", no_memory)
    alone.send(Frame(b"1"))
    crowd.send("a")
    await asyncio.sleep(0)
    assert all(client.ended for client in crowd.clients)
    assert "could not be written" in caplog.text
    assert crowd.send("b") == 0
    await asyncio.sleep(0)
    assert b"b" not in also.got


async def test_nothing_is_kept_of_a_crowd_of_whom_one_went() -> None:
    crowd = Crowd(Kernel())
    crowd.send("a")
    await asyncio.sleep(0)
    assert crowd.members.kept is not None
    gone = crowd.connections.pop()
    gone.ended()
    crowd.members.leave(gone)
    del crowd.clients[-1]
    assert crowd.members.kept is None
    assert gone.outlet.on_end is None
    kept = weakref.ref(gone)
    del gone
    await asyncio.sleep(0)
    assert kept() is None
