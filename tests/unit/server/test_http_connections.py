"""The connections that are no sockets: how many there may be, and which goes first."""

import resource

import pytest

from app.server.http_connections import AT_ONCE, RESERVED, HTTPConnections, is_scarce, raise_descriptor_limit


class Connection:
    """One that can be cut."""

    def __init__(self) -> None:
        self.is_cut = False

    def abort(self) -> None:
        self.is_cut = True


def test_idle_connection_makes_room_and_the_oldest_first() -> None:
    shed: list[None] = []
    connections = HTTPConnections(3, lambda: 0, lambda: shed.append(None))
    old, busy, new, last = (Connection() for _ in range(4))
    for connection in (old, busy, new):
        connections.join(connection, 3)
    connections.set_busy(old, busy=True)
    connections.set_busy(busy, busy=True)
    connections.set_busy(old, busy=False)  # it waits for its next request since just now
    connections.join(last, 3)
    assert [each.is_cut for each in (old, busy, new, last)] == [False, False, True, False]
    assert len(shed) == 1
    assert len(connections) == 3


def test_newcomer_goes_where_all_others_are_served() -> None:
    connections = HTTPConnections(1, lambda: 0, int)
    busy, new = Connection(), Connection()
    connections.join(busy, 3)
    connections.set_busy(busy, busy=True)
    connections.join(new, 3)
    assert (busy.is_cut, new.is_cut) == (False, True)


def test_sockets_count_too_and_leave_by_themselves() -> None:
    sockets = 0
    connections = HTTPConnections(2, lambda: sockets, int)
    first, second = Connection(), Connection()
    connections.join(first, 3)
    connections.leave(first)
    sockets = 1
    connections.join(second, 3)
    assert [second.is_cut] == [False]
    sockets = 2
    third = Connection()
    connections.join(third, 3)
    assert second.is_cut
    connections.set_busy(second, busy=True)  # it is gone: nothing happens
    assert len(connections) == 1


def test_descriptors_are_scarce_near_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert not is_scarce(1023 - RESERVED)
    assert is_scarce(1024 - RESERVED)
    connections = HTTPConnections(100, lambda: 0, int)
    old, new = Connection(), Connection()
    assert connections.join(old, 10)
    assert not connections.join(new, 1024 - RESERVED)
    assert (old.is_cut, new.is_cut) == (False, False)
    others = [Connection() for _ in range(AT_ONCE)]
    for connection in others[:-1]:
        connections.join(connection, 20)
    connections.join(others[-1], 1024 - RESERVED // 2)
    assert (old.is_cut, new.is_cut) == (True, True)
    assert [each.is_cut for each in others] == [True] * (AT_ONCE - 2) + [False] * 2
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert not is_scarce(10**9)


def test_limit_is_raised_as_far_as_the_system_lets(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    for limits in ((1024, 4096), (1024, 10**6), (10**6, 10**6), (1024, resource.RLIM_INFINITY)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        raise_descriptor_limit(10_000)
    wanted = 10_000 + 2 * RESERVED
    assert given == [(4096, 4096), (wanted, 10**6), (wanted, resource.RLIM_INFINITY)]


def test_health_is_asked_for_within_the_reserve_where_sockets_hold_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    connections = HTTPConnections(10_000, lambda: 990, int)
    probe, others = Connection(), [Connection() for _ in range(RESERVED // 2 - 1)]
    for number, connection in enumerate((probe, *others)):
        assert not connections.join(connection, 1024 - RESERVED + number)
    assert not any(connection.is_cut for connection in (probe, *others))
    last = Connection()
    connections.join(last, 1024 - RESERVED // 2)
    assert (probe.is_cut, last.is_cut) == (True, False)
    assert sum(connection.is_cut for connection in others) == AT_ONCE - 1
